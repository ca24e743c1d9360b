"""Self-attention over packed sequences, or over padded rows.

    CPU              native or reference operators
    CUDA             the Triton kernel (``kernels/triton/attention.py``); where it cannot be used, or
                     ``--attention flash`` is set:
        packed       flash attention of variable length (``flash.py``)
        padded       torch's scaled_dot_product_attention with a mask of the real keys; on a CPU too
                     where the real tokens of a row are not next to each other

With relative positions (NEZHA) ``relative.py`` replaces the last two, because flash attention cannot add
to values; its dropout masks are those of ``kernels/dropout.py``, as the kernel's. The two themselves draw
dropout from the device's torch generator, which is seeded from the place, the first head and the micro
step.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.kernels.attention.relative import relative_attention
from megabert.kernels.dropout import Dropout, head_seed, mix64
from megabert.kernels.ops import implementation

AttentionSetting = Literal["auto", "triton", "flash"]
"""Attention on a GPU: ``auto`` is Triton's kernel where it can be used."""
WIDEST_HEAD = 256
"""Largest head_size of the Triton kernel: more would not fit into an A100's shared memory."""


@dataclass(frozen=True)
class Sequences:
    """How the T rows of a micro batch divide into sequences.

    Args:
        count: of the sequences.
        max_length: most tokens of a sequence (of this batch, or a bound that all batches share).
        spans: first row and end (exclusive) of each, int64 [count, 2]; on a CPU.
        cu_seqlens: where they begin and end, int32 [count + 1] from 0 to T; on other devices.
        mask: bool [count, 1, 1, max_length], True for real tokens, if sequences are padded to
            ``max_length`` rows. None if nothing is padded.
    """

    count: int
    max_length: int
    spans: Tensor | None = None
    cu_seqlens: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def packed(cls, cu_seqlens: Tensor, max_length: int) -> Sequences:
        """Sequences of ``cu_seqlens`` (int32 [P+1], from 0 to T), none longer than ``max_length``."""
        count = cu_seqlens.numel() - 1
        if cu_seqlens.device.type == "cpu":
            spans = torch.stack([cu_seqlens[:-1], cu_seqlens[1:]], dim=1).long()
            return cls(count, max_length, spans=spans)
        return cls(count, max_length, cu_seqlens=cu_seqlens)

    @classmethod
    def padded(
        cls, rows: int, width: int, device: torch.device, attention_mask: Tensor | None
    ) -> Sequences:
        """Rows of ``width`` tokens; ``attention_mask`` [rows, width] is 1 for real ones."""
        real = None if attention_mask is None else attention_mask.bool()
        if device.type != "cpu":
            bounds = torch.arange(rows + 1, dtype=torch.int32, device=device) * width
            mask = None if real is None else real[:, None, None, :]
            return cls(rows, width, cu_seqlens=bounds, mask=mask)
        begins = torch.arange(rows) * width
        if real is None:
            return cls(rows, width, spans=torch.stack([begins, begins + width], dim=1))
        first, count = real.int().argmax(dim=1), real.sum(dim=1)
        columns = torch.arange(width)
        span = (columns >= first[:, None]) & (columns < (first + count)[:, None])
        if not torch.equal(span, real):
            return cls(rows, width, mask=real[:, None, None, :])
        begins += first
        return cls(rows, width, spans=torch.stack([begins, begins + count], dim=1))

    def grid(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows of each sequence [count, max_length], and which of these are its own (bool, the same).

        For sequences without ``spans``; the host does not wait for the device.
        """
        places = torch.arange(self.max_length, device=device)
        if self.cu_seqlens is None or self.mask is not None:
            rows = torch.arange(tokens, device=device).view(self.count, self.max_length)
            real = torch.ones_like(rows, dtype=torch.bool)
            return rows, real if self.mask is None else self.mask[:, 0, 0]
        rows = self.cu_seqlens[:-1, None] + places
        return rows.clamp(max=tokens - 1), places < self.cu_seqlens.diff()[:, None]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: Sequences,
        first_head: int,
        scale: float,
        dropout: Dropout | None,
        relative: Tensor | None,
    ) -> Tensor:
        place: tuple[Any, ...] = first_head, scale, dropout, relative
        if sequences.spans is not None:
            place = sequences.spans, *place
        else:
            real = None if sequences.mask is None else sequences.mask.flatten()
            place = sequences.cu_seqlens, sequences.max_length, *place, real
        context, lse = implementation(query).attention_forward(query, key, value, *place)
        ctx.save_for_backward(query, key, value, context, lse)
        ctx.place = place
        result: Tensor = context
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, context, lse = ctx.saved_tensors
        made = implementation(query).attention_backward(
            grads[0], query, key, value, context, lse, *ctx.place
        )
        return (*made, None, None, None, None, None)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    first_head: int,
    scale: float,
    dropout: Dropout | None,
    relative: Tensor | None = None,
    setting: AttentionSetting = "auto",
) -> Tensor:
    """softmax(scale Q K^T) V within each sequence.

    With a table of relative positions, query i sees k_j and v_j plus the table's row for the distance
    j - i (:mod:`megabert.kernels.attention.relative_reference`).

    Args:
        query, key, value: ``[T, N, D]``, N heads of this rank.
        sequences: how the T rows divide.
        first_head: number of the first of the heads in the layer.
        scale: factor of the scores.
        dropout: of the probabilities; None for no dropout.
        relative: a constant table of relative positions, wide ``[2m + 1, D]``; None for absolute positions.
        setting: of packed sequences on a GPU.

    Returns:
        ``[T, N, D]``.
    """
    by_triton = sequences.cu_seqlens is not None and _by_triton(query, setting)
    if sequences.spans is not None or by_triton:
        out: Tensor = _Attention.apply(
            query, key, value, sequences, first_head, scale, dropout, relative
        )
        return out
    if relative is not None:
        rows, real = sequences.grid(query.size(0), query.device)
        return relative_attention(
            query, key, value, relative, rows, real, first_head, scale, dropout
        )
    if dropout is not None:
        _seed(query.device, mix64(head_seed(dropout.seed, first_head) ^ dropout.draw) >> 1)
    probability = 0.0 if dropout is None else dropout.probability
    if sequences.cu_seqlens is not None and sequences.mask is None:
        from megabert.kernels.attention.flash import flash_attention

        return flash_attention(
            query, key, value, sequences.cu_seqlens, sequences.max_length, scale, probability
        )
    shape = sequences.count, sequences.max_length, *query.shape[1:]
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in (query, key, value))  # [B, N, S, D]
    context = F.scaled_dot_product_attention(
        q, k, v, attn_mask=sequences.mask, dropout_p=probability, scale=scale
    )
    return context.transpose(1, 2).reshape(query.shape)


def triton_fault(
    device: str, capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int
) -> str:
    """Why the Triton kernel cannot be used for queries of one kind; "" if it can.

    Args:
        device: type of the device ("cuda", "cpu").
        capability: compute capability of a CUDA device.
        dtype: of query, key and value.
        head_size: D.
    """
    if device != "cuda" or capability is None:
        return f"it needs a GPU, not {device}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if capability < (8, 0):
        return f"it needs compute capability 8.0, not {capability[0]}.{capability[1]}"
    if dtype == torch.float64:
        return "it does not take float64"
    return "" if head_size <= WIDEST_HEAD else f"heads are {head_size} wide, above {WIDEST_HEAD}"


def _by_triton(query: Tensor, setting: AttentionSetting) -> bool:
    return setting != "flash" and _chosen(query.device, query.dtype, query.size(-1))


@functools.cache
def _chosen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether Triton's kernel can be used on this machine; said once for each kind of query."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    fault = triton_fault(device.type, capability, dtype, head_size)
    if not fault:
        get_logger().info("attention on %s by megabert's Triton kernel", device)
    elif device.type == "cuda":
        get_logger().info("megabert's Triton kernel of attention is not used: %s", fault)
    return not fault


def use_attention(model: nn.Module, setting: AttentionSetting) -> None:
    """Apply ``--attention`` to every attention of ``model``.

    Raises:
        UserError: ``triton`` without Triton.
    """
    if setting == "triton" and importlib.util.find_spec("triton") is None:
        raise UserError(
            "--attention triton: triton is not installed; install it, or use --attention flash"
        )
    layers: list[Any] = [part for part in model.modules() if hasattr(part, "attention_setting")]
    for layer in layers:
        layer.attention_setting = setting


def _seed(device: torch.device, seed: int) -> None:
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
