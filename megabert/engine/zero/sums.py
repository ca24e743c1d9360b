"""The fp32 sums of gradients of DeepSpeed's BF16_Optimizer (stage 1, bf16 or fp8).

Gradients join their sums during backward, and none is kept (``bf16.immediate_grad_update``, which
:mod:`megabert.engine.config` sets):

    weights of linear layers   their product dW = dY^T X is added to the sum where it is computed, if
                               the device can do that (:mod:`megabert.parallel.products`)
    all others                 a hook adds ``.grad`` and drops it. DeepSpeed 0.19.8 first copies it to
                               fp32; here one operator reads bf16 and adds in fp32, with the same result

Before the reduction between ranks DeepSpeed joins the sums of all parameter groups in a copy. Here each
group, which is one tensor already, is sent where it lies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from megabert.common.log import get_logger
from megabert.engine.zero.partitions import private
from megabert.parallel.products import adds_to_fp32


def prepare_sums(engine: Any) -> None:
    """Replace these steps of a new engine's BF16_Optimizer; nothing for other optimizers."""
    optimizer = engine.optimizer
    if type(optimizer).__name__ != "BF16_Optimizer":
        return
    groups, sums = private(optimizer, "bf16_groups"), private(optimizer, "fp32_groups_gradients")
    private(optimizer, "fp32_groups_has_gradients")
    clear, destroy = private(optimizer, "clear_hp_grads"), private(optimizer, "destroy")

    def count_all() -> None:
        """Norm and clipping read every sum; one that got nothing is 0."""
        optimizer.fp32_groups_has_gradients = [[True] * len(group) for group in groups]

    def clear_sums() -> None:
        clear()
        count_all()

    def add(parameter: nn.Parameter, group: int, number: int, clear_lp_grads: bool) -> None:
        if parameter.grad is None:
            return
        sums[group][number].add_(parameter.grad.reshape(-1))
        if clear_lp_grads:
            parameter.grad.zero_()

    def forget() -> None:
        for group in groups:
            for parameter in group:
                parameter.fp32_sum = None
        destroy()

    count_all()
    optimizer.clear_hp_grads, optimizer._update_hp_grad = clear_sums, add
    optimizer.destroy = forget
    # a bucket of one element: no two groups are joined
    engine.allreduce_gradients = partial(private(engine, "allreduce_gradients"), bucket_size=1)
    if not optimizer.immediate_grad_update:
        return
    if not adds_to_fp32(engine.device):
        if engine.device.type != "cpu":
            get_logger().warning(
                "torch %s has no product that adds to fp32 on %s: gradients of weights are added "
                "afterwards, which is slower",
                torch.__version__,
                engine.device,
            )
        return
    for group, totals in zip(groups, sums):
        for parameter, total in zip(group, totals):
            if parameter.dim() == 2:
                parameter.fp32_sum = total.view(parameter.shape)
