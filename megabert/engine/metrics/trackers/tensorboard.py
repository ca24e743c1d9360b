"""Curves for TensorBoard, which belong to the run as ``metrics.jsonl`` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from megabert.common.names import RUN_TENSORBOARD
from megabert.engine.metrics.event_file import EventFile
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker


class TensorBoard(Tracker):
    """A new event file; TensorBoard forgets what earlier ones have after the resumed step."""

    in_run: ClassVar[bool] = True

    def __init__(self, run: TrackedRun) -> None:
        purge = None if run.resumed_step is None else run.resumed_step + 1
        self._file = EventFile(run.folder / RUN_TENSORBOARD, purge)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One curve each, under ``train/`` or ``eval/``."""
        for name, value in values.items():
            kind = "eval" if name.startswith("eval_") else "train"
            self._file.add_scalar(f"{kind}/{name}", value, step)
        self._file.flush()

    def table(self, step: int, columns: Mapping[str, Mapping[str, float]]) -> None:
        """One curve per tensor and quantity."""
        for quantity, values in columns.items():
            for name, value in values.items():
                self._file.add_scalar(f"{quantity}/{name}", value, step)
        self._file.flush()

    def lost(self) -> Path | None:
        """The event file, if another one or none has its name by now."""
        return self._file.lost()

    def close(self, ending: RunEnding) -> None:
        """Flush and close."""
        self._file.close()
