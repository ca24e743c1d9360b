"""Cross-entropy over one rank's part of the vocabulary as Triton kernels (CUDA).

One program reads one row once, in blocks of 4096 columns, and keeps the largest logit so far and the
sum of exponentials relative to it. Memory traffic, in elements of ``[M, columns]`` (2 bytes in a
16-bit dtype):

    rows        1   logits in (and 16 bytes per row out)
    gradient    2   logits in; gradient out, in their place

A NaN among a row's logits makes its log-sum-exp and its largest logit NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.kernels.triton.tiles import matrix, tile_of, vector

BLOCK = 4096
"""Columns that a program has in registers."""
_NONE = tl.constexpr(-1.0)
"""Column of the largest logit where there is no column."""


@triton.jit(
    do_not_specialize=("first", "real"), do_not_specialize_on_alignment=("labels",)
)  # fmt: skip
def rows_kernel(
    logits, labels, result, stride, first: tl.int64, real: tl.int64,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: logits [M, COLUMNS], labels int64 [M], result fp32 [M, 4]."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    real = real.to(tl.int32)
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    shift = tl.full((), 0.0, tl.float32)
    column = tl.full((), 0, tl.int32)
    for start in range(0, real, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        # columns of padding are loaded, and masked afterwards: leaving them out would break vector loads
        value = tl.load(logits + columns, columns < COLUMNS, float("-inf")).to(tl.float32)
        value = tl.where(columns < real, value, float("-inf"))
        ranked = tl.where(value == value, value, float("inf"))
        peak = tl.max(ranked, 0)
        place = tl.min(tl.where(ranked == peak, columns, COLUMNS), 0)
        column = tl.where(peak > largest, place, column)
        peak = tl.where(peak > largest, peak, largest)
        shift = tl.where(tl.abs(peak) == float("inf"), 0.0, peak)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(value - shift), 0)
        largest = peak
    local = tl.load(labels + row) - first.to(tl.int64)
    target = tl.load(logits + local, (local >= 0) & (local < real), 0.0).to(tl.float32)
    result += row * 4
    tl.store(result, shift + tl.log(total))
    tl.store(result + 1, target)
    tl.store(result + 2, tl.where(total == total, largest, total))
    number = (column + first.to(tl.int64)).to(tl.float32)
    tl.store(result + 3, tl.where(real > 0, number, _NONE))


@triton.jit(
    do_not_specialize=("first", "real"), do_not_specialize_on_alignment=("labels", "lse")
)  # fmt: skip
def gradient_kernel(
    logits, labels, lse, stride, lse_stride, first: tl.int64, real: tl.int64,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of a row, in place: logits [M, COLUMNS], labels int64 [M], lse fp32 [M]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logits += row * stride
    local = tl.load(labels + row) - first.to(tl.int64)
    value = tl.load(logits + columns, columns < COLUMNS, 0.0).to(tl.float32)
    value = tl.exp(value - tl.load(lse + row * lse_stride))
    value = tl.where(columns == local, value - 1.0, value)
    value = tl.where(columns < real, value, 0.0)
    tl.store(logits + columns, value.to(logits.dtype.element_ty), columns < COLUMNS)


def cross_entropy_rows(logits: Tensor, labels: Tensor, first: int, real: int) -> Tensor:
    """As :func:`megabert.kernels.reference.cross_entropy_rows`."""
    logits = matrix(logits)
    count, columns = logits.shape
    labels = vector(labels, count)
    result = logits.new_empty(count, 4, dtype=torch.float32)
    if count:
        tile = tile_of(columns, most_rows=1, widest=BLOCK)
        with torch.cuda.device_of(logits):
            rows_kernel[(count,)](
                logits, labels, result, logits.stride(0), first, real,
                columns, tile.columns, num_warps=tile.warps,
            )  # fmt: skip
    return result


def cross_entropy_gradient_(
    logits: Tensor, labels: Tensor, lse: Tensor, first: int, real: int
) -> Tensor:
    """As :func:`megabert.kernels.reference.cross_entropy_gradient_`.

    Raises:
        ValueError: rows of logits that are not contiguous.
    """
    if matrix(logits) is not logits:
        raise ValueError("the gradient takes the logits' place: their rows must be contiguous")
    count, columns = logits.shape
    labels = vector(labels, count)
    if logits.numel():
        tile = tile_of(columns, most_rows=1, widest=2048)
        with torch.cuda.device_of(logits):
            gradient_kernel[(count, triton.cdiv(columns, tile.columns))](
                logits, labels, lse, logits.stride(0), lse.stride(0), first, real,
                columns, tile.columns, num_warps=tile.warps,
            )  # fmt: skip
    return logits
