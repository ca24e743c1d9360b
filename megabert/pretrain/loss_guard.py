"""Judges every update, in order: a loss that is not finite, or one that jumps, is a fault.

    LossGuard    the losses of the last good updates, and how far above them the next one is
    RunGuard     what a run does about a bad update: when it stops, how often it may roll back

A loss is a spike if it is more than a threshold of robust standard deviations above the median of the
last good losses. Bad losses do not enter that window, so one spike does not hide the next. The window
is the guard's whole state: a resumed run that restores it judges like an uninterrupted run.

This module does not use torch; the loop passes numbers.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from megabert.common.errors import TrainingStopped
from megabert.config.sections.run import RunSettings

WINDOW = 128
"""Good losses that the guard remembers."""
ACTIVE_AFTER = 32
"""Good losses before the guard calls anything a spike."""
MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
SMALLEST_SCALE = 0.02
"""The standard deviation counts as at least this share of the median: a calm run has no spikes."""


class Sums(NamedTuple):
    """Sums of one or more updates over the whole global batch."""

    mlm_loss: float = 0.0
    mlm_correct: float = 0.0
    masked: float = 0.0
    nsp_loss: float = 0.0
    nsp_correct: float = 0.0
    pairs: float = 0.0
    tokens: float = 0.0
    clip_hits: float = 0.0
    z_loss: float = 0.0

    @property
    def loss(self) -> float:
        """Mean over masked positions, with the z-loss, plus mean over pairs."""
        mlm = (self.mlm_loss + self.z_loss) / max(1.0, self.masked)
        return mlm + self.nsp_loss / max(1.0, self.pairs)

    def plus(self, other: Sums) -> Sums:
        """The sum of both; if the losses of ``other`` are not finite, only its tokens count."""
        if not math.isfinite(other.loss):
            other = Sums(tokens=other.tokens, clip_hits=other.clip_hits)
        return Sums(*(mine + its for mine, its in zip(self, other)))

    def metrics(self) -> dict[str, float | None]:
        """Losses and accuracies as in a line of metrics."""
        mlm, nsp = self.mlm_loss / max(1.0, self.masked), self.nsp_loss / max(1.0, self.pairs)
        z = {"z_loss": self.z_loss / max(1.0, self.masked)} if self.z_loss else {}
        return {
            "loss": self.loss,
            "mlm_loss": mlm,
            "nsp_loss": nsp if self.pairs else None,
            "mlm_accuracy": self.mlm_correct / max(1.0, self.masked),
            "nsp_accuracy": self.nsp_correct / self.pairs if self.pairs else None,
            **z,
        }


class LossGuard:
    """Distinguishes spikes from noise by the losses of the last good updates.

    Args:
        threshold: robust standard deviations above the median that make a spike; None: no spikes.
        window: losses to begin with, the oldest first (:attr:`window` of an earlier guard).
    """

    def __init__(self, threshold: float | None, window: Iterable[float] = ()) -> None:
        self._threshold = threshold
        self._losses = deque(window, maxlen=WINDOW)

    @property
    def window(self) -> list[float]:
        """The whole state: the last good losses, the oldest first."""
        return list(self._losses)

    def score(self, loss: float) -> float:
        """Robust standard deviations that ``loss`` lies above the median of the window."""
        median = statistics.median(self._losses)
        spread = statistics.median(abs(value - median) for value in self._losses)
        scale = max(MAD_TO_DEVIATION * spread, SMALLEST_SCALE * median, 1e-12)
        return (loss - median) / scale

    def spike(self, loss: float) -> str | None:
        """Why the next update's finite ``loss`` is a spike; if it is not one, None, and it is recorded."""
        if self._threshold is not None and len(self._losses) >= ACTIVE_AFTER:
            score = self.score(loss)
            if score > self._threshold:
                return (
                    f"a spike: {score:.1f} robust standard deviations above the median of the last "
                    f"{len(self._losses)} updates, {statistics.median(self._losses):.4g}"
                )
        self._losses.append(loss)
        return None


@dataclass(frozen=True)
class Update:
    """An update's number, its first sample and the one after its last, and whether it was applied.

    DeepSpeed does not apply updates with a gradient that is not finite.
    """

    step: int
    samples: tuple[int, int]
    applied: bool


@dataclass(frozen=True)
class Fault:
    """A bad update: its number and samples, and what is wrong with it, in words."""

    step: int
    samples: tuple[int, int]
    reason: str

    def __str__(self) -> str:
        first, stop = self.samples
        return f"{self.reason} (samples {first} to {stop - 1})"


class RunGuard:
    """Judges a run's updates, and limits how often it rolls back.

    A loss that is not finite is always a fault. A gradient that is not finite, with a finite loss, is a
    fault only if DeepSpeed applied it: otherwise it changed nothing (for example fp16's loss scale was
    too large).
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._threshold = None if settings.on_spike == "ignore" else settings.spike_threshold
        self._losses = LossGuard(self._threshold)
        self._returns, self._worst_step = 0, 0

    @property
    def window(self) -> list[float]:
        """The losses that the next update is compared with; they are saved in the checkpoint."""
        return self._losses.window

    def restore(self, window: Iterable[float]) -> None:
        """Judge as when :attr:`window` had these values."""
        self._losses = LossGuard(self._threshold, window)

    def fault(self, update: Update, loss: float, grad_norm: float) -> Fault | None:
        """What is wrong with the run's next update, if anything."""
        spike = None
        if not math.isfinite(loss):
            name, value = "loss", loss
        elif not update.applied:
            return None
        elif not (math.isfinite(grad_norm) and grad_norm >= 0.0):  # -1 is DeepSpeed's word for NaN
            name, value = "grad_norm", grad_norm
        else:
            spike = self._losses.spike(loss)
            name, value = "loss", loss
            if spike is None:
                if update.step >= self._worst_step:
                    self._returns = 0
                return None
        return Fault(
            update.step,
            update.samples,
            f"{name} is {value:.6g} at step {update.step}" + (f", {spike}" if spike else ""),
        )

    def may_go_back(self, fault: Fault) -> bool:
        """Whether the run may return to a checkpoint; limited until it gets past the fault."""
        self._worst_step = max(self._worst_step, fault.step)
        self._returns += 1
        return self._settings.on_spike == "rollback" and not self._returned_too_often

    @property
    def _returned_too_often(self) -> bool:
        return self._returns > self._settings.max_rollbacks

    def stopped(self, fault: Fault, last_checkpoint: str | None, skip: str) -> TrainingStopped:
        """The error that ends the run: what happened, which checkpoint there is, how to continue.

        Args:
            last_checkpoint: its name, if there is one.
            skip: value of ``--skip-samples`` that skips the bad update.
        """
        rollback = self._settings.on_spike == "rollback"
        if rollback and self._returned_too_often:
            why = (
                f"{self._settings.max_rollbacks} returns to a checkpoint (--max-rollbacks) did not "
                f"get past step {self._worst_step}; the last checkpoint is {last_checkpoint}"
            )
        elif rollback:
            why = "there is no complete checkpoint to return to"
        else:
            why = "no checkpoint was written yet"
            if last_checkpoint:
                why = f"the last checkpoint is {last_checkpoint}"
        itself = "" if rollback else " (--on-spike rollback does both)"
        return TrainingStopped(
            f"{fault}; {why}; continue with --resume auto and --skip-samples {skip}{itself}, or with a "
            "lower --lr or more warm-up"
        )


def rollback_event(fault: Fault, step: int) -> dict[str, Any]:
    """The line of ``metrics.jsonl`` for a rollback to the checkpoint of ``step``."""
    first, stop = fault.samples
    return {
        "step": step,
        "event": "rollback",
        "from_step": fault.step,
        "skipped_samples": [first, stop - 1],
        "reason": fault.reason,
    }
