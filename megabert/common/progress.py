"""Progress of a long job: a bar on a terminal (rich), plain lines in a log."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import TYPE_CHECKING

from megabert.common.log import get_logger, human_duration, print_error, show_alone

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

REDRAW_SECONDS = 0.2
"""A bar on a terminal is redrawn at most this often."""


def _shows() -> bool:
    return get_logger().isEnabledFor(logging.INFO)


class Progress:
    """One line of progress: label, fraction done, remaining time, and a text of the caller.

    On a terminal the line redraws itself, fits the terminal's width, and log messages appear above it.
    A new bar ends the one before it. Elsewhere each update is a plain line, at most one every
    ``interval`` seconds, so that a long job does not fill its log. Both go to standard error; nothing is
    shown where the log is limited to warnings. No thread is started.
    """

    def __init__(self, label: str, total: float | None = None, *, interval: float = 10.0) -> None:
        self.label = label
        self.total = total
        self.restart(0)
        self._interval = REDRAW_SECONDS if sys.stderr.isatty() else interval
        self._last = -math.inf
        self._bar: tuple[Bar, TaskID] | None = None

    def restart(self, done: float) -> None:
        """Estimate the remaining time from now on; ``done`` of the total was there before."""
        self.started, self._before = time.monotonic(), done

    def update(self, done: float, text: str) -> None:
        """Show ``done`` of ``total`` followed by ``text``, if it is time for a line."""
        now = time.monotonic()
        if now - self._last < self._interval or not _shows():
            return
        self._last = now
        if not sys.stderr.isatty() and self._bar is None:
            parts = [self.label, *self._fraction_and_eta(done, now), text]
            print_error("  ".join(parts))
            return
        bar, task = self._bar or self._start()
        status = "  ".join([*self._fraction_and_eta(done, now)[1:], text])
        bar.update(task, completed=done, status=status, refresh=True)

    def close(self, text: str) -> None:
        """End the progress with a last line."""
        self._stop()
        if _shows():
            print_error(f"{self.label}  {text}")

    def _fraction_and_eta(self, done: float, now: float) -> list[str]:
        """Fraction done and remaining time; nothing if the total is unknown."""
        if not self.total:
            return []
        left = "?"
        if done > self._before:
            seconds = (now - self.started) / (done - self._before)
            left = human_duration(seconds * max(0.0, self.total - done))
        return [f"{100 * min(1.0, done / self.total):5.1f} %", f"ETA {left}"]

    def _start(self) -> tuple[Bar, TaskID]:
        # imported only on a terminal: rich takes a tenth of a second
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        known = [BarColumn(bar_width=16), TaskProgressColumn()] if self.total else []
        text = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        bar = Bar(
            TextColumn("{task.description}"),
            *known,
            TextColumn("{task.fields[status]}", table_column=text, markup=False),
            console=Console(file=sys.stderr),
            auto_refresh=False,  # a thread would be copied into forked loader workers
            transient=True,
            expand=True,
        )
        show_alone(self._stop)
        bar.start()
        bar.console.show_cursor(True)  # a killed process must not leave the cursor hidden
        task = bar.add_task(self.label, total=self.total, status="")
        self._bar = bar, task
        return self._bar

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
