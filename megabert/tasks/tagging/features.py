"""Tagging features: sequences ``[CLS] text [SEP]`` in which some tokens carry a tag.

Positions, pieces and scored pieces: see :mod:`megabert.tasks.tagging.data`. A text of more pieces
than fit is cut into windows that overlap by half; the first half of an overlap is scored in the earlier
window, the second in the later one. So every tag counts once, in the loss and in the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.batches import ExampleChoice, pad_rows
from megabert.tasks.files.rows import Rows
from megabert.tasks.squad.windows import token_span, windows
from megabert.tasks.tagging.data import Pieces, TaggedTexts
from megabert.tasks.tagging.entity_spans import Entity, entities_of, parse_tag, tags_of

if TYPE_CHECKING:
    from megabert.data.shards.manifest import SpecialIds

SPECIAL = 2  # [CLS] and [SEP]
UNLABELLED = -100
"""A label that no loss reads."""


def onto_pieces(
    entities: Sequence[Entity], spans: np.ndarray
) -> tuple[list[Entity], list[tuple[str, Entity]]]:
    """Entities in scored pieces instead of positions, and those that are not represented exactly.

    An entity takes every piece that touches it. Where two want a piece, the longer one has it (of
    equals the earlier), and the other is left out.
    """
    taken = np.zeros(len(spans), np.bool_)
    placed: list[Entity] = []
    lost: list[tuple[str, Entity]] = []
    for entity in sorted(set(entities), key=lambda e: (e.start - e.end, e.start, e.type)):
        touched = token_span(spans, entity.start, entity.end)
        if touched is None:
            lost.append(("entity without a token", entity))
            continue
        first, last = touched[0], touched[1] + 1
        if taken[first:last].any():
            lost.append(("entity that shares a token with a longer one", entity))
            continue
        if (spans[first, 0], spans[last - 1, 1]) != (entity.start, entity.end):
            lost.append(("entity that ends inside a token", entity))
        taken[first:last] = True
        placed.append(Entity(entity.type, first, last))
    return placed, lost


def overlaps(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Beginning and end of what each window, (start, length), shares with the next one."""
    return [(after, start + length) for (start, length), (after, _) in pairwise(spans)]


@dataclass(frozen=True)
class TagSet:
    """The labels that a head knows, in its order, and their scheme, as "bio"."""

    labels: tuple[str, ...]
    scheme: str


class TaggingFeatures:
    """Rows of a corpus for the model.

    Args:
        corpus: texts and entities.
        pieces: of each of its texts.
        tag_set: tags that the head knows.
        special: ids of the special tokens.
        max_length: pieces per row at most, special tokens included.
        choice: which texts; for training, those without a scored piece are left out.

    Raises:
        UserError: ``max_length`` leaves no room, or nothing is left to train on.
    """

    def __init__(
        self,
        corpus: TaggedTexts,
        pieces: list[Pieces],
        tag_set: TagSet,
        special: SpecialIds,
        max_length: int,
        choice: ExampleChoice,
    ) -> None:
        self.room = max_length - SPECIAL
        if self.room < 1:
            raise UserError(
                f"--max-length {max_length} leaves no room for text between [CLS] and [SEP]"
            )
        self.corpus, self.special, self.scheme = corpus, special, tag_set.scheme
        self.problems = corpus.problems.with_more()
        usable = np.arange(len(pieces), dtype=np.int64)
        if choice.training:
            for text, piece in enumerate(pieces):
                if not len(piece.scored):
                    self.problems.add("text without a token", corpus.place(text))
                elif text in corpus.unusable:
                    self.problems.add(
                        "text with a misplaced entity, not trained on", corpus.place(text)
                    )
            usable = usable[
                [bool(len(p.scored)) and i not in corpus.unusable for i, p in enumerate(pieces)]
            ]
        self.texts = usable[choice.drawn(len(usable))]
        """Numbers in the corpus of the texts that rows are made of."""
        self.scored = [n for n, text in enumerate(self.texts) if int(text) not in corpus.unusable]
        """Places in ``texts`` of those whose labels can be trusted."""
        if not choice.training:
            for text in sorted(corpus.unusable):
                self.problems.add("text with a misplaced entity, not scored", corpus.place(text))
        if choice.training and not len(self.texts):
            raise UserError(f"{corpus.path}: no text to train on ({self.problems})")
        self._pieces = [pieces[text] for text in self.texts]
        self._number = {
            str(parse_tag(label)): number for number, label in enumerate(tag_set.labels)
        }
        self._tags = [parse_tag(label) for label in tag_set.labels]
        self._gold = None if corpus.entities is None else self._labels(corpus.entities)
        self._lay_out()

    def _labels(self, entities: list[list[Entity]]) -> list[np.ndarray]:
        """Numbers of the labels of each text's scored pieces, int64."""
        result = []
        for text, pieces in zip(self.texts, self._pieces):
            placed, lost = onto_pieces(entities[text], pieces.spans)
            for kind, entity in lost:
                self.problems.add(kind, self.corpus.place(int(text), entity.start))
            tags = tags_of(placed, len(pieces.scored), self.scheme)
            result.append(
                np.array([self._number.get(str(tag), UNLABELLED) for tag in tags], np.int64)
            )
        return result

    def _lay_out(self) -> None:
        """Cut every text into rows: (text, first piece, pieces, first scored piece, end of the scored pieces)."""
        rows: list[tuple[int, int, int, int, int]] = []
        for number, pieces in enumerate(self._pieces):
            spans = windows(len(pieces.ids), self.room, max(1, self.room // 2))
            middles = [sum(overlap) // 2 for overlap in overlaps(spans)]
            edges = [0, *np.searchsorted(pieces.scored, middles).tolist(), len(pieces.scored)]
            for window, (start, length) in enumerate(spans):
                if edges[window] < edges[window + 1] or len(spans) == 1:
                    rows.append((number, start, length, edges[window], edges[window + 1]))
        self._rows = np.array(rows, np.int64).reshape(-1, 5)
        ids = [self._ids(*row[:3]) for row in rows]
        self._inputs = Rows.joined(ids, [np.zeros(len(row), np.int8) for row in ids])
        scored = self._rows[:, 4] - self._rows[:, 3]
        self._tags_per_row = float(scored.mean()) if scored.any() else 1.0

    def _ids(self, text: int, start: int, length: int) -> np.ndarray:
        part = self._pieces[text].ids[start : start + length]
        return np.concatenate([[self.special.cls], part, [self.special.sep]])

    @property
    def labelled(self) -> bool:
        """Whether the file has labels."""
        return self._gold is not None

    @property
    def lengths(self) -> np.ndarray:
        """Pieces of each row with its special tokens, int64 [F]."""
        return self._inputs.lengths

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """The rows, and their chains of tags.

        ``tag_positions`` int64 [B, U], places of the scored pieces, 0 after the last; ``tag_counts``
        int64 [B]; ``begins``, ``ends`` bool [B], whether the text's first and last scored piece are
        among them; in labelled files ``tags`` int64 [B, U], ``UNLABELLED`` after the last, and
        ``row_weights`` float32 [B], 1 / mean tags of a row of this file.
        """
        places, labels = [], []
        chosen = self._rows[rows]
        for text, start, _, first, stop in chosen.tolist():
            places.append(self._pieces[text].scored[first:stop] - start + 1)
            if self._gold is not None:
                labels.append(self._gold[text][first:stop])
        tags = max(1, *(len(row) for row in places))
        ends = [len(self._pieces[text].scored) for text in chosen[:, 0]]
        arrays = {
            "tag_positions": pad_rows(places, tags, 0),
            "tag_counts": chosen[:, 4] - chosen[:, 3],
            "begins": chosen[:, 3] == 0,
            "ends": chosen[:, 4] == np.array(ends),
        }
        if self._gold is not None:
            arrays["tags"] = pad_rows(labels, tags, UNLABELLED)
            arrays["row_weights"] = np.full(len(rows), 1.0 / self._tags_per_row, np.float32)
        return self._inputs.batch(rows, max_length, arrays)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """What :meth:`Task.predict` gave for each row's tags, [F, ...], text by text."""
        parts: list[list[np.ndarray]] = [[] for _ in self._pieces]
        for row, (text, _, _, first, stop) in zip(values, self._rows.tolist()):
            parts[text].append(row[: stop - first])
        return [np.concatenate(rows) for rows in parts]

    def found(self, labels: Sequence[np.ndarray]) -> list[list[Entity]]:
        """Entities in positions that the labels of each text's scored pieces mark."""
        return [
            [
                Entity(kind, int(pieces.spans[first, 0]), int(pieces.spans[end - 1, 1]))
                for kind, first, end in self.in_pieces(numbers)
            ]
            for numbers, pieces in zip(labels, self._pieces)
        ]

    def in_pieces(self, labels: np.ndarray) -> list[Entity]:
        """Entities in scored pieces that labels mark."""
        tags = [self._tags[number] for number in labels.tolist()]
        return entities_of([tag for tag in tags if tag is not None])

    def truths(self) -> list[list[Entity]]:
        """Entities of each text as the file has them."""
        assert self.corpus.entities is not None
        return [self.corpus.entities[text] for text in self.texts]

    def accuracy(self, labels: Sequence[np.ndarray]) -> dict[str, float]:
        """Per cent of scored pieces with the right label, and of those whose right label is ``O``."""
        assert self._gold is not None
        gold, found = (
            np.concatenate([np.zeros(0, np.int64), *(side[text] for text in self.scored)])
            for side in (self._gold, labels)
        )
        total = max(1, len(gold))
        return {
            "accuracy": 100.0 * float((gold == found).sum()) / total,
            "all_o_accuracy": 100.0 * float((gold == self._number["O"]).sum()) / total,
        }

    def sizes(self) -> dict[str, Any]:
        """Numbers of texts, rows, tokens, tags, entities, texts cut into rows, and problems, which are
        listed by kind.
        """
        entities = sum(map(len, self.truths())) if self.labelled else 0
        rows_of = np.bincount(self._rows[:, 0], minlength=len(self._pieces))
        sizes: dict[str, Any] = {
            "texts": len(self.texts),
            "rows": len(self._rows),
            "tokens": int(self.lengths.sum()),
            "tags": sum(len(pieces.scored) for pieces in self._pieces),
            "entities": entities,
            "cut_texts": int((rows_of > 1).sum()),
            "problems": self.problems.total,
        }
        if self.problems.counts:
            sizes["problems_by_kind"] = self.problems.by_kind()
        return sizes

    def describe(self) -> str:
        """One line: texts, rows, tokens, entities, what was cut and what is wrong."""
        sizes = self.sizes()
        text = (
            f"{self.corpus.path.name}: {sizes['texts']:,} texts, {sizes['rows']:,} rows, "
            f"{sizes['tokens']:,} tokens"
        )
        text += f", {sizes['entities']:,} entities" if self.labelled else ", no labels"
        if sizes["cut_texts"]:
            text += f"; {sizes['cut_texts']:,} texts cut into windows of {self.room} tokens"
        return f"{text}; {self.problems}" if self.problems.counts else text
