"""Casting matrices to float8 on CUDA: :func:`megabert.kernels.float8.quantize` in two Triton kernels.

The first finds the largest magnitude: at most :data:`PROGRAMS` programs go over the tiles of the matrix
and each writes the largest magnitude that it found, as the bits of an fp32 number without its sign. Bits
of such numbers are in the order of the numbers, infinity above all that are finite and NaN above
infinity, so integers are compared and nothing that is not finite is lost. The second reduces these
few numbers (every program for itself, from cache), makes the scale of them by the same arithmetic
as :func:`megabert.kernels.float8.scales`, and casts one tile, written unchanged, transposed, or both.

Memory traffic, bytes per element of a bf16 matrix: 2 to find the largest; 2 in and 1 out for each order to
cast. Both orders: 6, of which 2 to 4 could only be saved by the operator that makes the matrix.
Nothing is atomic and the host never waits.

Environment: the kernels run on CUDA tensors, or on CPU tensors in Triton's interpreter, if
TRITON_INTERPRET=1 was set before Triton was first imported.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS, TILE_COLUMNS = 128, 64
"""Elements of a tile: 8 KiB cast, in lines of 64 bytes unchanged and 128 bytes transposed."""
PROGRAMS = 512
"""Most programs of the first kernel, a power of two: about 4 on each of an H100's 132 processors."""
WARPS = 8
_EXPONENT = tl.constexpr(0x7F800000)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_LARGEST_SCALE = tl.constexpr((127 + 60) << 23)  # bits of LARGEST_SCALE


@triton.jit
def _tile(x, tile, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Numbers of tile ``tile`` (tiles of one row of tiles first), 0 outside; and where they are."""
    across = tl.cdiv(columns, COLUMNS)
    row = (tile // across) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    values = tl.load(x + row[:, None] * stride + column[None, :], inside, 0.0).to(tl.float32)
    return values, row, column


@triton.jit(do_not_specialize=["rows", "tiles"])
def largest_kernel(
    x, partials, rows, columns, stride, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """``partials[program]`` = bits of the largest magnitude in the program's tiles."""
    largest = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        values, _, _ = _tile(x, tile, rows, columns, stride, ROWS, COLUMNS)
        largest = tl.maximum(largest, values.to(tl.int32, bitcast=True) & _MAGNITUDE)
    tl.store(partials + tl.program_id(0), tl.max(tl.max(largest, 1), 0))


@triton.jit(do_not_specialize=["rows", "parts"])
def cast_kernel(
    x, partials, inverse, by_rows, by_columns, rows, columns, stride, padded, parts,
    FORMAT_LARGEST: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile: ``by_rows`` [rows, columns] and ``by_columns`` [columns, padded]; None: not wanted."""
    part = tl.arange(0, PARTS)
    bits = tl.max(tl.load(partials + part, part < parts, 0), 0)
    ratio = tl.div_rn(FORMAT_LARGEST, bits.to(tl.float32, bitcast=True))
    scale_bits = tl.minimum(ratio.to(tl.int32, bitcast=True) & _EXPONENT, _LARGEST_SCALE)
    scale = scale_bits.to(tl.float32, bitcast=True)
    if tl.program_id(0) == 0:
        tl.store(inverse, tl.where(bits < _EXPONENT, tl.div_rn(1.0, scale), float("nan")))
    values, row, column = _tile(x, tl.program_id(0), rows, columns, stride, ROWS, COLUMNS)
    values *= scale
    if by_rows is not None:
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        place = by_rows + row[:, None] * columns + column[None, :]
        tl.store(place, values.to(by_rows.dtype.element_ty), inside)
    if by_columns is not None:
        inside = (column[:, None] < columns) & (row[None, :] < padded)
        place = by_columns + column[:, None].to(tl.int64) * padded + row[None, :]
        tl.store(place, tl.trans(values).to(by_columns.dtype.element_ty), inside)


def quantize(
    x: Tensor, dtype: torch.dtype, padded: int, *, rows: bool, columns: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Rows, columns (``padded`` long) and the inverse of one scale of ``x`` ``[T, C]``, not empty.

    See :func:`megabert.kernels.float8.quantize`; elements of a row must be contiguous.
    """
    length, width = x.shape
    assert x.stride(1) == 1
    tiles = triton.cdiv(padded, TILE_ROWS) * triton.cdiv(width, TILE_COLUMNS)
    parts = min(tiles, PROGRAMS)
    partials = torch.empty(parts, dtype=torch.int32, device=x.device)
    inverse = torch.empty((), dtype=torch.float32, device=x.device)
    by_rows = torch.empty((length, width), dtype=dtype, device=x.device) if rows else None
    by_columns = torch.empty((width, padded), dtype=dtype, device=x.device) if columns else None
    largest_kernel[(parts,)](
        x, partials, length, width, x.stride(0), tiles, TILE_ROWS, TILE_COLUMNS, num_warps=WARPS
    )
    cast_kernel[(tiles,)](
        x, partials, inverse, by_rows, by_columns, length, width, x.stride(0), padded, parts,
        torch.finfo(dtype).max, PROGRAMS, TILE_ROWS, TILE_COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    return by_rows, by_columns, inverse
