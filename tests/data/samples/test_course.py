"""The course of a run: stages of two ramps, and sample, update and tokens of each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.config.sections.duration import read_duration
from megabert.config.sections.ramps import RampStage, read_ramp
from megabert.data.samples.course import Course, CourseStage, plan_course

BATCHES = ["4 for 3", "12 for 100 tokens", "6 for 12.5%"]
LENGTHS = ["16 for 5 steps", "24 for 50%"]


def _counted(course: Course, updates: int) -> list[tuple[int, int]]:
    """Batch and length of each update, one after the other."""
    found = []
    for batch, length, lasts in course.stages:
        missing = updates - len(found)
        found += [(batch, length)] * (missing if lasts is None else min(lasts, missing))
    return found


def test_the_stages_of_two_ramps() -> None:
    course = plan_course(
        [read_ramp(text) for text in BATCHES],
        [read_ramp(text) for text in LENGTHS],
        8,
        32,
        steps=40,
    )
    assert course.stages == (
        CourseStage(4, 16, 3),
        CourseStage(12, 16, 1),  # 192 tokens, the first number of updates with 100
        CourseStage(6, 16, 1),
        CourseStage(6, 24, 4),  # 12.5 % of 40 updates are 5
        CourseStage(8, 24, 16),  # 50 % of 40 after update 5
        CourseStage(8, 32, None),
    )
    assert plan_course([], [], 8, 32, steps=40).stages == Course.constant_of(8, 32).stages


def test_shares_of_a_run_whose_length_is_in_tokens() -> None:
    ramp = [read_ramp("4 for 10%"), read_ramp("8 for 10%")]
    course = plan_course(ramp, [], 16, 10, tokens=10_000)
    assert course.stages == (CourseStage(4, 10, 25), CourseStage(8, 10, 13), CourseStage(16, 10))
    assert course.updates_for_tokens(10_000) == 38 + 50  # (10,000 - 2,040) / 160, rounded up


def test_percentages_add_up_exactly() -> None:
    """Each border is that of the sum, rounded up once."""
    ramp = [RampStage(n + 1, read_duration("12.5%")) for n in range(7)]
    course = plan_course(ramp, [], 9, 8, steps=10)
    ends = [course.update_of_sample(first) for first in course.first_samples()]
    assert ends == [0, 2, 3, 4, 5, 7, 8, 9]


_STAGE = st.builds(
    RampStage,
    st.integers(1, 40),
    st.sampled_from(["1", "3", "17 tokens", "1000 tokens", "7%", "33.3%"]).map(read_duration),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STAGE, max_size=4), st.lists(_STAGE, max_size=4), st.integers(1, 60))
def test_the_formulas_are_what_counting_gives(
    batches: list[RampStage], lengths: list[RampStage], steps: int
) -> None:
    course = plan_course(batches, lengths, 5, 7, steps=steps)
    sample = tokens = 0
    for update, (batch, length) in enumerate(_counted(course, steps + 3)):
        assert course.at_update(update)[:2] == (batch, length)
        assert (course.first_sample(update), course.tokens(update)) == (sample, tokens)
        for inside in {0, batch // 2, batch - 1}:
            assert course.update_of_sample(sample + inside) == update
            assert course.at_sample(sample + inside)[:2] == (batch, length)
            assert course.sample_tokens(sample + inside) == tokens + inside * length
            assert course.samples_for_tokens(tokens + inside * length + 1) == sample + inside + 1
            assert course.whole_updates(sample + inside, sample + batch) == (sample, sample + batch)
        numbers = np.arange(sample, sample + batch)
        assert set(course.updates_of_samples(numbers).tolist()) == {update}
        sample, tokens = sample + batch, tokens + batch * length
        assert course.updates_for_tokens(tokens) == update + 1
        assert course.updates_for_tokens(tokens + 1) == update + 2
    assert sum(count for _, count in course.parts(steps)) == steps
