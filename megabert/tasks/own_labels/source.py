"""Files of texts, or pairs, with a label in each row: what ``classify`` and ``regress`` read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import new_text_file
from megabert.data.tokenizers.base import without_surrogates
from megabert.tasks.classification.data import Examples
from megabert.tasks.files.faults import BadLines
from megabert.tasks.files.names import NamedColumns, example_ids
from megabert.tasks.own_labels.columns import ChosenColumns, ColumnSearch, UsualNames
from megabert.tasks.own_labels.records import Records, read_records
from megabert.tasks.own_labels.values import UnusableValue

PREDICTIONS = "predictions.jsonl"
TEXTS = ("text", "sentence", "content", "document")
PAIRS = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("text_a", "text_b"),
    ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence"),
)  # fmt: skip


class OwnSource(ABC):
    """The files of a task: a :class:`megabert.tasks.classification.data.Source`.

    Attributes:
        given: columns that flags name.
        before: columns of the training file, or of that of the checkpoint.
    """

    name: str
    regression: bool
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    usual_labels: tuple[str, ...]
    """Usual names of the label's column."""

    def __init__(self) -> None:
        self.given, self.before = NamedColumns(), NamedColumns()

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """Names of each text of an item: the column's, then the usual ones."""
        first, second = self.given.text or self.before.text, self.given.pair or self.before.pair
        if second is None:
            return (_names(first, TEXTS),)
        firsts, seconds = zip(*PAIRS)
        return _names(first, firsts), _names(second, seconds)

    def metrics_of(self, part: str) -> tuple[str, ...]:
        """All scores."""
        return self.metrics

    def read(self, path: Path, bad_lines: BadLines) -> Examples:
        """A file with labels or without."""
        return self.read_examples(path, bad_lines, training=False)

    def read_examples(self, path: Path, bad_lines: BadLines, training: bool) -> Examples:
        """Read a file; of one to train on, the columns are looked for in later files too.

        Raises:
            UserError: as :func:`read_records`; a text or label that is missing or cannot be used.
        """
        usual = UsualNames(TEXTS, PAIRS, self.usual_labels)
        search = ColumnSearch(path, usual, self.given, self.before, training)
        records = read_records(path, search, bad_lines)
        if training:
            self.before = records.columns.named()
        layout, column = records.layout, records.columns.label
        values = [] if column is None else [row.get(column) for _, row in records.rows]
        if values and not training and self._none_given(values):
            values, layout = [], f"{layout}, which is -1 everywhere: no labels"
        if values:
            self.begin(values, training)
        usable: list[tuple[int, dict[str, Any]]] = []
        labels: list[Any] = []
        for place, (number, row) in enumerate(records.rows):
            try:
                _require_texts(row, records.columns)
                label = self.label(values[place], number) if values else None
            except UnusableValue as wrong:
                records.faults.add(number, wrong.kind, str(wrong))
            else:
                usable.append((number, row))
                labels.append(label)
        if not usable:
            raise UserError(f"{path} has no usable example ({records.faults.problems})")
        records = Records(records.columns, layout, usable, records.faults)
        return self.made(records, labels if values else None)

    def _none_given(self, values: Sequence[Any]) -> bool:
        """Whether every label is -1, as ``datasets`` writes test files, and none is called so."""
        return "-1" not in self.labels and all(str(value).strip() == "-1" for value in values)

    def begin(self, values: Sequence[Any], training: bool) -> None:  # noqa: B027
        """A file's labels come next, in one order."""

    @abstractmethod
    def label(self, value: Any, number: int) -> Any:
        """The label that a value of row ``number`` stands for.

        Raises:
            UnusableValue: it stands for none.
        """

    def made(self, records: Records, labels: list[Any] | None) -> Examples:
        """Examples of records and their labels, all of which can be used."""
        return Examples(**self._parts(records, labels))

    def _parts(self, records: Records, labels: list[Any] | None) -> dict[str, Any]:
        """What all kinds of examples have."""
        numbers = [number for number, _ in records.rows]
        texts = tuple(
            [*without_surrogates([row[name] for _, row in records.rows])]
            for name in records.columns.texts
        )
        identity = records.columns.identity
        given = [None if identity is None else row.get(identity) for _, row in records.rows]
        return {
            "texts": texts,
            "labels": labels,
            "lines": numbers,
            "ids": example_ids(given, numbers, records.faults.problems),
            "faults": records.faults,
            "layout": records.layout,
        }

    def labels_of(self, path: Path) -> tuple[str, ...]:
        """No names."""
        return ()

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> tuple[str, ...]:
        """The labels as they are; the columns of the checkpoint's training file are looked for."""
        columns = record.get("columns")
        if isinstance(columns, list) and len(columns) == 3:
            self.before = NamedColumns(*(c if isinstance(c, str) else None for c in columns))
        self.labels = labels
        return labels

    def record(self) -> dict[str, Any]:
        """The columns of the training file."""
        return {"columns": [self.before.text, self.before.pair, self.before.label]}

    def write_predictions(
        self, folder: Path, part: str, ids: Sequence[Any], answers: Sequence[Any]
    ) -> Path:
        """Write JSON lines of objects, each with the id of its row."""
        path = folder / PREDICTIONS
        with new_text_file(path) as file:
            for identity, answer in zip(ids, answers, strict=True):
                file.write(json.dumps({"id": identity, **answer}, ensure_ascii=False) + "\n")
        return path


def _names(first: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    """Names without repetition."""
    return tuple(dict.fromkeys([first, *usual] if first else usual))


def _require_texts(row: dict[str, Any], columns: ChosenColumns) -> None:
    """Raise UnusableValue for a row without one of its texts."""
    for name in columns.texts:
        value = row.get(name)
        if value is None:
            raise UnusableValue("missing text", f"no {name!r}")
        if not isinstance(value, str):
            raise UnusableValue("unusable text", f"{name!r} is {str(value)[:40]}, not a text")
        if not value.strip():
            raise UnusableValue("empty text", f"{name!r} is empty")
