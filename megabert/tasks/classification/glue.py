"""The nine GLUE tasks (Wang et al. 2019) on the benchmark's own TSV files, and on the same data in other forms.

Columns are found by the names in a file's first line or in its JSON objects; a file without them (CoLA,
parts of others, STS-B as SemEval publishes it) must have one of the known layouts. A file without a label column is a test file: it gets a prediction file in the
form of the benchmark's submissions, and no scores. Labels are in the order of Google BERT's public
``run_classifier.py``, so that label ids of its features mean the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import write_text
from megabert.tasks.classification.columns import (
    Columns,
    columns_of_objects,
    known_columns,
    named_columns,
)
from megabert.tasks.classification.data import Examples, Label
from megabert.tasks.files.column_orders import ColumnOrder
from megabert.tasks.files.faults import BadLines, Faults
from megabert.tasks.files.json_lines import has_objects
from megabert.tasks.files.tables import Cells, read_table

SENTENCE = (("sentence", "text"),)
PAIR = (
    ("sentence1", "question", "question1", "premise", "#1 string"),
    ("sentence2", "sentence", "question2", "hypothesis", "#2 string"),
)
LABEL_NAMES = ("gold_label", "label", "score", "quality", "is_duplicate")
"""Names of the column of the label; of several in one file the first counts."""
MISSING = "label -1"
"""What ``datasets`` writes in the lines of a test file."""
_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
HIGHEST = 5.0
"""Scores of STS-B are between 0 and this."""

DIAGNOSTIC = "AX"
"""The part of the diagnostic set, which models of mnli answer."""

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]*)?([eE]-?[0-9]{1,2})?|\.[0-9]+")


@dataclass(frozen=True)
class Glue:
    """One GLUE task: a :class:`megabert.tasks.classification.data.Source`.

    Attributes:
        name: of the task.
        official: name of its prediction file.
        labels: in order; () for a regression.
        metrics: its scores, the deciding one first.
        layouts: of files without a header; the labelled ones first.
        fields: names of the texts in headers and items.
    """

    name: str
    official: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    layouts: tuple[ColumnOrder, ...]
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
            UserError: unreadable, empty, its columns are not known, or a line with another number of columns
                or an unknown label (``bad_lines`` "skip": they are left out and counted).
        """
        faults = Faults(path, bad_lines)
        found = self._found(path, faults)
        usable, labels = list(range(len(found.lines))), None
        if found.labels is not None and not _all_missing(found.labels):
            read = [
                self._label(value, line, faults) for value, line in zip(found.labels, found.lines)
            ]
            usable = [row for row in usable if read[row] is not None]
            labels = [value for value in read if value is not None]
        elif found.labels is not None:
            found = replace(found, layout=f"{found.layout}, {MISSING} in every line: no labels")
        if not usable:
            raise UserError(f"{path}: no line can be used ({faults.problems})")
        return Examples(
            tuple([some[row] for row in usable] for some in found.texts),
            labels,
            [found.lines[row] for row in usable],
            [found.ids[row] for row in usable],
            faults,
            self._part(path, found.names),
            found.layout,
        )

    def _found(self, path: Path, faults: Faults) -> Columns:
        if has_objects(path):
            return columns_of_objects(path, self.fields, LABEL_NAMES, faults)
        table = read_table(path, self._is_header)
        for line in table.damaged:
            faults.add(line, "damaged line", "a quoted cell that does not end at a delimiter")
        if table.header is not None:
            return named_columns(path, table, self.fields, LABEL_NAMES, faults)
        return known_columns(path, table, self.layouts, self._label_fault, faults)

    def _is_header(self, cells: Cells) -> bool:
        names = {cell.strip().lower() for cell in cells}
        return all(names & set(known) for known in self.fields)

    def _label_fault(self, value: Any) -> str | None:
        """What is wrong with a label."""
        return None if self._label_of(value) is not None else self._wrong(value)

    def _wrong(self, value: Any) -> str:
        if self.regression:
            return f"{value!r}, not a score from 0 to {HIGHEST:g}"
        text = f"{value!r}, not one of {', '.join(self.labels)}"
        bare = self.labels != _BINARY and str(value).strip().isdecimal()
        return f"{text} (a number does not say which one: write its name)" if bare else text

    def _label_of(self, value: Any) -> Label | None:
        """The label that a cell or a value of a JSON object names; None if it names none."""
        text = str(value).strip() if type(value) in (str, int) else ""
        if not self.regression:
            return text if text in self.labels else None
        if type(value) is float:
            score = value
        else:
            score = float(text) if _NUMBER.fullmatch(text) else math.nan
        return score if 0 <= score <= HIGHEST else None

    def _label(self, value: Any, line: int, faults: Faults) -> Label | None:
        """The same; a value that names no label is a fault."""
        label = self._label_of(value)
        if label is None:
            faults.add(line, "unknown label", self._wrong(value))
        return label

    def _part(self, path: Path, names: Sequence[str]) -> str:
        if self.name != "mnli":
            return self.official
        if "diagnostic" in path.name or sorted(names) == ["index", "sentence1", "sentence2"]:
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


def _all_missing(labels: Sequence[Any]) -> bool:
    """Whether every label is -1."""
    return all(type(label) in (str, int) and str(label).strip() == "-1" for label in labels)


def _indexed(first: str, second: str) -> tuple[ColumnOrder, ...]:
    """An index and two texts, with a label or without."""
    return (
        ColumnOrder(f"index, {first}, {second}, label", (4,), (1, 2), 3, numbers=(0,)),
        ColumnOrder(f"index, {first}, {second}", (3,), (1, 2), None, numbers=(0,)),
    )


_ACCURACY, _F1 = ("accuracy",), ("score", "accuracy", "f1")
_COLA = (
    ColumnOrder("source, label, mark, sentence", (4,), (3,), 1),
    ColumnOrder("index, sentence", (2,), (1,), None, numbers=(0,)),
)
_MRPC = (
    ColumnOrder("quality, #1 ID, #2 ID, #1 string, #2 string", (5,), (3, 4), 0, numbers=(1, 2)),
)
_STSB = (
    ColumnOrder(
        "genre, file, year, number, score, sentence1, sentence2, sources (the benchmark of SemEval)",
        (7, 8, 9), (5, 6), 4, words=(0,),
    ),
    ColumnOrder(
        "index, genre, file, year, number, source1, source2, sentence1, sentence2, score (GLUE)",
        (10,), (7, 8), 9, numbers=(0,), words=(1,),
    ),
    ColumnOrder(
        "index, genre, file, year, number, source1, source2, sentence1, sentence2 (GLUE)",
        (9,), (7, 8), None, numbers=(0,), words=(1,),
    ),
)  # fmt: skip
_QQP = (
    ColumnOrder("id, qid1, qid2, question1, question2, label", (6,), (3, 4), 5),
    _indexed("question1", "question2")[1],
)
_MNLI_FIRST = "index, promptID, pairID, genre, four parses, sentence1, sentence2"
_MNLI = (
    ColumnOrder(f"{_MNLI_FIRST}, label1, gold_label", (12,), (8, 9), 11, numbers=(0,)),
    ColumnOrder(f"{_MNLI_FIRST}, label1 to label5, gold_label", (16,), (8, 9), 15, numbers=(0,)),
    ColumnOrder(_MNLI_FIRST, (10,), (8, 9), None, numbers=(0,)),
    _indexed("sentence1", "sentence2")[1],
)
_PAIRS = _indexed("sentence1", "sentence2")
GLUE = {
    task.name: task
    for task in (
        Glue("cola", "CoLA", _BINARY, ("matthews_correlation",), _COLA, SENTENCE),
        Glue(
            "sst2", "SST-2", _BINARY, _ACCURACY,
            (ColumnOrder("sentence, label", (2,), (0,), 1),), SENTENCE,
        ),
        Glue("mrpc", "MRPC", _BINARY, _F1, _MRPC),
        Glue("stsb", "STS-B", (), ("score", "pearson", "spearmanr"), _STSB),
        Glue("qqp", "QQP", _BINARY, _F1, _QQP),
        Glue("mnli", "MNLI-m", ("contradiction", "entailment", "neutral"), _ACCURACY, _MNLI),
        Glue("qnli", "QNLI", _ENTAILMENT, _ACCURACY, _indexed("question", "sentence")),
        Glue("rte", "RTE", _ENTAILMENT, _ACCURACY, _PAIRS),
        Glue("wnli", "WNLI", _BINARY, _ACCURACY, _PAIRS),
    )
}  # fmt: skip
"""Every task by its name."""
