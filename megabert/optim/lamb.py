"""LAMB and its kin with one trust ratio per whole tensor, whatever ZeRO and tensor parallelism did.

You et al., "Large Batch Optimization for Deep Learning", Algorithm 2. For every tensor p, its
clipped gradient g, and step t:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd p      (bias correction optional)
    r = |p| / |u| if both norms are above 0 and the group adapts, else 1; then clamped, if asked
    p = p - lr r u

Kin, by ``rule`` and by group:

    lamb, every group with adapt    NVLAMB: biases and norm parameters have a ratio too
    lans                            Zheng et al., "Accelerated Large Batch Optimization of BERT
                                    Pretraining in 54 minutes", Algorithm 2: g is divided by its norm,
                                    tensor by tensor; with u_1 = u, u_2 = g/|g| / (sqrt(v / (1 - b2^t))
                                    + eps) + wd p and r_k = |p| / |u_k|,
                                    p = p - lr (b1 r_1 u_1 + (1 - b1) r_2 u_2)
    adamw                           Loshchilov and Hutter, "Decoupled Weight Decay Regularization":
                                    r = 1 for all

Ownership: with ZeRO a parameter here is a flat fp32 slice that holds *segments* of many tensors
(:mod:`megabert.optim.flat_segments`); this rank owns and updates its slice only.

Communication: one all-reduce of a float64 [tensors, 2] vector (squared norms of p and of u) a
parameter group, over every rank that holds a part of the group's tensors. All of them call it, also
one whose slice is all padding. A tensor that tensor-parallel ranks hold as copies is added by one
of them and therefore has the same ratio on all, bit for bit. Groups that do not adapt need none.
With ZeRO 3 the optimizer is called for one sub-group at a time: then it is one a sub-group. LANS
needs another one before, [tensors, 1], for the norms of the gradients, in every group.

Padding belongs to no segment: it is in no sum.

The elementwise work is a backend's (:mod:`megabert.optim.work`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from megabert.optim.flat_segments import SliceTable
from megabert.optim.lamb_torch import TorchBackend
from megabert.optim.work import Backend, Rule, Work

HALF = (torch.bfloat16, torch.float16)
_STATES = ("exp_avg", "exp_avg_sq", "master")


@dataclass(frozen=True)
class TensorNorms:
    """What the last update did to one adapted tensor; norms are of the whole tensor.

    Attributes:
        name: the tensor's parameter name.
        weight_norm: |p| before the update.
        update_norm: |u| (LANS: |u_1|).
        trust_ratio: r (LANS: r_1) as applied.
        clamped: r stood at one of the bounds.
    """

    name: str
    weight_norm: float
    update_norm: float
    trust_ratio: float
    clamped: bool


class Lamb(torch.optim.Optimizer):
    """LAMB, LANS or AdamW on whole tensors and on ZeRO's slices; see the module's text.

    Parameters are fp32 (or fp64); a bf16 or fp16 one gets an fp32 master in its state, and is
    written from it. Clipping by global norm is done before, by the caller. No host synchronisation.

    Args:
        params: parameters or groups; each group may set any of the following but ``rule`` for itself.
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the (corrected) second moment.
        weight_decay: times p, added to the update before its norm is taken.
        bias_correction: divide the moments by 1 - beta^t.
        min_trust_ratio, max_trust_ratio: bounds of r for adapted tensors (None: none).
        adapt: scale the update by the trust ratio; False for biases and norm parameters.
        rule: "lamb", "lans" or "adamw" (no group adapts).
        backend: who does the elementwise work (torch operators).
        overwrite_gradients: :meth:`step` may leave anything in ``.grad``; saves time where the caller
            drops gradients after the step, as DeepSpeed does.

    State of each parameter: ``exp_avg``, ``exp_avg_sq`` (fp32, like the parameter), ``step`` (int,
    updates applied so far), and ``master`` (fp32) of a half-precision parameter.

    Raises:
        ValueError: a setting outside its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        bias_correction: bool = True,
        min_trust_ratio: float | None = None,
        max_trust_ratio: float | None = None,
        adapt: bool = True,
        rule: Literal["lamb", "lans", "adamw"] = "lamb",
        backend: Backend | None = None,
        overwrite_gradients: bool = False,
    ) -> None:
        if rule not in ("lamb", "lans", "adamw"):
            raise ValueError(f"rule is {rule!r}, but must be lamb, lans or adamw")
        self.rule = rule
        self.backend: Backend = backend or TorchBackend()
        self.overwrite_gradients = overwrite_gradients
        self.table = SliceTable((), None)
        self._norms: dict[tuple[str, ...], tuple[Tensor, dict[str, Any]]] = {}
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "min_trust_ratio": min_trust_ratio,
            "max_trust_ratio": max_trust_ratio,
            "adapt": adapt,
        }
        _check(defaults)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: all but the segment table, which names tensors of this very object."""
        empty = {"table": SliceTable((), None), "_norms": {}}
        kept = {name: getattr(self, name) for name in ("rule", "backend", "overwrite_gradients")}
        return {**super().__getstate__(), **kept, **empty}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's own settings are checked."""
        super().add_param_group(param_group)
        _check(self.param_groups[-1])

    def attach(self, table: SliceTable) -> None:
        """Say which tensors lie in the parameters, and how ranks add up their norms.

        Without it every parameter is a whole tensor of this rank.
        """
        self.table = table

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's state, made (zero moments, step 0) if there is none yet."""
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["step"] = 0
            like = parameter
            if parameter.dtype in HALF:
                like = state["master"] = parameter.detach().float()
            state["exp_avg"] = torch.zeros_like(like)
            state["exp_avg_sq"] = torch.zeros_like(like)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would round the fp32 state of half-precision parameters: that is kept."""
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(saved, own):
            if parameter.dtype in HALF:
                for key in _STATES:
                    value = state_dict["state"].get(index, {}).get(key)
                    if value is not None:
                        self.state[parameter][key] = value.to(parameter.device, torch.float32)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient.

        Raises:
            TypeError: a parameter of another kind than those above, or a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Empty outside its turn under ZeRO 3, on every rank alike.
            if group["params"]:
                self._step_group(group)
        return loss

    def tensor_norms(self) -> list[TensorNorms]:
        """Norms and ratios of the last update's adapted tensors; the device is waited for.

        They are the sums that the update itself made: asking costs one small copy a group.
        """
        rows = []
        for names, (squares, group) in self._norms.items():
            ratios = _ratios(squares, group)[:, 0].tolist()
            low, high = group["min_trust_ratio"], group["max_trust_ratio"]
            for name, (weight, update), ratio in zip(names, squares[:, :2].sqrt().tolist(), ratios):
                both = weight > 0.0 and update > 0.0
                free = weight / update if both else 1.0
                clamped = (low is not None and free < low) or (high is not None and free > high)
                rows.append(TensorNorms(name, weight, update, ratio, clamped))
        return rows

    # ------------------------------------------------------------------ one group

    def _step_group(self, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        rule = Rule(
            "lans" if self.rule == "lans" else "lamb",
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["bias_correction"],
        )
        active = [parameter for parameter in group["params"] if parameter.grad is not None]
        work = [self._work(parameter) for parameter in active]
        scales = None
        if rule.kind == "lans":
            own = self.backend.gradient_squares(work) if work else []
            squares = self._sum(group, active, [square[:, None] for square in own], 1)
            inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)
            scales = self._spread(group, active, inverse)
        adapts = group["adapt"] and self.rule != "adamw"
        if not adapts:
            if work:
                self.backend.single_pass(rule, work, scales, group["lr"])
            return
        own = self.backend.first_pass(rule, work, scales) if work else []
        squares = self._sum(group, active, own, 1 + rule.updates)
        self._remember(group, squares)
        shares = torch.tensor(rule.shares, dtype=torch.float64)
        ratios = _ratios(squares, group) * (shares.to(squares.device) if len(shares) > 1 else 1.0)
        if work:
            factors = self._spread(group, active, ratios)
            self.backend.second_pass(rule, work, scales, factors, group["lr"])

    def _work(self, parameter: Tensor) -> Work:
        """The parameter's flat tensors; counts the update.

        Raises:
            TypeError: see :meth:`step`.
        """
        gradient = parameter.grad
        assert gradient is not None
        if parameter.dtype not in (torch.float32, torch.float64, *HALF):
            raise TypeError(f"Lamb updates fp32, fp64, bf16 and fp16, not {parameter.dtype}")
        if gradient.is_sparse or not parameter.is_contiguous():
            raise TypeError("Lamb updates contiguous tensors with dense gradients")
        state = self.state_of(parameter)
        state["step"] += 1
        master = state.get("master", parameter).view(-1)
        spare = None
        if self.overwrite_gradients and gradient.is_contiguous() and gradient.dtype == master.dtype:
            spare = gradient.view(-1)
        return Work(
            master,
            gradient.reshape(-1),
            state["exp_avg"].view(-1),
            state["exp_avg_sq"].view(-1),
            state["step"],
            self.table.partition(parameter),
            parameter.view(-1) if "master" in state else None,
            spare,
        )

    # ------------------------------------------------------------------ whole tensors

    def _sum(
        self, group: dict[str, Any], active: list[Tensor], own: list[Tensor], width: int
    ) -> Tensor:
        """Sums over segments made sums over whole tensors: float64 [the group's tensors, width].

        The one place of an update where ranks speak to each other.
        """
        table = self.table
        found = dict(zip(map(id, active), own))
        counts = [len(table.partition(parameter).names) for parameter in group["params"]]
        device = group["params"][0].device
        squares = torch.zeros(sum(counts), width, dtype=torch.float64, device=device)
        first_row = 0
        for parameter, count in zip(group["params"], counts):
            value = found.get(id(parameter))
            if value is not None and len(value):
                rows, counted = table.rows(parameter)
                squares[first_row : first_row + count].index_add_(
                    0, rows, value.to(device) * counted[:, None]
                )
            first_row += count
        if table.all_reduce is not None:
            table.all_reduce(squares)
        return squares

    def _spread(self, group: dict[str, Any], active: list[Tensor], values: Tensor) -> list[Tensor]:
        """Rows of whole tensors handed to their segments: float32 [segments, width] an active one."""
        wanted = {id(parameter) for parameter in active}
        first_row, spread = 0, []
        for parameter in group["params"]:
            count = len(self.table.partition(parameter).names)
            if id(parameter) in wanted:
                rows, _ = self.table.rows(parameter)
                own = values[first_row : first_row + count][rows]
                spread.append(own.double() if parameter.dtype == torch.float64 else own.float())
            first_row += count
        return spread

    def _remember(self, group: dict[str, Any], squares: Tensor) -> None:
        names = tuple(
            name for parameter in group["params"] for name in self.table.partition(parameter).names
        )
        bounds = {key: group[key] for key in ("min_trust_ratio", "max_trust_ratio")}
        self._norms[names] = (squares, bounds)


def _check(group: dict[str, Any]) -> None:
    lr, betas, eps = group["lr"], group["betas"], group["eps"]
    if not lr >= 0.0:
        raise ValueError(f"lr is {lr}, but must be at least 0")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas are {tuple(betas)}, but each must be in [0, 1)")
    if not (eps >= 0.0 and group["weight_decay"] >= 0.0):
        raise ValueError(f"eps {eps} and weight_decay {group['weight_decay']} must be at least 0")
    low, high = group["min_trust_ratio"] or 0.0, group["max_trust_ratio"]
    if low < 0.0 or (high is not None and high < max(low, 1e-30)):
        raise ValueError(f"trust ratio bounds {low} and {high} hold no ratio")


def _ratios(squares: Tensor, group: dict[str, Any]) -> Tensor:
    """r_k: float64 [tensors, k], from squared norms of p and of each u_k [tensors, 1 + k]."""
    norms = squares.sqrt()
    weight, updates = norms[:, :1], norms[:, 1:]
    ratio = torch.where((weight > 0) & (updates > 0), weight / updates, 1.0)
    if group["min_trust_ratio"] is not None or group["max_trust_ratio"] is not None:
        ratio = ratio.clamp(group["min_trust_ratio"], group["max_trust_ratio"])
    return ratio
