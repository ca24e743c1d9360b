"""Patterns: what a template call shows, written as text with places for its arguments.

====================  =====================================================================
``{key}``             the value of argument ``key``, which must be given and not be empty
``{text|1}``          the first of several arguments that is given
``{key:filter}``      the value, changed by a filter (``FILTERS``) or refused by it
``{key:name}``        what the table's map ``name`` has for the value; refused if it has nothing
``{key=value}``       the argument must be given with this value; shows nothing
``{key=y|yes|on}``    the same with one of several values
``{0}``               the name of the template as the call writes it
``{key=*}``           the argument may be given; shows nothing
``{2..=*}``           positional arguments from the second may be given; shows nothing
``{..=*}``            any other argument may be given; shows nothing
``{*, }``, ``{2*, }`` all positional arguments (from the second), joined by ", "
``[...]``             shown if all arguments inside are given
``\\{``               a plain brace, bracket or bar
====================  =====================================================================

A call with an argument that the pattern does not use does not fit the pattern.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from megabert.data.text.wikitext.templates.calendar import (
    Date,
    is_date,
    is_year,
    month_number,
    written_date,
)
from megabert.data.text.wikitext.templates.wording import PLAIN, Wording, whole_number

_NUMBER = re.compile(r"[-+−–]?\d[\d.,'  \u202f\u2009]*|[-+−–]?[.,]\d+")
_LANGUAGE_CODE = re.compile("[a-z]{2,3}")
_CODE = re.compile("[A-Z]{2,3}")  # of a country, which a flag template prints as its name
_PLAIN_MARK = re.compile(r"\\(.)")


_TERM = re.compile(r"[-+−]?(?:[^\W_]|[.,'’√∞°%]|</?(?:var|i)>)+")


def is_term(value: str) -> bool:
    """Whether a value stays one term in a fraction or under a root: a figure or a symbol, no sum or product."""
    return bool(_TERM.fullmatch(value))


class PatternError(ValueError):
    """A pattern that cannot be read."""


def _month(value: str, wording: Wording) -> str | None:
    months = wording.months
    number = whole_number(value) if value.isascii() else None
    if number is not None:
        return months[number - 1] if 1 <= number <= len(months) else None
    return value if value.lower() in (month.lower() for month in months) else None


def _int(value: str, _: Wording) -> str | None:
    number = whole_number(value) if value.isascii() else None
    return None if number is None else str(number)


def _day(value: str, wording: Wording) -> str | None:
    """A day of a month; so a year does not pass for one."""
    number = _int(value, wording)
    return number if number is not None and 1 <= int(number) <= 31 else None


def _year(value: str, _: Wording) -> str | None:
    return value if is_year(value) else None


def _day_of_month(value: str, wording: Wording) -> str | None:
    """A day and a month in one argument ("22 April", "7月10日")."""
    return value if written_date(value, wording.months) else None


def _named_year(value: str, _: Wording) -> str | None:
    """A year with a word or sign behind it ("1970年", "?"), which a number alone is not."""
    return None if value.isdecimal() else value


Filter = Callable[[str, Wording], str | None]
FILTERS: dict[str, Filter] = {
    "lower": lambda value, _: value.lower(),
    "upper": lambda value, _: value.upper(),
    "first-upper": lambda value, _: value[:1].upper() + value[1:],
    "first-lower": lambda value, _: value[:1].lower() + value[1:],
    "number": lambda value, _: value if _NUMBER.fullmatch(value) else None,
    "figure": lambda value, wording: wording.figures.printed(value),
    "figures": lambda value, wording: wording.figures.printed_in(value),
    "no-code": lambda value, _: None if _CODE.fullmatch(value) else value,
    "no-language": lambda value, _: None if _LANGUAGE_CODE.fullmatch(value) else value,
    "language-code": lambda value, _: "" if _LANGUAGE_CODE.fullmatch(value) else None,
    "term": lambda value, _: value if is_term(value) else None,
    "unit": lambda value, _: None if value[:1].isdigit() else value,
    "int": _int,
    "day": _day,
    "month": _month,
    "year": _year,
    "day-of-month": _day_of_month,
    "named-year": _named_year,
}
_DATES = frozenset(["day", "month", "year"])


@dataclass(frozen=True)
class _Field:
    keys: tuple[str, ...]
    filter: str


@dataclass(frozen=True)
class _Check:
    key: str
    values: tuple[str, ...]  # empty: any value, or none

    def allowed(self, arguments: Mapping[str, str]) -> Iterable[str]:
        """The arguments that this place allows: ``key`` is a name, "2..", or ".." for any."""
        if not self.key.endswith(".."):
            return [self.key] if self.key in arguments else []
        first = self.key[:-2]
        if not first:
            return arguments
        numbers = ((key, whole_number(key)) for key in arguments)
        return [key for key, number in numbers if number is not None and number >= int(first)]


@dataclass(frozen=True)
class _Rest:
    first: int
    separator: str


@dataclass(frozen=True)
class _Group:
    parts: tuple["_Part", ...]


_Part = str | _Field | _Check | _Rest | _Group


@dataclass(frozen=True)
class Pattern:
    """A pattern, ready for use.

    Attributes:
        wording: months, figures and maps for the filters.
        named: whether the pattern shows the name of the template, ``{0}``.
    """

    parts: tuple[_Part, ...]
    wording: Wording = PLAIN
    named: bool = False

    @cached_property
    def shows_first(self) -> bool:
        """Whether a call with one positional argument shows just that argument."""
        first, *rest = self.parts or ("",)
        return (
            isinstance(first, _Field)
            and "1" in first.keys
            and not first.filter
            and all(isinstance(part, _Check) and not part.values for part in rest)
        )

    def shown(self, arguments: Mapping[str, str], optional: Collection[str] = ()) -> str | None:
        """The text of a call, or None if the call does not fit.

        Args:
            arguments: values that are not empty, by name; positional ones are "1", "2", ...
            optional: arguments that the pattern need not use.
        """
        used = set(optional)
        found: dict[str, str] = {}
        text = self._text(self.parts, arguments, used, found)
        if text is None or len(used) != len(arguments):
            return None
        if "day" in found and "month" in found and not self._is_date(found):
            return None
        return text

    def _is_date(self, found: Mapping[str, str]) -> bool:
        """Whether the day, the month and the year that filters found are those of a date."""
        month = month_number(found.get("month", ""), self.wording.months)
        return is_date(Date(int(found["day"]), month, found.get("year", "")))

    def _text(
        self,
        parts: Sequence[_Part],
        arguments: Mapping[str, str],
        used: set[str],
        dates: dict[str, str],
    ) -> str | None:
        found: list[str] = []
        for part in parts:
            if isinstance(part, str):
                found.append(part)
            elif isinstance(part, _Group):
                inside: set[str] = set()
                text = self._text(part.parts, arguments, inside, dates)
                if text is not None:
                    used |= inside
                    found.append(text)
            elif isinstance(part, _Check):
                used.update(part.allowed(arguments))
                if part.values and arguments.get(part.key) not in part.values:
                    return None
            else:
                text = self._values(part, arguments, used)
                if text is None:
                    return None
                if isinstance(part, _Field) and part.filter in _DATES:
                    dates.setdefault(part.filter, text)
                found.append(text)
        return "".join(found)

    def _values(
        self, part: _Field | _Rest, arguments: Mapping[str, str], used: set[str]
    ) -> str | None:
        if isinstance(part, _Rest):
            count = part.first
            while str(count) in arguments:
                count += 1
            keys = [str(number) for number in range(part.first, count)]
            used.update(keys)
            return part.separator.join(arguments[key] for key in keys) if keys else None
        for key in part.keys:
            if key in arguments:
                used.add(key)
                value = arguments[key]
                if not part.filter:
                    return value
                if part.filter in self.wording.maps:
                    return self.wording.maps[part.filter].get(value)
                return FILTERS[part.filter](value, self.wording)
        return None


def read_pattern(text: str, wording: Wording = PLAIN) -> Pattern:
    """Read a pattern.

    Args:
        text: the pattern.
        wording: what the filters need of the language.

    Raises:
        PatternError: a brace or bracket without its partner, or an unknown filter.
    """
    parts, end = _read(text, 0, False)
    assert end == len(text)
    known = {"", *FILTERS, *wording.maps}
    for part in _fields(parts):
        if part.filter not in known:
            raise PatternError(f"{text!r}: no filter {part.filter!r}; known: {', '.join(known)}")
    named = any("0" in part.keys for part in _fields(parts))
    return Pattern(parts, wording, named)


def _fields(parts: Sequence[_Part]) -> Iterator[_Field]:
    for part in parts:
        if isinstance(part, _Field):
            yield part
        elif isinstance(part, _Group):
            yield from _fields(part.parts)


def _read(text: str, position: int, inside: bool) -> tuple[tuple[_Part, ...], int]:
    parts: list[_Part] = []
    plain: list[str] = []

    def close() -> None:
        if plain:
            parts.append("".join(plain))
            plain.clear()

    while position < len(text):
        character = text[position]
        if character == "\\" and position + 1 < len(text):
            plain.append(text[position + 1])
            position += 2
        elif character == "[":
            close()
            group, position = _read(text, position + 1, True)
            parts.append(_Group(group))
        elif character == "]" and inside:
            close()
            return tuple(parts), position + 1
        elif character == "{":
            close()
            end = text.find("}", position)
            if end < 0:
                raise PatternError(f"{text!r}: a brace is not closed")
            parts.append(_place(text[position + 1 : end], text))
            position = end + 1
        elif character in "}]":
            raise PatternError(f"{text!r}: {character!r} without its partner")
        else:
            plain.append(character)
            position += 1
    if inside:
        raise PatternError(f"{text!r}: a bracket is not closed")
    close()
    return tuple(parts), position


def _place(inside: str, text: str) -> _Part:
    rest = re.fullmatch(r"(\d*)\*(.*)", inside, re.DOTALL)
    if rest:
        return _Rest(int(rest.group(1) or "1"), _PLAIN_MARK.sub(r"\1", rest.group(2)))
    key, equals, value = inside.partition("=")
    if equals:
        return _Check(key, () if value == "*" else tuple(value.split("|")))
    names, _, name = inside.partition(":")
    if not names:
        raise PatternError(f"{text!r}: {{{inside}}} cannot be read")
    return _Field(tuple(names.split("|")), name)
