"""Durations as settings: ``500`` or ``500 steps`` (updates), ``2e9 tokens``, ``10%``.

Tokens are the positions of the batches, global batch x sequence length, padding included: they follow from
the number of updates alone. A setting keeps whole updates as a number and everything else as a text in one
form, so that a file that records it says the same as its flag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

Unit = Literal["steps", "tokens", "percent"]
_DURATION = re.compile(
    r"\s*(?P<number>\d{1,30}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,2})?)\s*(?P<unit>steps?|tokens?|%|)\s*"
)
_UNITS: dict[str, Unit] = {
    "": "steps", "step": "steps", "steps": "steps", "token": "tokens", "tokens": "tokens", "%": "percent",
}  # fmt: skip
_LONGEST = {"steps": 2**31 - 1, "tokens": 2**62, "percent": 100}
_EXAMPLES = {"steps": "500", "tokens": "2e9 tokens", "percent": "10%"}


class Duration(NamedTuple):
    """A length of a run, or of a part of it. ``percent`` is of the run, from 0 to 100."""

    number: Fraction
    unit: Unit

    def __str__(self) -> str:
        """The text that :func:`read_duration` reads, in one form."""
        if self.unit == "percent":
            return f"{_decimal(self.number)}%"
        return f"{self.number} {self.unit}" if self.unit == "tokens" else str(self.number)


def read_duration(value: object) -> Duration:
    """A duration from a text, or from what YAML makes of a number.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _DURATION.fullmatch(text) if isinstance(text, str) and len(text) < 100 else None
    if match is None:
        raise ValueError(_expected(*_LONGEST))
    number, unit = Fraction(match["number"]), _UNITS[match["unit"]]
    if unit != "percent" and number.denominator != 1:
        raise ValueError(f"expected a whole number of {unit}")
    if number > _LONGEST[unit]:
        raise ValueError(f"expected at most {_LONGEST[unit]:,} {unit}")
    return Duration(number, unit)


def _expected(*units: str) -> str:
    texts = [_EXAMPLES[unit] for unit in units]
    return f"expected a duration: {', '.join(texts[:-1])} or {texts[-1]}"


def _decimal(number: Fraction) -> str:
    """A number that was written as a decimal, as the shortest one."""
    digits = 0
    while (number * 10**digits).denominator != 1:
        digits += 1
    whole = str(int(number * 10**digits)).rjust(digits + 1, "0")
    return f"{whole[:-digits]}.{whole[-digits:]}" if digits else whole


@dataclass(frozen=True)
class _AsSetting:
    """Makes pydantic read a duration; the value is the number of updates, or a text."""

    units: tuple[Unit, ...]
    zero: bool

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, value: object) -> int | str:
        """The setting's value."""
        found = read_duration(value)
        if found.unit not in self.units:
            raise ValueError(_expected(*self.units))
        if not found.number and not self.zero:
            raise ValueError(f"{_expected(*self.units)}, above 0")
        return int(found.number) if found.unit == "steps" else str(found)


@dataclass(frozen=True)
class _Tokens(_AsSetting):
    """Makes pydantic read a number of tokens, whose unit may be left out."""

    def read(self, value: object) -> int:
        """The number."""
        text = str(value).strip()
        bare = text[-1:].isdecimal() or text.endswith(".")
        found = read_duration(f"{text} tokens" if bare else value)
        if found.unit != "tokens" or not found.number:
            raise ValueError("expected a number of tokens of 1 or more, as 2e9")
        return int(found.number)


DurationText = Annotated[int | str, _AsSetting(("steps", "tokens", "percent"), zero=False)]
"""Of a part of a run; above 0."""
DurationOrNone = Annotated[int | str, _AsSetting(("steps", "tokens", "percent"), zero=True)]
"""Of a part of a run that may be missing (0)."""
IntervalText = Annotated[int | str, _AsSetting(("steps", "tokens"), zero=False)]
"""Between two events, in updates or tokens."""
IntervalOrNever = Annotated[int | str, _AsSetting(("steps", "tokens"), zero=True)]
"""Between two events; 0: there are none."""
TokenCount = Annotated[int, _Tokens(("tokens",), zero=False)]
"""A number of tokens: ``2e9`` or ``2e9 tokens``."""
