"""Linear and embedding layers whose weights are split over the tensor-parallel ranks.

Shapes in comments are local; t = tensor-parallel degree.

    ColumnParallelLinear    Y = X A^T + b    A split by output rows: each rank has [out/t, in]
    RowParallelLinear       Y = X A^T + b    A split by input columns: each rank has [out, in/t]
    VocabParallelEmbedding  row look-up      table split by rows: each rank has [rows/t, width]

Column then row is one block: f in front (one for all column layers that read the same input), g
inside the row layer.  Every split parameter carries ``tensor_model_parallel=True`` and
``partition_dim``: DeepSpeed's gradient norm and the checkpoint code read these marks.  Degree 1 is
the same code with nothing to communicate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.parallel.mappings import g
from megabert.parallel.topology import TensorParallel

__all__ = [
    "ColumnParallelLinear",
    "RowParallelLinear",
    "TensorParallel",
    "VocabParallelEmbedding",
    "mark_split",
]


def mark_split(parameter: nn.Parameter, dim: int) -> nn.Parameter:
    """Mark a parameter as this rank's split of a whole tensor, cut along ``dim``."""
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    parameter.partition_dim = dim  # type: ignore[attr-defined]
    return parameter


class ColumnParallelLinear(nn.Module):
    """``[..., in] -> [..., out/t]``; the caller puts f in front of it."""

    def __init__(self, inputs: int, outputs: int, tp: TensorParallel, *, what: str) -> None:
        super().__init__()
        part = tp.divide(outputs, what)
        self.weight = mark_split(nn.Parameter(torch.zeros(part, inputs)), 0)
        self.bias = mark_split(nn.Parameter(torch.zeros(part)), 0)

    def forward(self, x: Tensor) -> Tensor:
        """Output columns of this rank."""
        return F.linear(x, self.weight, self.bias)  # [..., out/t]


class RowParallelLinear(nn.Module):
    """``[..., in/t] -> [..., out]``, the same on all ranks; g is inside, before the bias."""

    def __init__(self, inputs: int, outputs: int, tp: TensorParallel, *, what: str) -> None:
        super().__init__()
        part = tp.divide(inputs, what)
        self.tp = tp
        self.weight = mark_split(nn.Parameter(torch.zeros(outputs, part)), 1)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Sum over ranks of the partial products, plus the bias once."""
        if self.tp.size == 1:
            return F.linear(x, self.weight, self.bias)
        return g(F.linear(x, self.weight), self.tp) + self.bias  # [..., out]


class VocabParallelEmbedding(nn.Module):
    """Look-up in a table of ``rows`` split over ranks: int64 ``[...] -> [..., width]`` on all."""

    def __init__(self, rows: int, width: int, tp: TensorParallel, *, what: str) -> None:
        super().__init__()
        self.tp = tp
        self.first, self.last = tp.bounds(rows, what)
        self.weight = mark_split(nn.Parameter(torch.zeros(self.last - self.first, width)), 0)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of this rank, zeros for the others' rows, summed by g."""
        if self.tp.size == 1:
            return F.embedding(ids, self.weight)
        elsewhere = (ids < self.first) | (ids >= self.last)
        local = (ids - self.first).masked_fill(elsewhere, 0)
        rows = F.embedding(local, self.weight).masked_fill(elsewhere.unsqueeze(-1), 0.0)
        return g(rows, self.tp)  # [..., width]
