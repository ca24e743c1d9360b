"""Tokenised sequences of a file end to end, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megabert.tasks.batches import pad_rows


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
        """One sequence an element of the lists."""
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

    def batch(self, rows: np.ndarray, pad: int) -> dict[str, np.ndarray]:
        """``input_ids``, ``token_type_ids``, ``attention_mask`` (1 = real) of the given sequences,
        int64 [B, S], filled up with the token ``pad``.
        """
        spans = [slice(*self.starts[row : row + 2]) for row in rows]
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return {
            "input_ids": pad_rows([self.ids[span] for span in spans], width, pad),
            "token_type_ids": pad_rows([self.segments[span] for span in spans], width, 0),
            "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
        }
