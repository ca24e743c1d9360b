"""AdamW with updates clipped by their root mean square per whole tensor, for any ZeRO stage and tensor parallelism.

Wortsman et al., "Stable and low-precision training for large-scale vision-language models" (2023),
Algorithm 2. For every tensor p [n elements], its gradient g, and update t:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    R = sqrt(mean(g^2 / max(v / (1 - b2^t), eps^2)))
    e = lr / max(1, R)
    p = p - e ((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + wd p)

R is about 1 while v follows the gradients, and above where they grow faster than v: then the step is
shorter, and gradient clipping can be left out (``--gradient-clipping 0``). The paper's decay rates that
depend on t are the bias corrections above.

Communication: one all-reduce of a float64 [tensors, 4] vector per parameter group (sub-group at ZeRO 3):
elements, and squared norms of p, of the update, and of g / sqrt(v).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megabert.config.training import OptimizerSettings
from megabert.optim.base import ShardedOptimizer, TensorNorms
from megabert.optim.flat_segments import squared_norms
from megabert.optim.registry import OptimizerSpec, StateLayout


class StableAdamW(ShardedOptimizer):
    """See the module's docstring. Parameters are fp32 or fp64."""

    def __init__(
        self, groups: list[dict[str, Any]], settings: OptimizerSettings, layout: StateLayout
    ) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        super().__init__(
            groups,
            {
                "lr": 0.0,
                "betas": (settings.beta1, settings.beta2),
                "eps": settings.eps,
                "weight_decay": settings.weight_decay,
                "bias_correction": settings.bias_correction,
            },
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies: as the base class, without the last update's norms."""
        return {**super().__getstate__(), "_sums": {}}

    def _step_group(self, group: dict[str, Any]) -> None:
        active = [p for p in group["params"] if p.grad is not None]
        updates, sums = [], {}
        for parameter in active:
            update, ratio = self._update_of(parameter, group)
            updates.append(update)
            partition = self.table.partition(parameter)
            columns = [
                squared_norms(pieces)
                for pieces in map(partition.views, (parameter.view(-1), update, ratio))
                if pieces
            ]
            if columns:
                numels = [float(segment.numel) for segment in partition.segments]
                columns.insert(0, torch.tensor(numels, dtype=torch.float64, device=update.device))
                sums[id(parameter)] = torch.stack(columns, 1)
        whole = self.table.whole_sums(group["params"], sums, 4)
        names = [n for p in group["params"] for n in self.table.partition(p).names]
        self._sums[tuple(names)] = whole
        factors = self.table.segment_values(group["params"], active, _factors(whole))
        for parameter, update, found in zip(active, updates, factors):
            partition = self.table.partition(parameter)
            pieces = zip(partition.views(parameter.view(-1)), partition.views(update), found)
            for weight, step, factor in pieces:
                rate = group["lr"] * factor
                weight.mul_(1.0 - rate * group["weight_decay"]).sub_(step * rate)

    def _update_of(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Advance the moments; the flat update without decay, and g / max(sqrt(v), eps)."""
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"StableAdamW updates fp32 and fp64, not {parameter.dtype}")
        assert parameter.grad is not None
        gradient = parameter.grad.to(parameter.dtype).reshape(-1)
        state = self.state_of(parameter, group)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].view(-1).lerp_(gradient, 1.0 - beta1)
        square = state["exp_avg_sq"].view(-1).mul_(beta2)
        square.addcmul_(gradient, gradient, value=1.0 - beta2)
        first = second = 1.0
        if group["bias_correction"]:
            first, second = 1.0 - beta1 ** state["step"], 1.0 - beta2 ** state["step"]
        root = (square / second).sqrt_()
        ratio = gradient / root.clamp(min=group["eps"])
        return mean / first / root.add_(group["eps"]), ratio

    def tensor_norms(self) -> list[TensorNorms]:
        """Norms of each tensor; the ratio is 1 / max(1, R), and ``clamped`` where R was above 1."""
        rows = []
        for names, sums in self._sums.items():
            ratios = _factors(sums)[:, 0].tolist()
            for name, row, ratio in zip(names, sums.sqrt().tolist(), ratios):
                rows.append(TensorNorms(name, row[1], row[2], ratio, clamped=ratio < 1.0))
        return rows


def _factors(sums: Tensor) -> Tensor:
    """1 / max(1, R): float64 [tensors, 1], from the sums [tensors, 4] of the module's docstring."""
    mean_square = sums[:, 3:] / sums[:, :1].clamp(min=1.0)
    return mean_square.clamp(min=1.0).rsqrt()


STABLE_ADAMW = OptimizerSpec(
    "stable-adamw",
    "AdamW whose updates are clipped by their root mean square per tensor",
    StableAdamW,
    reads=frozenset({"beta1", "beta2", "eps", "bias_correction"}),
    moved_bytes=48,
    sums_norms=True,
    deepspeed_types=(),
)
