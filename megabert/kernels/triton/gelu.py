"""Bias and exact GELU as Triton kernels (CUDA).

Memory traffic, in elements of ``[T, C]`` (2 bytes in a 16-bit dtype):

    forward     2   x in; result out
    backward    3   grad, x in; grad of x out; and partial sums, 4 bytes out and in again for every
                    128 rows of a column: 1 % of the rest

The normal distribution is computed by formula 7.1.26 of Abramowitz and Stegun (1964): GELU's error
is at most 2.2e-7, and 4.2e-7 with the rounding of fp32, where torch's own fp32 GELU errs by up to
4.5e-7 (2 million numbers from -12 to 12). Its one exponential is the density that backward needs. A
thread's 16 elements take 432 instructions forward and 712 backward (sm_90 code); by an erf function
they took 632 and 1024, about what an H100 can issue in the time that its memory takes.

Column sums: a program adds up 128 rows of 128 columns, and torch.sum adds the programs' partial sums
in float32. Both orders are fixed by T and C alone, and nothing is atomic.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.kernels.triton.tiles import matrix, same_shape, tile_of, vector

# coefficients of the approximation, of half the complementary error function at x / sqrt 2
_RATE = tl.constexpr(0.3275911 * math.sqrt(0.5))
_A1, _A2, _A3, _A4, _A5 = (
    tl.constexpr(0.5 * number)
    for number in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
_DENSITY = tl.constexpr(1.0 / math.sqrt(2.0 * math.pi))
SUMMED = 128
"""Rows that a program of the backward pass goes through, tile by tile."""


@triton.jit
def _normal(x):
    """Cumulative distribution and density of the standard normal distribution, fp32 tile each."""
    size = tl.abs(x)
    density = tl.exp(-0.5 * size * size)
    base = 1.0 + _RATE * size
    t = tl.rsqrt(base * base)
    tail = t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5)))) * density
    return tl.where(x < 0.0, tail, 1.0 - tail), density * _DENSITY


@triton.jit(do_not_specialize=("count",))
def forward_kernel(
    x, bias, result, count: tl.int64, x_stride,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One tile: x, result [count, COLUMNS]; bias [COLUMNS]."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (rows < count)[:, None] & (columns < COLUMNS)[None, :]
    total = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask, 0.0).to(tl.float32)
    total += tl.load(bias + columns, columns < COLUMNS, 0.0).to(tl.float32)[None, :]
    below, _ = _normal(total)
    value = total * below
    where = result + rows[:, None] * COLUMNS + columns[None, :]
    tl.store(where, value.to(result.dtype.element_ty), mask)


@triton.jit(do_not_specialize=("count",))
def backward_kernel(
    grad, x, bias, grad_x, partials, count: tl.int64, grad_stride, x_stride,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """``STEPS`` tiles: grad, x, grad_x [count, COLUMNS]; partials fp32 [programs, COLUMNS]."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < COLUMNS
    shift = tl.load(bias + columns, inside, 0.0).to(tl.float32)[None, :]
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        rows = (program * STEPS + step) * ROWS + tl.arange(0, ROWS)
        mask = (rows < count)[:, None] & inside[None, :]
        total = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask, 0.0)
        total = total.to(tl.float32) + shift
        value = tl.load(grad + rows[:, None] * grad_stride + columns[None, :], mask, 0.0)
        below, density = _normal(total)
        value = value.to(tl.float32) * (below + total * density)
        sums += tl.where(mask, value, 0.0)
        where = grad_x + rows[:, None] * COLUMNS + columns[None, :]
        tl.store(where, value.to(grad_x.dtype.element_ty), mask)
    tl.store(partials + program * COLUMNS + columns, tl.sum(sums, 0), inside)


def bias_gelu_forward(x: Tensor, bias: Tensor) -> Tensor:
    """As :func:`megabert.kernels.reference.bias_gelu_forward`."""
    x = matrix(x)
    count, columns = x.shape
    bias = vector(bias, columns)
    result = x.new_empty(count, columns)
    if x.numel():
        tile = tile_of(columns, most_rows=32, widest=1024)
        grid = (triton.cdiv(count, tile.rows), triton.cdiv(columns, tile.columns))
        with torch.cuda.device_of(x):
            forward_kernel[grid](
                x, bias, result, count, x.stride(0),
                columns, tile.rows, tile.columns, num_warps=tile.warps,
            )  # fmt: skip
    return result


def bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`megabert.kernels.reference.bias_gelu_backward`."""
    grad, x = matrix(grad), matrix(x)
    same_shape((grad, x))
    count, columns = x.shape
    bias = vector(bias, columns)
    tile = tile_of(columns, most_rows=32, widest=128)
    programs = triton.cdiv(count, SUMMED)
    grad_x = x.new_empty(count, columns)
    partials = x.new_empty(programs, columns, dtype=torch.float32)
    if x.numel():
        with torch.cuda.device_of(x):
            backward_kernel[(programs, triton.cdiv(columns, tile.columns))](
                grad, x, bias, grad_x, partials, count, grad.stride(0), x.stride(0),
                columns, tile.rows, tile.columns, SUMMED // tile.rows, num_warps=tile.warps,
            )  # fmt: skip
    return grad_x, partials.sum(dim=0)
