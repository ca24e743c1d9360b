"""Prose with known sentences, hard-wrapped by Python's textwrap; what is read of it."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.reading import ReadingRules

_NOUNS = [
    "miller",
    "baker",
    "orchard",
    "harbour",
    "lantern",
    "village",
    "teacher",
    "carpenter",
    "river",
    "meadow",
    "ferry",
]
_VERBS = ["repairs", "follows", "paints", "remembers", "crosses", "describes", "visits", "measures"]
_MORE = ["before the winter of 1904", "near the old well", "with great care", "in March", "for Mr Abel's sister"]  # fmt: skip


def sentences(document: int, count: int = 9) -> list[str]:
    """The sentences of a document; all differ."""
    choose = random.Random(document)
    found = []
    for number in range(count):
        words = [f"The {choose.choice(_NOUNS)} {choose.choice(_VERBS)} the {choose.choice(_NOUNS)}"]
        words += choose.sample(_MORE, choose.randint(0, 3))
        found.append(f"{' '.join(words)} at number {10 * document + number}.")
    return found


def wrapped(document: int, width: int = 64, indent: str = "", count: int = 9) -> str:
    """A document as one paragraph of hard-wrapped lines, the first of them indented."""
    text = " ".join(sentences(document, count))
    return textwrap.fill(text, width, initial_indent=indent, break_on_hyphens=False)


def sentences_read(folder: Path, text: str, **rules: str) -> list[str]:
    """The sentences that are read from a file ``a`` of this text."""
    path = folder / "a"
    path.write_bytes(text.encode())
    pages = iter_pages(path, ReadingRules(**rules))
    return [s for page in pages for p in page_to_sentences(page, "en").paragraphs for s in p]
