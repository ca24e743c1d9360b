"""The few templates whose text is part of the sentence; every other template is dropped.

The sentence "The river is {{convert|12|km}} long" is wrong without the figure, and
"({{lang|la|terra}})" leaves empty brackets. Names are those of English Wikipedia and of the
wikis that took them over, plus the commonest of Chinese Wikipedia.
"""

import re
from collections.abc import Callable

Arguments = tuple[list[str], dict[str, str]]  # positional, named

_FIRST = (
    "nowrap nobr nobold nobreak small smaller big larger mvar math em strong abbr tooltip "
    "ill link-interwiki interlanguage_link interlanguage_link_multi le internal_link_helper "
    "flag flagcountry sic noitalic italic_correction unbulleted nihongo korean linktext "
    "sup sub var code samp kbd tt mono keypress key_press char angbr angle_bracket not_a_typo "
    "nbsp-text nihongo2 nihongo3 keep_together as_written typo proper_name no_italic "
    "quote blockquote cquote quotation quote_box_text bquote poemquote centered_text center "
    "visible_anchor anchor_text vanchor angbr_ipa lc uc lcfirst ucfirst formatnum nhlink "
    "link-en link-ja link-de link-fr link-ru link-es link-it link-ko internal_link "
    "lang-zh-hans lang-zh-hant transl-text iast unicode polytonic allow_wrap okina-text large sc smallcaps vr railgauge track_gauge script/hebrew script/arabic"
)
_LAST = "lang transl transliteration rtl-lang lang-rtl tsl tslink script wikt-lang"
_LITERAL = {
    "ndash": "–", "endash": "–", "en dash": "–", "mdash": "—", "emdash": "—", "em dash": "—",
    "snd": " – ", "spnd": " – ", "sndash": " – ", "spaced ndash": " – ", "spaced en dash": " – ",
    "spaced mdash": " — ", "nbsp": " ", "space": " ", "thinsp": " ", "thin space": " ",
    "'": "'", "'s": "'s", '"': '"', "=": "=", "!": "|", "·": " · ", "•": " • ", "dot": " · ",
    "middot": " · ", "bullet": " • ", "okina": "ʻ", "hamza": "ʼ", "ayin": "ʽ", "pi": "π",
    "minus": "−", "times": "×", "x": "×", "sharp": "♯", "flat": "♭", "natural": "♮",
    "degree": "°", "numero": "№", "apos": "'", "sup2": "²", "dash": " – ", "--": "—",
    "mdashb": "—", "ndashb": "–", "' \"": "'\"", "\" '": "\"'", "-\"": "\"", "lb": "[", "rb": "]", "(": "(", ")": ")", "half": "1⁄2", "euro": "€", "gbp": "£",
}  # fmt: skip
_UNITS = {"C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F", "sqmi": "sq mi",
          "sqkm": "km2", "sqft": "sq ft", "sqm": "m2", "acre": "acres", "impgal": "gallons"}  # fmt: skip
_QUOTES = {"quote", "blockquote", "cquote", "quotation", "bquote", "poemquote"}
_CURRENCY = {"us$": "US$", "usd": "US$", "gbp": "£", "inr": "₹", "euro": "€", "eur": "€", "aud": "A$",
             "cad": "C$", "jpy": "¥", "yen": "¥", "pound sterling": "£", "inrconvert": "₹"}  # fmt: skip
_NUMBER = re.compile(r"[-+−–]?[\d.,/ ]*\d[\d.,/]*(?:e[-+]?\d+)?")
_RANGE = {"to": "to", "-": "–", "–": "–", "and": "and", "or": "or", "by": "by", "x": "×", "×": "×",
          "+/-": "±", "±": "±", "to(-)": "to", "and(-)": "and", "xx": "×"}  # fmt: skip
_SHIPS = {
    "uss",
    "hms",
    "rms",
    "ss",
    "hmas",
    "hmcs",
    "sms",
    "mv",
    "ins",
    "rmv",
    "ms",
    "gts",
    "hnlms",
}


def _convert(arguments: Arguments) -> str:
    words: list[str] = []
    for value in arguments[0]:
        if _NUMBER.fullmatch(value):
            words.append(value)
        elif value.lower() in _RANGE:
            words.append(_RANGE[value.lower()])
        else:
            words.append(_UNITS.get(value, value))
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
    return {"flat": "♭", "sharp": "♯", "natural": "♮"}.get("".join(arguments[0][:1]), "")


_SPECIAL: dict[str, Callable[[Arguments], str]] = {
    "convert": _convert, "cvt": _convert, "frac": _fraction, "fraction": _fraction,
    "sfrac": _fraction, "circa": _circa, "c.": _circa, "ca.": _circa, "val": _value,
    "as of": _as_of, "asof": _as_of, "ship": _joined, "bibleref": _joined, "bibleverse": _joined,
    "currency": _joined, "oldstyledate": _joined, "chem": _formula, "e": _power,
    "music": _accidental, "nihongo foot": _joined,
}  # fmt: skip
_FIRST_NAMES = {name.replace("_", " ") for name in _FIRST.split()}
_LAST_NAMES = set(_LAST.split())
# "lang-fr" and "link-fr" everywhere; "vol-fr" is the Latgalian name of "lang-fr"
_LANGUAGE_FORMS = ("lang-", "link-", "vol-")
_FUNCTIONS = ("lc", "uc", "lcfirst", "ucfirst", "formatnum", "nowrap")


def split_arguments(body: str) -> list[str]:
    """Cut at the ``|`` that stand outside ``[[links]]`` and ``-{conversions}-``."""
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
    """Visible text of the template call whose inside is ``body``; "" for most templates.

    ``title`` is what ``{{PAGENAME}}`` stands for.
    """
    head, _, _ = body.partition("|")
    name = head.strip().replace("_", " ").lower()
    if len(name) > 60 or "\n" in name:
        return ""
    if name in _LITERAL and "|" not in body:
        return _LITERAL[name]
    if name in ("pagename", "fullpagename", "basepagename", "subst:pagename"):
        return title
    function, colon, operand = name.partition(":")
    if colon and function in _FUNCTIONS:
        return head.partition(":")[2].strip().split("|")[0] if operand else ""
    language_form = name.startswith(_LANGUAGE_FORMS) and len(name) <= 12
    if not (
        language_form
        or name in _FIRST_NAMES
        or name in _LAST_NAMES
        or name in _SPECIAL
        or name in _CURRENCY
        or name in _SHIPS
    ):
        return ""
    arguments = _arguments(split_arguments(body)[1:])
    positional, named = arguments
    if name in _SPECIAL:
        return _SPECIAL[name](arguments)
    if name in _SHIPS:
        return " ".join([name.upper(), *positional[:1]])
    if name in _CURRENCY:
        return _CURRENCY[name] + positional[0] if positional else ""
    if name in _QUOTES:
        text = positional[0] if positional else named.get("text", named.get("quote", ""))
        return f"\n\n{text}\n\n" if text else ""
    if name in _LAST_NAMES:
        given = [value for value in positional[1:] if value]
        return given[-1] if given else named.get("text", "")
    return positional[0] if positional else named.get("text", "")
