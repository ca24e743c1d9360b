"""What ``classify`` and ``regress`` have in common: files with columns of one's own, predictions with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.classification.data import Examples
from megabert.tasks.classification.features import ClassificationFeatures
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.classification.task import Classification
from megabert.tasks.files.names import NamedColumns
from megabert.tasks.own_labels.source import OwnSource


class OwnTexts(Classification):
    """A task on texts with labels of one's own: see :class:`megabert.tasks.base.Task`."""

    held_out = 0.1
    baselines = ("accuracy",)
    names_columns = True
    source: OwnSource
    source_class: type[OwnSource]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """One name."""
        return (cls.source_class.name,)

    @classmethod
    def create(
        cls, name: str, settings: ClassificationSettings, max_length: int | None
    ) -> OwnTexts:
        """The task."""
        return cls(cls.source_class(), settings, max_length)

    @property
    def columns(self) -> NamedColumns:  # type: ignore[override]
        """Columns that flags name."""
        return self.source.given

    @columns.setter
    def columns(self, named: NamedColumns) -> None:
        self.source.given = named

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """As of every classification; inputs have the names of the training file's columns."""
        super().load_labels(labels, record)
        self.input_fields = self.source.fields

    def _examples(self, path: Path, training: bool) -> Examples:
        found = self.source.read_examples(path, self.bad_lines, training)
        self.input_fields = self.source.fields
        return found

    def _recorded(
        self, path: Path, tokenizer: Any, choices: Sequence[ExampleChoice]
    ) -> list[ClassificationFeatures]:
        """Features of another program do not name their labels."""
        raise UserError(
            f"{path} holds features of another program, but --task {self.name} reads texts and labels"
        )

    def _write(
        self, features: ClassificationFeatures, outputs: dict[str, np.ndarray], folder: Path
    ) -> Path:
        """JSON lines: the id, the answer with its probabilities, and the file's own label."""
        answers = self.answers(features, outputs)
        if features.targets is not None:
            answers = [
                {**answer, "gold": gold}
                for answer, gold in zip(answers, self._gold(features.targets), strict=True)
            ]
        return self.source.write_predictions(folder, features.part, features.ids, answers)

    def _gold(self, targets: np.ndarray) -> list[Any]:
        """The labels of rows, as answers have them."""
        return [self.labels[number] for number in targets.tolist()]
