"""Breaks between the pages of hard-wrapped text: form feeds, page numbers, running heads and feet.

A line is taken for a page number, head or foot if lines like it (figures aside) are between pages
three times or more, and sentences continue behind it. A line is *between pages* if it is one of up to
three lines between blank lines, or is next to a form feed. Figures alone must count up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megabert.data.text.pages import Page
from megabert.data.text.plain.wrapping import (
    begins_lower,
    columns_of,
    ends_sentence,
    is_filled,
    joins_spaceless,
)

NumberedLine = tuple[int, str | Page]
FORM_FEED = "\f"
"""Stands for a form feed inside of a line, which is not a blank line."""
_FIGURES = re.compile(r"\d+")
_FEWEST = 3  # lines that are alike
_FEWEST_CUT = 2  # of them inside a sentence
_CUT_OF = 5  # or one in this number, if that is more
_BLOCK = 3  # lines of a head or foot
_LONGEST = 120  # characters of one
_MOST_BLANK = 60  # lines between two pages


@dataclass(frozen=True)
class PageBreaks:
    """What is between the pages of a text.

    Attributes:
        forms: of the lines that are removed, with ``#`` for figures.
        width: of the lines of text, in columns.
        paragraphs: whether blank lines mean something: they are elsewhere too, or no page ends
            inside a sentence.
    """

    forms: frozenset[str]
    width: int
    paragraphs: bool = True


def split_at_form_feeds(line: str) -> list[str]:
    """The parts of a line, and a FORM_FEED between them; one alone in a line is also a blank line."""
    if not line.strip():
        return ["", FORM_FEED] if "\f" in line else [line]
    parts = line.split("\f")
    found = [parts[0]] if parts[0].strip() else []
    for part in parts[1:]:
        found.append(FORM_FEED)
        if part.strip():
            found.append(part)
    return found


def find_page_breaks(lines: Sequence[str]) -> PageBreaks | None:
    """What is between the pages of a sample; None if it has no such lines and no form feeds.

    Args:
        lines: of :func:`split_at_form_feeds`.
    """
    places = _between_pages(lines)
    form_of = {place: _form(lines[place]) for place in places}
    often = {form for form, n in Counter(form_of.values()).items() if n >= _FEWEST}
    furniture = {place for place, form in form_of.items() if form in often}
    if not furniture and not any("\f" in line for line in lines):
        return None
    width = _common_width(lines)
    gaps: dict[str, list[bool]] = {}
    values: dict[str, list[int]] = {}
    for before, inner, after in _gaps(lines, furniture):
        for place in inner:
            form = form_of[place]
            cut = _is_cut(before, after, width, _is_figure(form))
            gaps.setdefault(form, []).append(cut)
            values.setdefault(form, []).append(_value(lines[place]))
    forms = {form for form, cut in gaps.items() if sum(cut) >= max(_FEWEST_CUT, len(cut) / _CUT_OF)}
    forms -= {form for form in forms if _is_figure(form) and not _count_up(values[form])}
    feeds = {place for place, line in enumerate(lines) if "\f" in line}
    if not width or not (forms or feeds):
        return None
    cut = bool(forms) or any(
        _continues_in(before, after) for before, _, after in _gaps(lines, feeds)
    )
    return PageBreaks(frozenset(forms), width, not cut or _has_others(lines, forms))


def _common_width(lines: Sequence[str]) -> int:
    """A width that 95 % of the lines before another line do not exceed; 0 without any."""
    widths = sorted(columns_of(a.rstrip()) for a, b in pairwise(lines) if a.strip() and b.strip())
    return widths[(len(widths) - 1) * 19 // 20] if widths else 0


def _is_cut(before: str, after: str, width: int, figure: bool) -> bool:
    """Whether a paragraph continues behind a line that repeats, or behind a mere figure."""
    if not before or not after or not is_filled(before, after, width):
        return False
    return _continues_in(before, after) or (figure and not ends_sentence(before))


def _between_pages(lines: Sequence[str]) -> list[int]:
    """Places of the lines that may be page numbers, heads or feet."""
    blank = [-1, *(n for n, line in enumerate(lines) if not line.strip()), len(lines)]
    found = [
        place for a, b in pairwise(blank) if 1 < b - a <= _BLOCK + 1 for place in range(a + 1, b)
    ]
    feeds = [place for place, line in enumerate(lines) if "\f" in line]
    found += [
        place
        for feed in feeds
        for place in (feed - 1, feed + 1)
        if 0 <= place < len(lines) and lines[place].strip()
    ]
    return sorted({place for place in found if len(lines[place]) <= _LONGEST})


def _gaps(lines: Sequence[str], furniture: set[int]) -> Iterator[tuple[str, list[int], str]]:
    """(line of text, places of furniture after it, next line of text); "" at the ends."""
    before, inner = "", list[int]()
    for place, line in enumerate(lines):
        if place in furniture:
            inner.append(place)
        elif line.strip():
            if inner:
                yield before, inner, line
            before, inner = line, []
    if inner:
        yield before, inner, ""


def _continues_in(before: str, after: str) -> bool:
    """Whether a sentence certainly continues from one line to another."""
    if not before or not after or ends_sentence(before):
        return False
    return begins_lower(after) or joins_spaceless(before, after)


def _form(line: str) -> str:
    return _FIGURES.sub("#", " ".join(line.split()))


def _is_figure(form: str) -> bool:
    return not any(map(str.isalpha, form))


def _value(line: str) -> int:
    figures = _FIGURES.findall(line[:_LONGEST])
    return int(figures[-1]) if figures else -1


def _count_up(values: Sequence[int]) -> bool:
    steps = [b - a for a, b in pairwise(values)]
    return values[0] >= 0 and 5 * sum(step in (1, 2) for step in steps) >= 4 * len(steps)


def _has_others(lines: Sequence[str], forms: set[str]) -> bool:
    """Whether blank lines are elsewhere than between pages."""
    text, feed = False, False  # since the last line of text: a blank line; a page's end
    blank = False
    for line in lines:
        if "\f" in line:
            feed = True
        elif not line.strip():
            blank = True
        elif _form(line) in forms:
            feed = True
        else:
            if text and blank and not feed:
                return True
            text, blank, feed = True, False, False
    return False


def without_page_breaks(
    lines: Iterable[NumberedLine], breaks: PageBreaks
) -> Iterator[NumberedLine]:
    """The lines of a text without its page numbers, heads and feet.

    Where a sentence continues behind them, the blank lines around them go too; elsewhere they stay.

    Args:
        lines: (number, line without its end); a Page is a line that could not be read.
        breaks: of :func:`find_page_breaks`.
    """
    before, gap = "", list[tuple[int, str]]()
    is_page = False
    for number, whole in lines:
        if isinstance(whole, Page):
            yield from _blank_lines(gap)
            before, gap, is_page = "", [], False
            yield number, whole
            continue
        for line in split_at_form_feeds(whole) if "\f" in whole else (whole,):
            if "\f" in line:
                is_page = True
                gap.append((number, line))
            elif not line.strip():
                gap.append((number, line))
            elif breaks.forms and len(line) <= _LONGEST and _form(line) in breaks.forms:
                is_page = True
            else:
                if gap and not (is_page and _joins(before, line, breaks)):
                    yield from _blank_lines(gap)
                before, gap, is_page = line, [], False
                yield number, line
        if len(gap) > _MOST_BLANK:  # not between two pages
            yield from _blank_lines(gap)
            before, gap = "", []
    yield from _blank_lines(gap)


def _blank_lines(gap: Iterable[tuple[int, str]]) -> Iterator[NumberedLine]:
    """The blank lines of a gap, without form feeds inside of a line."""
    for number, line in gap:
        if line != FORM_FEED:
            yield number, ""


def _joins(before: str, after: str, breaks: PageBreaks) -> bool:
    """Whether two lines with the end of a page between them belong to one paragraph."""
    if not before or (breaks.paragraphs and ends_sentence(before)):
        return False
    return (
        not breaks.paragraphs
        or _continues_in(before, after)
        or is_filled(before, after, breaks.width)
    )


def count_page_lines(lines: Iterable[str], breaks: PageBreaks) -> int:
    """How many lines of a sample are page numbers, heads and feet."""
    return sum(_form(line) in breaks.forms for line in lines if len(line) <= _LONGEST)
