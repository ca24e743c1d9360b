"""Split matrix products with their communication, which overlaps with other products where possible.

    column_linear    several weights split by output rows read one input: query, key and value
    row_linear       one weight split by input columns; its partial products are summed over ranks

Backward of column_linear, in this order (Shoeybi et al. 2019; Korthikanti et al. 2022, section 4.2.2):

    tensor parallel                          sequence parallel
                                             start all-gather of own x
    dX = sum_i dY_i W_i                      dX = sum_i dY_i W_i             during the all-gather
    start all-reduce of dX                   start reduce-scatter of dX
                                             wait for x
    dW_i = dY_i^T X                          dW_i = dY_i^T X                 during the reduction
    wait                                     wait

Weights that lie end to end, as query, key and value do in ZeRO's flat tensors (stages 1 and 2), are one
weight here: forward is one product, whose outputs are its columns.  Backward is one product each for dX
and the dW_i if the dY_i too are the columns of one matrix, as ``kernels.attention`` makes them.  Where
tensors lie is looked up in every micro step, because ZeRO 3 and the loading of weights move them.
Parameters and their gradients stay separate tensors for the optimizer.

A weight with an ``fp32_sum`` (``engine.zero.sums``) gets no gradient: its dW is added to that sum by the
product itself, where the products can do that.

With sequence parallelism only this rank's tokens ``[T/t, in]`` are kept for backward, hence the second
all-gather.  On a GPU the collectives run on their own stream; they must be queued before the
products that they overlap with, which CUDA_DEVICE_MAX_CONNECTIONS=1 in the environment ensures; a run
with tensor parallelism sets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabert.kernels.joined import end_to_end, side_by_side
from megabert.parallel.mappings import (
    reduce_scatter_to_sequence_parallel_region,
    start_all_gather,
    start_all_reduce,
    start_reduce_scatter,
    wait,
)
from megabert.parallel.products import Products, products_for
from megabert.parallel.topology import TensorParallel

_ALONE = TensorParallel()


class _Linear(torch.autograd.Function):
    """``x [T or T/t, in]``, then n weights ``[out_i, in]``, then n biases ``[out_i]`` or None.

    The n outputs; with ``passes`` also ``x`` itself.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tp: TensorParallel, products: Products, passes: bool, *tensors: Any
    ) -> tuple[Tensor, ...]:
        n = len(tensors) // 2
        weights, biases = tensors[:n], tensors[n:]
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        ctx.tp, ctx.products = tp, products
        ctx.bias_dtypes = [None if bias is None else bias.dtype for bias in biases]
        ctx.totals = [getattr(weight, "fp32_sum", None) for weight in weights]
        whole = x
        if tp.sequence_parallel:
            whole, work = start_all_gather(x, tp)
            wait(work)
        passed = (x,) if passes else ()
        operand = products.operand(whole)
        weight, bias = _joined(weights, biases)
        if weight is not None:
            out = products.forward(operand, products.operand(weight), bias, x.dtype)
            return (*out.split([part.size(0) for part in weights], dim=1), *passed)
        outputs = [
            products.forward(operand, products.operand(weight), bias, x.dtype)
            for weight, bias in zip(weights, biases)
        ]
        return (*outputs, *passed)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        tp, products, n = ctx.tp, ctx.products, len(weights)
        grads, of_x = given[:n], given[n] if len(given) > n else None
        need_x, need_weights, need_biases = (
            ctx.needs_input_grad[0],
            ctx.needs_input_grad[4 : 4 + n],
            ctx.needs_input_grad[4 + n :],
        )
        gathering = None
        if tp.sequence_parallel and any(need_weights):
            x, gathering = start_all_gather(x, tp)
        # outputs that nothing read have no gradient, and neither have their weights
        used = [i for i in range(n) if grads[i] is not None]
        parts = [[i] for i in used]
        sources, dys = [weights[i] for i in used], [grad for grad in grads if grad is not None]
        if len(used) == n > 1 and all(need_weights) and len(set(need_biases)) == 1:
            weight, dy = end_to_end(sources), side_by_side(dys)
            if weight is not None and dy is not None:
                parts, sources, dys = [used], [weight], [dy]
        operands = [products.operand(dy) for dy in dys]
        grad_x, reducing = None, None
        if need_x and used:
            total = None
            if of_x is not None and tp.size == 1 and of_x.is_contiguous() and of_x.dtype == x.dtype:
                # its other readers, of the blocks behind, are done
                total, of_x = of_x, None
            grad_x = products.grad_x(
                operands, [products.operand(source) for source in sources], x.dtype, total
            )
            grad_x, reducing = _start_reduction(grad_x, tp)
        wait(gathering)
        inputs = products.operand(x) if any(need_weights) else None
        grad_weights: list[Tensor | None] = [None] * n
        grad_biases: list[Tensor | None] = [None] * n
        for part, operand, source, dy in zip(parts, operands, sources, dys):
            totals = [total for i in part if (total := ctx.totals[i]) is not None]
            total = end_to_end(totals) if len(totals) == len(part) else None
            if need_weights[part[0]] and not (
                total is not None and products.add_grad_weight(operand, inputs, total)
            ):
                made = products.grad_weight(operand, inputs, source.dtype)
                _spread(made, part, weights, grad_weights)
            if need_biases[part[0]]:
                made = dy.sum(0, dtype=ctx.bias_dtypes[part[0]])
                _spread(made, part, weights, grad_biases)
        wait(reducing)
        if of_x is not None:
            grad_x = of_x if grad_x is None else grad_x + of_x
        return grad_x, None, None, None, *grad_weights, *grad_biases


def _spread(
    made: Tensor, part: Sequence[int], weights: Sequence[Tensor], target: list[Tensor | None]
) -> None:
    """Put the gradient of one weight or bias, or of several that are one, in the places ``part``."""
    pieces = made.split([weights[i].size(0) for i in part]) if len(part) > 1 else [made]
    for i, piece in zip(part, pieces):
        target[i] = piece


def _joined(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor | None, Tensor | None]:
    """One weight and one bias (None for none) of several that lie end to end; (None, None) for others."""
    given = [bias for bias in biases if bias is not None]
    if len(weights) < 2 or len(given) not in (0, len(weights)):
        return None, None
    weight, bias = end_to_end(weights), end_to_end(given) if given else None
    if weight is None or (given and bias is None):
        return None, None
    return weight, bias


def _start_reduction(partial: Tensor, tp: TensorParallel) -> tuple[Tensor, dist.Work | None]:
    """The sum over ranks of their gradients of one input, once the work is waited for."""
    if tp.sequence_parallel:
        return start_reduce_scatter(partial, tp)
    return partial, start_all_reduce(partial, tp) if tp.size > 1 else None


def column_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    tp: TensorParallel,
    products: Products | None = None,
) -> tuple[Tensor, ...]:
    """``x W_i^T + b_i`` for weights split by output rows, with the all-reduce of the inputs' gradients.

    Args:
        x: ``[..., in]``, the same on all ranks; with sequence parallelism this rank's own tokens
            ``[T/t, in]``.
        weights: n times ``[out_i/t, in]``.
        biases: n times ``[out_i/t]`` or None.
        products: arithmetic of the products; the default for ``x`` when left out.

    Returns:
        n times ``[..., out_i/t]``; with sequence parallelism over all tokens, ``[T, out_i/t]``.
    """
    products = products_for(x) if products is None else products
    flat = x.reshape(-1, x.size(-1))
    outputs = _Linear.apply(flat, tp, products, False, *weights, *biases)
    if x.dim() == 2:
        return tuple(outputs)
    return tuple(out.view(*x.shape[:-1], out.size(-1)) for out in outputs)


def column_linear_and_input(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    tp: TensorParallel,
    products: Products | None = None,
) -> tuple[Tensor, ...]:
    """:func:`column_linear` of ``x`` ``[T or T/t, in]``, and ``x`` for those who read it too.

    The gradient of the latter, of the residual sum, is where backward adds its products; nobody else may
    need that gradient any more.
    """
    outputs = _Linear.apply(x, tp, products or products_for(x), True, *weights, *biases)
    return tuple(outputs)


def row_linear(
    x: Tensor, weight: Tensor, tp: TensorParallel, products: Products | None = None
) -> Tensor:
    """Sum over ranks of ``x W^T`` for a weight split by input columns, with its communication.

    Args:
        x: ``[..., in/t]``, this rank's columns of all tokens.
        weight: ``[out, in/t]``.
        products: arithmetic of the products; the default for ``x`` when left out.

    Returns:
        ``[..., out]``, the same on all ranks; with sequence parallelism, where ``x`` must be
        ``[T, in/t]``, this rank's own ``[T/t, out]``.
    """
    (partial,) = column_linear(x.reshape(-1, x.size(-1)), [weight], [None], _ALONE, products)
    out = reduce_scatter_to_sequence_parallel_region(partial, tp)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], out.size(-1))
