"""Which rows make up which batch: shuffled, of similar length, the same on any number of ranks.

The rows of all epochs form one stream, each epoch a permutation of its own. The stream is cut into
windows of ``WINDOW`` batches; inside a window rows are sorted by length and cut into batches, and the
batches are shuffled. So padding is small, and every row is still seen once an epoch. All of it is
a pure function of (lengths, batch size, steps, seed): no rank, no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from megabert.tasks.base import Batch, Features

WINDOW = 40
_EPOCH, _WINDOW_ORDER, _SUBSET = 0, 1, 2  # what a random stream is for


def draw_subset(total: int, limit: int | None, seed: int) -> np.ndarray:
    """At most ``limit`` of ``range(total)``, drawn by ``seed``, in rising order; int64."""
    if limit is None or limit >= total:
        return np.arange(total, dtype=np.int64)
    order = np.random.default_rng((seed, _SUBSET)).permutation(total)
    return np.sort(order[:limit]).astype(np.int64)


def steps_for(rows: int, batch_size: int, epochs: float) -> int:
    """Updates that show every one of ``rows`` at least ``epochs`` times (the last batch is full)."""
    return max(1, math.ceil(rows * epochs / batch_size - 1e-9))


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of a run.

    Attributes:
        lengths: real tokens of each row, int64 [F], F > 0.
        batch_size: rows of a global batch; each batch has exactly that many.
        steps: number of batches.
        seed: of all shuffling.
    """

    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """Rows of batch ``step`` (from 0), longest first, int64 [batch_size]."""
        window, place = divmod(step, WINDOW)
        return self._window(window)[place]

    def _window(self, window: int) -> np.ndarray:
        first = window * WINDOW
        batches = min(WINDOW, self.steps - first)
        if batches <= 0:
            raise IndexError(f"window {window} of a plan of {self.steps} steps")
        rows = self._stream(first * self.batch_size, (first + batches) * self.batch_size)
        by_length = rows[np.argsort(-self.lengths[rows], kind="stable")]
        order = np.random.default_rng((self.seed, _WINDOW_ORDER, window)).permutation(batches)
        return by_length.reshape(batches, self.batch_size)[order]

    def _stream(self, start: int, stop: int) -> np.ndarray:
        total = len(self.lengths)
        parts = []
        for epoch in range(start // total, (stop - 1) // total + 1):
            order = np.random.default_rng((self.seed, _EPOCH, epoch)).permutation(total)
            parts.append(order[max(0, start - epoch * total) : stop - epoch * total])
        return np.concatenate(parts).astype(np.int64)


def pad_rows(rows: list[np.ndarray], width: int, fill: int) -> np.ndarray:
    """Ragged int rows as one int64 [len(rows), width] filled up with ``fill``."""
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def packed(batch: dict[str, np.ndarray], max_length: int) -> dict[str, Any]:
    """A padded batch with its tokens end to end and no padding; other arrays stay as they are.

    ``input_ids``, ``token_type_ids``, ``attention_mask`` [B, S] become ``input_ids`` and
    ``token_type_ids`` int64 [T], ``cu_seqlens`` int32 [B+1] and ``max_seqlen``, ``max_length``.
    """
    real = batch["attention_mask"].astype(bool)
    flat = {name: batch[name][real] for name in ("input_ids", "token_type_ids")}
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int32)
    rest = {name: a for name, a in batch.items() if name not in flat and name != "attention_mask"}
    return {**rest, **flat, "cu_seqlens": ends, "max_seqlen": max_length}


def rows_on_device(
    features: Features, rows: np.ndarray, max_length: int, device: torch.device
) -> Batch:
    """The rows without padding, on the device; whole numbers stay as they are."""
    return {
        name: torch.from_numpy(value).to(device, non_blocking=True)
        if isinstance(value, np.ndarray)
        else value
        for name, value in packed(features.batch(rows), max_length).items()
    }
