"""Dropout as a Triton kernel (CUDA), with the masks of :mod:`megabert.kernels.dropout` bit for bit.

Memory traffic: 2 elements a unit (x in, result out), 4 bytes in a 16-bit dtype, and 8 bytes per row
for its key. A unit takes 20 instructions in all (sm_90 code): by the data sheet's figures an H100 issues
them in about half the time that the 4 bytes take, so that memory remains the limit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabert.kernels.dropout import Dropout
from megabert.kernels.triton.tiles import dropout_arguments, matrix, tile_of

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def mixed(word):
    """``mix64`` of 64-bit words."""
    word = word.to(tl.uint64) + _GOLDEN
    word = (word ^ (word >> 30)) * _FIRST
    word = (word ^ (word >> 27)) * _SECOND
    return word ^ (word >> 31)


@triton.jit
def row_halves(keys, seed):
    """k1 and k2 of rows: keys int64 [R] -> uint32 [R] each."""
    word = mixed(keys ^ seed.to(tl.int64))
    return word.to(tl.uint32), (word >> 32).to(tl.uint32)


@triton.jit
def kept(low, high, columns, threshold):
    """Which units stay: ``row_halves`` of rows, columns int32 [C] -> bool [R, C]."""
    value = columns.to(tl.uint32)[None, :] + low[:, None]
    value = (value ^ (value >> 16)) * 0x7FEB352D
    value = value ^ high[:, None]
    value = (value ^ (value >> 15)) * 0x846CA68B
    value = value ^ (value >> 16)
    return value >= threshold.to(tl.uint32)


@triton.jit
def keep_factors(keys, seed, threshold, scale, columns):
    """0 (dropped) or ``scale`` of each unit: keys int64 [R], columns int32 [C] -> fp32 [R, C]."""
    low, high = row_halves(keys, seed)
    return tl.where(kept(low, high, columns, threshold), scale, 0.0)


@triton.jit(
    do_not_specialize=("count", "seed", "threshold", "scale"),
    do_not_specialize_on_alignment=("keys",),
)
def dropped_kernel(
    x, keys, result, count: tl.int64, seed: tl.int64, threshold: tl.int64, scale: tl.float32,
    x_stride, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One tile: x, result [count, COLUMNS]; keys int64 [count]."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (rows < count)[:, None] & (columns < COLUMNS)[None, :]
    value = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask, 0.0).to(tl.float32)
    key = tl.load(keys + rows, rows < count, 0)
    value *= keep_factors(key, seed, threshold, scale, columns)
    where = result + rows[:, None] * COLUMNS + columns[None, :]
    tl.store(where, value.to(result.dtype.element_ty), mask)


def dropped(x: Tensor, dropout: Dropout | None) -> Tensor:
    """As :func:`megabert.kernels.reference.dropped`."""
    if dropout is None:
        return x
    x = matrix(x)
    count, columns = x.shape
    result = x.new_empty(count, columns)
    keys, *numbers = dropout_arguments(dropout, count)
    if x.numel():
        tile = tile_of(columns, most_rows=32, widest=2048)
        grid = (triton.cdiv(count, tile.rows), triton.cdiv(columns, tile.columns))
        with torch.cuda.device_of(x):
            dropped_kernel[grid](
                x, keys, result, count, *numbers, x.stride(0),
                columns, tile.rows, tile.columns, num_warps=tile.warps,
            )  # fmt: skip
    return result
