"""What this rank is doing, and when it last made progress; cheap enough for every micro step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

START = "start"


class Pulse:
    """Progress of this process, written by the training loop and read by the watch.

    Attributes:
        ticks: signs of progress so far; ranks in step with each other have the same number.
        step: the update that is being made, or was made last.
        phase: what is being done.
        slow: outside an update, or in the first one, where compiling and tuning take long.
        failed_at: when a collective of this rank failed (``time.monotonic``), or None.
        moment: time of the last sign of progress (``time.monotonic``).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to the start of a run."""
        self.ticks, self.step, self.phase = 0, 0, START
        self.slow = True
        self.failed_at: float | None = None
        self.moment = time.monotonic()
        self._updates = 0

    def tick(self) -> None:
        """Note progress in the same phase."""
        self.ticks += 1
        self.moment = time.monotonic()

    def enter(self, phase: str) -> None:
        """Note progress, and that ``phase`` begins."""
        self.phase = phase
        self.tick()

    @contextlib.contextmanager
    def update(self, step: int) -> Iterator[None]:
        """An update, in which progress must be steady, unless it is the first one."""
        self.step, self.slow = step, self._updates == 0
        self.enter("update")
        try:
            yield
        finally:
            self._updates += 1
            self.slow = True
            self.enter("between updates")

    @contextlib.contextmanager
    def doing(self, phase: str) -> Iterator[None]:
        """Work other than updates, which may take long with no sign of progress."""
        before, self.slow = (self.phase, self.slow), True
        self.enter(phase)
        try:
            yield
        finally:
            self.phase, self.slow = before
            self.tick()


PULSE = Pulse()
"""This process's."""
