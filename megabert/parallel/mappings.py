"""The communication operators of tensor and sequence parallelism, under Megatron-LM's names.

Tensor parallelism (Shoeybi et al. 2019, section 3, figure 3). Between the split regions every rank
holds all tokens.

    copy_to_tensor_parallel_region                  (f) identity forward, all-reduce backward
    reduce_from_tensor_parallel_region              (g) all-reduce forward, identity backward

A block whose first matrix is split by columns and whose second by rows needs one f and one g: one
all-reduce in each direction, two per layer (attention and MLP).

Sequence parallelism (Korthikanti et al. 2022, section 4.2.2). Between the split regions each of the t
ranks holds its own tokens only, ``[T/t, H]`` of the flat ``[T, H]``, split along dimension 0.

    gather_from_sequence_parallel_region            all-gather forward, reduce-scatter backward, at the
                                                    entrance of a split region; with
                                                    ``tensor_parallel_output_grad=False`` the backward
                                                    takes this rank's part, for what all ranks compute
    reduce_scatter_to_sequence_parallel_region      reduce-scatter forward, all-gather backward, at the
                                                    exit of a split region
    scatter_to_sequence_parallel_region             this rank's part forward, all-gather backward
    parameters_in_sequence_parallel_region          identity forward, one all-reduce backward

An all-reduce is a reduce-scatter followed by an all-gather, so sequence parallelism sends the same
bytes. It saves the memory and the time of everything between the regions (LayerNorm, dropout, residual
sums).  Without ``tp.sequence_parallel`` the gather is f (or the identity, if its gradient is not
tensor parallel), the reduce-scatter is g, and the other two are the identity: a model is written once.
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
    """Order what follows after a collective (on a GPU: on its stream; the host continues)."""
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


def _reduce_scattered(x: Tensor, tp: TensorParallel) -> Tensor:
    own, work = start_reduce_scatter(x, tp)
    wait(work)
    return own


class _CopyToTensorParallelRegion(torch.autograd.Function):
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


class _ReduceFromTensorParallelRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.mark_dirty(x)
        if x.numel():
            dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _GatherFromSequenceParallelRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel, sum_gradients: bool) -> Tensor:
        ctx.tp, ctx.sum_gradients = tp, sum_gradients
        return _gathered(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        own = _reduce_scattered if ctx.sum_gradients else _own
        return own(grads[0], ctx.tp), None, None


class _ReduceScatterToSequenceParallelRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _reduce_scattered(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.tp), None


class _ScatterToSequenceParallelRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallel) -> Tensor:
        ctx.tp = tp
        return _own(x, tp).clone()  # the whole is not kept alive by its part

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.tp), None


class _ParametersInSequenceParallelRegion(torch.autograd.Function):
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


def copy_to_tensor_parallel_region(x: Tensor, tp: TensorParallel) -> Tensor:
    """f: enter a split region. ``x`` is the same on all ranks; its gradient is summed over them."""
    if tp.size == 1:
        return x
    out: Tensor = _CopyToTensorParallelRegion.apply(x, tp.group)
    return out


def reduce_from_tensor_parallel_region(x: Tensor, tp: TensorParallel) -> Tensor:
    """g: leave a split region. The ranks' partial ``x`` are summed; the gradient passes unchanged.

    ``x`` must be contiguous and is overwritten: a matrix product that nothing else reads.
    """
    if tp.size == 1:
        return x
    out: Tensor = _ReduceFromTensorParallelRegion.apply(x, tp.group)
    return out


def gather_from_sequence_parallel_region(
    x: Tensor, tp: TensorParallel, *, tensor_parallel_output_grad: bool = True
) -> Tensor:
    """This rank's ``[T/t, ...]`` to all ``[T, ...]``.

    ``tensor_parallel_output_grad``: the output enters a split region, so that each rank has a part of
    its gradient and backward reduce-scatters. False: all ranks compute the same from the output, so
    that each has the whole gradient and takes its part: nothing is sent in backward.
    """
    if not tp.sequence_parallel:
        return copy_to_tensor_parallel_region(x, tp) if tensor_parallel_output_grad else x
    out: Tensor = _GatherFromSequenceParallelRegion.apply(x, tp, tensor_parallel_output_grad)
    return out


def reduce_scatter_to_sequence_parallel_region(x: Tensor, tp: TensorParallel) -> Tensor:
    """Leave a split region: each rank's partial ``[T, ...]`` to its ``[T/t, ...]`` of their sum.

    ``x`` must be a product that nothing else reads: without sequence parallelism it is overwritten.

    Raises:
        ValueError: T is not divisible by the tensor parallel degree.
    """
    if not tp.sequence_parallel:
        return reduce_from_tensor_parallel_region(x, tp)
    out: Tensor = _ReduceScatterToSequenceParallelRegion.apply(x, tp)
    return out


def scatter_to_sequence_parallel_region(x: Tensor, tp: TensorParallel) -> Tensor:
    """``[T, ...]``, the same on all ranks, to this rank's ``[T/t, ...]``; integer tensors too.

    Raises:
        ValueError: T is not divisible by the tensor parallel degree.
    """
    if not tp.sequence_parallel:
        return x
    out: Tensor = _ScatterToSequenceParallelRegion.apply(x, tp)
    return out


def parameters_in_sequence_parallel_region(
    parameters: Sequence[Tensor], tp: TensorParallel
) -> tuple[Tensor, ...]:
    """Parameters that every rank holds whole and uses on its own tokens only.

    In backward each gradient is a sum over this rank's tokens; the gradients are summed over the
    ranks together, in one all-reduce, when the last of ``parameters`` has its gradient.
    """
    if not tp.sequence_parallel or not parameters:
        return tuple(parameters)
    out: tuple[Tensor, ...] = _ParametersInSequenceParallelRegion.apply(tp, *parameters)
    return out


def gather_from_tensor_parallel_region(x: Tensor, tp: TensorParallel) -> Tensor:
    """``[..., n/t]`` of each rank joined to ``[..., n]`` on all; for evaluation, no gradient."""
    if tp.size == 1:
        return x
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(tp.size)]
    dist.all_gather(parts, x, group=tp.group)
    return torch.cat(parts, dim=-1)
