"""Tokenized sequences of a file, concatenated, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megabert.common.packed_batch import PackedBatch


@dataclass(frozen=True)
class Rows:
    """F sequences, special tokens included, without padding.

    ``ids`` int32 [T]; ``segments`` int8 [T], 0 and 1; ``starts`` int64 [F+1], where each sequence
    begins, and T.
    """

    ids: np.ndarray
    segments: np.ndarray
    starts: np.ndarray

    @staticmethod
    def joined(ids: list[np.ndarray], segments: list[np.ndarray]) -> Rows:
        """One sequence per element of the lists."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        return Rows(
            np.concatenate([np.zeros(0, np.int32), *ids]).astype(np.int32),
            np.concatenate([np.zeros(0, np.int8), *segments]).astype(np.int8),
            starts,
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [F]."""
        return np.diff(self.starts)

    def taken(self, rows: np.ndarray) -> Rows:
        """Some of the sequences, int64 [K], in their order."""
        spans = [slice(*self.starts[row : row + 2]) for row in rows]
        return Rows.joined([self.ids[s] for s in spans], [self.segments[s] for s in spans])

    def batch(
        self,
        rows: np.ndarray,
        max_length: int,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> PackedBatch[np.ndarray]:
        """The given sequences, int64 [B], as a batch; none is longer than ``max_length``."""
        taken = self.taken(rows)
        return PackedBatch.from_lengths(
            taken.ids, taken.segments, taken.lengths, max_length, labels=labels
        )
