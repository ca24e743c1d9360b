"""LAMB, LANS and AdamW with one trust ratio per whole tensor, for any ZeRO stage and tensor parallelism.

You et al., "Large Batch Optimization for Deep Learning", Algorithm 2. For every tensor p, its
clipped gradient g, and step t:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd p      (bias correction optional)
    r = |p| / |u| if both norms are above 0 and the group adapts, else 1; then optionally clamped
    p = p - lr r u

Variants, by ``rule`` and by group:

    lamb, every group with adapt    NVLAMB: biases and norm parameters have a ratio too
    lans                            Zheng et al., "Accelerated Large Batch Optimization of BERT
                                    Pretraining in 54 minutes", Algorithm 2: g is divided by its norm,
                                    tensor by tensor; with u_1 = u, u_2 = g/|g| / (sqrt(v / (1 - b2^t))
                                    + eps) + wd p and r_k = |p| / |u_k|,
                                    p = p - lr (b1 r_1 u_1 + (1 - b1) r_2 u_2)
    adamw                           Loshchilov and Hutter, "Decoupled Weight Decay Regularization":
                                    r = 1 for all

Ownership: with ZeRO a parameter here is a flat fp32 partition that holds *segments* of many tensors
(:mod:`megabert.optim.flat_segments`); this rank owns and updates only its partition.

Communication: one all-reduce of a float64 [tensors, 2] vector (squared norms of p and of u) per
parameter group, over every rank that holds a part of the group's tensors. All of them call it, also
one whose partition is all padding. A tensor of which tensor-parallel ranks hold copies is added by one
of them and therefore has the same ratio on all, bit for bit. Groups that do not adapt need none.
With ZeRO 3 the optimizer is called for one sub-group at a time: then it is one per sub-group. LANS
needs another one before, [tensors, 1], for the norms of the gradients, in every group.

Padding belongs to no segment and enters no sum.

A backend does the elementwise work (:mod:`megabert.optim.lamb.backend`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer, TensorNorms
from megabert.optim.flat_segments import PartitionTable
from megabert.optim.lamb.apex import apex_lamb
from megabert.optim.lamb.backend import LambOptions, Rule, UpdateBackend, Work
from megabert.optim.lamb.choice import BackendName, choose_backend
from megabert.optim.lamb.torch_passes import TorchBackend
from megabert.optim.registry import OptimizerSpec, StateLayout

HALF = (torch.bfloat16, torch.float16)
_STATES = ("exp_avg", "exp_avg_sq", "master")
_DEFAULTS = LambOptions()


class Lamb(ShardedOptimizer):
    """LAMB, LANS or AdamW on whole tensors and on ZeRO's partitions; see the module's docstring.

    Parameters are fp32 (or fp64); a bf16 or fp16 one gets an fp32 master in its state, and is
    written from it. The caller clips by the global norm before. No host synchronisation.

    Args:
        params: parameters or groups.
        options: defaults of the groups.
        backend: what does the elementwise work; a name is resolved by :meth:`attach`, which knows the
            device. Torch operators until then.
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
        options: LambOptions = _DEFAULTS,
        *,
        backend: UpdateBackend | BackendName | None = None,
        overwrite_gradients: bool = False,
    ) -> None:
        if options.rule not in ("lamb", "lans", "adamw"):
            raise ValueError(f"rule is {options.rule!r}, but must be lamb, lans or adamw")
        self.rule = options.rule
        self._wanted_backend = backend if isinstance(backend, str) else None
        self.backend: UpdateBackend = TorchBackend()
        if backend is not None and not isinstance(backend, str):
            self.backend = backend
        self.overwrite_gradients = overwrite_gradients
        self._norms: dict[tuple[str, ...], tuple[Tensor, dict[str, Any]]] = {}
        defaults = {**asdict(options), "betas": tuple(options.betas)}
        del defaults["rule"]
        _check(defaults)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: as the base class, with this class's own attributes."""
        names = ("rule", "backend", "overwrite_gradients", "_wanted_backend")
        own = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **own, "_norms": {}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group's own settings are checked."""
        super().add_param_group(param_group)
        _check(self.param_groups[-1])

    def attach(self, table: PartitionTable) -> None:
        """Take the table, and choose the backend for the device of its partitions.

        Raises:
            UserError: the backend asked for cannot be used there.
        """
        super().attach(table)
        if self._wanted_backend is not None and table.device is not None:
            self.backend = choose_backend(self._wanted_backend, table.device, flat=table.flat)

    def describe(self) -> str:
        """``lamb by torch``."""
        return f"{self.rule} by {self.backend.name}"

    @property
    def record_name(self) -> str:
        """``Lamb (lamb)``."""
        return f"Lamb ({self.rule})"

    def state_of(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """The state of a group's parameter; made (zero moments, step 0) on the first call."""
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
        """As torch's, but keeps the fp32 state of half-precision parameters, which torch would round."""
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(saved, own):
            if parameter.dtype in HALF:
                for key in _STATES:
                    value = state_dict["state"].get(index, {}).get(key)
                    if value is not None:
                        self.state[parameter][key] = value.to(parameter.device, torch.float32)

    def tensor_norms(self) -> list[TensorNorms]:
        """Norms and ratios of the last update's adapted tensors; waits for the device.

        They are the sums that the update itself made: a call costs one small copy per group.
        """
        rows = []
        for names, (squares, group) in self._norms.items():
            ratios = _ratios(squares, group)[:, 0].tolist()
            least, most = group["min_trust_ratio"], group["max_trust_ratio"]
            for name, (weight, update), ratio in zip(names, squares[:, :2].sqrt().tolist(), ratios):
                both = weight > 0.0 and update > 0.0
                free = weight / update if both else 1.0
                clamped = (least is not None and free < least) or (most is not None and free > most)
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
        work = [self._work(parameter, group) for parameter in active]
        table, parameters = self.table, group["params"]
        scales = None
        if rule.kind == "lans":
            own = self.backend.gradient_squares(work) if work else []
            found = {id(p): square[:, None] for p, square in zip(active, own)}
            squares = table.whole_sums(parameters, found, 1)
            inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)
            scales = table.segment_values(parameters, active, inverse)
        if not group["adapt"] or self.rule == "adamw":
            if work:
                self.backend.single_pass(rule, work, scales, group["lr"])
            return
        own = self.backend.first_pass(rule, work, scales) if work else []
        squares = table.whole_sums(parameters, dict(zip(map(id, active), own)), 1 + rule.updates)
        self._remember(group, squares)
        ratios = _ratios(squares, group)
        if rule.updates > 1:
            ratios *= torch.tensor(rule.weights, dtype=torch.float64).to(squares.device)
        if work:
            factors = table.segment_values(parameters, active, ratios)
            self.backend.second_pass(rule, work, scales, factors, group["lr"])

    def _work(self, parameter: Tensor, group: Mapping[str, Any]) -> Work:
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
        state = self.state_of(parameter, group)
        state["step"] += 1
        master = state.get("master", parameter).view(-1)
        scratch = None
        if self.overwrite_gradients and gradient.is_contiguous() and gradient.dtype == master.dtype:
            scratch = gradient.view(-1)
        return Work(
            master,
            gradient.reshape(-1),
            state["exp_avg"].view(-1),
            state["exp_avg_sq"].view(-1),
            state["step"],
            self.table.partition(parameter),
            parameter.view(-1) if "master" in state else None,
            scratch,
        )

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
    least, most = group["min_trust_ratio"] or 0.0, group["max_trust_ratio"]
    if least < 0.0 or (most is not None and most < max(least, 1e-30)):
        raise ValueError(f"no trust ratio lies between the bounds {least} and {most}")


def _ratios(squares: Tensor, group: dict[str, Any]) -> Tensor:
    """r_k: float64 [tensors, k], from squared norms of p and of each u_k [tensors, 1 + k]."""
    norms = squares.sqrt()
    weight, updates = norms[:, :1], norms[:, 1:]
    ratio = torch.where((weight > 0) & (updates > 0), weight / updates, 1.0)
    if group["min_trust_ratio"] is not None or group["max_trust_ratio"] is not None:
        ratio = ratio.clamp(group["min_trust_ratio"], group["max_trust_ratio"])
    return ratio


# ---------------------------------------------------------------------- registration


def _make(
    rule: Literal["lamb", "lans", "adamw"],
    groups: list[dict[str, Any]],
    settings: OptimizerSettings,
    layout: StateLayout,
) -> ShardedOptimizer:
    """The optimizer of ``settings``, or apex's where these ask for it.

    Raises:
        UserError: apex where it would not be exact.
    """
    options = LambOptions(
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        bias_correction=settings.bias_correction,
        min_trust_ratio=settings.min_trust_ratio,
        max_trust_ratio=settings.max_trust_ratio,
        rule=rule,
    )
    if settings.lamb_backend == "apex":
        return apex_lamb(groups, options, layout)
    return Lamb(groups, options, backend=settings.lamb_backend)


MOMENT_SETTINGS = frozenset({"beta1", "beta2", "eps", "bias_correction", "lamb_backend"})
RATIO_SETTINGS = frozenset({"min_trust_ratio", "max_trust_ratio", "adapt_all"})

LAMB = OptimizerSpec(
    "lamb",
    "Adam's update scaled per tensor by |weights| / |update|",
    partial(_make, "lamb"),
    reads=MOMENT_SETTINGS | RATIO_SETTINGS,
    moved_bytes=40,
    sums_norms=True,
    deepspeed_types=("Lamb", "FusedLamb"),
)
LANS = OptimizerSpec(
    "lans",
    "LAMB with normalized gradients and Nesterov momentum",
    partial(_make, "lans"),
    reads=MOMENT_SETTINGS | RATIO_SETTINGS,
    moved_bytes=48,
    sums_norms=True,
)
ADAMW = OptimizerSpec(
    "adamw",
    "Adam with decoupled weight decay",
    partial(_make, "adamw"),
    reads=MOMENT_SETTINGS,
    deepspeed_types=("AdamW", "Adam"),
)
