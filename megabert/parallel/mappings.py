"""The communication operators of tensor and sequence parallelism.

Tensor parallelism (Shoeybi et al. 2019, section 3, figure 3): between the split regions every rank
holds all tokens.

    f                identity forward, all-reduce backward           entrance of a split region
    g                all-reduce forward, identity backward           exit of a split region

A block whose first matrix is split by columns and whose second by rows needs one f and one g: one
all-reduce in each direction, two a layer (attention and MLP).

Sequence parallelism (Korthikanti et al. 2022, section 4.2.2): between the split regions each of the t
ranks holds its own tokens only, ``[T/t, H]`` of the flat ``[T, H]``, split along dimension 0.

    gather_tokens    all-gather forward, reduce-scatter backward     entrance of a split region
    scatter_sum      reduce-scatter forward, all-gather backward     exit of a split region
    whole_tokens     all-gather forward, own part backward           exit to what all ranks compute alike
    own_tokens       own part forward, all-gather backward           entrance from what all computed alike
    shared           identity forward, one all-reduce backward       parameters used on own tokens

An all-reduce is a reduce-scatter and an all-gather, so the same bytes travel; what is saved is the
memory and the time of everything between the regions (LayerNorm, dropout, residual sums).  Without
``tp.sequence_parallel`` gather_tokens is f, scatter_sum is g and the last three are the identity, so
a model is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.parallel.topology import TensorParallel

# torch 2.13 gave the two flat collectives new names
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def start_all_gather(x: Tensor, tp: TensorParallel) -> tuple[Tensor, dist.Work | None]:
    """All ranks' ``[n, ...]`` as ``[t n, ...]`` in rank order, once the work is waited for.

    The work is None where there is nothing to send.  ``x`` must not change before the wait.
    """
    x = x.contiguous()
    whole = x.new_empty((tp.size * x.size(0), *x.shape[1:]))
    return whole, _all_gather(whole, x, group=tp.group, async_op=True) if x.numel() else None


def start_reduce_scatter(x: Tensor, tp: TensorParallel) -> tuple[Tensor, dist.Work | None]:
    """This rank's ``[T/t, ...]`` of the sum over ranks of ``x [T, ...]``, once waited for.

    Raises:
        ValueError: T is not divisible by the tensor parallel degree.
    """
    own = x.new_empty((_part(x, tp), *x.shape[1:]))
    x = x.contiguous()
    return own, _reduce_scatter(own, x, group=tp.group, async_op=True) if x.numel() else None


def start_all_reduce(x: Tensor, tp: TensorParallel) -> dist.Work | None:
    """Sum over ranks, in place in the contiguous ``x``, once waited for."""
    return dist.all_reduce(x, group=tp.group, async_op=True) if x.numel() else None


def wait(work: dist.Work | None) -> None:
    """Order what follows after a collective (on a GPU: on its stream; the host goes on)."""
    if work is not None:
        work.wait()


def _part(x: Tensor, tp: TensorParallel) -> int:
    if x.size(0) % tp.size:
        raise ValueError(
            f"{x.size(0)} tokens cannot be divided evenly among {tp.size} tensor-parallel ranks: "
            f"micro batches need a token_multiple that {tp.size} divides"
        )
    return x.size(0) // tp.size


def _own(x: Tensor, tp: TensorParallel) -> Tensor:
    part = _part(x, tp)
    return x.narrow(0, tp.rank * part, part)


def _gathered(x: Tensor, tp: TensorParallel) -> Tensor:
    whole, work = start_all_gather(x, tp)
    wait(work)
    return whole


def _scattered(x: Tensor, tp: TensorParallel) -> Tensor:
    own, work = start_reduce_scatter(x, tp)
    wait(work)
    return own


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


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _gathered(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _scattered(grads[0], ctx.tp), None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _scattered(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.tp), None


class _WholeTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _gathered(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _own(grads[0], ctx.tp), None


class _OwnTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _own(x, tp).clone()  # the whole is not kept alive by its part

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.tp), None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tp: TensorParallel, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.tp = tp
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # half-precision partial sums are added in float32 and rounded once
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        flat = torch.cat([grad.reshape(-1).to(dtype) for grad in grads])
        dist.all_reduce(flat, group=ctx.tp.group)
        parts = flat.split([grad.numel() for grad in grads])
        totals = [part.view_as(grad).to(grad.dtype) for part, grad in zip(parts, grads)]
        return None, *totals


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


def gather_tokens(x: Tensor, tp: TensorParallel) -> Tensor:
    """Enter a split region: own ``[T/t, ...]`` to whole ``[T, ...]``, gradients summed over ranks."""
    if not tp.sequence_parallel:
        return f(x, tp)
    out: Tensor = _GatherTokens.apply(x, tp)
    return out


def scatter_sum(x: Tensor, tp: TensorParallel) -> Tensor:
    """Leave a split region: partial ``[T, ...]`` of each rank to the sum's own ``[T/t, ...]``.

    ``x`` must be a product that nothing else reads: without sequence parallelism it is overwritten.

    Raises:
        ValueError: T is not divisible by the tensor parallel degree.
    """
    if not tp.sequence_parallel:
        return g(x, tp)
    out: Tensor = _ScatterSum.apply(x, tp)
    return out


def whole_tokens(x: Tensor, tp: TensorParallel) -> Tensor:
    """Own ``[T/t, ...]`` to whole ``[T, ...]`` on all ranks, for what all of them compute alike.

    Each rank then has the same gradient and keeps its own part: nothing is sent in backward.
    """
    if not tp.sequence_parallel:
        return x
    out: Tensor = _WholeTokens.apply(x, tp)
    return out


def own_tokens(x: Tensor, tp: TensorParallel) -> Tensor:
    """Whole ``[T, ...]``, the same on all ranks, to own ``[T/t, ...]``; whole numbers too.

    Raises:
        ValueError: T is not divisible by the tensor parallel degree.
    """
    if not tp.sequence_parallel:
        return x
    out: Tensor = _OwnTokens.apply(x, tp)
    return out


def shared(parameters: Sequence[Tensor], tp: TensorParallel) -> tuple[Tensor, ...]:
    """Parameters that every rank holds whole and uses on its own tokens only.

    In backward their gradients, each a sum over own tokens, are summed over the ranks together: one
    all-reduce for all ``parameters``, when the last of them has its gradient.
    """
    if not tp.sequence_parallel or not parameters:
        return tuple(parameters)
    out: tuple[Tensor, ...] = _Shared.apply(tp, *parameters)
    return out


def gather_last_dim(x: Tensor, tp: TensorParallel) -> Tensor:
    """``[..., n/t]`` of each rank joined to ``[..., n]`` on all; for evaluation, no gradient."""
    if tp.size == 1:
        return x
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(tp.size)]
    dist.all_gather(parts, x, group=tp.group)
    return torch.cat(parts, dim=-1)
