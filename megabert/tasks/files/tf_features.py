"""Features that Google BERT's public ``run_classifier.py`` and ``run_squad.py`` write as TFRecords.

A record (:mod:`megabert.tasks.files.feature_records`) has whole numbers, its sequence padded to a length S:

    both              input_ids, input_mask, segment_ids [S]
    run_classifier    label_ids [1] (a float in later versions, for a regression); is_real_example [1],
                      0 for a record that only fills up a batch
    run_squad         unique_ids, start_positions, end_positions, is_impossible [1]

The files name no vocabulary: ids that the tokenizer does not have, and a sequence that does not begin
with its ``[CLS]``, are errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megabert.common.errors import UserError
from megabert.tasks.files.feature_records import read_examples
from megabert.tasks.files.feature_rows import FeatureRows
from megabert.tasks.files.rows import Rows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer


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
    found = FeatureRows(path, tokenizer, max_length)
    targets: list[float] = []
    records: list[int] = []
    filling: list[int] = []
    for number, example in read_examples(path):
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
    found = FeatureRows(path, tokenizer, max_length)
    columns: list[tuple[int, int, int, bool]] = []
    for number, example in read_examples(path):
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
        found.require_in_context(start, end)
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
