"""Bias, dropout, residual and LayerNorm as one Triton kernel each way (CUDA).

A program holds whole rows, so that their statistics need no second reading. Memory traffic, in
elements of ``[T, C]`` (2 bytes in a 16-bit dtype):

    forward     4   x, residual in; sum, norm out
    backward    5   gradients of norm and sum, the sum in; gradients of residual and x out (4
                    without dropout, where these two are one); and partial sums of up to three
                    vectors, 4 bytes each out and in again for 32 rows: 0.75 bytes per element

Column sums: a program adds up 32 rows, and torch.sum adds the programs' partial sums in float32.
Both orders are fixed by T and C alone, and nothing is atomic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.kernels.dropout import Dropout
from megabert.kernels.reference import Normed, NormGradients
from megabert.kernels.triton.dropout import keep_factors
from megabert.kernels.triton.tiles import (
    WIDEST,
    Tile,
    dropout_arguments,
    matrix,
    same_shape,
    tile_of,
    vector,
)

SUMMED = 32
"""Rows that a program of the backward pass goes through, tile by tile."""


@triton.jit(
    do_not_specialize=("count", "seed", "threshold", "scale", "eps"),
    do_not_specialize_on_alignment=("keys", "mean", "rstd"),
)
def forward_kernel(
    x, bias, residual, weight, norm_bias, keys, total, normed, mean, rstd,
    count: tl.int64, eps: tl.float32, seed: tl.int64, threshold: tl.int64, scale: tl.float32,
    x_stride, residual_stride,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows: x, residual, total, normed [count, COLUMNS]; bias (or None), weight, norm_bias
    [COLUMNS]; keys int64 [count] or None; mean, rstd fp32 [count]."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside, real = columns < COLUMNS, rows < count
    mask = real[:, None] & inside[None, :]
    value = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + columns, inside, 0.0).to(tl.float32)[None, :]
    if keys is not None:
        value *= keep_factors(tl.load(keys + rows, real, 0), seed, threshold, scale, columns)
    other = tl.load(residual + rows[:, None] * residual_stride + columns[None, :], mask, 0.0)
    rounded = (other.to(tl.float32) + value).to(total.dtype.element_ty)
    where = rows[:, None] * COLUMNS + columns[None, :]
    tl.store(total + where, rounded, mask)
    value = rounded.to(tl.float32)
    middle = tl.sum(tl.where(mask, value, 0.0), 1) / COLUMNS
    value -= middle[:, None]
    variance = tl.sum(tl.where(mask, value * value, 0.0), 1) / COLUMNS
    inverse = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    tl.store(mean + rows, middle, real)
    tl.store(rstd + rows, inverse, real)
    gain = tl.load(weight + columns, inside, 0.0).to(tl.float32)[None, :]
    value = value * inverse[:, None] * gain
    value += tl.load(norm_bias + columns, inside, 0.0).to(tl.float32)[None, :]
    tl.store(normed + where, value.to(normed.dtype.element_ty), mask)


@triton.jit(
    do_not_specialize=("count", "seed", "threshold", "scale"),
    do_not_specialize_on_alignment=("keys", "mean", "rstd"),
)
def backward_kernel(
    grad, grad_total, total, mean, rstd, weight, keys, grad_residual, grad_x, partials,
    count: tl.int64, seed: tl.int64, threshold: tl.int64, scale: tl.float32,
    grad_stride, grad_total_stride, total_stride,
    WITH_BIAS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """``STEPS`` tiles: grad, grad_total (one may be None), total, grad_residual, grad_x (None: the
    same) [count, COLUMNS]; partials fp32 [programs, 2 or 3, COLUMNS]: weight, norm_bias, bias."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < COLUMNS
    gain = tl.load(weight + columns, inside, 0.0).to(tl.float32)[None, :]
    weight_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    norm_bias_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    bias_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        rows = (program * STEPS + step) * ROWS + tl.arange(0, ROWS)
        real = rows < count
        mask = real[:, None] & inside[None, :]
        if grad_total is not None:
            start = grad_total + rows[:, None] * grad_total_stride
            result = tl.load(start + columns[None, :], mask, 0.0).to(tl.float32)
        else:
            result = tl.zeros((ROWS, BLOCK), tl.float32)
        if grad is not None:
            above = tl.load(grad + rows[:, None] * grad_stride + columns[None, :], mask, 0.0)
            above = above.to(tl.float32)
            inverse = tl.load(rstd + rows, real, 0.0)[:, None]
            white = tl.load(total + rows[:, None] * total_stride + columns[None, :], mask, 0.0)
            white = (white.to(tl.float32) - tl.load(mean + rows, real, 0.0)[:, None]) * inverse
            weight_sums += tl.where(mask, above * white, 0.0)
            norm_bias_sums += above
            above *= gain
            average = tl.sum(above, 1)[:, None] / COLUMNS
            along = tl.sum(above * white, 1)[:, None] / COLUMNS
            result += (above - average - white * along) * inverse
        where = rows[:, None] * COLUMNS + columns[None, :]
        tl.store(grad_residual + where, result.to(grad_residual.dtype.element_ty), mask)
        if keys is not None:
            result *= keep_factors(tl.load(keys + rows, real, 0), seed, threshold, scale, columns)
            tl.store(grad_x + where, result.to(grad_x.dtype.element_ty), mask)
        if WITH_BIAS:
            bias_sums += tl.where(mask, result, 0.0)
    sums = partials + program * ((3 if WITH_BIAS else 2) * COLUMNS) + columns
    tl.store(sums, tl.sum(weight_sums, 0), inside)
    tl.store(sums + COLUMNS, tl.sum(norm_bias_sums, 0), inside)
    if WITH_BIAS:
        tl.store(sums + 2 * COLUMNS, tl.sum(bias_sums, 0), inside)


def _tile(columns: int) -> Tile:
    """Whole rows; raises ValueError where they are too wide."""
    if columns > WIDEST:
        raise ValueError(f"LayerNorm of {columns} columns: the Triton kernel holds up to {WIDEST}")
    return tile_of(columns, most_rows=SUMMED, widest=WIDEST)


def add_norm_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: Dropout | None,
) -> Normed:
    """As :func:`megabert.kernels.reference.add_norm_forward`."""
    x, residual = matrix(x), matrix(residual)
    same_shape((x, residual))
    count, columns = x.shape
    bias = None if bias is None else vector(bias, columns)
    weight, norm_bias = vector(weight, columns), vector(norm_bias, columns)
    total, normed = x.new_empty(count, columns), x.new_empty(count, columns)
    mean, rstd = (x.new_empty(count, dtype=torch.float32) for _ in range(2))
    keys, *numbers = dropout_arguments(dropout, count)
    tile = _tile(columns)
    if x.numel():
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(count, tile.rows),)](
                x, bias, residual, weight, norm_bias, keys, total, normed, mean, rstd,
                count, eps, *numbers, x.stride(0), residual.stride(0),
                columns, tile.rows, tile.columns, num_warps=tile.warps,
            )  # fmt: skip
    return Normed(total, normed, mean, rstd)


def add_norm_backward(
    grad: Tensor | None,
    grad_total: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    dropout: Dropout | None,
    with_bias: bool,
) -> NormGradients:
    """As :func:`megabert.kernels.reference.add_norm_backward`.

    Without dropout the gradients of residual and x are one tensor.
    """
    grad, grad_total = (None if part is None else matrix(part) for part in (grad, grad_total))
    total = matrix(total)
    same_shape((grad, grad_total, total))
    count, columns = total.shape
    mean, rstd, weight = vector(mean, count), vector(rstd, count), vector(weight, columns)
    keys, *numbers = dropout_arguments(dropout, count)
    tile = _tile(columns)
    programs = triton.cdiv(count, SUMMED)
    grad_residual = total.new_empty(count, columns)
    grad_x = None if keys is None else total.new_empty(count, columns)
    partials = total.new_empty(programs, 3 if with_bias else 2, columns, dtype=torch.float32)
    if total.numel():
        with torch.cuda.device_of(total):
            backward_kernel[(programs,)](
                grad, grad_total, total, mean, rstd, weight, keys, grad_residual, grad_x, partials,
                count, *numbers, _stride(grad), _stride(grad_total), total.stride(0),
                with_bias, columns, tile.rows, tile.columns, SUMMED // tile.rows,
                num_warps=tile.warps,
            )  # fmt: skip
    sums = partials.sum(dim=0)
    return NormGradients(
        grad_residual,
        grad_residual if grad_x is None else grad_x,
        sums[2] if with_bias else None,
        sums[0],
        sums[1],
    )


def _stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)
