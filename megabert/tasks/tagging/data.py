"""Texts with entities, and how a tokenizer splits them.

*Positions* are what entities are counted in: the characters of a text, or the tokens of a file that
brings its own. A *piece* is a token of the model. Pieces that carry a tag are *scored*: in a text all
that cover a character, in a file's token the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.tasks.files.problems import Problems
from megabert.tasks.tagging.entity_spans import Entity

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class TaggedTexts:
    """The texts of a file.

    Attributes:
        path: the file.
        texts: each a text, or the list of its tokens where the file brings them.
        entities: of each text, in characters or in tokens; None for a file without labels.
        lines: line of the file, from 1, at which each text begins.
        ids: names of the texts in a prediction file.
        problems: bad entries, which are left out.
        scheme: of the file's tags; None where it has none.
        separator: between the file's columns.
        unusable: texts with an entity that is not at its place, so that their labels cannot be trusted.
        recorded: the texts are features of another program.
        unit: what ``lines`` counts.
        token_lines: each token has a line of its own.
    """

    path: Path
    texts: Sequence[str | list[str]]
    entities: list[list[Entity]] | None
    lines: list[int]
    ids: list[Any] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)
    scheme: str | None = None
    separator: str = " "
    unusable: frozenset[int] = frozenset()
    recorded: bool = False
    unit: str = "line"
    token_lines: bool = True

    def place(self, text: int, position: int = 0) -> str:
        """The place in the file of a position of a text, for messages."""
        if self.recorded:
            return f"record {self.lines[text]}"
        in_tokens = self.token_lines and not isinstance(self.texts[text], str)
        return f"{self.unit} {self.lines[text] + (position if in_tokens else 0)}"

    def types(self) -> dict[str, str]:
        """Each type of entity and its first place."""
        first: dict[str, str] = {}
        for text, entities in enumerate(self.entities or ()):
            for entity in entities:
                if entity.type not in first:
                    first[entity.type] = self.place(text, entity.start)
        return first


@dataclass(frozen=True)
class Pieces:
    """A text for the model.

    ``ids`` int32 [n]; ``scored`` int64 [k], places in ``ids``, rising; ``spans`` int [k, 2], the first
    position that a scored piece covers and the end (exclusive).
    """

    ids: np.ndarray
    scored: np.ndarray
    spans: np.ndarray


def character_pieces(texts: Sequence[str], tokenizer: Tokenizer) -> list[Pieces]:
    """Texts as the tokenizer splits them; positions are characters."""
    result = []
    for text, encoded in zip(texts, tokenizer.encode_sentences(list(texts))):
        spans = encoded.offsets.astype(np.int64)
        for number, (start, end) in enumerate(spans.tolist()):
            part = text[start:end]
            if part[:1].isspace() or part[-1:].isspace():  # a piece that holds its word's space
                start = min(end, start + len(part) - len(part.lstrip()))
                spans[number] = start, max(start, end - len(part) + len(part.rstrip()))
        scored = np.flatnonzero(spans[:, 0] < spans[:, 1])
        result.append(Pieces(encoded.ids, scored, spans[scored]))
    return result


def token_pieces(texts: Sequence[list[str]], tokenizer: Tokenizer) -> list[Pieces]:
    """Each token tokenized by itself; positions are tokens. A token without a piece is read as [UNK]."""
    words = sorted({token for tokens in texts for token in tokens})
    cut = {
        word: encoded.ids if len(encoded.ids) else np.array([tokenizer.special.unk], np.int32)
        for word, encoded in zip(words, tokenizer.encode_sentences(words))
    }
    result = []
    for tokens in texts:
        parts = [cut[token] for token in tokens]
        sizes = np.array([len(part) for part in parts], np.int64)
        order = np.arange(len(tokens), dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.int32), *parts])
        result.append(Pieces(ids, np.cumsum(sizes) - sizes, np.stack([order, order + 1], axis=1)))
    return result
