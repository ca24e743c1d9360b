"""Hard-wrapped text: whether lines are cut at a width, and joining such lines to paragraphs.

Text is taken for hard-wrapped by the first of these rules that fits (a *cut* line does not end a
sentence):

1. two in five lines are cut, and 85 % of those are *full*: the next word would not have fitted into
   the width of the others;
2. one line in seven (ten lines at least) is cut, has five words, and is continued by a lower-case
   letter; 85 % of those are full. So is prose among lists and program code;
3. two in five lines are cut, and a line begins with a lower-case letter where, and only where, the
   line before is cut: lines of any length, as on a page of print;
4. one line in 20 (five at least) is cut, nine in ten of those are continued by a lower-case letter,
   and 19 in 20 lines after a sentence's end begin with another: lines that end at clauses.

In scripts without spaces between words, two in five lines are cut and 85 % of those fill one width
(from 16 columns on; below 30 only if stops or commas are inside of the lines). Lines with pauses at the
same places are verse.

If 85 % of the lines after a cut one begin with a capital, they are verse, and are not joined.

Lists, titles and one sentence per line fit none of them. A width counts ideographs and other wide
characters twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from megabert.common.patterns import lazy_pattern

_NARROWEST, _WIDEST = 30, 200
_FEWEST_CUTS = 3  # lines that stop inside a sentence
_SLACK = 6  # lines may end this fraction of the width early
_NARROWEST_GRID = 16  # columns, in scripts without spaces
_FULL = 0.85
_FEWEST_CLAUSES = 5
_WORDS = 5
_PARAGRAPH_END = 1000  # characters
_FEWEST_OF_PROSE = 10
_STOP = lazy_pattern(r"[.!?…؟۔।။។][\s\"'”’»)]|[.!?…؟۔।။។]$|[。！？．｡]")
_TERMINATORS = ".!?…:。！？：．｡؟۔।॥։።၊။។؛"
_CLOSERS = "\"'”’»›)]』」）］】》〉*_"
_PAUSE = re.compile(r"[\s、。，．,.；;：:！!？?]")
_WIDE = lazy_pattern("[\u1100-\u115f\u2e80-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\U0001f300-\U0001faff\U00020000-\U0003ffff]")  # fmt: skip
# accents, and the vowels and tones of Thai and Lao
_NO_WIDTH = lazy_pattern(
    "[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece]"
)
# scripts written without spaces between words, and their punctuation
_SPACELESS = lazy_pattern("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff]")  # fmt: skip
_PHRASES = lazy_pattern(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)  # a space is a pause in these scripts
_BULLET = re.compile(r"[•‣◦▪●○·]\s*\S|(?:[-–—*+]|\(?(?:\d{1,3}|[A-Za-z])[.)])\s+\S")
_SURE_BULLETS = "•‣◦▪●○"
# "pre- and postwar": the hyphen is followed by a space
_SUSPENDED = re.compile(r"(?:and|or|to|und|oder|bis|et|ou|y|o|e|of|en|och|og|i|a)\b")


@dataclass(frozen=True)
class Wrapping:
    """How the lines of a text are cut.

    Attributes:
        width: of the lines; 0 to join all lines of a paragraph.
        ragged: lines may end anywhere before the width.
    """

    width: int
    ragged: bool = False


JOIN_ALL = Wrapping(0, ragged=True)


def wrapping_of(lines: Sequence[str]) -> Wrapping | None:
    """How lines are cut, or None if the text is not hard-wrapped."""
    pairs = [(a, b) for a, b in pairwise(lines) if a.strip() and b.strip()]
    cut = [(a, b) for a, b in pairs if not ends_sentence(a)]
    if are_spaceless(pairs):
        return _grid(pairs, cut)
    if len(cut) < _FEWEST_CUTS or 10 * sum(has_stop(a) for a, _ in pairs) < len(pairs):
        return None
    if _are_verses(cut):
        return None
    limit = _common_width(pairs)
    most = 5 * len(cut) >= 2 * len(pairs)
    if _NARROWEST <= limit <= _WIDEST:
        if most and _share_full(cut, limit) >= _FULL:
            return Wrapping(limit)
        prose = [(a, b) for a, b in cut if begins_lower(b) and len(a.split()) >= _WORDS]
        enough = len(prose) >= _FEWEST_OF_PROSE and 7 * len(prose) >= len(pairs)
        if enough and _share_full(prose, limit) >= _FULL:
            return Wrapping(limit)
    ended = [b for a, b in pairs if ends_sentence(a)]
    lower = sum(map(begins_lower, ended)), sum(begins_lower(b) for _, b in cut)
    running = (
        len(ended) >= _FEWEST_CUTS and 5 * lower[0] <= len(ended) and 5 * lower[1] >= 3 * len(cut)
    )
    if most and running:
        return Wrapping(limit, ragged=True)
    clauses = (
        min(len(ended), len(cut)) >= _FEWEST_CLAUSES
        and 20 * lower[0] <= len(ended)
        and 10 * lower[1] >= 9 * len(cut)
        and 20 * len(cut) >= len(pairs)
        and limit <= _WIDEST
    )
    return Wrapping(limit, ragged=True) if clauses else None


def _are_verses(cut: Sequence[tuple[str, str]]) -> bool:
    """Whether nearly all lines begin with a capital although the line before is cut, as in verse."""
    nexts = [b.lstrip("\"'“‘«„¿¡(— ") for a, b in cut if not a.isupper()]
    cased = [text for text in nexts if text[:1].lower() != text[:1].upper()]
    capital = sum(text[0].isupper() for text in cased)
    return len(cased) >= _FEWEST_CUTS and 20 * capital >= 17 * len(cased)


def are_spaceless(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether nearly all lines join without a space."""
    return sum(joins_spaceless(a, b) for a, b in pairs if not a.isascii()) > 0.8 * len(pairs)


def _grid(pairs: Sequence[tuple[str, str]], cut: Sequence[tuple[str, str]]) -> Wrapping | None:
    """How lines in a script without spaces are cut: all of them fill one width."""
    limit = _common_width(pairs)
    if len(cut) < _FEWEST_CUTS or 5 * len(cut) < 2 * len(pairs) or limit > _WIDEST:
        return None
    verse = Counter(_places(a) for a, _ in pairs).most_common(1)[0]
    if verse[0] and 2 * verse[1] >= len(pairs):
        return None  # stops and commas are at the same places of the lines, as in verse
    slack = limit // _SLACK if limit >= _NARROWEST else 0
    full = sum(columns_of(a.rstrip()) + 4 > limit - slack for a, _ in cut)
    if limit >= _NARROWEST:
        return Wrapping(limit) if full >= _FULL * len(cut) else None
    inner = sum(bool(_places(a.rstrip()[:-1])) for a, _ in pairs)
    narrow = limit >= _NARROWEST_GRID and 3 * inner >= len(pairs) and len(cut) >= _FEWEST_OF_PROSE
    return Wrapping(limit) if narrow and full >= 0.95 * len(cut) else None


def _places(line: str) -> tuple[int, ...]:
    """Where a line has punctuation or spaces."""
    return tuple(match.start() for match in _PAUSE.finditer(line.strip()))


def _share_full(pairs: Sequence[tuple[str, str]], width: int) -> float:
    return sum(is_filled(a, b, width) for a, b in pairs) / len(pairs)


def _common_width(pairs: Sequence[tuple[str, str]]) -> int:
    """A width that 95 % of the lines within paragraphs do not exceed."""
    widths = sorted(columns_of(before.rstrip()) for before, _ in pairs)
    return widths[(len(widths) - 1) * 19 // 20]


def join_lines(lines: Iterable[str | None], wrapping: Wrapping) -> Iterator[str]:
    """Paragraphs of hard-wrapped text, each as one line.

    A paragraph ends at a blank line, before an indented line or a list item, and after a line that
    is short and ends a sentence; a short line by itself is a heading. Lines are joined by a space,
    in scripts without spaces by nothing. A hyphen at a line's end stays, without a space; a soft
    hyphen goes.

    Args:
        lines: without line ends; None for a line that could not be read, whose paragraph is left
            out.
        wrapping: of :func:`wrapping_of`, or JOIN_ALL.
    """
    block: list[str | None] = []
    for line in lines:
        if line is None or line.strip():
            block.append(line)
        elif block:
            yield from _paragraphs(block, wrapping)
            block = []
    if block:
        yield from _paragraphs(block, wrapping)


def _paragraphs(block: Sequence[str | None], wrapping: Wrapping) -> Iterator[str]:
    lines = [line for line in block if line is not None]
    if len(lines) < len(block):
        return
    own = replace(wrapping, width=min(wrapping.width, _own_width(lines)))
    done: list[str] = []  # of the paragraph, up to the end that decides how the next line joins it
    joined = lines[0].strip()
    many = False
    for before, line in pairwise(lines):
        if _continues(before, line, own, many):
            pause = " " if before[-1:] == " " and _PHRASES.match(joined[-1]) else ""
            joined, many = _joined(joined + pause, line.strip()), True
            if len(joined) > 2 * _PARAGRAPH_END:
                done.append(joined[:-_PARAGRAPH_END])
                joined = joined[-_PARAGRAPH_END:]
        else:
            yield "".join((*done, joined))
            done, joined, many = [], line.strip(), False
    yield "".join((*done, joined))


def _own_width(lines: Sequence[str]) -> int:
    """The width of a block whose lines all fill it, which may be narrower than the text's."""
    widest = max(map(columns_of, lines))
    if (
        widest >= _NARROWEST
        and len(lines) > 3
        and all(is_filled(a, b, widest, exact=True) for a, b in pairwise(lines))
    ):
        return widest
    return _WIDEST**2


def _continues(before: str, line: str, wrapping: Wrapping, many: bool) -> bool:
    """Whether ``line`` continues the paragraph of ``before``, which has ``many`` lines so far."""
    ends = ends_sentence(before)
    full = is_filled(before, line, wrapping.width)
    text = line.lstrip()
    if (ends or not full) and (_indent(line) > _indent(before) or _BULLET.match(text)):
        # the further lines of a list item may be indented
        return not ends and _BULLET.match(before.lstrip()) is not None and not _BULLET.match(text)
    if text[0] in _SURE_BULLETS:
        return False
    if full:
        return True
    if joins_spaceless(before, line) and not wrapping.ragged:
        return False  # a short line ends a paragraph; Thai has no stops
    if ends or not (wrapping.ragged or 2 * columns_of(before) >= wrapping.width):
        return False
    start = before.lstrip()[0]
    return many or start.islower() or text[0].islower() or before.rstrip()[-1] in ",;-–—\u00ad"


def is_filled(before: str, line: str, width: int, *, exact: bool = False) -> bool:
    """Whether the first word of ``line`` would not have fitted at the end of ``before``."""
    text = line.lstrip()
    end = before.rstrip()
    if joins_spaceless(end, text):
        room = 4  # punctuation that must not begin a line takes the last character with it
    else:
        room = 1 + min(columns_of(text.split(maxsplit=1)[0]), width)
    return columns_of(end) + room > width - (0 if exact else width // _SLACK)


def columns_of(text: str) -> int:
    """Width of a line: wide characters count twice, and marks above and below letters not at all."""
    if text.isascii() or len(text) > 2 * _WIDEST:
        return len(text)
    return len(text) + len(_WIDE.findall(text)) - len(_NO_WIDTH.findall(text))


def _indent(line: str) -> int:
    text = line.expandtabs(8)
    return columns_of(text[: len(text) - len(text.lstrip())])


def begins_lower(line: str) -> bool:
    """Whether the first letter of a line is a small one."""
    return line.lstrip()[:1].islower()


def has_stop(line: str) -> bool:
    """Whether a sentence ends in or at the end of a line."""
    return _STOP.search(line) is not None


def joins_spaceless(before: str, line: str) -> bool:
    """Whether no space belongs between two lines, neither of them blank."""
    return bool(_SPACELESS.match(before.rstrip()[-1]) and _SPACELESS.match(line.lstrip()))


def ends_sentence(line: str) -> bool:
    """Whether a line ends with a stop, which quotation marks or brackets may follow."""
    return line.rstrip().rstrip(_CLOSERS)[-1:] in _TERMINATORS


def _joined(text: str, line: str) -> str:
    last, first = text[-1], line[0]
    if last == " ":
        return text + line
    if last == "\u00ad":
        return text[:-1] + line
    hyphenated = last in "-\u2010" and text[-2:-1].isalpha() and first.isalpha()
    if hyphenated and not _SUSPENDED.match(line):
        return text + line
    if (last == "—" or text.endswith("--")) and not text[:-1].rstrip("-").endswith(" "):
        return text + line
    if _SPACELESS.match(last) or _SPACELESS.match(first):
        return text + line
    return f"{text} {line}"
