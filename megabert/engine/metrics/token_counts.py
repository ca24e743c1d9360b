"""What updates compute, counted on the host from the batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.flops import pretraining_flops


class Workload(NamedTuple):
    """Sums over the sequences of some micro batches; ``padded_tokens`` counts the padding too."""

    samples: float = 0.0
    tokens: float = 0.0
    padded_tokens: float = 0.0
    squared_lengths: float = 0.0
    predictions: float = 0.0

    def plus(self, other: Workload) -> Workload:
        """Both together."""
        return Workload(*(mine + its for mine, its in zip(self, other)))

    @property
    def padding_fraction(self) -> float:
        """Fraction of the computed tokens that are padding."""
        return 1.0 - self.tokens / max(1.0, self.padded_tokens)

    def flops(self, config: ModelConfig) -> float:
        """Model FLOPs of forward and backward over the real tokens (:mod:`megabert.model.flops`)."""
        return pretraining_flops(config, self.tokens, self.squared_lengths, self.predictions)


def workload(batch: PackedBatch[Tensor]) -> Workload:
    """The work of a pretraining micro batch, its tensors still in host memory."""
    if batch.attention_mask is None:
        lengths = batch.lengths.numpy()[: batch.real_samples]
    else:
        lengths = batch.attention_mask.numpy().sum(axis=1)
    lengths = lengths.astype(np.float64)
    return Workload(
        samples=float(len(lengths)),
        tokens=float(lengths.sum()),
        padded_tokens=float(batch.input_ids.numel()),
        squared_lengths=float(lengths @ lengths),
        predictions=float(len(batch.labels["masked_positions"])),
    )
