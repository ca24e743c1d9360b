"""Features of other programs: TFRecord, or the same features as JSON lines.

A record is a ``tf.train.Example``, or an object with a list of numbers per feature; it has ``input_ids``.
Checksums of all TFRecords are verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, parse_json
from megabert.data.foreign.tf_example import Feature, parse_example
from megabert.data.foreign.tfrecord import (
    HEAD_BYTES,
    index_records,
    is_tfrecord,
    read_framed_record,
)
from megabert.tasks.files.json_lines import read_json_lines
from megabert.tasks.files.kinds import is_mindrecord, refuse_binary
from megabert.tasks.files.text_lines import read_lines

_SUFFIXES = (".tf_record", ".tfrecord", ".tfrecords")
IDS = "input_ids"
"""The feature by which a file of features is recognised."""


def is_features_file(path: Path) -> bool:
    """Whether ``path`` begins as a TFRecord or is named as one, or holds objects of features.

    Raises:
        UserError: it is a MindRecord file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False  # whoever reads it says what is wrong
    if is_mindrecord(head):
        refuse_binary(path)
    if is_tfrecord(head[:HEAD_BYTES]) or path.suffix in _SUFFIXES:
        return True
    try:
        first = next((line for _, line in read_lines(path) if line.strip()), "")
        return f'"{IDS}"' in first and IDS in parse_json(first, of_data=True)
    except (UserError, JsonError, TypeError):
        return False


def read_examples(path: Path) -> Iterator[tuple[int, dict[str, Feature]]]:
    """Number (from 0) and features of each record.

    Raises:
        UserError: unreadable, damaged, empty, or a record that is not an Example.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not is_tfrecord(head) and path.suffix not in _SUFFIXES:
        yield from _objects(path)
        return
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


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Feature]]]:
    for record, (number, content) in enumerate(read_json_lines(path)):
        if isinstance(content, str):
            raise UserError(f"{path} line {number}: {content}")
        yield record, {name: _feature(values) for name, values in content.items()}


def _feature(values: Any) -> Feature:
    """Whole numbers as int64, other numbers as float32; an empty list of texts for anything else."""
    listed = values if isinstance(values, list) else [values]
    whole = [type(value) is int and abs(value) < 1 << 63 for value in listed]
    if all(whole):
        return np.array(listed, np.int64)
    if all(fits or type(value) is float for value, fits in zip(listed, whole)):
        return np.array(listed, np.float32)
    return []
