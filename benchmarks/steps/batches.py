"""Micro batches of real samples, each padded and packed, and the work that is in them.

Shapes: B samples of at most S tokens; T real tokens in all; M masked positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megabert.common.names import TRAIN
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig, model_config
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.packing import Window, pad_samples, window_batches
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.model.flops import pretraining_flops

IGNORED = -100
"""Label of a position that is not predicted, as transformers reads it."""


@dataclass(frozen=True)
class Work:
    """What a micro batch holds: samples, real tokens, their squared lengths, predictions, B * S."""

    samples: int
    tokens: int
    squared_lengths: int
    predictions: int
    padded_tokens: int

    def flops(self, config: ModelConfig) -> float:
        """FLOPs of forward and backward, of real tokens and predicted positions only."""
        return pretraining_flops(config, self.tokens, self.squared_lengths, self.predictions)

    @property
    def padding(self) -> float:
        """Share of the padded batch that is padding."""
        return 1 - self.tokens / self.padded_tokens

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self.values(), other.values())))

    def values(self) -> tuple[int, ...]:
        return (
            self.samples, self.tokens, self.squared_lengths, self.predictions, self.padded_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class MicroBatch:
    """The same samples in three forms, on one device.

    Args:
        padded, packed: as the loader makes them.
        labels: int64 ``[B, S]``, IGNORED where nothing is predicted.
        work: what it holds.
    """

    padded: PackedBatch[Tensor]
    packed: PackedBatch[Tensor]
    labels: Tensor
    work: Work

    @property
    def rows(self) -> dict[str, Tensor]:
        """input_ids, token_type_ids, attention_mask int64 ``[B, S]``, as transformers takes them."""
        mask = self.padded.attention_mask
        assert mask is not None
        return {
            "input_ids": self.padded.input_ids.view_as(mask),
            "token_type_ids": self.padded.token_type_ids.view_as(mask),
            "attention_mask": mask,
        }


class RealBatches:
    """Micro batches 0, 1, 2, ... of a folder of shards, each of the run's next B samples."""

    def __init__(
        self,
        shards: Path,
        length: int,
        micro_batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source = SampleSource(Corpus.open(shards, TRAIN), SampleSettings(length))
        self.length, self.size, self.device = length, micro_batch_size, device

    def model(self, name: str, dropout: float) -> ModelConfig:
        """The preset over the shards' vocabulary, with ``dropout`` everywhere."""
        return model_config(
            name,
            vocab_size=int(self.source.corpus.manifest.tokenizer.vocab_size),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )

    def get(self, number: int) -> MicroBatch:
        """Micro batch ``number``; the packed form holds its own samples and no others'."""
        numbers = np.arange(number * self.size, (number + 1) * self.size)
        samples = self.source.samples(numbers)
        (packed,) = window_batches(self.source, numbers, Window(1, 1), 0)
        labels = np.full(samples.input_ids.size, IGNORED)
        labels[samples.masked_positions] = samples.masked_labels
        lengths = samples.lengths
        work = Work(
            len(numbers), int(lengths.sum()), int((lengths**2).sum()),
            len(samples.masked_positions), samples.input_ids.size,
        )  # fmt: skip
        return MicroBatch(
            self.on_device(pad_samples(samples)),
            self.on_device(packed),
            torch.from_numpy(labels.reshape(samples.input_ids.shape)).to(self.device),
            work,
        )

    def on_device(self, batch: PackedBatch[np.ndarray]) -> PackedBatch[Tensor]:
        """A micro batch as the model takes it."""
        return batch.map(torch.from_numpy).to(self.device)
