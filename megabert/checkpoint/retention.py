"""Which checkpoints of a run are kept: the newest ones, every N-th, and the best one so far.

    RUN/checkpoints/best               name of the best whole checkpoint, with ``--keep-best``

A checkpoint that is saved right after an evaluation has the evaluation's values in its record. The best one is
found among the records on disk: no other state has to survive a kill. A better one is complete before ``best``
names it, and only then is the one before removed, so ``best`` names a whole checkpoint at every moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megabert.checkpoint.record import (
    Checkpoint,
    read_checkpoint_record,
    whole_checkpoints,
    write_checkpoint_record,
)
from megabert.common.errors import UserError
from megabert.common.files import remove_folder, write_text
from megabert.common.json_text import RECORD_SUM
from megabert.common.names import BEST
from megabert.config.checkpoint_path import named_checkpoint


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept.

    Attributes:
        last: this many of the newest ones.
        every: those after a multiple of this many updates; None: none for this reason.
        best: metric of the evaluations whose best checkpoint is kept; None: none for this reason.
    """

    last: int
    every: int | None = None
    best: str | None = None

    def best_of(self, checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
        """The one with the best value, of equal ones the first; None if none was evaluated."""
        best: Checkpoint | None = None
        for checkpoint in sorted(checkpoints, key=lambda c: c.step):
            if self.is_better(self.value_of(checkpoint), self.value_of(best)):
                best = checkpoint
        return best

    def value_of(self, checkpoint: Checkpoint | None) -> float | None:
        """The metric's value in a checkpoint's record; None without."""
        if checkpoint is None or self.best is None:
            return None
        value: float | None = checkpoint.record.get("evaluation", {}).get(self.best)
        return value

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether ``value`` is a number and better than the best so far (None: there is none).

        Lower is better for losses, higher for everything else.
        """
        if value is None or not math.isfinite(value):
            return False
        if than is None:
            return True
        lower = str(self.best).partition("/")[0].endswith("_loss")
        return value < than if lower else value > than

    def most(self, steps: int) -> int:
        """Checkpoints that a run of ``steps`` updates keeps, at most."""
        return self.last + (steps // self.every if self.every else 0) + (self.best is not None)

    def apply(self, base: Path) -> None:
        """Mark the best checkpoint in ``base``, then remove those that need not be kept."""
        whole = whole_checkpoints(base)
        marked = self.mark(base, whole)
        for old in whole[self.last :]:
            kept = self.every is not None and old.step % self.every == 0
            if not kept and old.folder != marked:
                remove_folder(old.folder)

    def mark(self, base: Path, whole: Sequence[Checkpoint]) -> Path | None:
        """Let ``best`` name the best one of a run's whole checkpoints; its folder.

        A job without ``--keep-best`` leaves the mark of an earlier one, as long as that checkpoint exists.
        """
        best = self.best_of(whole)
        file = base / BEST
        if best is not None:
            write_text(file, best.folder.name + "\n")
            return best.folder
        with suppress(UserError):
            folder = named_checkpoint(file)
            if self.best is None and folder != file:
                return folder
        file.unlink(missing_ok=True)
        return None


def evaluated(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of an evaluation's values that a record can hold: finite numbers."""
    return {name: v for name, v in values.items() if v is not None and math.isfinite(v)}


def add_evaluation(folder: Path, values: Mapping[str, float | None]) -> Checkpoint:
    """Write an evaluation's values into the record of a checkpoint that was saved without them."""
    found = read_checkpoint_record(folder)
    record = {key: value for key, value in found.record.items() if key != RECORD_SUM}
    record["evaluation"] = evaluated(values)
    write_checkpoint_record(folder, record)
    return replace(found, record=record)
