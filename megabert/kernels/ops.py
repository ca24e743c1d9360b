"""The fused operators as differentiable functions: each dispatches on the device of its tensors.

    CPU, float32 and bfloat16          native      compiled C++ (reference without a compiler)
    CUDA, half precision and float32   triton      (reference where triton is not installed)
    anything else                      reference   plain torch operators

All three give the same numbers up to rounding, and the same dropout masks. Attention on CUDA is
torch's or flash-attn's (:mod:`megabert.kernels.attention.dispatch`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.common.log import get_logger
from megabert.kernels import cpu, reference
from megabert.kernels.compiling import prepare_caches
from megabert.kernels.dropout import Dropout


@functools.cache
def _triton() -> ModuleType:
    if importlib.util.find_spec("triton") is None:
        get_logger().warning(
            "triton is not installed: using plain torch operators, which are slower"
        )
        return reference
    prepare_caches()
    return importlib.import_module("megabert.kernels.triton.fused")


def implementation(tensor: Tensor) -> ModuleType:
    """The module whose functions compute on tensors like this one."""
    if tensor.device.type == "cpu" and tensor.dtype in cpu.KINDS and cpu.available():
        return cpu
    if tensor.device.type == "cuda" and tensor.dtype != torch.float64:
        return _triton()
    return reference


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        ctx.dropout = dropout
        out: Tensor = implementation(x).dropped(x, dropout)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return implementation(grads[0]).dropped(grads[0], ctx.dropout), None


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        out: Tensor = implementation(x).bias_gelu_forward(x, bias)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        grad_x, grad_bias = implementation(x).bias_gelu_backward(grads[0], x, bias)
        return grad_x, grad_bias.to(bias.dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        residual: Tensor,
        weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        dropout: Dropout | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        total, normed, mean, rstd = implementation(x).add_norm_forward(
            x, bias, residual, weight, norm_bias, eps, dropout
        )
        ctx.save_for_backward(total, mean, rstd, weight)
        ctx.dropout = dropout
        ctx.bias_dtypes = None if bias is None else bias.dtype, norm_bias.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * 7
        total, mean, rstd, weight = ctx.saved_tensors
        bias_dtype, norm_bias_dtype = ctx.bias_dtypes
        made = implementation(total).add_norm_backward(
            grads[1], grads[0], total, mean, rstd, weight, ctx.dropout, bias_dtype is not None
        )
        return (
            made.x,
            None if made.bias is None else made.bias.to(bias_dtype),
            made.residual,
            made.weight.to(weight.dtype),
            made.norm_bias.to(norm_bias_dtype),
            None,
            None,
        )


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, first: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.first, ctx.rows, ctx.dtype = first or 0, len(weight), weight.dtype
        return _look_up(ids, weight, first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (ids,) = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].size(-1))
        table = cpu.embedding_backward(grad, ids.reshape(-1), ctx.rows, ctx.first)
        return None, table.to(ctx.dtype), None


def _look_up(ids: Tensor, weight: Tensor, first: int | None) -> Tensor:
    if first is None:
        return F.embedding(ids, weight)
    local = ids - first
    elsewhere = (local < 0) | (local >= len(weight))
    rows = F.embedding(local.masked_fill(elsewhere, 0), weight)
    return rows.masked_fill(elsewhere.unsqueeze(-1), 0.0)


def dropped(x: Tensor, dropout: Dropout | None) -> Tensor:
    """Dropout of ``[T, C]``; ``x`` itself if ``dropout`` is None."""
    if dropout is None:
        return x
    out: Tensor = _Dropped.apply(x, dropout)
    return out


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x + bias)``, exact GELU: ``[T, C]``, ``[C]`` -> ``[T, C]``."""
    out: Tensor = _BiasGelu.apply(x, bias)
    return out


def add_norm(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: Dropout | None,
) -> tuple[Tensor, Tensor]:
    """``total = residual + dropout(x + bias)`` and ``LayerNorm(total)``, ``[T, C]`` each."""
    total, normed = _AddNorm.apply(x, bias, residual, weight, norm_bias, eps, dropout)
    return total, normed


def embedding(ids: Tensor, weight: Tensor, first: int | None = None) -> Tensor:
    """Rows of a table: int64 ``[...]``, ``[rows, C]`` -> ``[..., C]``.

    With ``first`` the table is a part of one: it holds ids ``first .. first + rows - 1``, and other
    ids give zeros.
    """
    if implementation(weight) is cpu:
        out: Tensor = _Embedding.apply(ids, weight, first)
        return out
    return _look_up(ids, weight, first)
