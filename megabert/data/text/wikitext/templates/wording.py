"""How the templates of a language write figures, months and other words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_PLAIN = re.compile(r"([-+−–]?)(\d+)(?:\.(\d+))?")
_LONGEST_FIGURE = 1000  # digits before the decimal mark
_POWER = re.compile(r"\d[eE][-+−]?\d")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_MOST_DIGITS = 18
_EXAMPLE = re.compile(r"1(\D?)234(\D)5")


def whole_number(text: str) -> int | None:
    """The number of a text that is nothing but digits of one script or another, up to 18 of them.

    Signs such as "²", which Python calls digits, make no number.
    """
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


@dataclass(frozen=True)
class Figures:
    """How figures are written: the mark between thousands ("" for none) and the decimal mark."""

    thousands: str = ""
    decimal: str = "."

    @staticmethod
    def like(example: str) -> "Figures":
        """Read an example, "1,234.5" or "1234,5".

        Raises:
            ValueError: another example.
        """
        match = _EXAMPLE.fullmatch(example)
        if match is None:
            raise ValueError(f"{example!r} is not the figure 1234.5")
        return Figures(*match.groups())

    def printed(self, value: str) -> str | None:
        """A figure of wikitext ("1234.5") as it is printed; None if the value is not one."""
        match = _PLAIN.fullmatch(value)
        if match is None:
            return None
        sign, whole, rest = match.groups()
        if len(whole) > _LONGEST_FIGURE:
            return None
        if self.thousands and len(whole) > 3 and whole[0] != "0":
            whole = f"{int(whole):,}".replace(",", self.thousands)
        return f"{sign}{whole}{self.decimal}{rest}" if rest else sign + whole

    def printed_in(self, text: str) -> str | None:
        """A text with figures ("1.5 to 2 m") as it is printed; None if one has a power ("5e6")."""
        if _POWER.search(text):
            return None
        return _POINT.sub(self.decimal, text) if self.decimal != "." else text


ENGLISH = Figures(",", ".")


@dataclass(frozen=True)
class Wording:
    """What the patterns and rules of a table need of its language.

    Attributes:
        months: names, January first.
        first_day: what a date prints for the first day of a month, "" for the figure.
        figures: how figures are written.
        maps: by name, values of arguments and what is shown for them.
    """

    months: tuple[str, ...] = ()
    first_day: str = ""
    figures: Figures = Figures()
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


PLAIN = Wording()
