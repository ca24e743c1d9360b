"""The best checkpoint of a run, with ``--keep-best``: found among those on disk, marked, and reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.checkpoint.record import Checkpoint, whole_checkpoints
from megabert.checkpoint.retention import Retention, add_evaluation
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS, checkpoint_tag
from megabert.common.storage import RESUME, named_storage_errors
from megabert.config.sections.run import RunSettings


def retention_of(run: RunSettings) -> Retention:
    """Which checkpoints a run keeps."""
    return Retention(run.keep_last, run.keep_every, run.keep_best)


class BestCheckpoint:
    """The best of a run's checkpoints; its methods are for the main rank only.

    ``saved_step`` is that of the run's last checkpoint, or of the one from which it was resumed: those after
    it are not the run's.
    """

    def __init__(self, kept: Retention, checkpoints: Path) -> None:
        self.kept, self.checkpoints = kept, checkpoints

    def mark(self, saved_step: int) -> None:
        """Let ``best`` name it."""
        with named_storage_errors(self.checkpoints, then=RESUME):
            self.kept.mark(self.checkpoints, self._own(saved_step))

    def _own(self, saved_step: int) -> list[Checkpoint]:
        return [c for c in whole_checkpoints(self.checkpoints) if c.step <= saved_step]

    def is_improved(self, values: Mapping[str, float | None], saved_step: int) -> bool:
        """Whether an evaluation is the best so far by ``--keep-best``."""
        kept, metric = self.kept, self.kept.best
        if metric is None:
            return False
        best = kept.best_of(self._own(saved_step))
        value, before = values[metric], kept.value_of(best)
        better = kept.is_better(value, before)
        if better:
            was = (
                f" (before: {before:.4f}, {best.folder.name})"
                if best and before is not None
                else ""
            )
            get_logger().info("best %s so far: %.4f%s", metric, value, was)
        return better

    def mark_evaluated(self, evaluation: Mapping[str, Any], saved_step: int) -> None:
        """Add the last evaluation to the checkpoint of its step, and mark that as the best."""
        with named_storage_errors(self.checkpoints, then=RESUME):
            values = {k: v for k, v in evaluation.items() if k != "step"}
            add_evaluation(self.checkpoints / checkpoint_tag(saved_step), values)
            self.kept.apply(self.checkpoints)

    def result(self, saved_step: int) -> dict[str, Any] | None:
        """The best checkpoint for ``results.json``; None without ``--keep-best``."""
        best = self.kept.best_of(self._own(saved_step))
        if best is None:
            return None
        value, place = self.kept.value_of(best), f"{RUN_CHECKPOINTS}/{best.folder.name}"
        get_logger().info("best %s: %.4f, %s", self.kept.best, value, best.folder)
        return {"metric": self.kept.best, "value": value, "step": best.step, "checkpoint": place}
