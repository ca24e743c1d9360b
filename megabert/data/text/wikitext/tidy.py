"""Tidies text after markup was removed: characters, spaces, brackets and commas left empty.

What an author wrote stays as it is: ``f()``, ``[]``, ``( )``, ``,,Zitat``, a line that begins with
``.NET``. Where markup was removed next to punctuation, :func:`gap` leaves a MARK, and only there
are brackets, commas and spaces put right.
"""

import html
import re

from megabert.common.patterns import lazy_pattern

MARK = "\ue010"  # something was removed here, next to punctuation
GAP = "\ue011"  # something was removed here, next to other markup; a space if that joins words
# form feeds, vertical tabs and separators (U+001C to U+001F) are not removed: they are spaces
_REMOVED = re.compile("[\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f"
                      "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffc\ufffe\uffff]")  # fmt: skip
_WIDE = "\u3000-〿＀-￯一-鿿㐀-䶿぀-ヿ"
_IS_WIDE = lazy_pattern(f"[{_WIDE}]")
_SEPARATORS = r"\s,;:·•/、，；：–—\-"
_PAIRS = "()（）［］【】〔〕[]“”「」『』《》〈〉‘’„“«»"
# brackets and quotes around nothing else than separators
_AROUND = lazy_pattern(
    "|".join(
        rf"{re.escape(left)}[{_SEPARATORS}{MARK}]*+{re.escape(right)}"
        for left, right in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)
    )
    + rf'|(?<!\w)"[\s{MARK}]*+"(?![\w"])'
)
_OPEN = frozenset(_PAIRS[::2])
_CLOSE = frozenset(_PAIRS[1::2] + ',.;:!?…、，。；：！？"')
_ATTACHED = frozenset("…!?")
_LINE_END = frozenset(("", "\n"))
_COMMAS = frozenset(",;、，；")
_BETWEEN = " ,;:、，；："
# from the weakest to the strongest
_STRENGTH = "、,，;；:："
_BRACKETS = "(（[［【〔"
_CLOSING = tuple(")）]］】〕")
_FULL_STOP = re.compile(r"[.!?](?=[\s\"”’»)\]]|$)|[。！？]")
_LOW_QUOTE = ",,"
"""Typed for a German or Polish quotation mark."""
_LONGEST_NUMBER = 9  # digits; no character has a number with as many
_LONG_NUMBER = re.compile(rf"&#([0-9]{{{_LONGEST_NUMBER},}});?")
_WORD = re.compile(r"[^\W_]")
_GAPS = re.compile(f"{GAP}+")
# markup behind which a letter or digit may follow, and that in which one may end
_OPENING_MARKUP = frozenset("'[<{")
_CLOSING_MARKUP = frozenset("']>}")
_ENDS_WORD = frozenset("']>" + ".!?;:,)")
# scripts written without spaces between words
_SPACELESS = lazy_pattern(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
_SPACELESS_LANGUAGES = frozenset(
    "bo cdo dz gan hak ja km lo lzh my nan shn th wuu yue zh".split()  # noqa: SIM905
)
_STOPS = frozenset(".!?;:,)")
_INSIDE_FIGURES = frozenset(".,:")
_QUOTES = frozenset('"”’')
# a comma, full stop or closing bracket with a space before it
_SPACED = re.compile(r" (?:[,.](?:\s|$)|\))")
_IDEOGRAPH = lazy_pattern("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


def tidy_line(text: str) -> str:
    """One line of clean text: entities decoded, single spaces, nothing left at a MARK.

    ``( {{a}}, {{b}} )`` goes with its templates; brackets, commas and stops that are not next to
    a MARK remain. The time is linear in the text.
    """
    return single_spaced(unescape(text) if "&" in text else text)


def unescape(text: str) -> str:
    """Text with its entities decoded; a number that is not a character's is U+FFFD, whatever its
    length."""
    return html.unescape(_LONG_NUMBER.sub(_short_number, text) if "&#" in text else text)


def _short_number(match: re.Match[str]) -> str:
    number = match.group(1).lstrip("0")
    return f"&#{number or 0};" if len(number) < _LONGEST_NUMBER else "\ufffd"


def single_spaced(text: str) -> str:
    """One line without invisible characters, with single spaces; every word remains."""
    if not text.isprintable() or "\ufffc" in text:
        text = _REMOVED.sub("", text)
        if GAP in text:
            text = _GAPS.sub(_between, text)
        if MARK in text:
            text = _close_gaps(text)
        return " ".join(text.split())
    if "  " in text:
        return " ".join(text.split())
    return text.strip()


def _between(match: re.Match[str]) -> str:
    """What a GAP leaves, now that the markup next to it is gone."""
    text, (start, end) = match.string, match.span()
    shown = gap(text[max(0, start - 3) : start], text[end : end + 1])
    return shown if shown == " " else ""


def _unless_typed(match: re.Match[str]) -> str:
    """Brackets go, and count as removed themselves, if something was removed inside them."""
    return MARK if MARK in match.group() else match.group()


def _close_gaps(text: str) -> str:
    """Text without marks; of the commas and spaces around each mark, one remains at most."""
    for _ in range(3):
        shorter = _AROUND.sub(_unless_typed, text)
        if shorter == text:
            break
        text = shorter
    first, *rest = text.split(MARK)
    done: list[str] = []
    piece = first
    separators: list[str] = []
    for after in rest:
        right = after.lstrip(_BETWEEN)
        if not right and after is not rest[-1]:
            separators.append(after)  # nothing else up to the next mark
            continue
        piece += "".join(separators)
        separators = []
        left = piece.rstrip(_BETWEEN)
        run = piece[len(left) :], after[: len(after) - len(right)]
        if right[:1] == "." == left[-1:] != left[-2:-1] and _FULL_STOP.match(right):
            right = right[1:]  # "end.{{a}}."
        if not done and not left:
            piece = _at_start(run, right)
        else:
            done.append(left)
            piece = _joint(left[-1:], run, right) + right
    return "".join(done) + piece


def _at_start(run: tuple[str, str], right: str) -> str:
    """What remains of a line that began with something removed: no comma, no full stop."""
    if run[1].endswith(_LOW_QUOTE) and right:
        return _LOW_QUOTE + right
    stop = _FULL_STOP.match(right)
    return right[stop.end() :] if stop else right


def _joint(left: str, run: tuple[str, str], right: str) -> str:
    """What remains of the separators ``run``, before and after a mark, between two characters."""
    marks = (run[0] + run[1]).replace(" ", "")
    if right[:1].isdigit() and (left.isdigit() or left == "."):
        return (max(marks, key=_STRENGTH.index) if marks else "") + " "
    if left in _BRACKETS or right.startswith(_CLOSING):
        return ""
    if _FULL_STOP.match(right):
        return " " if right[0] in _ATTACHED and run[1] == " " else ""
    if run[1].endswith(_LOW_QUOTE) and right:
        return " " + _LOW_QUOTE
    if marks:
        mark = max(marks, key=_STRENGTH.index)
        if (not right and mark not in ":：") or left in "。！？":
            return ""
        return mark + (" " if run[1][-1:] == " " or (not run[1] and run[0][-1:] == " ") else "")
    if _IS_WIDE.match(left) and _IS_WIDE.match(right):
        return ""
    if right[:1] in _ATTACHED and not run[1]:
        return ""
    return " " if run[0] or run[1] else ""


def has_word(text: str) -> bool:
    """Whether the text has a letter or digit."""
    return text[:1].isalnum() or _WORD.search(text) is not None


def spaceless_letters(text: str) -> int:
    """Number of letters of scripts written without spaces (Chinese, Japanese, Thai, ...)."""
    return 0 if text.isascii() else len(_SPACELESS.findall(text))


def is_spaceless(language: str) -> bool:
    """Whether a language is written without spaces between words."""
    return language.lower().replace("_", "-").partition("-")[0] in _SPACELESS_LANGUAGES


def has_ideograph(text: str) -> bool:
    """Whether the text has a Chinese character or Japanese kana."""
    return _IDEOGRAPH.search(text) is not None


def _meets_markup(left: str, after: str) -> bool:
    """Whether the markup that begins ``after`` may show a word that would join the one before it."""
    if after.startswith("{{"):
        return left.isdigit()  # most calls behind a word are notes
    return (left.isalnum() or left in _ENDS_WORD) and not after.startswith("<re")


def splits_figure(before: str, after: str) -> bool:
    """Whether markup was removed behind the comma or stop of a figure: ``1,<ref/>000``."""
    return before[-1:] in _INSIDE_FIGURES and before[-2:-1].isdigit() and after[:1].isdigit()


def gap(before: str, after: str) -> str:
    """What removed markup leaves between ``before`` and ``after``: a space, a MARK or nothing.

    A space if two words, figures or sentences would be joined ("breaks{{clarify}}in",
    "3<ref/>4", "end.<ref/>The"), except in scripts without spaces. A GAP if other markup is next
    to it, so that this cannot be seen yet ("'''3'''<ref/>4"). A MARK if a bracket or quote was
    opened before it, or if punctuation follows that belonged to what was removed ("a, {{b}}, c"); between two apostrophes
    too, which would become one mark of bold text. A space typed between it and a comma, full stop or
    closing bracket goes: "a{{b}} , c". Of ``after``, three characters count.
    """
    left, right = before[-1:], after[:1]
    if right == " ":
        return MARK if left in _OPEN or _SPACED.match(after) else ""
    if right.isalnum():
        if left in _QUOTES and before[-2:-1] in _STOPS:
            left = "."
        if not (left.isalnum() or left in _STOPS):
            closes = left in _CLOSING_MARKUP and (left != "}" or right.isdigit())
            return GAP if closes else ""
        return "" if spaceless_letters(left + right) else " "
    if right in _OPENING_MARKUP and _meets_markup(left, after):
        return GAP
    if (
        left in _OPEN
        or (right in _CLOSE and not left.isalnum())
        or left == right == "'"
        or (right in _LINE_END and before[-2:].rstrip(" ")[-1:] in _COMMAS)
    ):
        return MARK
    return ""
