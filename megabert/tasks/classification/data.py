"""What classification tasks share before tokenization: texts, labels, and their readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megabert.common.errors import UserError
from megabert.tasks.files.faults import BadLines, Faults

Label = str | float
"""Name of a class, or the score of a regression."""


@dataclass(frozen=True)
class Examples:
    """The examples of a file, N of them.

    Attributes:
        texts: one list of N texts, or two for pairs.
        labels: names of classes or scores; None for a file without labels.
        lines: line of the file, from 1, of each.
        ids: what names each in a prediction file.
        faults: the lines left out, and what happens to further ones.
        part: which of a task's prediction files is this file's.
        layout: how the file was read, in words.
    """

    texts: tuple[list[str], ...]
    labels: list[Label] | None
    lines: list[int]
    ids: list[Any]
    faults: Faults
    part: str = ""
    layout: str = ""

    def targets(self, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Numbers in ``labels`` of the examples' labels; () for a regression.

        Returns:
            the examples whose label is known, int64 [K], and theirs, int64 [K], or float32 [K] for a
            regression, or None for a file without labels.

        Raises:
            UserError: a label that is not among them, with its line; no example is left.
        """
        order = np.arange(len(self.lines), dtype=np.int64)
        if self.labels is None or not labels:
            return order, None if self.labels is None else np.array(self.labels, np.float32)
        number = {label: place for place, label in enumerate(labels)}
        for label, line in zip(self.labels, self.lines):
            if label not in number:
                self.faults.add(line, "unknown label", not_among(label, labels))
        found = np.array([number.get(str(label), -1) for label in self.labels], np.int64)
        if (found < 0).all():
            raise UserError(f"{self.faults.path} has no usable example ({self.faults.problems})")
        return order[found >= 0], found[found >= 0]


def not_among(label: Any, labels: Sequence[str]) -> str:
    """What is wrong with a label, in words."""
    listed = ", ".join(labels[:20]) + (f", ... ({len(labels)} labels)" if len(labels) > 20 else "")
    return f"{label!r}, not one of {listed}"


class Source(Protocol):
    """A data set: its files, labels, metric and prediction file."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """Names of each text in an item, the first one in messages; one tuple, or two for pairs."""

    @property
    def regression(self) -> bool:
        """Whether the labels are scores."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the data set's own order, where they are the same for every file; () elsewhere."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of scores (:func:`megabert.tasks.classification.metrics.metric_scores`); the first one decides which of two models is
        better.
        """

    def metrics_of(self, part: str) -> tuple[str, ...]:
        """The scores of a file whose :attr:`Examples.part` is this."""

    def read(self, path: Path, bad_lines: BadLines) -> Examples:
        """Read a file.

        Raises:
            UserError: unreadable, empty or of another form; the message names the line.
        """

    def labels_of(self, path: Path) -> tuple[str, ...]:
        """The data set's labels in its own order, after ``path`` was read; () for a regression.

        Raises:
            UserError: they cannot be determined.
        """

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> tuple[str, ...]:
        """Labels of a checkpoint's outputs as the files name them.

        Raises:
            UserError: they are not this data set's.
        """

    def record(self) -> dict[str, Any]:
        """What :meth:`load_labels` needs of it again."""

    def write_predictions(
        self, folder: Path, part: str, ids: Sequence[Any], answers: Sequence[Label]
    ) -> Path:
        """Write the prediction file in the benchmark's form; its path."""


def texts_of_items(
    items: Sequence[dict[str, Any]], fields: tuple[tuple[str, ...], ...]
) -> tuple[list[str], ...]:
    """The texts of items, one list per field.

    Raises:
        UserError: an item has none of a field's names, or no text there; it is named from 1.
    """
    lists: tuple[list[str], ...] = tuple([] for _ in fields)
    for number, item in enumerate(items, start=1):
        for names, texts in zip(fields, lists):
            name = next((name for name in names if name in item), None)
            if name is None:
                known = ", ".join(map(str, item)) or "nothing"
                raise UserError(
                    f"item {number} has no {names[0]!r} (or {', '.join(names[1:])}): {known}"
                )
            if not isinstance(item[name], str):
                raise UserError(f"item {number}: {name!r} is not a text")
            texts.append(item[name])
    return lists
