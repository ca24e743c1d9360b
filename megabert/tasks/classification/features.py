"""Classification features: sequences ``[CLS] text [SEP]`` or ``[CLS] text [SEP] text [SEP]``.

A pair that is too long loses tokens at the end of its longer text, of equal ones the second, until it fits
(Google BERT's public ``run_classifier.py``); a second text without a token leaves its ``[SEP]`` out, as
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.files.problems import Problems
from megabert.tasks.files.rows import Rows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import EncodedBatch, Tokenizer


_MOST_LISTED = 30
"""Labels whose counts are given in a line of the log."""


def truncated(
    first: np.ndarray, second: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that pairs of ``first`` and ``second`` tokens keep in ``room``; int64 [N] each.

    The longer text is cut down to the shorter one at most; from there both lose tokens in turn, the
    second one first.
    """
    used = np.minimum(first, np.maximum(room - second, (room + 1) // 2))
    return used, np.minimum(second, room - used)


def join_texts(
    texts: tuple[Sequence[str], ...], tokenizer: Tokenizer, max_length: int
) -> tuple[Rows, int, int]:
    """Rows of one list of texts, or of two for pairs.

    Returns:
        the rows, how many of them were cut to ``max_length`` tokens, and how many have no token of
        a text.

    Raises:
        UserError: ``max_length`` leaves no room for a token of each text.
    """
    special, count = tokenizer.special, len(texts[0])
    if max_length < 1 + 2 * len(texts):
        raise UserError(
            f"--max-length {max_length} leaves no room for text between [CLS] and [SEP]"
        )
    encoded = [tokenizer.encode_batch(list(some)) for some in texts]
    first = encoded[0].lengths
    second = encoded[1].lengths if len(texts) > 1 else np.zeros(count, np.int64)
    specials = 2 + (second > 0)
    used = truncated(first, second, max_length - specials)
    lengths = used[0] + used[1] + specials
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.empty(starts[-1], np.int32)
    segments = np.zeros(starts[-1], np.int8)
    ids[starts[:-1]] = special.cls
    _place(ids, starts[:-1] + 1, encoded[0], used[0])
    middle = starts[:-1] + 1 + used[0]
    ids[middle] = special.sep
    if len(texts) > 1:
        _place(ids, middle + 1, encoded[1], used[1])
        ids[starts[1:] - 1] = special.sep
        inside = np.arange(starts[-1]) - np.repeat(middle, lengths)
        segments[inside > 0] = 1
    empty = int(((first == 0) | (second == 0 if len(texts) > 1 else False)).sum())
    return Rows(ids, segments, starts), int((used[0] + used[1] < first + second).sum()), empty


def _place(ids: np.ndarray, starts: np.ndarray, texts: EncodedBatch, used: np.ndarray) -> None:
    """Put the first ``used`` tokens of each text at ``starts`` of ``ids``."""
    begins = np.cumsum(texts.lengths) - texts.lengths
    within = np.arange(int(used.sum())) - np.repeat(np.cumsum(used) - used, used)
    ids[np.repeat(starts, used) + within] = texts.ids[np.repeat(begins, used) + within]


@dataclass(frozen=True)
class ClassificationFeatures:
    """Rows of a file, one per example: see :class:`megabert.tasks.base.Features`.

    Attributes:
        path: the file.
        rows: tokens.
        targets: int64 [F] labels, float32 [F] scores, or float32 [F, L], 1 for each of a row's labels; None for
            a file without labels.
        labels: names of the labels.
        ids: what names each row in a prediction file.
        weights: float32 [F] or [F, L], of each row, or label of a row, in the loss; None for equal ones.
        cut: rows that lost tokens.
        empty: rows with a text that has no token.
        part: as :attr:`megabert.tasks.classification.data.Examples.part`.
        problems: what was left out.
    """

    path: Path
    rows: Rows
    targets: np.ndarray | None
    labels: tuple[str, ...]
    ids: Sequence[Any]
    weights: np.ndarray | None = None
    cut: int = 0
    empty: int = 0
    part: str = ""
    problems: Problems = field(default_factory=Problems)

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""
        return self.rows.lengths

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """Where the file has labels ``targets`` [B] or [B, L], int64 or float32, and where rows count differently
        ``row_weights`` float32 of that shape.
        """
        arrays = (("targets", self.targets), ("row_weights", self.weights))
        labels = {name: values[rows] for name, values in arrays if values is not None}
        return self.rows.batch(rows, max_length, labels)

    def counts(self) -> dict[str, int]:
        """Rows of each label; {} for a regression and for a file without labels."""
        if self.targets is None or not self.labels:
            return {}
        if self.targets.ndim == 2:
            found = self.targets.sum(axis=0).astype(np.int64)
        else:
            found = np.bincount(self.targets, minlength=len(self.labels))
        return dict(zip(self.labels, found.tolist()))

    def describe(self) -> str:
        """One line: examples, tokens, labels, what was cut and left out."""
        text = (
            f"{self.path.name}: {len(self.lengths):,} examples, {int(self.lengths.sum()):,} tokens"
        )
        if self.targets is None:
            text += ", no labels"
        elif len(self.labels) > _MOST_LISTED:
            text += f", {len(self.labels):,} labels"
        elif self.labels:
            text += ", " + ", ".join(f"{name}: {n:,}" for name, n in self.counts().items())
        if self.cut:
            text += f"; {self.cut:,} cut to {int(self.lengths.max())} tokens"
        if self.empty:
            text += f"; {self.empty:,} with an empty text"
        return f"{text}; left out: {self.problems}" if self.problems.counts else text

    def sizes(self) -> dict[str, Any]:
        """Numbers of examples, tokens, cut examples, those with an empty text, and left-out ones, which
        are listed by kind.
        """
        sizes: dict[str, Any] = {
            "examples": len(self.lengths),
            "tokens": int(self.lengths.sum()),
            "cut": self.cut,
            "empty": self.empty,
            "left_out": self.problems.total,
        }
        if self.problems.counts:
            sizes["left_out_by_kind"] = self.problems.by_kind()
        return sizes
