"""Samples that a run skips: ranges of sample numbers, and the batches between them.

A range is (first sample, end), the end excluded. It consists of whole global batches of the run's course,
so that the batches before and after it stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.data.samples.course import Course, CourseStage
from megabert.data.samples.loader import MicroBatches

Range = tuple[int, int]


def parse_ranges(text: str | None, course: Course) -> list[Range]:
    """The ranges given by ``--skip-samples A:B[,A:B...]``, merged; an empty list for None.

    Raises:
        UserError: not of this form, an empty range, or a range that cuts a global batch.
    """
    ranges = []
    for part in text.split(",") if text is not None else ():
        ends = [end.strip() for end in part.split(":")]
        if len(ends) != 2 or not all(end.isdecimal() for end in ends):
            raise UserError(
                f"--skip-samples {text}: {part!r} is not A:B, two sample numbers; an example with "
                f"this global batch: {course.first_sample(1)}:{course.first_sample(3)}"
            )
        first, stop = map(int, ends)
        if first >= stop:
            raise UserError(f"--skip-samples {text}: {part!r} is empty; A must be below B")
        around = course.whole_updates(first, stop)
        if around != (first, stop):
            batch = course.at_sample(first if around[0] != first else stop - 1).batch
            multiples = "so give multiples of it" if course.constant else "so give their borders"
            raise UserError(
                f"--skip-samples {text}: {part!r} cuts a global batch of {batch}; only "
                f"whole ones can be skipped, {multiples}: {show_ranges([around])}"
            )
        ranges.append((first, stop))
    return merge_ranges(ranges)


def merge_ranges(ranges: Iterable[Sequence[int]]) -> list[Range]:
    """The same samples as the fewest ranges, in order."""
    merged: list[Range] = []
    for first, stop in sorted((int(first), int(stop)) for first, stop in ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((first, stop))
    return merged


def show_ranges(ranges: Iterable[Range]) -> str:
    """Inverse of :func:`parse_ranges`."""
    return ",".join(f"{first}:{stop}" for first, stop in ranges)


def already_trained(ranges: Iterable[Range], known: Sequence[Range], position: int) -> list[Range]:
    """The ranges before ``position`` that are in none of the ``known`` skipped ranges."""
    return [
        (first, stop)
        for first, stop in ranges
        if stop <= position and not any(a <= first and stop <= b for a, b in known)
    ]


def after_skipped(position: int, skipped: Iterable[Range]) -> int:
    """The first sample from ``position`` on that is in none of the merged ranges ``skipped``."""
    for first, stop in skipped:
        if first <= position < stop:
            position = stop
    return position


class OpensBatches(Protocol):
    """Makes this rank's micro batches from one sample number up to another (None: no end)."""

    def __call__(self, *, consumed_samples: int, stop: int | None) -> MicroBatches: ...


class GlobalBatches:
    """A rank's micro batches, one global batch after another, from a position that can be moved.

    Args:
        open_at: opens :class:`MicroBatches` at a position.
        course: samples of an update over all ranks; at the end of a stage new :class:`MicroBatches` are
            opened.
        micro_steps: micro batches of an update per rank, in a stage.

    Attributes:
        position: the sample after the last global batch; a skipped range that begins there is still
            ahead.
    """

    def __init__(
        self,
        open_at: OpensBatches,
        course: Course,
        micro_steps: Callable[[CourseStage], int],
    ) -> None:
        self._open_at, self._course, self._micro_steps = open_at, course, micro_steps
        self.position = 0
        self._skipped: Sequence[Range] = ()
        self._batches: MicroBatches | None = None
        self._waited = 0.0

    @property
    def seconds_waited(self) -> float:
        """Time spent waiting for batches, since the beginning."""
        return self._waited + (self._batches.seconds_waited if self._batches else 0.0)

    def next(self) -> list[PackedBatch[Tensor]]:
        """This rank's micro batches of the next global batch that is not skipped.

        Raises:
            UserError: as :class:`MicroBatches`.
        """
        first = after_skipped(self.position, self._skipped)
        borders = self._course.first_samples()
        if self._batches is None or first != self.position or first in borders:
            self.close()
            ends = [*(begin for begin, _ in self._skipped), *borders]
            stop = min((end for end in ends if end > first), default=None)
            self._batches = self._open_at(consumed_samples=first, stop=stop)
        stage = self._course.at_sample(first)
        batches = [next(self._batches) for _ in range(self._micro_steps(stage))]
        self.position = first + stage.batch
        return batches

    def move(self, position: int, skipped: Sequence[Range]) -> None:
        """Continue at ``position``, a global batch's first sample, and skip the merged ranges."""
        self.close()
        self.position, self._skipped = position, tuple(skipped)

    def close(self) -> None:
        """End the worker processes; :meth:`next` starts new ones."""
        self._waited = self.seconds_waited
        if self._batches is not None:
            self._batches.close()
            self._batches = None
