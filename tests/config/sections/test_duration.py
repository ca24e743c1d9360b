"""Durations: what is read, in one form, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.config.sections.duration import (
    Duration,
    DurationOrNone,
    DurationText,
    IntervalOrNever,
    IntervalText,
    TokenCount,
    read_duration,
)
from megabert.config.values import WrongValue, read

MADE = st.one_of(
    st.builds(Duration, st.integers(0, 2**31 - 1).map(Fraction), st.just("steps")),
    st.builds(Duration, st.integers(0, 2**62).map(Fraction), st.just("tokens")),
    st.builds(
        Duration,
        st.decimals(0, 100, places=6).map(Fraction),
        st.just("percent"),
    ),
)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("500", 500, "steps"),
        (500, 500, "steps"),
        (2e3, 2000, "steps"),
        ("500 steps", 500, "steps"),
        (" 1 step ", 1, "steps"),
        ("2e9 tokens", 2 * 10**9, "tokens"),
        ("1.5e3tokens", 1500, "tokens"),
        ("10%", 10, "percent"),
        ("28.43 %", Fraction("28.43"), "percent"),
        ("1e-1%", Fraction(1, 10), "percent"),
    ],
)
def test_what_is_read(text: object, number: Fraction, unit: str) -> None:
    assert read_duration(text) == (number, unit)


@settings(deadline=None)  # the first one imports pydantic
@given(MADE)
def test_its_text_is_read_as_the_same(duration: Duration) -> None:
    assert read_duration(str(duration)) == duration
    value = read(DurationOrNone, str(duration))
    assert isinstance(value, int) == (duration.unit == "steps")
    assert read(DurationOrNone, yaml.safe_load(yaml.safe_dump(value))) == value
    assert read_duration(value) == duration


@given(
    st.one_of(
        st.text(max_size=12),
        st.floats(),
        st.integers(),
        st.booleans(),
        st.none(),
        st.lists(st.none()),
    )
)
def test_anything_is_a_duration_or_one_line(value: object) -> None:
    said = "expected nothing"
    try:
        read_duration(value)
    except ValueError as error:
        said = str(error)
    assert said.startswith("expected ")
    assert len(said) < 100
    assert "\n" not in said


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (DurationText, "soon", "expected a duration: 500, 2e9 tokens or 10%"),
        (DurationText, "-5", "expected a duration: 500, 2e9 tokens or 10%"),
        (DurationText, True, "expected a"),
        (DurationText, "0", "expected a duration: 500, 2e9 tokens or 10%, above 0"),
        (DurationText, "2.5 steps", "expected a whole number of steps"),
        (DurationText, "1e-1 tokens", "expected a whole number of tokens"),
        (DurationText, "101%", "expected at most 100 percent"),
        (DurationText, "1e10", "expected at most 2,147,483,647 steps"),
        (DurationOrNone, "1e19 tokens", "expected at most 4,611,686,018,427,387,904 tokens"),
        (TokenCount, "3 steps", "expected a number of tokens"),
        (TokenCount, "1.5", "expected a whole number of tokens"),
        (IntervalText, "10%", "expected a duration: 500 or 2e9 tokens"),
        (IntervalText, "0 tokens", "expected a duration: 500 or 2e9 tokens, above 0"),
        (IntervalOrNever, "9" * 200, "expected a duration: 500, 2e9 tokens or 10%"),
    ],
)
def test_refused(kind: object, value: object, message: str) -> None:
    with pytest.raises(WrongValue) as error:
        read(kind, value)
    assert str(error.value).startswith(message)


def test_values_of_settings() -> None:
    assert read(DurationText, "20 steps") == 20
    assert read(DurationText, "2e3 tokens") == "2000 tokens"
    assert read(DurationText, "12.50 %") == "12.5%"
    assert read(DurationOrNone, "0") == 0
    assert read(IntervalOrNever, 0) == 0
    assert read(IntervalText, "5") == 5


@pytest.mark.parametrize("value", ["1e10", "10000000000", 10_000_000_000, "1e10 tokens"])
def test_tokens_without_a_unit_may_be_more_than_updates(value: object) -> None:
    assert read(TokenCount, value) == 10_000_000_000
