"""The nine GLUE tasks (Wang et al. 2019) on the benchmark's own TSV files.

Columns are found by the names in a file's first line; a file without such a line (CoLA, parts of others) has
the official columns. A file without a label column is a test file: it gets a prediction file in the
form of the benchmark's submissions, and no scores. Labels are in the order of Google BERT's public
``run_classifier.py``, so that label ids of its features mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import write_text
from megabert.tasks.classification.data import Examples, Label
from megabert.tasks.files.tsv import BadLines, Cells, Faults, Table, read_table

SENTENCE = (("sentence", "text"),)
PAIR = (
    ("sentence1", "question", "question1", "premise", "#1 string"),
    ("sentence2", "sentence", "question2", "hypothesis", "#2 string"),
)
_LABELS = ("gold_label", "label", "score", "quality", "is_duplicate")
_INDEX = "index"
_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
HIGHEST = 5.0
"""Scores of STS-B are between 0 and this."""

DIAGNOSTIC = "AX"
"""The part of the diagnostic set, which models of mnli answer."""

Columns = tuple[tuple[int, ...], int | None]
"""Places of the texts, and of the label (None: no label)."""


@dataclass(frozen=True)
class Glue:
    """One GLUE task: a :class:`megabert.tasks.classification.data.Source`.

    Attributes:
        name: of the task.
        official: name of its prediction file.
        labels: in order; () for a regression.
        metrics: its scores, the deciding one first.
        columns: of a file without a header, by its number of columns; the labelled ones first.
        fields: names of the texts in headers and items.
    """

    name: str
    official: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: Mapping[int, Columns]
    fields: tuple[tuple[str, ...], ...] = PAIR

    @property
    def regression(self) -> bool:
        """Whether the labels are scores."""
        return not self.labels

    def metrics_of(self, part: str) -> tuple[str, ...]:
        """The task's scores; of the diagnostic set also its own, a Matthews correlation."""
        return (*self.metrics, "matthews_correlation") if part == DIAGNOSTIC else self.metrics

    def read(self, path: Path, bad_lines: BadLines) -> Examples:
        """Read a file of this task.

        Raises:
            UserError: unreadable, empty, or a line with another number of columns or an unknown label
                (``bad_lines`` "skip": they are left out and counted).
        """
        faults = Faults(path, bad_lines)
        table = read_table(path, self._is_header, self.columns, faults)
        texts, label = self._columns(table, path)
        names = [name.lower() for name in table.header or ()]
        index = names.index(_INDEX) if _INDEX in names else None
        if label is None and index is None and "id" in names:
            index = names.index("id")  # test files of QQP
        usable, labels = list(range(len(table.lines))), None
        if label is not None:
            found = [
                self._label(cells[label], line, faults)
                for cells, line in zip(table.cells, table.lines)
            ]
            usable = [row for row in usable if found[row] is not None]
            labels = [value for value in found if value is not None]
        if not usable:
            raise UserError(f"{path}: no line can be used ({faults.problems})")
        return Examples(
            tuple([table.cells[row][column] for row in usable] for column in texts),
            labels,
            [table.lines[row] for row in usable],
            [row if index is None else table.cells[row][index] for row in usable],
            faults,
            self._part(path, names),
        )

    def _is_header(self, cells: Cells) -> bool:
        names = {cell.lower() for cell in cells}
        return all(names & set(known) for known in self.fields)

    def _columns(self, table: Table, path: Path) -> Columns:
        if table.header is None:
            return self.columns[table.width]
        names = [name.lower() for name in table.header]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"{path} line 1: two columns have the name {twice[0]!r}")
        texts = tuple(
            next(names.index(name) for name in known if name in names) for known in self.fields
        )
        return texts, next((names.index(name) for name in _LABELS if name in names), None)

    def _label(self, cell: str, line: int, faults: Faults) -> Label | None:
        """The label a cell names; None if it names none."""
        cell = cell.strip()
        if not self.regression:
            if cell in self.labels:
                return cell
            faults.add(line, "unknown label", f"{cell!r}, not one of {', '.join(self.labels)}")
            return None
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if 0 <= value <= HIGHEST:
            return value
        faults.add(line, "unknown label", f"{cell!r}, not a score from 0 to {HIGHEST:g}")
        return None

    def _part(self, path: Path, names: Sequence[str]) -> str:
        if self.name != "mnli":
            return self.official
        if "diagnostic" in path.name or sorted(names) == [_INDEX, "sentence1", "sentence2"]:
            return DIAGNOSTIC
        return "MNLI-mm" if "mismatched" in path.name else "MNLI-m"

    def labels_of(self, path: Path) -> tuple[str, ...]:
        """The task's labels, whichever of them the file has."""
        return self.labels

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> tuple[str, ...]:
        """The task's labels in a checkpoint's order; case is ignored.

        Outputs without names are in the task's order; a foreign checkpoint's ``LABEL_0`` and
        ``LABEL_1`` are 0 and 1.

        Raises:
            UserError: they are not the task's.
        """
        if not labels or (self.regression and len(labels) == 1):
            return self.labels
        plain = {label: label for label in self.labels}
        if self.labels == _BINARY:
            plain |= {f"label_{number}": label for number, label in enumerate(_BINARY)}
        adopted = tuple(plain.get(label.lower(), "") for label in labels)
        if sorted(adopted) != sorted(self.labels):
            raise UserError(
                f"the checkpoint's labels, {', '.join(labels) or 'none'}, are not those of "
                f"{self.name}: {', '.join(self.labels) or 'a score'}; name them in its id2label"
            )
        return adopted

    def record(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def write_predictions(
        self, folder: Path, part: str, ids: Sequence[Any], answers: Sequence[Label]
    ) -> Path:
        """Write ``PART.tsv``: lines ``index<TAB>prediction`` with a header."""
        lines = ["index\tprediction"]
        for identity, answer in zip(ids, answers, strict=True):
            if isinstance(answer, float):
                answer = f"{min(max(answer, 0.0), HIGHEST):.3f}"
            lines.append(f"{identity}\t{answer}")
        path = folder / f"{part or self.official}.tsv"
        write_text(path, "\n".join(lines) + "\n")
        return path


_ACCURACY, _F1 = ("accuracy",), ("score", "accuracy", "f1")
_INDEXED: dict[int, Columns] = {4: ((1, 2), 3), 3: ((1, 2), None)}
GLUE = {
    task.name: task
    for task in (
        Glue(
            "cola", "CoLA", _BINARY, ("matthews_correlation",),
            {4: ((3,), 1), 2: ((1,), None)}, SENTENCE,
        ),
        Glue("sst2", "SST-2", _BINARY, _ACCURACY, {2: ((0,), 1)}, SENTENCE),
        Glue("mrpc", "MRPC", _BINARY, _F1, {5: ((3, 4), 0)}),
        Glue(
            "stsb", "STS-B", (), ("score", "pearson", "spearmanr"),
            {10: ((7, 8), 9), 9: ((7, 8), None)},
        ),
        Glue("qqp", "QQP", _BINARY, _F1, {6: ((3, 4), 5), 3: ((1, 2), None)}),
        Glue(
            "mnli", "MNLI-m", ("contradiction", "entailment", "neutral"), _ACCURACY,
            {12: ((8, 9), 11), 16: ((8, 9), 15), 10: ((8, 9), None), 3: ((1, 2), None)},
        ),
        Glue("qnli", "QNLI", _ENTAILMENT, _ACCURACY, _INDEXED),
        Glue("rte", "RTE", _ENTAILMENT, _ACCURACY, _INDEXED),
        Glue("wnli", "WNLI", _BINARY, _ACCURACY, _INDEXED),
    )
}  # fmt: skip
"""Every task by its name."""
