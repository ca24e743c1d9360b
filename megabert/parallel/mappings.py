"""The two communication operators of tensor parallelism (Shoeybi et al. 2019, section 3, figure 3).

    f: identity forward, all-reduce backward        entrance of a split region
    g: all-reduce forward, identity backward        exit of a split region

A block whose first matrix is split by columns and whose second by rows needs one f and one g: one
all-reduce in each direction, two a layer (attention and MLP).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.parallel.topology import TensorParallel


class _F(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)  # autograd may still hold it
        if total.numel():
            dist.all_reduce(total, group=ctx.group)
        return total, None


class _G(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.mark_dirty(x)
        if x.numel():
            dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def f(x: Tensor, tp: TensorParallel) -> Tensor:
    """Enter a split region: ``x`` (the same on all ranks); its gradient is summed over the ranks."""
    if tp.size == 1:
        return x
    out: Tensor = _F.apply(x, tp.group)
    return out


def g(x: Tensor, tp: TensorParallel) -> Tensor:
    """Leave a split region: the sum of the ranks' partial ``x``; its gradient passes unchanged.

    ``x`` must be contiguous and is overwritten: a matrix product that nothing else reads.
    """
    if tp.size == 1:
        return x
    out: Tensor = _G.apply(x, tp.group)
    return out


def gather_last_dim(x: Tensor, tp: TensorParallel) -> Tensor:
    """``[..., n/t]`` of each rank joined to ``[..., n]`` on all; for evaluation, no gradient."""
    if tp.size == 1:
        return x
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(tp.size)]
    dist.all_gather(parts, x, group=tp.group)
    return torch.cat(parts, dim=-1)
