"""Linear and embedding layers whose weights are split over the tensor-parallel ranks.

Shapes in comments are local; t = tensor-parallel degree.

    ColumnParallelLinear    Y = X A^T + b    A split by output rows: each rank has [out/t, in]
    RowParallelLinear       Y = X A^T + b    A split by input columns: each rank has [out, in/t]
    VocabParallelEmbedding  row look-up      table split by rows: each rank has [rows/t, width]

Column then row is one block: one entrance (f, or with sequence parallelism an all-gather) for all
column layers that read the same input, one exit (g, or a reduce-scatter) inside the row layer.  Column
layers that share an input go through :func:`megabert.parallel.linear.column_linear` together; ``product`` is the same for a layer
alone, entrance or exit included, bias left out.

Every split parameter carries ``tensor_model_parallel=True`` and ``partition_dim``: DeepSpeed's
gradient norm and the checkpoint code read these marks.  Degree 1 is the same code with nothing to
communicate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from megabert.kernels.ops import embedding
from megabert.parallel.linear import column_linear, row_linear
from megabert.parallel.mappings import (
    parameters_in_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megabert.parallel.products import Products
from megabert.parallel.topology import TensorParallel

__all__ = [
    "ColumnParallelLinear",
    "RowParallelLinear",
    "TensorParallel",
    "VocabParallelEmbedding",
    "column_linear",
    "mark_split",
    "row_linear",
    "split_dim",
]

_ALONE = TensorParallel()


def mark_split(parameter: nn.Parameter, dim: int) -> nn.Parameter:
    """Mark a parameter as this rank's split of a whole tensor, cut along ``dim``."""
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    parameter.partition_dim = dim  # type: ignore[attr-defined]
    return parameter


def split_dim(parameter: nn.Parameter) -> int | None:
    """The dimension along which a parameter is split (:func:`mark_split`); None for a whole one."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return None
    dim: int = parameter.partition_dim  # type: ignore[attr-defined]
    return dim


class ColumnParallelLinear(nn.Module):
    """``[..., in] -> [..., out/t]``, with or without a bias.

    Attributes:
        products: arithmetic of its products; None for the default of the input's device and dtype.
    """

    def __init__(
        self, inputs: int, outputs: int, tp: TensorParallel, *, what: str, bias: bool = True
    ) -> None:
        super().__init__()
        part = tp.divide(outputs, what)
        self.tp = tp
        self.products: Products | None = None
        self.weight = mark_split(nn.Parameter(torch.zeros(part, inputs)), 0)
        self.bias = mark_split(nn.Parameter(torch.zeros(part)), 0) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Output columns of this rank, for an input that has passed the entrance."""
        return column_linear(x, [self.weight], [self.bias], _ALONE, self.products)[0]

    def product(self, x: Tensor) -> Tensor:
        """Entrance and product without the bias; shapes as in column_linear."""
        return column_linear(x, [self.weight], [None], self.tp, self.products)[0]


class RowParallelLinear(nn.Module):
    """``[..., in/t] -> [..., out]``, the same on all ranks, summed over them before the bias.

    With sequence parallelism ``[T, in/t] -> [T/t, out]``, this rank's own tokens; the bias is then used
    on own tokens only.

    Attributes:
        products: arithmetic of its products; None for the default of the input's device and dtype.
    """

    def __init__(
        self, inputs: int, outputs: int, tp: TensorParallel, *, what: str, bias: bool = True
    ) -> None:
        super().__init__()
        part = tp.divide(inputs, what)
        self.tp = tp
        self.products: Products | None = None
        self.weight = mark_split(nn.Parameter(torch.zeros(outputs, part)), 1)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Sum over ranks of the partial products, plus the bias once."""
        if self.tp.size == 1:
            return column_linear(x, [self.weight], [self.bias], _ALONE, self.products)[0]
        if self.bias is None:
            return self.product(x)
        (bias,) = parameters_in_sequence_parallel_region([self.bias], self.tp)
        return self.product(x) + bias  # [..., out]

    def product(self, x: Tensor) -> Tensor:
        """Sum over ranks of the partial products, without the bias."""
        return row_linear(x, self.weight, self.tp, self.products)


class VocabParallelEmbedding(nn.Module):
    """Look-up in a table of ``rows`` split over ranks: int64 ``[...] -> [..., width]`` on all.

    With sequence parallelism int64 ``[T]``, all tokens, ``-> [T/t, width]``, this rank's own.
    """

    def __init__(self, rows: int, width: int, tp: TensorParallel, *, what: str) -> None:
        super().__init__()
        self.tp = tp
        self.first, self.last = tp.bounds(rows, what)
        self.weight = mark_split(nn.Parameter(torch.zeros(self.last - self.first, width)), 0)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of this rank, zeros for the others' rows, summed over ranks."""
        first = self.first if self.tp.size > 1 else None
        return reduce_scatter_to_sequence_parallel_region(
            embedding(ids, self.weight, first), self.tp
        )  # [..., width]
