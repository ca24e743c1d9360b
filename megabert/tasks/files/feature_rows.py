"""The rows of features that other programs made, each checked against the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megabert.common.errors import UserError
from megabert.data.foreign.tf_example import Feature
from megabert.tasks.files.feature_records import IDS
from megabert.tasks.files.rows import Rows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

_MASKS = ("input_mask", "mask")


class FeatureRows:
    """The rows read so far, and the record at hand, ``number``.

    Args:
        path: the file.
        tokenizer: whose ids the records must hold.
        max_length: tokens of a row at most; a longer one is an error.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, max_length: int) -> None:
        self.path, self.number = path, 0
        self._words, self._cls = tokenizer.vocab_size, tokenizer.special.cls
        self._max_length = max_length
        self._ids: list[np.ndarray] = []
        self._segments: list[np.ndarray] = []

    def error(self, what: str) -> UserError:
        """An error that names the file and the record."""
        return UserError(f"{self.path}: record {self.number}: {what}")

    def rows(self) -> Rows:
        """All rows added."""
        return Rows.joined(self._ids, self._segments)

    def add(self, example: dict[str, Feature]) -> int:
        """Check and keep a record's sequence without its padding; the number of its tokens.

        Raises:
            UserError: it does not fit the tokenizer, or is not of this form.
        """
        mask_name = next((name for name in _MASKS if name in example), _MASKS[0])
        ids, mask, segments = (
            self.numbers(example, name) for name in (IDS, mask_name, "segment_ids")
        )
        if not len(ids) == len(mask) == len(segments):
            raise self.error("its input_ids, input_mask and segment_ids differ in length")
        size = int(np.count_nonzero(mask))
        if not size or not (mask[:size] == 1).all():
            raise self.error("its input_mask is not ones followed by zeros")
        ids, segments = ids[:size], segments[:size]
        if size > self._max_length:
            raise self.error(f"{size} tokens; give --max-length {len(mask)}")
        wrong = ids[(ids < 0) | (ids >= self._words)]
        if len(wrong):
            raise self.error(
                f"token id {wrong[0]}, but the vocabulary has {self._words} entries: the features "
                "were made with another one"
            )
        if ids[0] != self._cls:
            raise self.error(
                f"begins with token id {ids[0]}, not with [CLS] ({self._cls}): the features were made "
                "with another vocabulary"
            )
        if not 0 <= segments.min() <= segments.max() <= 1:
            raise self.error("a segment id is neither 0 nor 1")
        self._ids.append(ids.astype(np.int32))
        self._segments.append(segments.astype(np.int8))
        return size

    def last(self) -> np.ndarray:
        """Ids of the row that was added last, int32."""
        return self._ids[-1]

    def require_in_context(self, start: int, end: int) -> None:
        """Raise UserError for an answer, tokens ``start`` to ``end`` of the last row, in the question.

        0 to 0, [CLS], is the place of no answer.
        """
        if (start, end) != (0, 0) and not self._segments[-1][start : end + 1].all():
            raise self.error(f"its answer, tokens {start} to {end}, is not in the context")

    def label(self, example: dict[str, Feature], labels: int | None) -> float:
        """The record's label id, below ``labels``; any finite number if that is None."""
        values = example.get("label_ids")
        if labels is None and isinstance(values, np.ndarray) and values.shape == (1,):
            if not np.isfinite(values[0]):
                raise self.error(f"its label is {values[0]}")
            return float(values[0])
        label = self.whole(example, "label_ids")
        if labels is not None and not 0 <= label < labels:
            raise self.error(
                f"label id {label}, but the task has {labels} labels (0 to {labels - 1})"
            )
        return label

    def whole(self, example: dict[str, Feature], name: str) -> int:
        """A feature of one whole number."""
        values = self.numbers(example, name)
        if len(values) != 1:
            raise self.error(f"{len(values)} numbers in {name}, where one was expected")
        return int(values[0])

    def numbers(self, example: dict[str, Feature], name: str) -> np.ndarray:
        """A feature of whole numbers, int64."""
        values = example.get(name)
        if values is None:
            raise self.error(f"no feature {name}; it has {', '.join(sorted(example)) or 'none'}")
        if not isinstance(values, np.ndarray) or values.dtype != np.int64:
            raise self.error(f"{name} is not a list of whole numbers")
        return values
