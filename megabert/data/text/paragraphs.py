"""From a section's lines to paragraphs of prose and lists."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from megabert.data.text.counts import DROPPED_ITEMS, KEPT_ITEMS
from megabert.data.text.wikitext.items import (
    LINK_WORDS,
    MAX_WORDS,
    ItemKind,
    Look,
    begins_with_link,
    is_long_enough,
    item_kind,
    look_at,
    may_be_short,
    read_note,
)
from megabert.data.text.wikitext.links import EXTERNAL
from megabert.data.text.wikitext.rows import is_absolute_value
from megabert.data.text.wikitext.tidy import has_word, tidy_line

_LIST_MARKS = "*#:;"
_FEW_ITEMS = 3  # of a shorter list, sentences by a stop are kept


@dataclass(frozen=True)
class Paragraph:
    """Lines that belong together; each line is split into sentences separately.

    A paragraph of prose has one line, a list one line per item.
    """

    kind: str  # "text" or "list"
    lines: tuple[str, ...]


@dataclass
class SectionBody:
    """A section without markup, and what paragraphs need to know besides.

    Attributes:
        text: without links and tags.
        wikitext: the same with them, line by line the same; None if the list items begin with
            notes (:func:`megabert.data.text.wikitext.items.note_items`).
        spaceless: whether the language is written without spaces.
        settle: removes from a line the holes outside sentences.
        counts: receives the numbers of list items kept and dropped.
    """

    text: str
    wikitext: str | None
    spaceless: bool
    settle: Callable[[str], str]
    counts: Counter[str]

    def item(self, place: int, text: str) -> tuple[str, ItemKind]:
        """The clean line of the list item in line ``place``, and its kind."""
        look = None
        if self.wikitext is None:
            text, look = read_note(text)
        if EXTERNAL in text:  # a citation or part of a link list, or prose with a link
            look = look or self._look(place, text)
            if look.words < LINK_WORDS or begins_with_link(text):
                return "", ItemKind.SOURCE
            text = text.replace(EXTERNAL, "")
        line = tidy_line(text if text.isascii() else self.settle(text))
        is_short = not is_long_enough(line)
        if is_short and not may_be_short(line):
            return line, ItemKind.NAME
        look = look or self._look(place, text)
        if is_short and look.words < MAX_WORDS:
            return line, ItemKind.NAME
        kind = item_kind(line, look)
        return line, ItemKind.SHORT if is_short and kind is ItemKind.SENTENCE else kind

    def _look(self, place: int, text: str) -> Look:
        """An item that had no line of its own in the wikitext is looked at as it is."""
        return look_at(self._lines[place] if self._lines else text, self.spaceless)

    @cached_property
    def _lines(self) -> list[str]:
        return self.wikitext.split("\n") if self.wikitext else []


def _kept_items(items: list[tuple[str, ItemKind]]) -> list[str]:
    """The sentences of a list.

    Sentences by a stop stay if a quarter of the list are others, short ones if the list has not
    more names. If it has more sources than sentences, none stays.
    """
    kinds = [kind for _, kind in items]
    wanted = [ItemKind.SENTENCE, ItemKind.SHORT, ItemKind.STOPPED]

    def number() -> int:
        return sum(map(kinds.count, wanted))

    stopped = kinds.count(ItemKind.STOPPED)
    if stopped and len(items) >= _FEW_ITEMS and 4 * (number() - stopped) < len(items):
        wanted.remove(ItemKind.STOPPED)
    if ItemKind.SHORT in kinds and kinds.count(ItemKind.NAME) > number():
        wanted.remove(ItemKind.SHORT)
    if kinds.count(ItemKind.SOURCE) > number():
        return []
    return [line for line, kind in items if kind in wanted]


def paragraphs(body: SectionBody) -> list[Paragraph]:
    """Paragraphs of a section without markup: runs of prose lines and runs of list items.

    An item of a discussion (``:``) is prose. Of other items, the sentences are kept
    (:func:`_kept_items`).
    """
    found: list[Paragraph] = []
    prose: list[str] = []
    items: list[tuple[str, ItemKind]] = []

    def add_prose(raw: str) -> None:
        if not raw.isascii():  # a quick look: no mark of the cleaner is ASCII
            raw = body.settle(raw.replace(EXTERNAL, ""))
        line = tidy_line(raw)
        if has_word(line):
            found.append(Paragraph("text", (line,)))

    def close_prose() -> None:
        add_prose(prose[0] if len(prose) == 1 else " ".join(prose))
        prose.clear()

    def close_items() -> None:
        kept = _kept_items(items)
        body.counts[KEPT_ITEMS] += len(kept)
        body.counts[DROPPED_ITEMS] += len(items) - len(kept)
        if kept:
            found.append(Paragraph("list", tuple(kept)))
        items.clear()

    for place, raw in enumerate(body.text.split("\n")):
        mark = raw[:1]
        if not mark or (mark.isspace() and not raw.strip()):
            if prose:
                close_prose()
            if items:
                close_items()
        elif mark not in _LIST_MARKS:
            bare = raw.lstrip() if mark.isspace() else raw
            if bare[:1] == "|" and not is_absolute_value(bare):
                continue  # a row of a table without beginning or end
            if items:
                close_items()
            prose.append(raw)
        else:
            if prose:
                close_prose()
            text = raw.lstrip(_LIST_MARKS)
            if raw[len(raw) - len(text) - 1] == ":":
                if items:
                    close_items()
                add_prose(text)
            else:
                line, kind = body.item(place, text)
                if kind is ItemKind.SOURCE or has_word(line):
                    items.append((line, kind))
    if prose:
        close_prose()
    if items:
        close_items()
    return found
