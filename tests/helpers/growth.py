"""How time grows with the size of an input."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTICED = 0.02
"""Seconds below which a time says nothing."""
MOST = 3.0
"""By which a time may grow when the size doubles: 2 is linear, 4 is quadratic."""
_GIVE_UP = 10.0  # seconds of one run


class _TooSlow(Exception):
    """A run that was stopped."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    running = True

    def stop(*_: object) -> None:
        if running:
            raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Processor time of a run, the least of ``times``; infinite if it had to be stopped."""
    best = float("inf")
    for _ in range(times):
        begin = time.process_time()
        try:
            with _limited(_GIVE_UP):
                run()
        except _TooSlow:
            return float("inf")
        best = min(best, time.process_time() - begin)
    return best


def too_fast_growth(work: Callable[[int], Callable[[], object]], size: int, largest: int) -> str:
    """ "" if the time grows with the size alone, else the sizes and times that show more.

    Args:
        work: makes the run for a size.
        size: the first size. It doubles until a run is noticed.
        largest: the size after which doubling ends.
    """
    before = seconds(work(size))
    while before < NOTICED and size < largest:
        size *= 2
        before = seconds(work(size))
    if before < NOTICED:
        return ""
    for times in (1, 3, 5):  # another process may have been in the way
        before = min(before, seconds(work(size), times))
        after = seconds(work(2 * size), times)
        if before < float("inf") and after <= MOST * max(before, NOTICED):
            return ""
    return f"{before:.3f} s for {size:,}, {after:.3f} s for {2 * size:,}"
