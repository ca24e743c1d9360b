"""From a section's lines to paragraphs of prose and lists."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from megabert.data.text.counts import DROPPED_ITEMS, KEPT_ITEMS
from megabert.data.text.wikitext.items import (
    MAX_WORDS,
    ItemKind,
    is_long_enough,
    item_kind,
    look_at,
    may_be_short,
    read_note,
)
from megabert.data.text.wikitext.links import EXTERNAL
from megabert.data.text.wikitext.tidy import has_word, tidy_line

_KEPT = (ItemKind.SENTENCE, ItemKind.SHORT)
_LIST_MARKS = "*#:;"


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
        text: without links and tags. List items may end in a note
            (:func:`megabert.data.text.wikitext.items.note_items`).
        wikitext: the same with them; if there are no notes, line by line the same.
        spaceless: whether the language is written without spaces.
        settle: removes from a line the holes outside sentences.
        counts: receives the numbers of list items kept and dropped.
    """

    text: str
    wikitext: str
    spaceless: bool
    settle: Callable[[str], str]
    counts: Counter[str]

    def item(self, place: int, text: str) -> tuple[str, ItemKind]:
        """The clean line of the list item in line ``place``, and its kind."""
        text, seen = read_note(text)
        line = tidy_line(self.settle(text))
        is_short = not is_long_enough(line)
        if is_short and not may_be_short(line):
            return line, ItemKind.NAME
        if seen is None:
            seen = self._look(place)
        if is_short and seen[0] < MAX_WORDS:
            return line, ItemKind.NAME
        kind = item_kind(line, *seen)
        return line, ItemKind.SHORT if is_short and kind is ItemKind.SENTENCE else kind

    def _look(self, place: int) -> tuple[int, bool]:
        line = self._lines[place] if place < len(self._lines) else ""
        return look_at(line, self.spaceless)

    @cached_property
    def _lines(self) -> list[str]:
        return self.wikitext.split("\n")


def paragraphs(body: SectionBody) -> list[Paragraph]:
    """Paragraphs of a section without markup: runs of prose lines and runs of list items.

    An item of a discussion (``:``) is prose. Of other items, the sentences are kept; if most items
    of a list are sources, none is.
    """
    found: list[Paragraph] = []
    prose: list[str] = []
    items: list[tuple[str, ItemKind]] = []

    def add_prose(raw: str) -> None:
        line = tidy_line(body.settle(raw.replace(EXTERNAL, "")))
        if has_word(line):
            found.append(Paragraph("text", (line,)))

    def close_prose() -> None:
        add_prose(" ".join(prose))
        prose.clear()

    def close_items() -> None:
        kept = [line for line, kind in items if kind in _KEPT]
        kinds = Counter(kind for _, kind in items)
        if kinds[ItemKind.SHORT] and kinds[ItemKind.NAME] > len(kept):
            kept = [line for line, kind in items if kind is ItemKind.SENTENCE]
        if kinds[ItemKind.SOURCE] > len(kept):
            kept = []
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
            if mark == "|" or (mark.isspace() and raw.lstrip()[:1] == "|"):
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
            elif EXTERNAL in text:  # a citation or part of a link list
                items.append(("", ItemKind.SOURCE))
            else:
                item = body.item(place, text)
                if has_word(item[0]):
                    items.append(item)
    if prose:
        close_prose()
    if items:
        close_items()
    return found
