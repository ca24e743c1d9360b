"""From which rows of an old vocabulary each row of a new one is made.

    copied     special tokens by role, whatever their spelling; entries that both vocabularies have
    averaged   other entries: the old entries that the new normalisation turns into them (``Rome``
               and ``ROME`` for ``rome``), else the pieces that the old tokenizer makes of their text
    drawn      entries without any known piece

Two entries are the same if they are the same text in the same place of a word (``##ing``, and
SentencePiece's ``ing``), and the same characters: where the old tokenizer changes an entry's text
(``Apple``, ``apple``), it counts as averaged, of a single piece.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megabert.convert.changes.entries import Entries, WordPart
from megabert.data.tokenizers.base import SPECIAL_NAMES, Tokenizer


@dataclass
class RowSources:
    """The sources of every row of a new vocabulary.

    Attributes:
        copied: new id -> old id.
        averaged: new id -> old ids of its pieces, in order.
        drawn: new ids.
        dropped: old ids that no new row is a copy of.
        old_names, new_names: entries by id.
    """

    old_names: Sequence[str]
    new_names: Sequence[str]
    copied: dict[int, int] = field(default_factory=dict)
    averaged: dict[int, list[int]] = field(default_factory=dict)
    drawn: list[int] = field(default_factory=list)

    @property
    def dropped(self) -> list[int]:
        kept = set(self.copied.values())
        return [number for number in range(len(self.old_names)) if number not in kept]


def row_sources(old: Tokenizer, new: Tokenizer) -> RowSources:
    """Find the sources of all rows."""
    before, after = Entries(old), Entries(new)
    roles = {new.special[role]: old.special[role] for role in SPECIAL_NAMES}
    spellings = _spellings(before, after)
    result = RowSources(before.names, after.names)
    for number, name in enumerate(after.names):
        copied = roles.get(number)
        if copied is None:
            copied = _same_entry(before, after, number, roles)
        pieces = spellings.get(after.piece(name), []) if copied is None and name else []
        if copied is None and not pieces:
            pieces = _pieces(before, after, name)
        if len(pieces) == 1 and _is_text_of(before, pieces[0], after.piece(name)):
            copied = pieces[0]
        if copied is not None:
            result.copied[number] = copied
        elif pieces:
            result.averaged[number] = pieces
        else:
            result.drawn.append(number)
    return result


def _spellings(before: Entries, after: Entries) -> dict[WordPart, list[int]]:
    """Texts -> the old entries, spelled otherwise, that the new normalisation turns into them."""
    found: dict[WordPart, list[int]] = defaultdict(list)
    for name, number in before.ids.items():
        if name not in before.special:
            piece = before.piece(name)
            changed = after.normalised(piece)
            if changed != piece:
                found[changed].append(number)
    return dict(found)


def _same_entry(
    before: Entries, after: Entries, number: int, roles: Mapping[int, int]
) -> int | None:
    """The old entry of the same name (rather the one of the same id, where names repeat) or text."""
    name = after.names[number]
    if not name:
        return None
    if before.marking == after.marking or name in after.special:
        if before.names[number : number + 1] == [name]:
            return number
        found = before.ids.get(name)
    else:
        piece = after.piece(name)
        found = None if piece.is_mark else before.find(piece)
    return None if found in roles.values() else found


def _pieces(before: Entries, after: Entries, name: str) -> list[int]:
    """Old ids of an entry's pieces; [] of a special token, which is not text."""
    if not name or name in after.special:
        return []
    piece = after.piece(name)
    if piece.is_mark and after.marking == "inner":  # which says nothing about a space before it
        piece = WordPart(False, piece.text)
    return before.segment(piece)


def _is_text_of(before: Entries, number: int, piece: WordPart) -> bool:
    """Whether an old entry is a text in its place, which marks do not have."""
    found = before.piece(before.names[number])
    return found.text == piece.text and (piece.is_mark or found.begins == piece.begins)
