"""``--task regress``: one number per text. The model learns numbers of mean 0 and deviation 1; answers are in the labels' own units."""

from __future__ import annotations

from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.tasks.base import Features
from megabert.tasks.classification.data import Examples
from megabert.tasks.own_labels.examples import NumberExamples
from megabert.tasks.own_labels.records import Records
from megabert.tasks.own_labels.source import OwnSource
from megabert.tasks.own_labels.texts import OwnTexts
from megabert.tasks.own_labels.values import finite_number

log = get_logger()


class NumberSource(OwnSource):
    """Files whose labels are numbers."""

    name, regression = "regress", True
    metrics = ("pearson", "spearmanr", "mse", "mae")
    usual_labels = ("label", "labels", "score", "target", "value", "rating")

    def _none_given(self, values: Any) -> bool:
        """-1 is a number."""
        return False

    def label(self, value: Any, number_of_row: int) -> float:
        """A finite number."""
        return finite_number(value)

    def made(self, records: Records, labels: list[Any] | None) -> Examples:
        """Examples with a number each."""
        return NumberExamples(**self._parts(records, labels))


class Regress(OwnTexts):
    """The task ``regress``: see :class:`megabert.tasks.base.Task` for what each method does."""

    unused_settings = frozenset({"class_weights", "label_separator", "threshold"})
    source_class = NumberSource
    source: NumberSource
    mean, scale = 0.0, 1.0
    _known = False

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """One score is taken for STS-B's."""
        return None

    def unnamed_labels(self, outputs: int) -> tuple[str, ...]:
        """One number has no name."""
        return ()

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Load mean and scale of the checkpoint's labels; a foreign one gives the labels themselves."""
        if len(labels) > 1:
            raise UserError(f"the checkpoint gives {len(labels)} labels, not a number")
        super().load_labels((), record)
        self.mean = float(record.get("output_mean", 0.0))
        self.scale = float(record.get("output_scale", 1.0))
        self._known = True

    def record(self) -> dict[str, Any]:
        """As of every classification, and mean and scale: a label is output x scale + mean."""
        return {**super().record(), "output_mean": self.mean, "output_scale": self.scale}

    def _scaled(self, targets: np.ndarray, training: np.ndarray | None) -> np.ndarray:
        if training is not None and not self._known:
            self.mean, self.scale = float(training.mean()), float(training.std())
            if self.scale == 0:
                raise UserError(
                    f"--train: all {len(training):,} labels are {self.mean:g}, so there is nothing to learn"
                )
        if training is not None:
            log.info(
                "labels are learned as (label - %g) / %g%s; answers and errors are in their own units",
                self.mean,
                self.scale,
                ", the checkpoint's" if self._known else ", their mean and standard deviation",
            )
        return ((targets - self.mean) / self.scale).astype(np.float32)

    def _found(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0].astype(np.float64) * self.scale + self.mean

    def _found_in(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.float64) * self.scale + self.mean

    def _gold(self, targets: np.ndarray) -> list[Any]:
        return [float(f"{value:.7g}") for value in self._found_in(targets).tolist()]

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """``{"score"}``, in the labels' own units."""
        return [{"score": value} for value in self._found(outputs["logits"]).tolist()]
