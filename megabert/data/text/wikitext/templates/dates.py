"""Dates as templates print them."""

import re
from collections.abc import Mapping, Sequence

from megabert.data.text.wikitext.templates.calendar import Date, is_date, is_year, month_number
from megabert.data.text.wikitext.templates.units import MONTHS
from megabert.data.text.wikitext.templates.wording import Wording, whole_number

_YEAR = re.compile(r"[1-9]\d{0,3}(?: av\. J\.-C\.)?")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_FREE = re.compile(r"(?:(\d{1,2})(?:er)?[ /])?(?:([^\W\d_]+|\d{1,2})(?:[ /]|$))?(\d{1,4})?")
# arguments that change nothing but links, or add an age in brackets
_HARMLESS = re.compile(r"[4-9]|âge|age|qualificatif")


def spaced_date(arguments: Mapping[str, str], wording: Wording) -> str | None:
    """A date with spaces between its parts ("1er mai 1990").

    The arguments are day, month and year, or one with all three.

    Args:
        arguments: of the call.
        wording: names of the months, which may be figures in the arguments.

    Returns:
        The date as it is printed, or None if it is not understood.
    """
    if any(key not in "123" and not _HARMLESS.fullmatch(key) for key in arguments):
        return None
    day, month, year = (arguments.get(key, "") for key in "123")
    if not year and _month(month, wording.months) is None:
        # behind a whole date, the second argument is the subject of a link
        parts = _parts(" ".join(day.split()))
        if parts is None or (month and day.isalnum()):
            return None
        day, month, year = parts
    if month:
        name = _month(month, wording.months)
        if name is None:
            return None
        month = name
    if (year and not _YEAR.fullmatch(year)) or (day and not month):
        return None
    if day:
        number = whole_number(day.removesuffix("er"))
        if number is None:
            return None
        if not is_date(Date(number, month_number(month, wording.months), year)):
            return None
        day = wording.first_day if number == 1 else ""
        day = day or str(number)
    return " ".join(part for part in (day, month, year) if part) or None


def _parts(text: str) -> tuple[str, str, str] | None:
    """Day, month and year of a date that is one argument."""
    if iso := _ISO.fullmatch(text):
        year, month, day = iso.groups()
        return day, month, str(int(year))
    if free := _FREE.fullmatch(text):
        day, month, year = (part or "" for part in free.groups())
        return (day, month, year) if day or not month.isdecimal() else ("", "", month)
    return None


def _month(value: str, months: Sequence[str]) -> str | None:
    number = whole_number(value)
    if number is not None:
        return months[number - 1] if 1 <= number <= len(months) else None
    return value if value.lower() in months else None


def as_of(values: Sequence[str], named: dict[str, str]) -> str | None:
    """``{{as of|2010|6|30}}``: "As of 30 June 2010"; month and day are optional.

    Args:
        values: year, month, day.
        named: the other arguments; those that are understood are removed.

    Returns:
        The text as it is printed, or None if it is not understood.
    """
    alternative, lower = named.pop("alt", ""), named.pop("lc", "")
    american = named.pop("df", "").lower() in ("us", "mdy", "y")
    before, after = named.pop("pre", ""), named.pop("post", "")
    named.pop("url", "")
    if named or not 1 <= len(values) <= 3 or not is_year(values[0]):
        return None
    if alternative:
        return alternative + after
    date = values[0]
    if len(values) > 1:
        month = _english_month(values[1])
        if month is None or None in map(whole_number, values[2:]):
            return None
        number = whole_number(values[2]) if len(values) > 2 else None
        if number is not None and not is_date(Date(number, month_number(month, MONTHS), values[0])):
            return None
        day = "" if number is None else str(number)
        if day and american:
            date = f"{month} {day}, {date}"
        else:
            date = f"{day} {month} {date}".lstrip()
    words = [f"{'as' if lower else 'As'} of", *([before] if before else []), date]
    return " ".join(words) + after


def _english_month(value: str) -> str | None:
    """An English month from its number or name."""
    number = whole_number(value)
    if number is not None:
        return MONTHS[number - 1] if 1 <= number <= 12 else None
    found = [month for month in MONTHS if month.lower().startswith(value.lower()[:3])]
    return found[0] if len(value) >= 3 and found else None
