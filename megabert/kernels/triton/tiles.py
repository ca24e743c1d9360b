"""Tiles, strides and dropout arguments that the Triton kernels share.

A kernel works on tiles of ``rows x columns``; ``columns`` is a power of two, and what lies outside
the tensor is masked. A thread holds about 16 elements: two vectors of 16 bytes of a 16-bit tensor,
and enough of a row for the row's dropout key to cost little compared with the hashes of its units. Numbers
that change within a run (rows, seed, threshold, scale) are never specialised, so that each shape of
a model is compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from megabert.kernels.dropout import Dropout

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of the tensors that the kernels read and write; arithmetic is float32."""
TILE = 2048
"""Elements of a tile, unless one row has more."""
THREAD = 16
"""Elements of a thread."""
WIDEST = 65536
"""Columns that a kernel can hold at once: 64 elements for each of 1024 threads."""


class Tile(NamedTuple):
    """Rows and columns of a tile, and the warps that work on it."""

    rows: int
    columns: int
    warps: int


def tile_of(columns: int, most_rows: int, widest: int) -> Tile:
    """Tile for rows of ``columns`` elements, at most ``most_rows`` of them and ``widest`` wide.

    ``most_rows`` and ``widest``: powers of two.
    """
    width = min(triton.next_power_of_2(max(columns, 1)), widest)
    rows = max(1, min(most_rows, TILE // width))
    return Tile(rows, width, max(1, min(32, rows * width // (32 * THREAD))))


def matrix(x: Tensor) -> Tensor:
    """``x`` [T, C] itself where its rows are contiguous, else a copy.

    Raises:
        TypeError: a dtype that is not in ``DTYPES``.
        ValueError: not a matrix.
    """
    if x.dtype not in DTYPES:
        raise TypeError(f"the Triton operators take fp32, bf16 and fp16, not {x.dtype}")
    if x.dim() != 2:
        raise ValueError(f"the Triton operators take matrices, not the shape {tuple(x.shape)}")
    return x if x.stride(1) == 1 else x.contiguous()


def same_shape(tensors: Sequence[Tensor | None]) -> None:
    """Raises ValueError unless all have one shape and dtype; None is ignored."""
    kinds = {(tuple(x.shape), x.dtype) for x in tensors if x is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"tensors of one shape and dtype are needed, not {sorted(map(str, kinds))}"
        )


def vector(x: Tensor, size: int) -> Tensor:
    """``x``, contiguous; raises ValueError unless it is of shape ``[size]``."""
    if x.shape != (size,):
        raise ValueError(f"a vector of {size} is needed, not the shape {tuple(x.shape)}")
    return x.contiguous()


def dropout_arguments(dropout: Dropout | None, rows: int) -> tuple[Tensor | None, int, int, float]:
    """Keys int64 [rows] (None: no dropout), seed, threshold and scale as the kernels take them."""
    if dropout is None:
        return None, 0, 0, 1.0
    return vector(dropout.rows, rows), dropout.seed, dropout.threshold, dropout.scale
