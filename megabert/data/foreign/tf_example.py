"""BERT TFRecords: masked samples as ``tf.train.Example`` messages (Google's
create_pretraining_data).

An Example is Features (1) of map entries (1) of a name (1) and a Feature (2), which holds a list of
bytes (1), floats (2) or int64s (3); numbers are packed or not. Features here: ``input_ids``,
``input_mask``, ``segment_ids`` [S], ``masked_lm_positions``, ``masked_lm_ids``,
``masked_lm_weights`` [P] (0 = padding), ``next_sentence_labels`` [1].
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megabert.data.foreign.static import NO_LABEL, ForeignFile, ForeignShardError, StaticSample
from megabert.data.foreign.tfrecord import index_records, read_framed_record
from megabert.data.shards.spans import Ints
from megabert.data.tokenizers.protobuf import fields, packed_varints

Feature = npt.NDArray[Any] | list[bytes]
_NEEDED = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids")
_WEIGHTS, _NEXT = "masked_lm_weights", "next_sentence_labels"
_BYTES, _FLOATS, _INTS = 1, 2, 3


class TFRecordFile(ForeignFile):
    """One TFRecord file; its index takes 8 bytes per record."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._offsets = index_records(path)
        self.samples = len(self._offsets)
        if not self.samples:
            raise ForeignShardError(f"{path}: holds no records")
        self.layout = "BERT TFRecord"
        first = self._example(0)
        self.close()
        if "packed_input_ids" in first:
            raise ForeignShardError(
                f"{path}: a TFRecord of packed sequences (packed_input_ids), and this layout is "
                "not supported: use the records from which it was packed"
            )
        self._require(first, 0)
        self.width = len(first["input_ids"])
        self.labelled = _NEXT in first

    def read(self, row: int) -> StaticSample:
        example = self._example(row)
        self._require(example, row)
        ids, mask, segments, positions, labels = (
            self._numbers(example, name, row) for name in _NEEDED
        )
        if not len(ids) == len(mask) == len(segments) == self.width:
            raise self.error(row, f"its lists do not all have length {self.width}")
        size = self._without_padding(row, mask)
        if len(positions) == len(labels):
            real = self._real(example, positions, labels, row)
            positions, labels = positions[real], labels[real]
        label = NO_LABEL
        if self.labelled:
            found = self._numbers(example, _NEXT, row)
            if len(found) != 1:
                raise self.error(row, f"it has {len(found)} next sentence labels")
            label = int(found[0])
        return self._sample(row, ids[:size], segments[:size], positions, labels, label)

    def _real(
        self, example: dict[str, Feature], positions: Ints, labels: Ints, row: int
    ) -> npt.NDArray[np.bool_]:
        """Which predictions count, by their weights; without weights, those that are not (0, 0)."""
        if _WEIGHTS not in example:
            return (positions != 0) | (labels != 0)
        weights = np.asarray(example[_WEIGHTS])
        if len(weights) != len(positions) or not np.isin(weights, (0, 1)).all():
            raise self.error(row, "its masked_lm_weights are not one 0 or 1 per position")
        return weights == 1

    def length(self, row: int) -> int:
        example = self._example(row)
        self._require(example, row)
        return self._without_padding(row, self._numbers(example, "input_mask", row))

    def _example(self, row: int) -> dict[str, Feature]:
        handle = self._descriptor()
        self._require_unchanged(handle)  # the record's checksum covers what happens after this
        record = read_framed_record(handle, int(self._offsets[row]), self.path, row)
        try:
            return parse_example(record)
        except ValueError as error:
            raise self.error(row, f"not a tf.train.Example ({error})") from None

    def _require(self, example: dict[str, Feature], row: int) -> None:
        missing = [name for name in _NEEDED if name not in example]
        if missing:
            raise self.error(
                row, f"without {', '.join(missing)}: not a masked sample in BERT's layout"
            )

    def _numbers(self, example: dict[str, Feature], name: str, row: int) -> Ints:
        values = example.get(name)
        if not isinstance(values, np.ndarray) or values.dtype != np.int64:
            raise self.error(row, f"{name} is not a list of whole numbers")
        return values

    def _descriptor(self) -> int:
        if self._handle is None:
            try:
                self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ForeignShardError(f"{self.path}: cannot be read ({error.strerror})") from None
        handle: int = self._handle
        return handle

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None


def parse_example(message: bytes) -> dict[str, Feature]:
    """Features by name: int64 or float32 arrays, or lists of bytes.

    Raises:
        ValueError: the message is not an Example.
    """
    result: dict[str, Feature] = {}
    for number, body in fields(message):
        if number == 1:
            for _, entry in fields(_message(body)):
                parts = dict(fields(_message(entry)))
                name = _message(parts.get(1, b"")).decode()
                result[name] = _feature(_message(parts.get(2, b"")))
    return result


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number instead of a message")
    return value


def _feature(message: bytes) -> Feature:
    lists = dict(fields(message))
    if not lists:
        return np.zeros(0, np.int64)
    kind, body = next(iter(lists.items()))
    values = [value for number, value in fields(_message(body)) if number == 1]
    if kind == _INTS:
        parts = [
            np.array([value], np.uint64).astype(np.int64)
            if isinstance(value, int)
            else packed_varints(value)
            for value in values
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)
    joined = [_message(value) for value in values]
    if kind == _FLOATS:
        return np.frombuffer(b"".join(joined), "<f4")
    if kind == _BYTES:
        return joined
    raise ValueError(f"a feature of an unknown kind ({kind})")
