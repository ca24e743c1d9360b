"""The three matrix products of a linear layer, and the arithmetic they are done in.

    Y  = X W^T + b          X [T, in], W [out, in], b [out]; Y and dY [T, out]
    dX = sum_i dY_i W_i     over the weights that read one X
    dW = dY^T X, a new tensor or added to an fp32 sum of gradients

:func:`megabert.parallel.linear.column_linear` takes all its products through a :class:`Products`: a
precision is an object with that interface, given to the layers.  Two are here.

:class:`NativeProducts` multiplies in the tensors' own dtype.  :class:`WidenedProducts` multiplies
bf16 tensors as float32 and rounds each result to bf16 once.  On a CPU without bf16 instructions the
library's own bf16 product reaches a tenth of the float32 rate, and converting costs a few percent
of a product.  The widened product is also the more exact of the two: partial sums stay float32.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Products(Protocol):
    """How one precision multiplies.

    An operand is what a product reads in place of a tensor (the same values converted, scaled,
    quantized...).  It is made once and read by several products.
    """

    def operand(self, tensor: Tensor) -> Any:
        """``tensor`` (2-dimensional), prepared for the products below."""
        ...

    def forward(self, x: Any, weight: Any, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """``X W^T + b`` as ``dtype [T, out]``."""
        ...

    def grad_x(
        self,
        grads: Sequence[Any],
        weights: Sequence[Any],
        dtype: torch.dtype,
        total: Tensor | None = None,
    ) -> Tensor:
        """``sum_i dY_i W_i`` as a new contiguous ``dtype [T, in]``.

        ``total``: of that kind, to which the sum is added; it may be overwritten.
        """
        ...

    def grad_weight(self, grad: Any, x: Any, dtype: torch.dtype) -> Tensor:
        """``dY^T X`` as ``dtype [out, in]``."""
        ...

    def add_grad_weight(self, grad: Any, x: Any, total: Tensor) -> bool:
        """Add ``dY^T X`` to ``total`` (float32 [out, in]); False, and nothing added, where it cannot."""
        ...


class NativeProducts:
    """Products in the operands' dtype; sums over several weights are accumulated in place."""

    def operand(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """``X W^T + b``."""
        out = x @ weight.t() if bias is None else torch.addmm(bias.to(x.dtype), x, weight.t())
        return out.to(dtype)

    def grad_x(
        self,
        grads: Sequence[Tensor],
        weights: Sequence[Tensor],
        dtype: torch.dtype,
        total: Tensor | None = None,
    ) -> Tensor:
        """``sum_i dY_i W_i``: each product is added where the first was written, or to ``total``."""
        pairs = list(zip(grads, weights))
        if total is None:
            (grad, weight), *pairs = pairs
            total = grad @ weight
        else:
            total = total.to(grads[0].dtype)
        for grad, weight in pairs:
            total.addmm_(grad, weight)
        return total.to(dtype)

    def grad_weight(self, grad: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """``dY^T X``."""
        return (grad.t() @ x).to(dtype)

    def add_grad_weight(self, grad: Tensor, x: Tensor, total: Tensor) -> bool:
        """``total += dY^T X`` in one product."""
        if grad.dtype == total.dtype:
            total.addmm_(grad.t(), x)
        elif grad.is_cuda:
            _add_in_fp32(grad, x, total)
        else:
            return False
        return True


class WidenedProducts(NativeProducts):
    """Products of half-precision tensors in float32, rounded once at the end."""

    def operand(self, tensor: Tensor) -> Tensor:
        """The tensor as float32."""
        return tensor.float()


_NATIVE, _WIDENED = NativeProducts(), WidenedProducts()


@functools.cache
def cpu_has_bf16_instructions() -> bool:
    """Whether this CPU multiplies bf16 itself (x86: AVX512-BF16 or AMX)."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def products_for(tensor: Tensor) -> Products:
    """The default for a tensor's device and dtype: widened for bf16 where the CPU has no bf16."""
    widen = tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"
    return _WIDENED if widen and not cpu_has_bf16_instructions() else _NATIVE


def _add_in_fp32(grad: Tensor, x: Tensor, total: Tensor) -> None:
    """The product of half-precision matrices added to a float32 one, on CUDA."""
    torch.ops.aten.addmm.dtype_out(total, grad.t(), x, total.dtype, out=total)


@functools.cache
def adds_to_fp32(device: torch.device) -> bool:
    """Whether bf16 products can be added to float32 sums there: tried once, with exact numbers.

    On CUDA older releases of torch take no float32 sum. On a CPU the widened products do it, those in bf16
    do not.
    """
    places = torch.arange(64 * 64, device=device).view(64, 64)
    grad, x = (places % 5 - 2).bfloat16(), (places % 7 - 3).bfloat16()
    total = (places % 11).float() / 1024
    expected = total + (grad.float().t() @ x.float())
    products = products_for(grad)
    try:
        done = products.add_grad_weight(products.operand(grad), products.operand(x), total)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return done and not bool((total != expected).any())
