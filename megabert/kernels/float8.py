"""Matrix products of linear layers in 8-bit floating point (Micikevicius et al. 2022).

    y      = x @ w.T       x [T, K] and w [N, K] in e4m3     contracted over K
    grad_x = grad @ w      grad [T, N] in e5m2, w in e4m3    contracted over N
    grad_w = grad.T @ x    grad in e5m2, x in e4m3           contracted over T

Each operand is a tensor of bytes times a scale: ``value = byte value * inverse scale``. The scale is made
of the largest magnitude of the very numbers that it scales ("just in time"), one for the whole tensor,
or with ``by_row`` one for each line that the product does not contract over. It is a power of two, so
scaling is exact and the only rounding is the cast, to nearest even: relative error at most 2^-4 (e4m3) or
2^-3 (e5m2) where a number is not below the format's normal range, which extends to at least 2^13 (e4m3)
or 2^28 (e5m2) times below the largest magnitude. Products are added up in fp32 and rounded once, to
the dtype of the operands (bf16).

A product wants both operands contiguous along the contracted dimension. An operand is therefore
written as *rows*, ``[T, C]`` unchanged, or as *columns*, transposed ``[C, T']``, or both from one
reading. T' is T rounded up to :data:`MULTIPLE`, with zeros in the rest, because tensor cores take
no other contracted length.

A number that is not finite makes its scale's inverse NaN, hence every result that the scale takes
part in: the checks of losses and gradient norms see it.

Everything goes through ``torch._scaled_mm``. On a CPU without float8 units torch computes the same
products in fp32: the same rounding, no gain in speed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.log import get_logger

FORWARD = torch.float8_e4m3fn
"""Activations and weights: 3 bits of mantissa, up to 448."""
GRADIENT = torch.float8_e5m2
"""Gradients: 2 bits of mantissa, up to 57,344."""
MULTIPLE = 16
"""Contracted lengths and widths of a product are multiples of it."""
LARGEST_SCALE = 2.0**60
"""Two inverses multiplied must stay in fp32's normal range."""
CAPABILITY = (8, 9)
"""First compute capability of CUDA devices with float8 units."""
_EXPONENT = 0x7F800000


class Quantized(NamedTuple):
    """A matrix ``[T, C]`` in float8, in one or both orders, and the inverse of its scales (fp32).

    Attributes:
        rows: ``[T, C]``; None if not asked for.
        columns: ``[C, T']``; None if not asked for.
        row_inverse: of ``rows``: ``[]``, or ``[T, 1]`` by row.
        column_inverse: of ``columns``: ``[]``, or ``[C, 1]`` by row.
    """

    rows: Tensor | None
    columns: Tensor | None
    row_inverse: Tensor
    column_inverse: Tensor


def check_device(device: torch.device) -> None:
    """UserError where the device is a GPU without float8 units."""
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        raise UserError(
            f"--precision fp8 needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or "
            f"more, and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}; "
            f"use --precision {'bf16' if capability >= (8, 0) else 'fp16'}"
        )


def check_shape(name: str, weight: Tensor) -> None:
    """UserError where a weight ``[out, in]`` (this rank's part) does not fit float8 products."""
    if any(size % MULTIPLE for size in weight.shape):
        raise UserError(
            f"--precision fp8: {name} is {weight.size(0)} x {weight.size(1)} on each rank, and both "
            f"must be multiples of {MULTIPLE}; change the model's sizes or --tensor-parallel, "
            "or use --precision bf16"
        )


def scales(largest: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and its inverse for numbers of at most the magnitude ``largest`` (fp32, any shape).

    The scale is the largest power of two that keeps ``largest`` within the format's range, and at
    most :data:`LARGEST_SCALE`. The inverse is NaN where ``largest`` is not finite.
    """
    ratio = torch.finfo(dtype).max / largest
    scale = (ratio.view(torch.int32) & _EXPONENT).view(torch.float32).clamp(max=LARGEST_SCALE)
    return scale, torch.where(largest.isfinite(), 1.0 / scale, torch.nan)


@functools.cache
def _triton_is_installed() -> bool:
    if importlib.util.find_spec("triton") is not None:
        return True
    get_logger().warning(
        "triton is not installed: casts to float8 use torch operators, which are slower"
    )
    return False


def quantize(
    x: Tensor, dtype: torch.dtype, *, rows: bool, columns: bool, by_row: bool = False
) -> Quantized:
    """Cast ``[T, C]`` to float8 in the orders asked for.

    Args:
        x: bf16 or fp32.
        dtype: :data:`FORWARD` or :data:`GRADIENT`.
        rows, columns: which orders to make.
        by_row: a scale for each row of ``rows`` and of ``columns``, in place of one for all.
    """
    if x.stride(1) != 1:
        x = x.contiguous()
    if x.is_cuda and not by_row and x.numel() and _triton_is_installed():
        from megabert.kernels.triton import float8

        made = float8.quantize(x, dtype, padded(len(x)), rows=rows, columns=columns)
        return Quantized(made[0], made[1], made[2], made[2])
    row_scale = column_scale = row_inverse = column_inverse = torch.ones((), device=x.device)
    if by_row and x.numel():
        row_scale, row_inverse = scales(x.abs().amax(1, keepdim=True).float(), dtype)
        column_scale, column_inverse = scales(x.abs().amax(0)[:, None].float(), dtype)
    elif x.numel():
        largest = torch.linalg.vector_norm(x, torch.inf).float()
        row_scale, row_inverse = column_scale, column_inverse = scales(largest, dtype)
    by_rows = by_columns = None
    if rows:
        by_rows = (x * row_scale.to(x.dtype)).to(dtype, memory_format=torch.contiguous_format)
    if columns:
        by_columns = x.new_empty((x.size(1), padded(len(x))), dtype=dtype)
        by_columns[:, : len(x)] = x.t() * column_scale.to(x.dtype)
        by_columns[:, len(x) :] = 0.0
    return Quantized(by_rows, by_columns, row_inverse, column_inverse)


def padded(length: int) -> int:
    """``length`` rounded up to :data:`MULTIPLE`."""
    return -(-length // MULTIPLE) * MULTIPLE


def product(
    a: Tensor,
    a_inverse: Tensor,
    b: Tensor,
    b_inverse: Tensor,
    dtype: torch.dtype,
    *,
    bias: Tensor | None = None,
    fast: bool = False,
) -> Tensor:
    """``a @ b.T + bias``: float8 ``[M, L]``, ``[N, L]`` and ``[N]`` -> ``dtype [M, N]``.

    ``a_inverse``, ``b_inverse``: ``[]``, or ``[M, 1]`` and ``[N, 1]``. ``fast``: partial sums may be
    kept in the fewer bits that Hopper's tensor cores have (good enough forward, not for gradients).
    """
    if 0 in (*a.shape, *b.shape):
        return a.new_zeros((a.size(0), b.size(0)), dtype=dtype)
    return torch._scaled_mm(
        a,
        b.t(),
        a_inverse,
        b_inverse.t(),
        bias=None if bias is None else bias.to(dtype),
        out_dtype=dtype,
        use_fast_accum=fast,
    )


class Operand:
    """A matrix that products read; cast when a product first asks for it, once for each order."""

    def __init__(self, tensor: Tensor, by_row: bool) -> None:
        self.tensor = tensor
        self.by_row = by_row
        self._cast: dict[tuple[torch.dtype, bool], tuple[Tensor, Tensor]] = {}

    def rows(self, dtype: torch.dtype, *, then_columns: bool = False) -> tuple[Tensor, Tensor]:
        """``[T, C]`` and its inverse; ``then_columns``: make these too, while the matrix is read."""
        if (dtype, True) not in self._cast:
            self._make(dtype, rows=True, columns=then_columns)
        return self._cast[dtype, True]

    def columns(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``[C, T']`` and its inverse."""
        if (dtype, False) not in self._cast:
            self._make(dtype, rows=False, columns=True)
        return self._cast[dtype, False]

    def _make(self, dtype: torch.dtype, rows: bool, columns: bool) -> None:
        made = quantize(self.tensor, dtype, rows=rows, columns=columns, by_row=self.by_row)
        if made.rows is not None:
            self._cast[dtype, True] = made.rows, made.row_inverse
        if made.columns is not None:
            self._cast[dtype, False] = made.columns, made.column_inverse


class Float8Products:
    """The products of :class:`megabert.parallel.products.Products` in float8.

    Weights are cast again in each micro step: 3 to 6 bytes of memory traffic per weight, against the
    two times T multiplications that each weight takes part in. Copies kept from one micro step to the
    next would have to follow the updates of weights that ZeRO gathers, frees and writes through views.
    """

    def __init__(self, by_row: bool = False) -> None:
        self.by_row = by_row

    def operand(self, tensor: Tensor) -> Operand:
        """``tensor`` ``[T, C]``, cast when it is first read."""
        return Operand(tensor, self.by_row)

    def forward(
        self, x: Operand, weight: Operand, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """``X W^T + b``."""
        return product(*x.rows(FORWARD), *weight.rows(FORWARD), dtype, bias=bias, fast=True)

    def grad_x(
        self,
        grads: Sequence[Operand],
        weights: Sequence[Operand],
        dtype: torch.dtype,
        total: Tensor | None = None,
    ) -> Tensor:
        """``sum_i dY_i W_i``; each product is rounded to ``dtype``, and so are the sums of products."""
        parts = (
            product(*grad.rows(GRADIENT, then_columns=True), *weight.columns(FORWARD), dtype)
            for grad, weight in zip(grads, weights)
        )
        if total is None:
            total = next(parts)
        for part in parts:
            total += part
        return total

    def grad_weight(self, grad: Operand, x: Operand, dtype: torch.dtype) -> Tensor:
        """``dY^T X``; T may be any number."""
        return product(*grad.columns(GRADIENT), *x.columns(FORWARD), dtype)

    def add_grad_weight(self, grad: Operand, x: Operand, total: Tensor) -> bool:
        """False: ``torch._scaled_mm`` does not add to its output."""
        return False


def use_float8(model: nn.Module, by_row: bool = False) -> None:
    """Have the split linear layers of ``model`` multiply in float8; weights stay what they are.

    These are query, key, value, output, up and down of every encoder layer. Embeddings, heads and the
    product with the vocabulary keep the model's precision.

    Raises:
        UserError: a weight's sizes do not fit.
    """
    products = Float8Products(by_row)
    layers = [(name, part) for name, part in model.named_modules() if hasattr(part, "products")]
    for name, layer in layers:
        check_shape(name, layer.weight)
        layer.products = products
    device = next(model.parameters()).device.type
    get_logger().info(
        "%d linear layers multiply in float8: e4m3, gradients e5m2, one scale per %s%s",
        len(layers),
        "row" if by_row else "matrix",
        ""
        if device == "cuda"
        else f"; torch computes float8 products on a {device.upper()} in fp32",
    )
