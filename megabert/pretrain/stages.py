"""The samples of a run whose sequence length may change.

Each length has samples of its own numbering (docs/reference/samples.md): the k-th sample that the run takes
of a corpus at length L is sample k of a run of that length alone. Number n in the run is of the length of its
stage, and of a corpus and at a place in it as in any mixture; k is that place, less the samples of other
lengths before it. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from megabert.data.samples.course import Course
from megabert.data.samples.mixture import MixturePlan, mix
from megabert.data.samples.source import Samples, SampleSource


class _Part(NamedTuple):
    """Stages of one length that follow each other.

    Attributes:
        first: the run's first sample of them.
        plan: corpus of each sample of the run, and its number among those of that corpus and length.
    """

    first: int
    length: int
    plan: MixturePlan


class Epoch(NamedTuple):
    """An epoch of a corpus that begins.

    Attributes:
        corpus: its place among those that are trained on.
        number: from 1 on, among the epochs of this length.
        sample: the run's number of its first sample.
    """

    corpus: int
    number: int
    sample: int
    length: int


class RunSamples:
    """The samples of a run along its course.

    Args:
        sources: of each corpus its samples of the last length.
        plan: which corpus each sample of the run is of.
        mixed: both together.
        course: batch sizes and lengths.
    """

    def __init__(
        self, sources: Sequence[Samples], plan: MixturePlan, mixed: Samples, course: Course
    ) -> None:
        self.course, self._plan, self._mixed = course, plan, mixed
        self._sources = {course.final.length: list(sources)}
        self._parts = list(_parts(plan, course))

    def at(self, sample: int) -> Samples:
        """The samples of the length that this sample of the run has, by their numbers in the run."""
        part = self._part_of(sample)
        if part.plan is self._plan and part.length == self.course.final.length:
            return self._mixed
        return mix(self._sources_of(part.length), part.plan)

    def _part_of(self, sample: int) -> _Part:
        return [part for part in self._parts if part.first <= sample][-1]

    def _sources_of(self, length: int) -> list[Samples]:
        """The samples of each corpus."""
        if length not in self._sources:
            full = self._sources[self.course.final.length]
            own = [source for source in full if isinstance(source, SampleSource)]
            assert len(own) == len(full), "samples of other projects have one length"
            self._sources[length] = [source.at_length(length) for source in own]
        return self._sources[length]

    def epochs(self, stop: int) -> list[float]:
        """Epochs of each corpus in the run's samples 0 .. stop-1."""
        total = [0.0] * self._plan.corpora
        ends = [*(part.first for part in self._parts[1:]), stop]
        for part, end in zip(self._parts, ends):
            if part.first >= stop:
                break
            before, after = part.plan.counts(part.first), part.plan.counts(min(end, stop))
            for corpus, source in enumerate(self._sources_of(part.length)):
                total[corpus] += (after[corpus] - before[corpus]) / source.samples_per_epoch
        return total

    def epochs_begun(self, first: int, stop: int) -> Iterator[Epoch]:
        """The corpora of which another epoch begins among samples ``first`` to ``stop`` - 1 of the run.

        Each with the number of that epoch, from 2 on (the last one, if several begin). Only the samples of
        the last one's length count.
        """
        part = self._part_of(stop - 1)
        before, after = part.plan.counts(max(first, part.first)), part.plan.counts(stop)
        for position, source in enumerate(self._sources_of(part.length)):
            size = source.samples_per_epoch
            epoch = max(0, after[position] - 1) // size
            if epoch * size >= max(before[position], 1):
                sample = part.plan.number(position, epoch * size, stop)
                yield Epoch(position, epoch + 1, sample, part.length)


def _parts(plan: MixturePlan, course: Course) -> Iterator[_Part]:
    """The stages of a course, with those of one length that follow each other joined."""
    taken = {length: [0] * plan.corpora for length in course.lengths}
    length, begun = (
        0,
        [0] * plan.corpora,
    )  # of the part before, and each corpus's samples at its start
    for stage, first in zip(course.stages, course.first_samples()):
        if stage.length == length:
            continue
        now = plan.counts(first)
        if length:
            taken[length] = [a + b - c for a, b, c in zip(taken[length], now, begun)]
        length, begun = stage.length, now
        yield _Part(first, length, plan.less(a - b for a, b in zip(now, taken[length])))
