"""What a tracker provides. Only the main rank of a run has trackers.

A tracker is fed with the lines of ``metrics.jsonl``, in their order. A run that is resumed makes it
again, with the identity that it had. Lines that it does not have yet, because it was lost or is new
to the run, are read from the file first; lines of steps that it has are not sent again.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


class RunEnding(enum.Enum):
    """How a run ended. STOPPED: before its last step, as it was asked to; it can be resumed."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker learns about its run.

    Attributes:
        folder: the run folder.
        config: section -> setting -> value, as in the folder's ``config.yaml``.
        project: of ``--tracker-project``.
        name: of ``--tracker-name``.
        identity: what the tracker's attribute ``identity`` was when the run last began; None: this
            tracker is new to the run.
        resumed_step: the step of the checkpoint from which the run resumes; None: it is new.
        reached: the last step that a tracker of this identity was sent; -1 for none.
    """

    folder: Path
    config: Mapping[str, Mapping[str, Any]]
    project: str | None = None
    name: str | None = None
    identity: str | None = None
    resumed_step: int | None = None
    reached: int = -1


class Tracker(ABC):
    """One tracker of one run. Making it opens it.

    All calls come from one thread, which is not the thread of the training: they may wait. Any error
    that a method raises ends the tracker with one warning; the training continues.

    Attributes:
        in_run: class attribute. True: its files are part of the run. It is called in the thread of
            the training and must not wait; an OSError ends the run, as one of ``metrics.jsonl`` does.
        takes_back: class attribute, whether :meth:`rewind` does something.
        identity: what a resumed run needs to continue it (as the id of a run); it is kept in the run
            folder.
        reached: after it was made: the last step that it has; -1: none.
    """

    in_run: ClassVar[bool] = False
    takes_back: ClassVar[bool] = False
    identity: str | None = None
    reached: int = -1

    @classmethod  # noqa: B027  (some need nothing)
    def require(cls) -> None:
        """Called before anything is written; imports what the tracker needs.

        Raises:
            UserError: a package or a login is missing; one line that says what to do.
        """

    @abstractmethod
    def __init__(self, run: TrackedRun) -> None:
        """Open it; any error ends the command before its first update."""

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Measurements under their names in ``metrics.jsonl``, which may hold ``/``."""

    def table(self, step: int, columns: Mapping[str, Mapping[str, float]]) -> None:  # noqa: B027  (not every tracker has it)
        """Quantities of every tensor: trust_ratio, weight_norm, update_norm -> tensor -> value."""

    def event(self, step: int, event: Mapping[str, Any]) -> None:  # noqa: B027  (not every tracker has it)
        """A remark, as a rollback: ``event`` names it, the other values describe it."""

    def results(self, results: Mapping[str, Any]) -> None:  # noqa: B027  (not every tracker has it)
        """What ``results.json`` holds; the file is there."""

    def rewind(self, step: int) -> None:  # noqa: B027  (not every tracker has it)
        """Forget what is later than ``step``: the run has returned to a checkpoint.

        For trackers that take back. Others are not sent the steps that are done again.
        """

    def lost(self) -> Path | None:
        """With ``in_run``: a file that is not in its place any more."""
        return None

    @classmethod  # noqa: B027  (not every tracker has one)
    def abandon(cls) -> None:
        """Called from another thread if opening or :meth:`close` does not return: end its processes."""

    @abstractmethod
    def close(self, ending: RunEnding) -> None:
        """Hand everything over, and end. Called once, also after an error of another method."""


def measured(line: Mapping[str, Any]) -> dict[str, float]:
    """The measurements in a line of metrics."""
    return {
        name: value
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    }
