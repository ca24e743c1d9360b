"""The fp32 sums of gradients of DeepSpeed's BF16_Optimizer (stage 1, bf16 or fp8).

Each parameter's hook adds its gradient to the sums as soon as backward has made it, and drops the
gradient (``bf16.immediate_grad_update``, which :mod:`megabert.engine.config` sets). DeepSpeed 0.19.8
first copies a gradient to fp32; here one operator reads bf16 and adds in fp32, with the same result.

Before the reduction between ranks DeepSpeed joins the sums of all parameter groups in a copy. Here each
group, which is one tensor already, is sent where it lies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from megabert.engine.zero.partitions import private


def prepare_sums(engine: Any) -> None:
    """Replace the two steps of a new engine's BF16_Optimizer; nothing for other optimizers."""
    optimizer = engine.optimizer
    if type(optimizer).__name__ != "BF16_Optimizer":
        return
    for name in ("_update_hp_grad", "fp32_groups_gradients", "fp32_groups_has_gradients"):
        private(optimizer, name)

    def add(parameter: nn.Parameter, group: int, number: int, clear_lp_grads: bool) -> None:
        grad = parameter.grad
        if grad is None:
            return
        total = optimizer.fp32_groups_gradients[group][number]
        total.add_(grad.reshape(-1))
        parameter._hp_grad = total  # type: ignore[attr-defined]
        optimizer.fp32_groups_has_gradients[group][number] = True
        if clear_lp_grads:
            grad.zero_()

    optimizer._update_hp_grad = add
    # a bucket of one element: no two groups are joined
    engine.allreduce_gradients = partial(private(engine, "allreduce_gradients"), bucket_size=1)
