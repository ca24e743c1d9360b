"""Templates whose text a pattern cannot describe: units, figures, conditions.

Each rule returns what a reader sees, or None if the call has an argument that the rule does not
understand: a part of a figure is never shown. Conversions into other units are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from megabert.data.text.wikitext.holes import HOLE, SPOKEN
from megabert.data.text.wikitext.templates import units
from megabert.data.text.wikitext.templates.biography import italian_lead
from megabert.data.text.wikitext.templates.dates import as_of, spaced_date
from megabert.data.text.wikitext.templates.pattern import is_term
from megabert.data.text.wikitext.templates.wording import ENGLISH, Wording, whole_number


class Language(Protocol):
    """What a rule needs of a table."""

    language: str
    wording: Wording


class Call:
    """A template call: its arguments, the title of its page, the table it was looked up in.

    Attributes:
        name: as the call writes it.
    """

    def __init__(self, parts: Sequence[str], title: str, table: Language, name: str = "") -> None:
        self.parts, self.title, self.table, self.name = parts, title, table, name
        self._arguments: dict[str, str] | None = None

    @property
    def arguments(self) -> Mapping[str, str]:
        """Values that are not empty, by name; positional ones are "1", "2", ...

        As in MediaWiki, any ``=`` outside a link makes an argument a named one, and of two with
        the same name the later counts.
        """
        if self._arguments is not None:
            return self._arguments
        found: dict[str, str] = {}
        position = 0
        for part in self.parts:
            key, equals, value = part.partition("=")
            if equals and "[[" not in key:
                key = key.strip()
                number = whole_number(key)
                if number is not None:
                    key = str(number)
            else:
                position += 1
                key, value = str(position), part
            value = value.strip()
            if value:
                found[key] = value
            else:
                found.pop(key, None)
        self._arguments = found
        return found

    @property
    def positional(self) -> list[str]:
        """The positional arguments up to the first that is missing or empty."""
        arguments = self.arguments
        values: list[str] = []
        while (value := arguments.get(str(len(values) + 1))) is not None:
            values.append(value)
        return values

    def named(self) -> dict[str, str]:
        """The arguments that :attr:`positional` does not have."""
        count = len(self.positional)
        return {
            key: value
            for key, value in self.arguments.items()
            if not 1 <= (whole_number(key) or 0) <= count
        }


Rule = Callable[[Call], str | None]

_NUMBER = re.compile(r"[-+−–]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[-+−]?\d+)?")
_MIXED = re.compile(r"([-+−–]?\d+)[+ ](\d+)//?(\d+)|([-+−–]?\d+)//?(\d+)")
_ONE = re.compile(r"1|\d+/\d+")
_HARMLESS = frozenset(
    [
        "abbr",
        "sp",
        "lk",
        "sigfig",
        "round",
        "sortable",
        "sort",
        "order",
        "comma",
        "disp",
        "adj",
        "debug",
        "cache",
    ]
)
_SHOWN_AS_USUAL = {
    "disp": frozenset(
        ["or", "sqbr", "comma", "flip", "b", "br", "br()", "slash", "/", "semicolon", "x"]
    ),
    "adj": frozenset(["on", "off", "ri0", "ri1", "ri2", "ri3", "nocat"]),
    "abbr": frozenset(["on", "off", "in", "out", "none", "~", "comma", "comma5", "h0", "hh"]),
    "comma": frozenset(["off", "5", "gaps"]),
}


def _figure(value: str) -> str | None:
    """A figure as ``{{convert}}`` prints it; None if the value is not one."""
    if _NUMBER.fullmatch(value):
        base, exponent, power = value.partition("e")
        base = ENGLISH.printed(base) or base
        return f"{base}×10^{power}" if exponent else base
    mixed = _MIXED.fullmatch(value)
    if mixed is None:
        return None
    whole, top, bottom, plain_top, plain_bottom = mixed.groups()
    return f"{whole} {top}/{bottom}" if whole else f"{plain_top}/{plain_bottom}"


def _convert(call: Call) -> str | None:
    """``{{convert|6|ft|2|in|m}}``: the figures and units that are given, not the conversion."""
    for key, value in call.named().items():
        if key not in _HARMLESS or value not in _SHOWN_AS_USUAL.get(key, (value,)):
            return None
    values = call.positional
    words: list[str] = []
    place = 0
    expected = 1  # figures before the next unit
    while place < len(values):
        figure = _figure(values[place])
        if figure is None:
            break
        words.append(figure)
        place += 1
        if place == len(values):
            return None  # a figure without a unit
        join = units.RANGES.get(values[place].lower())
        if join is not None and expected < 4:
            words.append(join)
            expected += 1
            place += 1
            continue
        unit = units.shown_unit(values[place])
        if unit is None:
            return None
        words.append(unit)
        place += 1
        expected = 1
        if not (values[place - 1] in units.LARGE_PARTS and _is_part(values[place:])):
            break
    if not words or words[-1] in units.RANGES.values():
        return None
    one = units.WORDS.get(words[-1])
    if call.arguments.get("adj") == "on" and (one or words[-1].partition(" ")[2] in units.WORDS):
        if one is None or len(words) > 2 or " " in one:
            return None  # "22-million-acre"
        words = [f"{words[0]}-{one}"]
    elif one is not None and _ONE.fullmatch(words[-2]):
        words[-1] = one
    return " ".join(words).replace(" – ", "–") if _is_output(values[place:]) else None


def _is_part(rest: Sequence[str]) -> bool:
    """Whether a smaller unit follows, as in 6 ft 2 in."""
    return len(rest) > 1 and _figure(rest[0]) is not None and rest[1] in units.SMALL_PARTS


def _is_output(rest: Sequence[str]) -> bool:
    """Whether the rest is a unit to convert into and a precision, both optional."""
    if rest and _figure(rest[0]) is None:
        rest = rest[1:]
    return not rest or (len(rest) == 1 and re.fullmatch(r"[-+−]?\d+", rest[0]) is not None)


def _value(call: Call) -> str | None:
    """``{{val|1.5|0.2|e=3|u=m}}``: a figure, its uncertainty, a power of ten and a unit."""
    values, named = call.positional, call.named()
    prefix, suffix = named.pop("p", ""), named.pop("s", "")
    power, end = named.pop("e", ""), named.pop("end", "")
    unit = named.pop("u", "") or named.pop("ul", "")
    named.pop("fmt", "")
    if named or not 1 <= len(values) <= 2 or not _NUMBER.fullmatch(values[0]) or "e" in values[0]:
        return None
    number, error = values[0], ""
    if len(values) == 2:
        if re.fullmatch(r"\(\d+\)", values[1]):
            number += values[1]
        elif _NUMBER.fullmatch(values[1]):
            error = f"±{values[1]}"
        else:
            return None
    if power:
        if not re.fullmatch(r"[-+−]?\d+", power):
            return None
        number = f"({number}{error})×10^{power}" if error else f"{number}×10^{power}"
    elif error:
        number = f"({number}{error})" if unit else number + error
    gap = "" if unit in ("°", "%", "'", '"') or not unit else " "
    return f"{prefix}{number}{end}{gap}{unit}{suffix}"


def _fraction(call: Call) -> str | None:
    values = call.positional
    if call.named() or not 1 <= len(values) <= 3 or not all(map(is_term, values)):
        return None
    if len(values) == 3:
        return f"{values[0]} {values[1]}/{values[2]}"
    return "/".join(values) if len(values) == 2 else f"1/{values[0]}"


def _circa(call: Call) -> str | None:
    values, named = call.positional, call.named()
    named.pop("lk", "")
    if named or len(values) > 2:
        return None
    return "c. " + " – c. ".join(values) if values else "c."


def _as_of(call: Call) -> str | None:
    return as_of(call.positional, call.named())


def _spaced_date(call: Call) -> str | None:
    """``{{date|1|5|1990}}`` of French: "1er mai 1990"."""
    return spaced_date(call.arguments, call.table.wording)


def _formula(call: Call) -> str | None:
    """``{{chem|H|2|O}}`` and ``{{chem|NH|4|+}}``; not with a charge of several units."""
    values = call.positional
    text = "".join(values)
    if (
        call.named()
        or not values
        or re.search(r"\d[+−-]|[\^*/]|[+−-]\d|\d ?[+−-]", "|".join(values))
    ):
        return None
    return text.replace("'", "")


def _power(call: Call) -> str | None:
    values = call.positional
    if len(values) != 1 or call.named() or not re.fullmatch(r"[-+−]?\d+", values[0]):
        return None
    return f"×10^{values[0]}"


def _number(call: Call) -> str | None:
    """``{{formatnum:1234.5}}``; with "R" or "NOSEP" there are no marks between thousands."""
    values = call.positional
    if not values or len(values) > 2 or call.named():
        return None
    if len(values) == 2:
        return values[0] if values[0].isdecimal() else None
    return call.table.wording.figures.printed(values[0]) or values[0]


def _biography(call: Call) -> str | None:
    return italian_lead(call.arguments, call.table.wording.months)


def _title(call: Call) -> str | None:
    return call.title


def _spoken(call: Call) -> str | None:
    return SPOKEN


def _english_ipa(call: Call) -> str | None:
    """``{{IPA|/x/}}`` shows its text; ``{{IPA|fr|x}}`` a pronunciation with its language."""
    texts = call.positional
    return texts[0] if len(texts) == 1 and call.named().keys() <= {"cat", "class"} else SPOKEN


def _spaces(call: Call) -> str | None:
    return " "


def _if(call: Call) -> str | None:
    """``{{#if: condition | then | else}}`` with the value of its first argument known."""
    condition, *branches = (part.strip() for part in call.parts)
    if HOLE in condition:
        return None
    return "".join(branches[0 if condition else 1 :][:1])


def _if_equal(call: Call) -> str | None:
    parts = [part.strip() for part in call.parts]
    if len(parts) < 2 or HOLE in parts[0] + parts[1]:
        return None
    return "".join(parts[2 if parts[0] == parts[1] else 3 :][:1])


def _tag(call: Call) -> str | None:
    """``{{#tag:ref|...}}`` is a footnote; other tags are not understood."""
    return "" if call.parts[0].strip().lower() in ("ref", "references", "gallery") else None


def _plural(call: Call) -> str | None:
    """``{{plural:3|year|years}}`` in languages with one plural."""
    number, *forms = (part.strip() for part in call.parts)
    if not re.fullmatch(r"\d+", number) or len(forms) != 2 or "=" in "".join(forms):
        return None
    if call.table.language not in ("en", "de", "es", "it", "nl", "sv", "simple"):
        return None
    return forms[0] if number == "1" else forms[1]


RULES: dict[str, Rule] = {
    "convert": _convert,
    "value": _value,
    "fraction": _fraction,
    "circa": _circa,
    "as of": _as_of,
    "formula": _formula,
    "power": _power,
    "number": _number,
    "title": _title,
    "spaces": _spaces,
    "spoken": _spoken,
    "english ipa": _english_ipa,
    "if": _if,
    "ifeq": _if_equal,
    "tag": _tag,
    "plural": _plural,
    "spaced date": _spaced_date,
    "biography": _biography,
}
"""Rules by the name that a table uses for them, after "@"."""
