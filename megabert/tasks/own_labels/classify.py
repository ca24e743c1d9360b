"""``--task classify``: one label per text, or any number of them, by the labels found in the training file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.base import Features, Forward
from megabert.tasks.classification.data import Examples
from megabert.tasks.classification.features import ClassificationFeatures
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.own_labels.examples import MultiLabelExamples
from megabert.tasks.own_labels.records import Records
from megabert.tasks.own_labels.source import OwnSource
from megabert.tasks.own_labels.texts import OwnTexts
from megabert.tasks.own_labels.values import UnusableValue, label_name, label_names

THRESHOLD = 0.5
_FEWEST_TO_DOUBT = 20
"""Rows of a file in which a label of its own for each is taken for a wrong column."""
_KINDS = {str: "a text", int: "a whole number", bool: "true or false"}

log = get_logger()


class ClassSource(OwnSource):
    """Files whose labels are classes.

    Attributes:
        separator: between the labels of an example; None: its labels are a list, or it has one.
        several: whether examples have any number of labels; None: not known yet.
        seen: the labels of the file read last.
    """

    name, regression = "classify", False
    usual_labels = (
        "label", "labels", "class", "category", "target", "sentiment", "intent", "topic",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.separator: str | None = None
        self.several: bool | None = None
        self.seen: dict[str, None] = {}
        self._rows = 0
        self._kind: tuple[type, int] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Micro and macro F1 and accuracy; of two classes also their correlation."""
        if self.several:
            return ("micro_f1", "macro_f1", "subset_accuracy")
        two = ("matthews_correlation",) if len(self.labels) == 2 else ()
        return ("accuracy", "macro_f1", "micro_f1", *two)

    def begin(self, values: Sequence[Any], training: bool) -> None:
        """Decide from a training file whether its examples have several labels."""
        if training and self.several is None:
            lists = sum(isinstance(value, list) for value in values)
            self.several = self.separator is not None or 2 * lists > len(values)
        self.seen, self._rows, self._kind = {}, len(values), None

    def label(self, value: Any, number: int) -> Any:
        """A name, or the names of an example with several."""
        if not self.several:
            found = label_name(value)
            self._require_kind([value], number)
            self.seen[found] = None
            return found
        names = label_names(value, self.separator)
        self._require_kind(value if isinstance(value, list) else [], number)
        self.seen.update(dict.fromkeys(names))
        return names

    def _require_kind(self, values: Sequence[Any], number: int) -> None:
        """Raise UnusableValue where labels are of several types: 1 and "1" would be one."""
        for value in values:
            kind, first = self._kind = self._kind or (type(value), number)
            if type(value) is not kind:
                raise UnusableValue(
                    "label of another type",
                    f"{value!r} is {_KINDS[type(value)]}, that of {first} {_KINDS[kind]}",
                )

    def made(self, records: Records, labels: list[Any] | None) -> Examples:
        """Examples with one label each, or several."""
        if not self.several or labels is None:
            return super().made(records, labels)
        return MultiLabelExamples(**self._parts(records, labels), names=labels)

    def labels_of(self, path: Path) -> tuple[str, ...]:
        """The labels of the file read last: by number if all are whole numbers, else by name.

        Raises:
            UserError: there is one only, or one for each row.
        """
        found = list(self.seen)
        if len(found) < 2:
            all_of_them = f"only the label {found[0]!r}" if found else "no label"
            raise UserError(
                f"{path}: its {self._rows:,} rows have {all_of_them} (column {self.before.label!r}), so there is "
                "nothing to tell apart; give two labels or more"
            )
        if len(found) == self._rows >= _FEWEST_TO_DOUBT and not self.several:
            raise UserError(
                f"{path}: each of its {self._rows:,} rows has a label of its own (column "
                f"{self.before.label!r}), so nothing can be learned: name the column with --label-column, or "
                "learn numbers with --task regress"
            )
        numeric = all(name.removeprefix("-").isdecimal() for name in found)
        self.labels = tuple(sorted(found, key=(lambda n: (int(n), n)) if numeric else None))
        self._hint(self.labels)
        return self.labels

    def _hint(self, labels: Sequence[str]) -> None:
        """Log a text that may separate labels."""
        for separator in () if self.several else ("|", ";", ","):
            parts = [label.split(separator) for label in labels if separator in label]
            if len(parts) > 1 and any(part.strip() in labels for some in parts for part in some):
                log.info(
                    "labels contain %r: --label-separator %r would give an example several labels",
                    separator,
                    separator,
                )

    def record(self) -> dict[str, Any]:
        """The columns, and how several labels are written."""
        return {
            **super().record(),
            "multi_label": bool(self.several),
            "label_separator": self.separator,
        }


class Classify(OwnTexts):
    """The task ``classify``: see :class:`megabert.tasks.base.Task` for what each method does."""

    unused_settings = frozenset()
    source_class = ClassSource
    source: ClassSource

    def __init__(
        self, source: ClassSource, settings: ClassificationSettings, max_length: int | None = None
    ) -> None:
        source.separator = settings.label_separator
        super().__init__(source, settings, max_length)
        self.threshold = settings.threshold
        if settings.label_separator == "":
            raise UserError("--label-separator is empty; name what separates labels, as ','")

    @property
    def multi_label(self) -> bool:  # type: ignore[override]
        """Whether a text may have several labels."""
        return bool(self.source.several)

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """It takes any labels."""
        return cls.source_class.name if outputs > 1 else None

    def scored_labels(self, outputs: int) -> tuple[str, ...]:
        """Their numbers."""
        return tuple(map(str, range(outputs)))

    def unnamed_labels(self, outputs: int) -> tuple[str, ...]:
        """LABEL_0, LABEL_1, ..."""
        return tuple(f"LABEL_{number}" for number in range(outputs))

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Load the checkpoint's labels in its order, and how they are written and given."""
        if not labels:
            raise UserError(f"the checkpoint names no labels for {self.name}")
        several = bool(record.get("multi_label", False))
        if self.source.separator is not None and not several:
            raise UserError("--label-separator is for several labels, the checkpoint gives one")
        self.source.several = several
        self.source.separator = self.source.separator or record.get("label_separator")
        if self.threshold is None:
            self.threshold = record.get("threshold")
        super().load_labels(labels, record)
        self.metric = self.source.metrics[0]

    def _examples(self, path: Path, training: bool) -> Examples:
        found = super()._examples(path, training)
        others = [name for name in self.source.seen if name not in self.labels]
        if training and self.labels and others and self.bad_lines == "error":
            raise UserError(
                f"{path}: its label {others[0]!r} is not among the checkpoint's ({', '.join(self.labels[:20])}): "
                "--new-head on starts with the labels of the file"
            )
        return found

    def record(self) -> dict[str, Any]:
        """As of every classification, and the threshold where there are several labels."""
        return {**super().record(), **({"threshold": self._level} if self.multi_label else {})}

    @property
    def _level(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    def _to_train(self, found: ClassificationFeatures) -> ClassificationFeatures:
        made = super()._to_train(found)
        self.metric = self.source.metrics[0]
        if self.multi_label:
            log.info(
                "%s: several labels per example (probabilities of each, given from %g)",
                found.path,
                self._level,
            )
        return made

    def _weighted(self, found: ClassificationFeatures) -> ClassificationFeatures:
        """With several labels: a label weighs as much where rows have it as where they do not."""
        if not self.multi_label or found.targets is None:
            return super()._weighted(found)
        having = np.clip(found.targets.mean(axis=0), 1e-9, 1 - 1e-9)
        weights = np.where(found.targets > 0, 0.5 / having, 0.5 / (1 - having))
        return replace(found, weights=weights.astype(np.float32))

    def loss(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        """With several labels the mean over rows and labels of the binary cross-entropy."""
        if not self.multi_label:
            return super().loss(model, batch)
        return F.binary_cross_entropy_with_logits(
            model(batch).float(), batch.labels["targets"], batch.labels.get("row_weights")
        )

    def _found(self, logits: np.ndarray) -> np.ndarray:
        return _sigmoid(logits) >= self._level if self.multi_label else super()._found(logits)

    def _found_in(self, targets: np.ndarray) -> np.ndarray:
        return targets > 0 if self.multi_label else super()._found_in(targets)

    def _gold(self, targets: np.ndarray) -> list[Any]:
        if not self.multi_label:
            return super()._gold(targets)
        return [[n for n, has in zip(self.labels, row) if has] for row in targets.tolist()]

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """With several labels ``{"labels", "scores": {label: probability}}``."""
        if not self.multi_label:
            return super().answers(features, outputs)
        return [
            {
                "labels": [name for name, p in zip(self.labels, row) if p >= self._level],
                "scores": dict(zip(self.labels, row)),
            }
            for row in _sigmoid(outputs["logits"]).tolist()
        ]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64."""
    exact = logits.astype(np.float64)
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * exact)))
