"""The course of a run: which global batch size and sequence length it has, where (docs/reference/samples.md).

    CourseStage   a part of a run with one of each
    Course        update <-> sample <-> tokens, stage by stage
    plan_course   the stages that two ramps make together

Everything is a closed formula per stage, in whole numbers: no loop over updates. Updates and samples are
counted from 0; "tokens" are the positions of the batches (sequences x length, padding included).

Batch size and length belong to a *sample's* number. An update whose gradient overflows, and samples that
are skipped, use up the samples of an update of their place, so the n-th sample is of the same stage in any
run. In a run without any of these the update number u is the course's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Literal, NamedTuple

import numpy as np

from megabert.config.sections.ramps import RampStage
from megabert.data.samples.counter_rng import Ints


class CourseStage(NamedTuple):
    """A part of a run with one global batch size and one sequence length.

    Attributes:
        updates: how many; None: to the end of the run.
    """

    batch: int
    length: int
    updates: int | None = None

    @property
    def update_tokens(self) -> int:
        """Positions of one update."""
        return self.batch * self.length


class Course:
    """Batch size and length along a run.

    Args:
        stages: one after the other; all but the last say how many updates they last.

    Raises:
        ValueError: a size below 1, or another than the last stage has no end.
    """

    def __init__(self, stages: Sequence[CourseStage]) -> None:
        self.stages = tuple(stages)
        lasting = [stage.updates for stage in self.stages[:-1]]
        if self.stages[-1].updates is not None or not all(lasting):
            raise ValueError("each stage but the last lasts for 1 update or more")
        if min(min(stage.batch, stage.length) for stage in self.stages) < 1:
            raise ValueError("a batch size or a length is below 1")
        self._updates, self._samples, self._tokens = [0], [0], [0]  # before each stage
        for stage in self.stages[:-1]:
            count = stage.updates or 0
            self._updates.append(self._updates[-1] + count)
            self._samples.append(self._samples[-1] + count * stage.batch)
            self._tokens.append(self._tokens[-1] + count * stage.update_tokens)

    @classmethod
    def constant_of(cls, batch: int, length: int) -> Course:
        """The course without a ramp."""
        return cls([CourseStage(batch, length)])

    @property
    def constant(self) -> bool:
        """Whether the run has one batch size and one length."""
        return len(self.stages) == 1

    @property
    def final(self) -> CourseStage:
        """The last stage."""
        return self.stages[-1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The different lengths, in order of their first stages."""
        return tuple(dict.fromkeys(stage.length for stage in self.stages))

    def first_samples(self) -> tuple[int, ...]:
        """The first sample of each stage."""
        return tuple(self._samples)

    def stage_of_sample(self, sample: int) -> int:
        """The number of the stage with this sample of the run."""
        return bisect_right(self._samples, sample) - 1

    def reached(self, samples: int) -> tuple[CourseStage, ...]:
        """The stages of this many samples from the run's start, the first at least."""
        return self.stages[: self.stage_of_sample(max(0, samples - 1)) + 1]

    def at_update(self, update: int) -> CourseStage:
        """The stage of an update."""
        return self.stages[bisect_right(self._updates, update) - 1]

    def at_sample(self, sample: int) -> CourseStage:
        """The stage of a sample of the run."""
        return self.stages[self.stage_of_sample(sample)]

    def first_sample(self, update: int) -> int:
        """Samples of the updates before ``update``."""
        i = bisect_right(self._updates, update) - 1
        return self._samples[i] + (update - self._updates[i]) * self.stages[i].batch

    def tokens(self, update: int) -> int:
        """Tokens of the updates before ``update``."""
        i = bisect_right(self._updates, update) - 1
        return self._tokens[i] + (update - self._updates[i]) * self.stages[i].update_tokens

    def update_of_sample(self, sample: int) -> int:
        """The update that a sample of the run belongs to."""
        i = self.stage_of_sample(sample)
        return self._updates[i] + (sample - self._samples[i]) // self.stages[i].batch

    def updates_of_samples(self, samples: Ints) -> Ints:
        """:meth:`update_of_sample` of each of these samples, [N] -> int64 [N]."""
        firsts, updates = np.array(self._samples), np.array(self._updates)
        sizes = np.array([stage.batch for stage in self.stages])
        i = firsts.searchsorted(samples, side="right") - 1
        found: Ints = updates[i] + (samples - firsts[i]) // sizes[i]
        return found

    def sample_tokens(self, sample: int) -> int:
        """Tokens of the samples before ``sample``."""
        i = self.stage_of_sample(sample)
        return self._tokens[i] + (sample - self._samples[i]) * self.stages[i].length

    def updates_for_tokens(self, tokens: int) -> int:
        """The fewest updates that have at least this many tokens."""
        i = self._stage_reaching(tokens)
        return self._updates[i] + -(-(tokens - self._tokens[i]) // self.stages[i].update_tokens)

    def samples_for_tokens(self, tokens: int) -> int:
        """The fewest samples that have at least this many tokens."""
        i = self._stage_reaching(tokens)
        return self._samples[i] + -(-(tokens - self._tokens[i]) // self.stages[i].length)

    def _stage_reaching(self, tokens: int) -> int:
        return max(0, bisect_right(self._tokens, tokens - 1) - 1)

    def whole_updates(self, first: int, stop: int) -> tuple[int, int]:
        """The smallest range of whole updates that contains samples ``first`` to ``stop`` - 1."""
        last = self.update_of_sample(stop - 1)
        return self.first_sample(self.update_of_sample(first)), self.first_sample(last + 1)

    def parts(self, updates: int) -> list[tuple[CourseStage, int]]:
        """The stages that a run of this many updates reaches, and the updates of each in it."""
        ends = [*self._updates[1:], updates]
        counts = [min(end, updates) - begin for begin, end in zip(self._updates, ends)]
        return [(stage, count) for stage, count in zip(self.stages, counts) if count > 0]


_Unit = Literal["steps", "tokens"]


class _Ramp:
    """The value of one ramp as a run proceeds.

    A stage ends with the update that reaches its end. The next one's end is counted from there exactly, if
    both are in one unit: rounding up to whole updates does not add up.
    """

    def __init__(
        self, stages: Sequence[RampStage], final: int, steps: int | None, tokens: int | None
    ) -> None:
        run: tuple[_Unit, int] = ("tokens", tokens) if tokens is not None else ("steps", steps or 0)
        self._left: deque[tuple[int, Fraction, _Unit]] = deque(
            (value, number * run[1] / 100, run[0]) if unit == "percent" else (value, number, unit)
            for value, (number, unit) in stages
        )
        self._final = final
        self._end: Fraction = Fraction(0)
        self._unit: _Unit = run[0]
        self._begin({"steps": 0, "tokens": 0})

    @property
    def value(self) -> int:
        return self._left[0][0] if self._left else self._final

    def _begin(self, done: Mapping[str, int]) -> None:
        if self._left:
            _, number, unit = self._left[0]
            self._end = (self._end if unit == self._unit else done[unit]) + number
            self._unit = unit

    def advance(self, done: Mapping[str, int]) -> None:
        """Leave the stages that have ended after this many updates and tokens."""
        while self._left and self._end <= done[self._unit]:
            self._left.popleft()
            self._begin(done)

    def updates_left(self, done: Mapping[str, int], update_tokens: int) -> int | None:
        """Updates to the end of the present stage; None if it is the last one."""
        if not self._left:
            return None
        left = self._end - done[self._unit]
        return ceil(left if self._unit == "steps" else left / update_tokens)


def plan_course(
    batch_ramp: Sequence[RampStage],
    length_ramp: Sequence[RampStage],
    batch: int,
    length: int,
    *,
    steps: int | None = None,
    tokens: int | None = None,
) -> Course:
    """The stages that two ramps make together.

    Args:
        batch_ramp, length_ramp: what comes before ``batch`` and ``length``.
        steps, tokens: what the run's length is given in, of which a stage may be a percentage; tokens
            count if both are given.
    """
    ramps = [_Ramp(batch_ramp, batch, steps, tokens), _Ramp(length_ramp, length, steps, tokens)]
    stages: list[CourseStage] = []
    done = {"steps": 0, "tokens": 0}
    while True:
        now = CourseStage(ramps[0].value, ramps[1].value)
        left = [ramp.updates_left(done, now.update_tokens) for ramp in ramps]
        ending = [count for count in left if count is not None]
        if not ending:
            return Course([*stages, now])
        stages.append(now._replace(updates=min(ending)))
        done["steps"] += min(ending)
        done["tokens"] += min(ending) * stages[-1].update_tokens
        for ramp in ramps:
            ramp.advance(done)
