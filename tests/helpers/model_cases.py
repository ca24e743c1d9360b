"""Small models and batches for the tests of the encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig

TINY: dict[str, Any] = {
    "name": "test",
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}


def tiny_config(**changes: Any) -> ModelConfig:
    """A model of 2 layers and width 32 without dropout; large initial weights show any mistake."""
    return ModelConfig(**(TINY | changes))


def tiny_batch(
    config: ModelConfig, *, sequences: int = 3, length: int = 16, masked: int = 7, seed: int = 0
) -> dict[str, Tensor]:
    """The arrays of a padded micro batch (see `batch_of`): the last sequence is full, the others shorter.

    Word 0 is the padding and occurs nowhere else.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    lengths = torch.arange(sequences) * 2 + length - 2 * (sequences - 1)
    attention = (torch.arange(length) < lengths.unsqueeze(1)).long()
    real = attention.flatten().nonzero().squeeze(1)
    order = torch.randperm(len(real), generator=generator)[:masked]
    return {
        "input_ids": (1 + integers(config.vocab_size - 1, sequences, length)) * attention,
        "token_type_ids": integers(config.type_vocab_size, sequences, length),
        "attention_mask": attention,
        "masked_positions": real[order].sort().values,
        "masked_labels": integers(config.vocab_size, masked),
        "next_sentence_labels": integers(2, sequences),
    }


def batch_of(
    input_ids: Tensor,
    token_type_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    max_length: int = 0,
    sample_numbers: Tensor | None = None,
    **labels: Tensor,
) -> PackedBatch[Tensor]:
    """A batch for a model: of padded rows [B, S], or of packed tokens [T] with `cu_seqlens`."""
    ids, types, mask, ends, numbers = (
        None if tensor is None else tensor.numpy()
        for tensor in (input_ids, token_type_ids, attention_mask, cu_seqlens, sample_numbers)
    )
    arrays = {name: tensor.numpy() for name, tensor in labels.items()}
    assert ids is not None
    if ends is None:
        batch = PackedBatch.from_padded(ids, types, mask, numbers, arrays)
    else:
        assert types is not None
        lengths = ends[1:] - ends[:-1]
        batch = PackedBatch.from_lengths(ids, types, lengths, max_length, numbers, arrays)
    return batch.map(torch.from_numpy)
