"""How time grows with the size of an input."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

FACTORS = (1, 2, 4, 8)
"""Sizes that are measured, as multiples of the first."""
MOST = 2.0
"""By which the last time may be more than in proportion to the size; a square has 8."""
NOTICED = 0.0005
"""Seconds of the first size; a shorter time counts as this one, because it says nothing."""
_GIVE_UP = 10.0  # seconds of one run

Work = Callable[[int], Callable[[], object]]
"""Makes the run for a size."""


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


def series(work: Work, size: int, times: int = 1) -> list[float]:
    """Seconds for each of FACTORS times a size, each the least of ``times``."""
    return [seconds(work(factor * size), times) for factor in FACTORS]


def is_too_fast(first: float, last: float) -> bool:
    """Whether the time for the last of FACTORS shows more than growth in proportion."""
    return last > MOST * FACTORS[-1] * max(first, NOTICED)


def exponent(times: Sequence[float]) -> float:
    """The power of the size with which times grow: the slope of a line through their logarithms."""
    xs, ys = [math.log(f) for f in FACTORS], [math.log(max(t, 1e-9)) for t in times]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys))
    return slope / sum((x - mean_x) ** 2 for x in xs)


def too_fast_growth(work: Work, largest: int) -> str:
    """ "" if the time grows with the size alone, else the sizes and times that show more.

    An eighth of the largest size and the largest are compared, and if they show more, all FACTORS are
    measured again, the least of several runs, because another process may have been in the way.
    """
    last = seconds(work(largest))
    if not is_too_fast(0, last):
        return ""
    size = largest // FACTORS[-1]
    if last < float("inf") and not is_too_fast(seconds(work(size)), last):
        return ""
    times: list[float] = []
    for repeats in (1, 3, 5):
        now = series(work, size, repeats)
        times = list(map(min, times, now)) if times else now
        if not is_too_fast(times[0], times[-1]):
            return ""
        if times[-1] == float("inf"):
            break
    found = ", ".join(f"{factor * size:,}: {t:.4f} s" for factor, t in zip(FACTORS, times))
    return f"{found} (exponent {exponent(times):.2f})"
