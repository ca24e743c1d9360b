"""SQuAD v2.0: question answering where some questions have no answer (Rajpurkar et al. 2018).

As in Devlin et al. 2019, section 4.3, the answer of such a question is the span of [CLS] in training.
Afterwards the empty answer's score is the smallest start + end logit of [CLS] over a question's rows; the
answer is empty where that exceeds the best span's score by more than a threshold.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.tasks.base import Features, Forward
from megabert.tasks.squad.answers import (
    AnswerSpan,
    Candidates,
    lowest_nulls,
    n_best_entries,
    placed,
    ranked_spans,
    with_null,
    write_answers,
)
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.metric_v2 import Prediction, squad2_score
from megabert.tasks.squad.records import RecordedSquad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import (
    NBEST_PREDICTIONS,
    PREDICTIONS,
    SHOWN_ANSWERS,
    Squad,
    own_features,
)

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer

NULL_ODDS = "null_odds.json"
SURE = 1e6
"""Odds that a question without any span to answer with has no answer."""


def null_odds(spans: list[AnswerSpan], null: AnswerSpan) -> float:
    """How much the empty answer's score exceeds the best span's."""
    return null.score - spans[0].score if spans else SURE


class Squad2(Squad):
    """The task ``squad2``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "squad2"
    unused_settings: ClassVar[frozenset[str]] = frozenset()
    no_answer = True

    def __init__(self, settings: SquadSettings, max_length: int | None = None) -> None:
        super().__init__(settings, max_length)
        self._chosen: float | None = None
        """The threshold of a checkpoint, or the one that the last scoring found."""
        self._searching = settings.null_threshold == "auto"

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """Not at all: a foreign head may not have been trained on empty answers."""
        return None

    @classmethod
    def check_settings(cls, settings: SquadSettings, evaluates: bool) -> None:
        """``--null-threshold auto`` is chosen on the file of --eval."""
        if settings.null_threshold == "auto" and not evaluates:
            raise UserError(
                "--null-threshold auto needs --eval: the threshold is the one with the best F1 on that file"
            )

    @property
    def threshold(self) -> float:
        """The one given, or found, or of the checkpoint; else 0."""
        given = self.settings.null_threshold
        return given if isinstance(given, float) else self._chosen or 0.0

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """The threshold that the checkpoint was scored with."""
        threshold = record.get("null_threshold")
        if threshold is not None and not isinstance(threshold, int | float):
            raise UserError(f"the checkpoint's null_threshold is not a number: {threshold!r}")
        self._chosen = None if threshold is None else float(threshold)

    def record(self) -> dict[str, Any]:
        """How contexts were cut into rows, and the threshold of the last scoring."""
        return {**super().record(), "null_threshold": self.threshold}

    def freeze_thresholds(self) -> None:
        """The threshold stays as it is, with ``--null-threshold auto`` too."""
        self._searching = False

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> SquadFeatures | RecordedSquad:
        """Rows of the questions with a valid answer or none; ``max_examples`` counts questions.

        Training discards a checkpoint's threshold.
        """
        self._chosen = None
        return super().train_features(path, tokenizer, max_examples, seed)

    def predict(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The best spans of each row, and the logits of its [CLS], float32 [B]."""
        start_logits, end_logits = model(batch)
        return {
            **self._spans(start_logits, end_logits, batch),
            "null_start": start_logits[:, 0].float(),
            "null_end": end_logits[:, 0].float(),
        }

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write three prediction files; scores as :func:`squad2_score`, ``{}`` without ground truths.

        With ``--null-threshold auto`` the threshold is the one with the best F1 on this file, until
        :meth:`freeze_thresholds`.
        """
        made = own_features(features)
        ranked, nulls = self._ranked(made, outputs, self.settings.n_best)
        names = [made.question(number).id for number in range(len(ranked))]
        found = {
            name: Prediction(spans[0].text if spans else "", null_odds(spans, null))
            for name, spans, null in zip(names, ranked, nulls)
        }
        scores: dict[str, float] = {}
        if made.data.labelled:
            asked = None if self._searching else self.threshold
            scores = squad2_score(made.truths(), found, asked, self.metric_of(made))
            self._chosen = scores["null_threshold"]
        write_answers(folder / PREDICTIONS, {q: p.at(self.threshold) for q, p in found.items()})
        entries = {
            name: n_best_entries(with_null(spans, null, self.settings.n_best))
            for name, spans, null in zip(names, ranked, nulls)
        }
        write_answers(folder / NBEST_PREDICTIONS, entries)
        write_answers(folder / NULL_ODDS, {question: p.odds for question, p in found.items()})
        return scores

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """As of :meth:`Squad.answers`, with ``answer`` "" for the empty answer, and ``null_odds``."""
        result = []
        for spans, null in zip(*self._ranked(own_features(features), outputs, SHOWN_ANSWERS)):
            odds = null_odds(spans, null)
            listed = placed(with_null(spans, null, SHOWN_ANSWERS))
            empty = odds > self.threshold
            chosen = next(entry for entry in listed if (not entry["answer"]) == empty or not spans)
            result.append({**chosen, "null_odds": odds, "n_best": listed})
        return result

    @staticmethod
    def _ranked(
        features: SquadFeatures, outputs: Candidates, n_best: int
    ) -> tuple[list[list[AnswerSpan]], list[AnswerSpan]]:
        return ranked_spans(features, outputs, n_best), lowest_nulls(features, outputs)
