"""Features that Google BERT's public ``run_classifier.py`` and ``run_squad.py`` write as TFRecords.

A record is a ``tf.train.Example`` of whole numbers, its sequence padded to a fixed length S:

    both              input_ids, input_mask, segment_ids [S]
    run_classifier    label_ids [1] (a float in later versions, for a regression); is_real_example [1],
                      0 for a record that only fills up a batch
    run_squad         unique_ids, start_positions, end_positions, is_impossible [1]

The files name no vocabulary: ids that the tokenizer does not have, and a sequence that does not begin
with its ``[CLS]``, are errors. Checksums of all records are verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megabert.common.errors import UserError
from megabert.data.foreign.tf_example import Feature, parse_example
from megabert.data.foreign.tfrecord import (
    HEAD_BYTES,
    index_records,
    is_tfrecord,
    read_framed_record,
)
from megabert.tasks.files.rows import Rows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

_SUFFIXES = (".tf_record", ".tfrecord", ".tfrecords")


@dataclass(frozen=True)
class ClassifierRecords:
    """What a file of ``run_classifier.py`` holds.

    ``labels`` int64 [F], or float32 [F] for a regression; ``records`` int64 [F], number of each row's
    record in the file, from 0; ``filling``: numbers of the records left out as not real.
    """

    rows: Rows
    labels: np.ndarray
    records: np.ndarray
    filling: list[int]


@dataclass(frozen=True)
class SquadRecords:
    """What a training file of ``run_squad.py`` holds; int64 [F], except ``impossible``: bool [F].

    ``starts`` and ``ends``: first and last token of the answer in its row, 0 ([CLS]) where the row has
    none; ``impossible``: the row was made without an answer.
    """

    rows: Rows
    unique_ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    impossible: np.ndarray


def is_features_file(path: Path) -> bool:
    """Whether ``path`` begins as a TFRecord, or is named as one."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False  # whoever reads it says what is wrong
    return is_tfrecord(head) or path.suffix in _SUFFIXES


def read_classifier_records(
    path: Path, tokenizer: Tokenizer, max_length: int, labels: int | None
) -> ClassifierRecords:
    """All real records of a file of ``run_classifier.py``.

    Args:
        path: the file.
        tokenizer: whose ids the records must hold.
        max_length: tokens of a row at most; a longer one is an error.
        labels: label ids are below this; None for a regression.

    Raises:
        UserError: damaged or cut off, not of this layout, or a record that does not fit; the message
            names the record from 0.
    """
    found = _Found(path, tokenizer, max_length)
    targets: list[float] = []
    records: list[int] = []
    filling: list[int] = []
    for number, example in _examples(path):
        found.number = number
        if "is_real_example" in example and not found.whole(example, "is_real_example"):
            filling.append(number)
            continue
        found.add(example)
        records.append(number)
        targets.append(found.label(example, labels))
    if not targets:
        raise UserError(f"{path}: none of its {len(filling)} records is a real example")
    kind = np.float32 if labels is None else np.int64
    return ClassifierRecords(
        found.rows(), np.array(targets, kind), np.array(records, np.int64), filling
    )


def read_squad_records(path: Path, tokenizer: Tokenizer, max_length: int) -> SquadRecords:
    """All records of a training file of ``run_squad.py``; arguments as above.

    Raises:
        UserError: as :func:`read_classifier_records`; an answer outside of its row; no answers at all
            (features written for prediction).
    """
    found = _Found(path, tokenizer, max_length)
    columns: list[tuple[int, int, int, bool]] = []
    for number, example in _examples(path):
        found.number = number
        if "unique_ids" in example and "start_positions" not in example:
            raise found.error(
                "features for prediction, without start_positions, so there is no answer to learn"
            )
        size = found.add(example)
        start, end = (found.whole(example, f"{side}_positions") for side in ("start", "end"))
        if not 0 <= start <= end < size:
            raise found.error(
                f"its answer, tokens {start} to {end}, is outside of its {size} tokens"
            )
        impossible = "is_impossible" in example and found.whole(example, "is_impossible") != 0
        columns.append((found.whole(example, "unique_ids"), start, end, impossible))
    unique, starts, ends, impossible_rows = zip(*columns)
    return SquadRecords(
        found.rows(),
        np.array(unique, np.int64),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        np.array(impossible_rows, np.bool_),
    )


def _examples(path: Path) -> Iterator[tuple[int, dict[str, Feature]]]:
    """Number and features of each record."""
    offsets = index_records(path)
    if not len(offsets):
        raise UserError(f"{path}: an empty file, where TFRecord features were expected")
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for number, offset in enumerate(offsets.tolist()):
            data = read_framed_record(handle, offset, path, number)
            try:
                yield number, parse_example(data)
            except ValueError as error:
                raise UserError(
                    f"{path}: record {number}: not a tf.train.Example ({error})"
                ) from None
    finally:
        os.close(handle)


class _Found:
    """The rows read so far, and the record at hand."""

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
        """Check and keep a record's sequence without its padding; the number of its tokens."""
        ids, mask, segments = (
            self.numbers(example, name) for name in ("input_ids", "input_mask", "segment_ids")
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
