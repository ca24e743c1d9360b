"""From a section's lines to paragraphs of prose and lists."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from megabert.data.text.wikitext.links import EXTERNAL
from megabert.data.text.wikitext.tidy import has_word, spaceless_letters, tidy_line

_LIST_MARKS = "*#:;"
_ISBN = re.compile(r"\bISBN[ :]*[\dX-]{9,}")
_FOUR_WORDS = re.compile(r"[\W_]*(?:[^\W_]+[\W_]+){3}[^\W_]")
_INITIALS = re.compile(r"[^\W\d_]+,? [^\W\d_]\.")
ITEM_LETTERS = 8
"""Minimum length of a list item in a script without spaces; in other scripts, four words."""
_STOPS = tuple(".!?。！？…")
_PROSE_LENGTH = 50
_PROSE_LETTERS = 15


@dataclass(frozen=True)
class Paragraph:
    """Lines that belong together; each line is split into sentences separately.

    A paragraph of prose has one line, a list one line per item.
    """

    kind: str  # "text" or "list"
    lines: tuple[str, ...]


def paragraphs(body: str, settle: Callable[[str], str]) -> list[Paragraph]:
    """Paragraphs of a section without markup: runs of prose lines and runs of list items.

    An item of a discussion (``:``) is prose.

    Args:
        body: text without links and tags.
        settle: removes from a line the holes outside sentences.
    """
    found: list[Paragraph] = []
    prose: list[str] = []
    items: list[str] = []

    def add_prose(raw: str) -> None:
        line = tidy_line(settle(raw.replace(EXTERNAL, "")))
        if has_word(line):
            found.append(Paragraph("text", (line,)))

    def close_prose() -> None:
        add_prose(" ".join(prose))
        prose.clear()

    def close_items() -> None:
        found.append(Paragraph("list", tuple(items)))
        items.clear()

    for raw in body.split("\n"):
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
            elif (
                EXTERNAL not in text
            ):  # an item with a web link is a citation or part of a link list
                line = tidy_line(settle(text))
                if _keeps_item(line):
                    items.append(line)
    if prose:
        close_prose()
    if items:
        close_items()
    return found


def _keeps_item(line: str) -> bool:
    """Whether to keep a list item: it must be long enough, and not a book with an ISBN."""
    if "ISBN" in line and _ISBN.search(line):
        return False
    return _FOUR_WORDS.match(line) is not None or spaceless_letters(line) >= ITEM_LETTERS


def reads_as_prose(lines: list[str], raw: str) -> bool:
    """Whether a section of list items holds sentences, rather than works, links or names.

    Sentences are long, most end in a full stop, and most have no italics, web links or author's
    initials ("Smith, J."). A single item is not a list of sentences.

    Args:
        lines: the items.
        raw: their wikitext, in which titles of works are in italics.
    """
    stops = sum(line.endswith(_STOPS) for line in lines)
    letters = sum(spaceless_letters(line) for line in lines)
    length = sum(map(len, lines))
    signs = raw.count("''") // 2 + raw.count("://") + raw.count("ISBN")
    signs += sum(_INITIALS.match(line) is not None for line in lines)
    is_long = length >= _PROSE_LENGTH * len(lines) or letters >= _PROSE_LETTERS * len(lines)
    return len(lines) > 1 and is_long and stops * 3 >= len(lines) * 2 and signs * 2 <= len(lines)
