"""Batches and samples in the form in which tests compare them: one row per sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from megabert.common.packed_batch import PackedBatch
from megabert.data.samples.source import SampleArrays, Samples


def as_rows(batch: PackedBatch[Any]) -> dict[str, Any]:
    """Ids, token types and mask of each sequence, numbers and labels.

    Packed sequences are filled up with 0 to the longest.
    """
    rows: dict[str, Any] = dict(batch.labels)
    if batch.sample_numbers is not None:
        rows["sample_numbers"] = batch.sample_numbers
    names = "input_ids", "token_type_ids"
    if batch.attention_mask is not None:
        rows["attention_mask"] = batch.attention_mask
        shape = batch.attention_mask.shape
        return rows | {name: getattr(batch, name).reshape(shape) for name in names}
    inside = np.arange(int(max(batch.lengths))) < np.asarray(batch.lengths)[:, None]
    rows["attention_mask"] = inside.astype(np.int64)
    for name in names:
        rows[name] = np.zeros(inside.shape, np.int64)
        rows[name][inside] = getattr(batch, name)
    return rows


def rows_of(features: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of a task's features as rows."""
    return as_rows(features.batch(rows, 512))


def samples_from(source: Samples, first: int, count: int) -> SampleArrays:
    """The samples first .. first + count - 1 of a run."""
    return source.samples(np.arange(first, first + count))


def named_arrays(samples: SampleArrays) -> dict[str, np.ndarray]:
    """The arrays of samples by name, without the numbers and without those that are None."""
    return {
        name: array
        for name, array in vars(samples).items()
        if array is not None and name != "numbers"
    }
