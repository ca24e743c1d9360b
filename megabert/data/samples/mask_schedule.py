"""A mask fraction that changes in the run: see docs/reference/samples.md.

    MaskSchedule      sample number in the run -> mask fraction
    ScheduledMasks    the samples of a run with it

All samples of one update have one fraction. It depends on the sample's number alone, so it is the same
for any ranks, windows and worker processes, and after any resume.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from megabert.data.samples.counter_rng import Floats, Ints
from megabert.data.samples.course import Course
from megabert.data.samples.source import SampleArrays, Samples


@dataclasses.dataclass(frozen=True)
class MaskSchedule:
    """A straight line from the first update's fraction to the last one's.

    Args:
        first: fraction of the first update.
        last: fraction of the last update, and of any after it.
        updates: updates of the whole run.
        course: samples of the updates.
    """

    first: float
    last: float
    updates: int
    course: Course

    def fractions(self, numbers: Ints) -> Floats:
        """The mask fraction of each of these samples of the run, int64 [B] -> float64 [B]."""
        end = max(1, self.updates - 1)
        passed = self.course.updates_of_samples(numbers)
        line = self.first + (self.last - self.first) * (passed / end)
        return np.where(passed < end, line, self.last)

    def fraction(self, number: int) -> float:
        """That of one sample."""
        return float(self.fractions(np.array([number]))[0])


class ScheduledMasks:
    """The samples of a source, masked by a schedule: see `Samples`.

    Args:
        source: all samples of the run, by their numbers in it.
        schedule: their mask fractions.
    """

    def __init__(self, source: Samples, schedule: MaskSchedule) -> None:
        self.source, self.schedule = source, schedule
        self.settings = source.settings

    @property
    def samples_per_epoch(self) -> int:
        """Those of the source."""
        return self.source.samples_per_epoch

    def lengths(self, numbers: Ints) -> Ints:
        """Those of the source."""
        return self.source.lengths(numbers)

    def samples(self, numbers: Ints, fractions: Floats | None = None) -> SampleArrays:
        """These samples of the run, int64 [B], in this order; with other fractions if they are given.

        Raises:
            UserError: as the source's.
        """
        if fractions is None:
            fractions = self.schedule.fractions(numbers)
        return self.source.samples(numbers, fractions)
