"""Which rows are in which batch: shuffled, of similar length, the same on any number of ranks.

The rows of all epochs form one stream, in which each epoch has its own permutation. The stream is cut
into windows of ``WINDOW_BATCHES`` batches. Inside a window the rows are sorted by length and cut into batches,
and the batches are shuffled. So the rows of a batch have similar lengths, and every row still occurs
once per epoch. All of it is a pure function of (lengths, batch size, steps, seed): no rank, no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.base import Features

WINDOW_BATCHES = 40
_EPOCH, _WINDOW_ORDER, _SUBSET, _HELD_OUT = 0, 1, 2, 3  # purposes of random draws


def draw_subset(total: int, limit: int | None, seed: int) -> np.ndarray:
    """At most ``limit`` of ``range(total)``, drawn by ``seed``, in rising order; int64."""
    if limit is None or limit >= total:
        return np.arange(total, dtype=np.int64)
    order = np.random.default_rng((seed, _SUBSET)).permutation(total)
    return np.sort(order[:limit]).astype(np.int64)


@dataclass(frozen=True)
class ExampleChoice:
    """Which examples of a file become rows.

    Attributes:
        training: the rows are to be trained on, so that examples without a target are left out.
        max_examples: at most this many, drawn by ``seed``; None: all.
        seed: seed of the random choice.
        share: fraction of the examples that are held out, at least one of them; 0: none.
        held_out: the rows are the examples that are held out, not the others.
    """

    training: bool
    max_examples: int | None = None
    seed: int = 0
    share: float = 0.0
    held_out: bool = False

    def with_held_out(self) -> tuple[ExampleChoice, ...]:
        """This choice, and that of the examples that it holds out, if it does."""
        return (self, replace(self, held_out=True)) if self.share else (self,)

    def drawn(self, total: int) -> np.ndarray:
        """The chosen ones of ``range(total)``, in rising order; int64.

        Raises:
            UserError: there are too few to hold one out.
        """
        if not self.share:
            return draw_subset(total, self.max_examples, self.seed)
        count = max(1, round(self.share * total))
        if count >= total:
            raise UserError(
                f"--train has {total} usable examples, too few to hold out {count} of them: give --eval, or "
                "--eval-share 0"
            )
        order = np.random.default_rng((self.seed, _HELD_OUT)).permutation(total).astype(np.int64)
        if self.held_out:
            return np.sort(order[:count])
        rest = np.sort(order[count:])
        return rest[draw_subset(len(rest), self.max_examples, self.seed)]


def steps_for(rows: int, batch_size: int, epochs: float) -> int:
    """Updates in which every row occurs at least ``epochs`` times (the last batch is full)."""
    return max(1, math.ceil(rows * epochs / batch_size - 1e-9))


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of a run.

    Attributes:
        lengths: real tokens of each row, int64 [F], F > 0.
        batch_size: rows of a global batch; every batch is full.
        steps: number of batches.
        seed: seed of all shuffling.
    """

    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int

    def rows(self, step: int) -> np.ndarray:
        """Rows of batch ``step`` (from 0), longest first, int64 [batch_size]."""
        window, place = divmod(step, WINDOW_BATCHES)
        return self._window(window)[place]

    def _window(self, window: int) -> np.ndarray:
        first = window * WINDOW_BATCHES
        batches = min(WINDOW_BATCHES, self.steps - first)
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
    """Rows of different lengths as one int64 [len(rows), width], filled up with ``fill``."""
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def batch_on_device(
    features: Features,
    rows: np.ndarray,
    max_length: int,
    device: torch.device,
    first_sample: int | None = None,
) -> PackedBatch[torch.Tensor]:
    """The rows as a batch on the device; nothing waits for the copies.

    Args:
        rows: int64 [B].
        max_length: as in :meth:`Features.batch`.
        first_sample: number of the first row in the run, the others following, for the dropout masks of
            training.
    """
    batch = features.batch(rows, max_length)
    if first_sample is not None:
        numbers = first_sample + np.arange(len(rows))
        batch = replace(batch, sample_numbers=numbers, first_sample=first_sample)
    return batch.map(torch.from_numpy).to(device)
