"""Whether numbers are those of a date: arguments in another order or range print a false one."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from megabert.data.text.wikitext.templates.wording import whole_number

_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MOST_DAYS = 31
_FEBRUARY = 2
_LAST_JULIAN = 1923  # year in which the last country gave up the Julian calendar
# a year, and what says of which era it is
_YEAR = re.compile(
    r"([1-9]\d{0,3})(?:\s?(?:[^\W\d_]{1,2}\.\D{0,15}|BCE?|AD|CE|[ad]C|до \D{0,8}|г))?"
)
_WORDS = re.compile(r"\d+月?|[^\W\d_]+")


class Date(NamedTuple):
    """A day, the number of its month (None if that is not known), and its year or ""."""

    day: int
    month: int | None
    year: str = ""


def is_year(text: str) -> bool:
    """Whether a text is a year of up to four digits, perhaps with its era ("44 a. C.")."""
    return _YEAR.fullmatch(text) is not None


def is_date(date: Date) -> bool:
    """Whether the month has the day, in this year if one is given.

    A year below 32 that is only a number could be the day of a date in another order; it is not
    accepted.
    """
    if date.month is None or not 1 <= date.month <= len(_DAYS):
        return False
    if not 1 <= date.day <= _DAYS[date.month - 1]:
        return False
    if not date.year:
        return True
    if not is_year(date.year) or (date.year.isdecimal() and int(date.year) <= _MOST_DAYS):
        return False
    leap_day = date.month == _FEBRUARY and date.day == _DAYS[1]
    return not leap_day or not date.year.isdecimal() or _is_leap_year(int(date.year))


def _is_leap_year(year: int) -> bool:
    """Whether the year has a 29 February, in the Gregorian calendar or, while it was in use, the Julian one."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0 or year <= _LAST_JULIAN)


def month_number(value: str, months: Sequence[str]) -> int | None:
    """The number of a month from its number or name, from 1; None for another text."""
    number = whole_number(value) if value.isascii() else None
    if number is not None:
        return number if 1 <= number <= len(_DAYS) else None
    names = [month.lower() for month in months]
    return names.index(value.lower()) + 1 if value.lower() in names else None


def written_date(text: str, months: Sequence[str]) -> bool:
    """Whether a text has a day and the name of its month, in any order ("22 April", "7月10日"), or
    the name of a month alone."""
    words = _WORDS.findall(text)
    found = [
        number for word in words if (number := month_number(word, months)) and not word.isdecimal()
    ]
    figures = [whole_number(word) or 0 for word in words if word.isdecimal()]
    if len(found) != 1 or len(figures) > 1:
        return False
    return not figures or is_date(Date(figures[0], found[0]))
