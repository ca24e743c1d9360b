"""``vocab.txt``: one entry per line, whose number (from 0) is its id.

Read as transformers reads it: only a line feed ends a line (U+2028 and others may be entries),
spaces at the end of an entry do not count, and of equal entries the last one gives the id. A
carriage return before the line feed and a byte order mark belong to the file, not to an entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import read_limited
from megabert.data.tokenizers.base import warn_once

LARGEST = 1 << 28
"""Bytes of a vocabulary, of any kind, that is read whole."""

_BYTE_ORDER_MARK = "\ufeff"
# Unicode's White_Space; Python's str.rstrip removes four controls more
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_LAST = frozenset(_SPACES)
_UNREACHABLE = ("", "##")  # what is left of an entry of spaces; no text is encoded to it


def read_vocabulary(path: Path) -> list[str]:
    """Entries of a ``vocab.txt``, in the order of their ids. Blank lines at the end are left out.

    Repeated and blank lines are counted in a warning, and so is a byte order mark.

    Raises:
        UserError: there are no entries, or more than ``LARGEST`` bytes; no regular file.
    """
    if path.stat().st_size:
        check_downloaded(path)
    text = read_limited(path, LARGEST, "a vocabulary").decode("utf-8")
    marked = text.startswith(_BYTE_ORDER_MARK)
    lines = text.removeprefix(_BYTE_ORDER_MARK).removesuffix("\n").split("\n")
    entries = [line.removesuffix("\r") for line in lines]
    total = len(entries)
    while entries and not entries[-1]:
        entries.pop()
    if not entries:
        raise UserError(f"{path}: an empty vocabulary")
    if marked:
        warn_once(f"{path} begins with a byte order mark, which is left out of its first entry")
    _warn_of_lines(path, entries, total)
    return entries


def vocabulary_ids(entries: Sequence[str]) -> dict[str, int]:
    """Text of each entry -> its id: without spaces at its end, and the last of equal entries."""
    return {
        _text(entry) if entry[-1:] in _LAST else entry: number
        for number, entry in enumerate(entries)
    }


def matched_entries(entries: Sequence[str]) -> frozenset[int]:
    """Ids that some text is encoded to: not those of spaces, nor of lines repeated later."""
    return frozenset(
        number
        for text, number in vocabulary_ids(entries).items()
        if text.rstrip(_SPACES) not in _UNREACHABLE
    )


def same_entry(one: str, other: str) -> bool:
    """Whether two entries are equal except for spaces at their end."""
    return one == other or one.rstrip(_SPACES) == other.rstrip(_SPACES)


def _text(entry: str) -> str:
    text = entry.rstrip(_SPACES)
    return entry if text in _UNREACHABLE else text


def _warn_of_lines(path: Path, entries: Sequence[str], total: int) -> None:
    texts = vocabulary_ids(entries)
    if len(texts) == total and "" not in texts:
        return
    blank = sum(not entry for entry in entries) + total - len(entries)
    first: dict[str, int] = {}
    example = ""
    repeated = 0
    for number, entry in enumerate(entries):
        if entry and (earlier := first.setdefault(_text(entry), number)) != number:
            repeated += 1
            example = example or f"; line {number + 1} repeats line {earlier + 1}, {entry[:30]!r}"
    if repeated or blank:
        warn_once(
            f"{path}: {repeated} repeated and {blank} blank lines of {total}{example}; each line "
            "keeps its number, and of equal lines the last one gives the id, as in transformers"
        )
