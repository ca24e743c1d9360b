"""Small models and batches for the tests of the encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    """A padded micro batch as the loader makes it: the last sequence is full, the others shorter.

    Word 0 is the padding and stands nowhere else.
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
