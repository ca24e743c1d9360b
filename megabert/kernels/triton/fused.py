"""The fused operators on CUDA: the names, arguments and results of :mod:`megabert.kernels.reference`.

Attention alone takes sequences in another form, by ``cu_seqlens`` on the device and their largest length.

Tensors are fp32, bf16 or fp16 (``DTYPES``), arithmetic is fp32. Rows are contiguous and may lie apart
(other layouts are copied). The kernels run on CUDA tensors, or on CPU tensors in Triton's interpreter,
if TRITON_INTERPRET=1 was set before Triton was first imported.
"""

from __future__ import annotations

from megabert.kernels.triton.attention import attention_backward, attention_forward
from megabert.kernels.triton.dropout import dropped
from megabert.kernels.triton.gelu import bias_gelu_backward, bias_gelu_forward
from megabert.kernels.triton.loss import cross_entropy_gradient_, cross_entropy_rows
from megabert.kernels.triton.norm import add_norm_backward, add_norm_forward
from megabert.kernels.triton.tiles import DTYPES

__all__ = [
    "DTYPES",
    "add_norm_backward",
    "add_norm_forward",
    "attention_backward",
    "attention_forward",
    "bias_gelu_backward",
    "bias_gelu_forward",
    "cross_entropy_gradient_",
    "cross_entropy_rows",
    "dropped",
]
