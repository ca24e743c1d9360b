"""Self-attention over packed sequences, or over padded rows.

    CPU              native or reference operators, dropout masks of ``kernels/dropout.py``
    CUDA, packed     flash attention of variable length (``flash.py``)
    CUDA, padded     torch's scaled_dot_product_attention with a mask of the real keys; on a CPU too
                     where the real tokens of a row are not next to each other

With relative positions (NEZHA) ``relative.py`` replaces the last two, because flash attention cannot add
to values; its dropout masks are those of ``kernels/dropout.py`` too. Otherwise the last two draw dropout
from the device's torch generator, which is seeded from the place, the first head and the micro step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.kernels.attention.relative import relative_attention
from megabert.kernels.dropout import Dropout, head_seed, mix64
from megabert.kernels.ops import implementation


@dataclass(frozen=True)
class Sequences:
    """How the T rows of a micro batch divide into sequences.

    Args:
        count: of the sequences.
        max_length: most tokens of a sequence (of this batch, or a bound that all batches share).
        spans: first row and end (exclusive) of each, int64 [count, 2]; on a CPU.
        cu_seqlens: where they begin and end, int32 [count + 1] from 0 to T; packed, on other devices.
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
            return cls(rows, width, mask=None if real is None else real[:, None, None, :])
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
        if self.cu_seqlens is None:
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
        spans: Tensor,
        first_head: int,
        scale: float,
        dropout: Dropout | None,
        relative: Tensor | None,
    ) -> Tensor:
        place = spans, first_head, scale, dropout, relative
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

    Returns:
        ``[T, N, D]``.
    """
    if sequences.spans is not None:
        out: Tensor = _Attention.apply(
            query, key, value, sequences.spans, first_head, scale, dropout, relative
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
    if sequences.cu_seqlens is not None:
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


def _seed(device: torch.device, seed: int) -> None:
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
