"""LAMB with one trust ratio per whole tensor, whatever ZeRO and tensor parallelism did to it.

You et al., "Large Batch Optimization for Deep Learning", Algorithm 2. For every tensor p, its
clipped gradient g, and step t:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd p      (bias correction optional)
    r = |p| / |u| if both norms are above 0 and the group adapts, else 1; then clamped, if asked
    p = p - lr r u

Ownership: with ZeRO a parameter here is a flat fp32 slice that holds *segments* of many tensors
(:mod:`megabert.optim.segments`); this rank owns and updates its slice only.

Communication: one all-reduce of a float64 [tensors, 2] vector (squared norms of p and of u) a
parameter group, over every rank that holds a part of the group's tensors. All of them call it, also
one whose slice is all padding. A tensor that tensor-parallel ranks hold as copies is added by one
of them and therefore has the same ratio on all, bit for bit. Groups that do not adapt need none.
With ZeRO 3 the optimizer is called for one sub-group at a time: then it is one a sub-group.

Padding belongs to no segment: it is in no sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from megabert.optim.norms import squared_norms
from megabert.optim.segments import SegmentTable


class Lamb(torch.optim.Optimizer):
    """LAMB on whole tensors and on ZeRO's slices; see the module's text for rule and communication.

    Parameters must be fp32 (or fp64): half-precision training gives it fp32 masters. Clipping by
    global norm is done before, by the caller. No host synchronisation.

    Args:
        params: parameters or groups; each group may set any of the following for itself.
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the (corrected) second moment.
        weight_decay: times p, added to the update before its norm is taken.
        bias_correction: divide the moments by 1 - beta^t.
        min_trust_ratio, max_trust_ratio: bounds of r for adapted tensors (None: none).
        adapt: scale the update by the trust ratio; False for biases and norm parameters.

    State of each parameter: ``exp_avg``, ``exp_avg_sq`` (like the parameter), ``step`` (int, updates
    applied so far).

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
    ) -> None:
        if not lr >= 0.0:
            raise ValueError(f"lr is {lr}, but must be at least 0")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas are {tuple(betas)}, but each must be in [0, 1)")
        if not (eps >= 0.0 and weight_decay >= 0.0):
            raise ValueError(f"eps {eps} and weight_decay {weight_decay} must be at least 0")
        low, high = min_trust_ratio or 0.0, max_trust_ratio
        if low < 0.0 or (high is not None and high < max(low, 1e-30)):
            raise ValueError(f"trust ratio bounds {min_trust_ratio} and {high} hold no ratio")
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
        self.table = SegmentTable((), None)
        super().__init__(params, defaults)

    def attach(self, table: SegmentTable) -> None:
        """Say which tensors lie in the parameters, and how ranks add up their norms.

        Without it every parameter is a whole tensor of this rank.
        """
        self.table = table

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's state, made (zero moments, step 0) if there is none yet."""
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient.

        Raises:
            TypeError: a half-precision parameter or a sparse gradient.
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

    def _step_group(self, group: dict[str, Any]) -> None:
        active = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in active:
            if parameter.dtype not in (torch.float32, torch.float64) or parameter.grad.is_sparse:
                raise TypeError(
                    f"Lamb updates fp32 tensors with dense gradients, not {parameter.dtype}"
                )
        updates = self._updates(group, active)
        if not group["adapt"]:
            if active:
                torch._foreach_add_(active, updates, alpha=-group["lr"])
            return
        ratios = self._trust_ratios(group, dict(zip(map(id, active), updates)))
        for parameter, update in zip(active, updates):
            partition = self.table.partition(parameter)
            if partition.segments:
                torch._foreach_addcmul_(
                    partition.views(parameter),
                    partition.views(update),
                    ratios[id(parameter)],
                    value=-group["lr"],
                )

    def _updates(self, group: dict[str, Any], active: list[Tensor]) -> list[Tensor]:
        """Advance moments and step counts; u of each parameter, new tensors like the parameters."""
        if not active:
            return []
        beta1, beta2 = group["betas"]
        states = [self.state_of(parameter) for parameter in active]
        for state in states:
            state["step"] += 1
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        gradients = [parameter.grad for parameter in active if parameter.grad is not None]
        torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1.0 - beta2)
        updates = list(torch._foreach_sqrt(second))
        if group["bias_correction"]:
            # m/c1 / (sqrt(v/c2) + eps) = m / (sqrt(v) c1/sqrt(c2) + eps c1)
            scales = [1.0 - beta1 ** state["step"] for state in states]
            roots = [(1.0 - beta2 ** state["step"]) ** 0.5 for state in states]
            torch._foreach_mul_(updates, [c1 / root for c1, root in zip(scales, roots)])
            torch._foreach_add_(updates, [group["eps"] * c1 for c1 in scales])
        else:
            torch._foreach_add_(updates, group["eps"])
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, first)
        if group["weight_decay"] != 0.0:
            torch._foreach_add_(updates, active, alpha=group["weight_decay"])
        return updates

    def _trust_ratios(
        self, group: dict[str, Any], updates: dict[int, Tensor]
    ) -> dict[int, list[Tensor]]:
        """r of each segment, 0-d tensors, by parameter id, from the norms of whole tensors."""
        table = self.table
        counts = [len(table.partition(parameter).names) for parameter in group["params"]]
        device = group["params"][0].device
        squares = torch.zeros(sum(counts), 2, dtype=torch.float64, device=device)
        first_row = 0
        for parameter, count in zip(group["params"], counts):
            partition = table.partition(parameter)
            update = updates.get(id(parameter))
            if update is not None and partition.segments:
                views = partition.views(parameter) + partition.views(update)
                rows, counted = table.rows(parameter)
                own = squared_norms(views).view(2, -1) * counted  # [2, segments]
                squares[first_row : first_row + count].index_add_(0, rows, own.T)
            first_row += count
        if table.all_reduce is not None:
            table.all_reduce(squares)
        ratios = self._ratio(squares, group)
        first_row = 0
        by_parameter: dict[int, list[Tensor]] = {}
        for parameter, count in zip(group["params"], counts):
            rows, _ = table.rows(parameter)
            own = ratios[first_row : first_row + count].to(parameter.dtype)
            by_parameter[id(parameter)] = list(own[rows].unbind())
            first_row += count
        return by_parameter

    @staticmethod
    def _ratio(squares: Tensor, group: dict[str, Any]) -> Tensor:
        """r [tensors] from squared norms of p and u [tensors, 2]."""
        weight, update = squares.sqrt().unbind(1)
        ratio = torch.where((weight > 0) & (update > 0), weight / update, 1.0)
        if group["min_trust_ratio"] is not None or group["max_trust_ratio"] is not None:
            ratio = ratio.clamp(group["min_trust_ratio"], group["max_trust_ratio"])
        return ratio
