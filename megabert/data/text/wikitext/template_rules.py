"""The few templates whose text is part of the sentence; every other template is dropped.

The sentence "The river is {{convert|12|km}} long" is wrong without the figure, and
"({{lang|la|terra}})" would leave empty brackets. The names are in ``template_names``.
"""

import re
from collections.abc import Callable

from megabert.data.text.wikitext import template_names

Arguments = tuple[list[str], dict[str, str]]  # positional, named

_NUMBER = re.compile(r"[-+−–]?[\d.,/ ]*\d[\d.,/]*(?:e[-+]?\d+)?")
MAX_LANGUAGE_FORM = 12


def _convert(arguments: Arguments) -> str:
    words: list[str] = []
    for value in arguments[0]:
        if _NUMBER.fullmatch(value):
            words.append(value)
        elif value.lower() in template_names.RANGES:
            words.append(template_names.RANGES[value.lower()])
        else:
            words.append(template_names.UNITS.get(value, value))
            break
    return " ".join(words) if any(_NUMBER.fullmatch(word) for word in words) else ""


def _fraction(arguments: Arguments) -> str:
    values = arguments[0]
    if len(values) == 3:
        return f"{values[0]} {values[1]}/{values[2]}"
    return "/".join(values) if len(values) == 2 else (f"1/{values[0]}" if values else "")


def _circa(arguments: Arguments) -> str:
    values = arguments[0]
    return "c. " + " – c. ".join(values[:2]) if values and values[0] else "c."


def _value(arguments: Arguments) -> str:
    values, named = arguments
    if not values:
        return ""
    unit = named.get("u") or named.get("ul") or ""
    error = f" ± {values[1]}" if len(values) > 1 and _NUMBER.fullmatch(values[1]) else ""
    return f"{values[0]}{error} {unit}".strip()


def _as_of(arguments: Arguments) -> str:
    values, named = arguments
    if "alt" in named:
        return named["alt"]
    start = "as of" if named.get("lc") else "As of"
    return f"{start} {values[0]}" if values else ""


def _joined(arguments: Arguments) -> str:
    return " ".join(arguments[0][:2])


def _formula(arguments: Arguments) -> str:
    return "".join(arguments[0]).replace("'", "")


def _power(arguments: Arguments) -> str:
    return f"×10^{arguments[0][0]}" if arguments[0] else ""


def _accidental(arguments: Arguments) -> str:
    return template_names.ACCIDENTALS.get("".join(arguments[0][:1]), "")


def _dashed(arguments: Arguments) -> str:
    return "–".join(arguments[0][:2])


def _grouped(arguments: Arguments) -> str:
    return ",".join(arguments[0])


def _space(_: Arguments) -> str:
    return " "


def _lifetime(arguments: Arguments) -> str:
    """Chinese ``{{bd|year|day|year|day}}``: born and died."""
    values = [*arguments[0], "", "", "", ""]
    return f"{values[0]}{values[1]}－{values[2]}{values[3]}"


_SPECIAL: dict[str, Callable[[Arguments], str]] = {
    "convert": _convert, "cvt": _convert, "frac": _fraction, "fraction": _fraction,
    "sfrac": _fraction, "circa": _circa, "c.": _circa, "ca.": _circa, "val": _value,
    "as of": _as_of, "asof": _as_of, "ship": _joined, "bibleref": _joined, "bibleverse": _joined,
    "currency": _joined, "oldstyledate": _joined, "chem": _formula, "e": _power,
    "music": _accidental, "nihongo foot": _joined, "chem2": _formula, "dash year": _dashed,
    "year range": _dashed, "gaps": _grouped, "bd": _lifetime, "spaces": _space,
}  # fmt: skip
_KNOWN = frozenset(
    {*template_names.FIRST, *template_names.LAST, *_SPECIAL, *template_names.CURRENCY, *template_names.SHIPS, *template_names.LITERAL,
     *template_names.PAGE_NAMES}
)  # fmt: skip


_ONLY_LITERAL = (
    frozenset(template_names.LITERAL)
    - template_names.FIRST
    - template_names.CURRENCY.keys()
    - _SPECIAL.keys()
)


def split_arguments(body: str) -> list[str]:
    """Split at every ``|`` outside ``[[links]]`` and ``-{conversions}-``."""
    if "[[" not in body and "-{" not in body:
        return body.split("|")
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\[\[|\]\]|-\{|\}-|\|", body):
        token = match.group()
        if token == "|":
            if depth == 0:
                parts.append(body[start : match.start()])
                start = match.end()
        elif token in ("[[", "-{"):
            depth += 1
        else:
            depth = max(0, depth - 1)
    parts.append(body[start:])
    return parts


def _arguments(parts: list[str]) -> Arguments:
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if equals and key.isdigit():
            if int(key) == len(positional) + 1:
                positional.append(value.strip())
        elif equals and re.fullmatch(r"[\w -]+", key):
            named[key.lower()] = value.strip()
        else:
            positional.append(part.strip())
    return positional, named


def template_text(body: str, title: str) -> str:
    """Visible text of the template call with the content ``body``; "" for most templates.

    ``title`` is the value of ``{{PAGENAME}}``.
    """
    head = body.partition("|")[0]
    name = head.strip().lower()
    if "_" in name:
        name = name.replace("_", " ")
    if name not in _KNOWN:
        function, colon, operand = name.partition(":")
        if colon and function in template_names.FUNCTIONS:
            return head.partition(":")[2].strip() if operand else ""
        if not name.startswith(template_names.LANGUAGE_FORMS) or len(name) > MAX_LANGUAGE_FORM:
            return ""
    elif name in template_names.LITERAL and "|" not in body:
        return template_names.LITERAL[name]
    elif name in _ONLY_LITERAL:
        return ""
    elif name in template_names.PAGE_NAMES:
        return title
    return _shown(name, *_arguments(split_arguments(body)[1:]))


def _shown(name: str, positional: list[str], named: dict[str, str]) -> str:
    """The text that a known template shows."""
    if name in _SPECIAL:
        return _SPECIAL[name]((positional, named))
    if name in template_names.SHIPS:
        return " ".join([name.upper(), *positional[:1]])
    if name in template_names.CURRENCY:
        return template_names.CURRENCY[name] + positional[0] if positional else ""
    if name in template_names.QUOTES:
        text = positional[0] if positional else named.get("text", named.get("quote", ""))
        return f"\n\n{text}\n\n" if text else ""
    if name in template_names.LAST:
        given = [value for value in positional[1:] if value]
        return given[-1] if given else named.get("text", "")
    return positional[0] if positional else named.get("text", "")
