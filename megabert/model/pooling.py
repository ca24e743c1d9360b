"""One vector per sequence, from the hidden states of its tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.common.packed_batch import PackedBatch

POOLINGS = ("mean", "cls")
"""The mean over a sequence's tokens, [CLS] and [SEP] included; the state of its first token."""


def sequence_vectors(
    hidden: Tensor, batch: PackedBatch[Tensor], pooling: str, normalize: bool
) -> Tensor:
    """Hidden states ``[T, H]`` -> vectors ``[P, H]``; padding counts nothing.

    Args:
        hidden: of every token of the batch.
        batch: packed or padded.
        pooling: of :data:`POOLINGS`.
        normalize: divide each vector by its length (2-norm).
    """
    if pooling == "cls":
        vectors = hidden.index_select(0, batch.first_tokens.long())
    else:
        real = hidden.new_ones(len(hidden))
        if batch.attention_mask is not None:
            real = batch.attention_mask.flatten().to(hidden.dtype)
        sequences = torch.arange(batch.num_sequences, device=hidden.device)
        owners = torch.repeat_interleave(
            sequences, batch.lengths.long(), output_size=len(hidden)
        )  # [T]
        sums = hidden.new_zeros(batch.num_sequences, hidden.shape[1])
        sums.index_add_(0, owners, hidden * real[:, None])
        counts = hidden.new_zeros(batch.num_sequences).index_add_(0, owners, real)
        vectors = sums / counts[:, None]
    return F.normalize(vectors, dim=1) if normalize else vectors
