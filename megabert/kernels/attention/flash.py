"""Attention within packed sequences, on CUDA.

Implementations, best first; :func:`choose_attention` selects one:

    flash-attn  ``flash_attn_varlen_func`` of the package flash_attn, where that is installed
    torch       the same kernels (FlashAttention 2, Dao 2023) as torch has them built in: its
                operator ``aten::_flash_attention_forward`` with torch's own gradient; torch's
                ``varlen_attn``, which is built on it, takes no dropout
    padded      ``scaled_dot_product_attention`` over sequences padded to ``max_seqlen``, the
                padding hidden by a mask: exact for every dtype, head size and device

None of them waits for the device, and all apply dropout. Its mask comes from torch's generator of
the device, which the caller seeds: the mask depends on the places of the sequences in the batch and on
this rank's own count of heads, unlike those of :mod:`megabert.kernels.dropout`. So the seed must
differ between ranks that hold different heads. The masks are made again in backward from the state
that forward has kept.

The flash implementations add up the gradient of the queries in no fixed order, unless
``torch.use_deterministic_algorithms(True)`` is set.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from megabert.common.log import get_logger

PACKAGE = "flash_attn"
_HALF = (torch.bfloat16, torch.float16)
_WIDEST = 256
_NARROW_WIDEST = 192
"""Largest head_size with dropout, forward and backward, on GPUs with less shared memory than an A100."""


class AttentionBackend(StrEnum):
    """An implementation, by its name in log lines."""

    FLASH_ATTN = "flash-attn"
    TORCH = "torch's flash kernels"
    PADDED = "padded scaled_dot_product_attention"


class Choice(NamedTuple):
    """An implementation, and why no better one was chosen ("" for the best)."""

    backend: AttentionBackend
    reason: str


def choose_attention(
    device: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    installed: bool,
) -> Choice:
    """The implementation for queries, keys and values of one kind.

    Args:
        device: type of the device ("cuda", "cpu").
        capability: compute capability of a CUDA device.
        dtype: of query, key and value.
        head_size: D.
        installed: whether the package flash_attn is usable.
    """
    if device != "cuda" or capability is None:
        return Choice(AttentionBackend.PADDED, f"flash attention needs a GPU, not {device}")
    number = f"{capability[0]}.{capability[1]}"
    if capability < (8, 0):
        return Choice(
            AttentionBackend.PADDED, f"flash attention needs compute capability 8.0, not {number}"
        )
    if dtype not in _HALF:
        return Choice(AttentionBackend.PADDED, f"flash attention takes bf16 and fp16, not {dtype}")
    widest = _NARROW_WIDEST if capability in {(8, 6), (8, 9)} or capability[0] == 12 else _WIDEST
    if head_size > widest:
        fault = f"flash attention takes heads up to {widest} wide at {number}, not {head_size}"
        return Choice(AttentionBackend.PADDED, fault)
    if head_size % 8:
        fault = f"flash attention takes head sizes that are multiples of 8, not {head_size}"
        return Choice(AttentionBackend.PADDED, fault)
    if not installed:
        return Choice(
            AttentionBackend.TORCH, f"the package {PACKAGE} is not installed or does not work"
        )
    return Choice(AttentionBackend.FLASH_ATTN, "")


@functools.cache
def _package() -> Callable[..., Tensor] | None:
    """flash-attn's function, or None; a package that fails to import is logged."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    try:
        return importlib.import_module(PACKAGE).flash_attn_varlen_func
    except ImportError as error:
        fault = " ".join(str(error).split())
        get_logger().warning(
            "the package %s is not used because its import fails: %s", PACKAGE, fault
        )
        return None


@functools.cache
def _chosen(device: torch.device, dtype: torch.dtype, head_size: int) -> AttentionBackend:
    """:func:`choose_attention` for this machine; each choice is logged once."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    choice = choose_attention(device.type, capability, dtype, head_size, _package() is not None)
    reason = f": {choice.reason}" if choice.reason else ""
    get_logger().info("attention on %s by %s%s", device, choice.backend, reason)
    return choice.backend


def attention_backend(query: Tensor) -> AttentionBackend:
    """The implementation that :func:`flash_attention` uses for such queries; a string for log lines."""
    return _chosen(query.device, query.dtype, query.size(-1))


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    dropout_probability: float,
) -> Tensor:
    """Attention within sequences (Vaswani et al. 2017, section 3.2); differentiable.

    Args:
        query, key, value: ``[T, N, D]`` of one dtype; rows of D contiguous, else as they come
            (views of one ``[T, 3, N, D]`` are not copied).
        cu_seqlens: where sequences begin and end, int32 ``[P + 1]`` on the same device: 0 .. T. A
            sequence may be empty.
        max_seqlen: tokens of the longest sequence, or more; a longer one gives wrong results, as
            looking for it would mean waiting for the device.
        scale: factor of the scores.
        dropout_probability: of an attention probability to be dropped, 0 for none.

    Returns:
        Context, ``[T, N, D]``.
    """
    if not query.size(0):
        return query + key + value  # empty, and each of them gets its empty gradient
    functions = {
        AttentionBackend.FLASH_ATTN: _by_package,
        AttentionBackend.TORCH: by_torch,
        AttentionBackend.PADDED: padded,
    }
    return functions[attention_backend(query)](
        query, key, value, cu_seqlens, max_seqlen, scale, dropout_probability
    )


def _by_package(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    dropout_probability: float,
) -> Tensor:
    """By flash-attn."""
    function = _package()
    assert function is not None
    return function(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        dropout_p=dropout_probability,
        softmax_scale=scale,
        causal=False,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    dropout_probability: float,
) -> Tensor:
    """By torch's flash operator; arguments as in :func:`flash_attention`."""
    result = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        dropout_probability,
        False,  # causal
        False,  # debug mask
        scale=scale,
    )
    return result[0]


def padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    dropout_probability: float,
) -> Tensor:
    """By padding; arguments as in :func:`flash_attention`. Memory: P max_seqlen N D per tensor."""
    tokens, heads, head_size = query.shape
    begins, lengths = cu_seqlens.long().narrow(0, 0, len(cu_seqlens) - 1), cu_seqlens.diff()
    sequences, device = len(lengths), query.device
    places = torch.arange(max_seqlen, device=device)
    # an empty sequence sees one key of padding, since a softmax needs at least one
    visible = (places < lengths.unsqueeze(1)) | (places == 0)  # [P, S]
    numbers = torch.repeat_interleave(
        torch.arange(sequences, device=device), lengths, output_size=tokens
    )
    within = torch.arange(tokens, device=device) - begins.index_select(0, numbers)
    rows = numbers * max_seqlen + within

    def in_rows(x: Tensor) -> Tensor:
        """[T, N, D] -> [P, N, S, D], zeros for padding."""
        whole = x.new_zeros(sequences * max_seqlen, heads, head_size).index_copy(0, rows, x)
        return whole.view(sequences, max_seqlen, heads, head_size).transpose(1, 2)

    context = scaled_dot_product_attention(
        in_rows(query),
        in_rows(key),
        in_rows(value),
        attn_mask=visible.view(sequences, 1, 1, max_seqlen),
        dropout_p=dropout_probability,
        scale=scale,
    )
    return context.transpose(1, 2).reshape(-1, heads, head_size).index_select(0, rows)
