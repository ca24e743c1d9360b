"""SQuAD v1.1: extractive question answering (Rajpurkar et al. 2016).

Files of its form in Chinese (CMRC 2018) are scored by the rules of that data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.task_heads import QUESTION_ANSWERING, BertForQuestionAnswering
from megabert.tasks.base import Features, Forward, Task
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.files.feature_records import is_features_file
from megabert.tasks.squad.answers import (
    best_spans,
    n_best_entries,
    placed,
    ranked_spans,
    write_answers,
)
from megabert.tasks.squad.chinese_metric import metric_for
from megabert.tasks.squad.data import SquadData, squad_items
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.item_file import SquadItemFormat
from megabert.tasks.squad.metric import ENGLISH, Metric, squad_score
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.records import RecordedSquad
from megabert.tasks.squad.settings import SquadSettings

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutSeeds

PREDICTIONS = "predictions.json"
NBEST_PREDICTIONS = "nbest_predictions.json"
LIMITS = ("doc_stride", "max_query_length", "max_answer_length")
"""Settings that say how contexts are cut and answers limited."""
SHOWN_ANSWERS = 20
"""Answers of a question that :meth:`Squad.answers` lists at most."""

log = get_logger()


class Squad(Task):
    """The task ``squad``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "squad"
    head = QUESTION_ANSWERING
    metric = "f1"
    section, settings_class = "squad", SquadSettings
    unused_settings: ClassVar[frozenset[str]] = frozenset(["null_threshold"])
    default_max_length = 384
    input_fields = (("question",), ("context",))
    item_format = SquadItemFormat()
    ranks_answers = True
    continues = ("squad", "squad2")
    settings: SquadSettings
    no_answer = False
    """Whether a question may have no answer."""

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """Any such head gives spans."""
        return cls.name

    @classmethod
    def answer_settings(
        cls, record: Mapping[str, Any], given: Mapping[str, Any], max_length: int
    ) -> SquadSettings:
        """The limits that the checkpoint was trained with; a threshold only if it is given."""
        known = {field.name for field in fields(SquadSettings)} - {"null_threshold"}
        limits = {key: value for key, value in record.items() if key in known}
        settings = SquadSettings(**limits, null_threshold=given.get("null_threshold"))
        if settings.max_query_length > max_length // 2:  # a model of few positions
            settings = replace(settings, max_query_length=max(1, max_length // 2))
        return settings

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Nothing to load: spans have no labels."""

    def record(self) -> dict[str, Any]:
        """How contexts were cut into rows."""
        return {
            "max_length": self.max_length,
            **{name: getattr(self.settings, name) for name in LIMITS},
        }

    def load_lengths(self, record: dict[str, Any], given: int | None) -> None:
        """Also how contexts are cut, in place of the defaults."""
        super().load_lengths(record, given)
        usual = SquadSettings()
        unset = (n for n in LIMITS if getattr(self.settings, n) == getattr(usual, n))
        known = {name: record[name] for name in unset if name in record}
        self.settings = replace(self.settings, **known)

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> SquadFeatures | RecordedSquad:
        """Rows of the questions with a valid answer; ``max_examples`` counts questions.

        TFRecord features of run_squad are used as they are; there ``max_examples`` counts rows.
        """
        if is_features_file(path):
            return RecordedSquad(path, tokenizer, self.max_length, max_examples, seed)
        return self._features(read_squad(path), tokenizer, ExampleChoice(True, max_examples, seed))

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> SquadFeatures:
        """Rows of the questions that have a ground truth, or of all if none has one."""
        if is_features_file(path):
            raise UserError(
                f"--eval {path}: TFRecord features do not hold the text of the answers; give the "
                "SQuAD JSON file that they were made from"
            )
        return self._features(read_squad(path), tokenizer, ExampleChoice(False))

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> SquadFeatures:
        """Rows of items with ``question`` and ``context``."""
        return self._features(squad_items(items), tokenizer, ExampleChoice(False))

    def _features(
        self,
        data: SquadData,
        tokenizer: Tokenizer,
        choice: ExampleChoice,
    ) -> SquadFeatures:
        return SquadFeatures(
            data,
            tokenizer,
            self.settings,
            choice,
            self.max_length,
            self.no_answer,
        )

    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder and two output rows, start and end."""
        return BertForQuestionAnswering(
            config,
            tensor_parallel,
            dropout_seeds,
            activation_checkpointing=activation_checkpointing,
        )

    def loss(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        """Mean of the cross-entropies of start and end over the real positions, in float32."""
        targets = batch.labels["start_positions"], batch.labels["end_positions"]
        sides = model(batch)
        losses = [F.cross_entropy(side.float(), target) for side, target in zip(sides, targets)]
        return (losses[0] + losses[1]) / 2

    def predict(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The best spans of each row (see ``best_spans``)."""
        start_logits, end_logits = model(batch)
        return self._spans(start_logits, end_logits, batch)

    def _spans(
        self,
        start_logits: torch.Tensor,
        end_logits: torch.Tensor,
        batch: PackedBatch[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        starts, ends = batch.labels["answer_starts"], batch.labels["answer_ends"]
        width = starts.size(1)
        return best_spans(
            start_logits[:, :width],
            end_logits[:, :width],
            starts,
            ends,
            max_answer_length=self.settings.max_answer_length,
            n_best=self.settings.n_best,
        )

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write both prediction files; ``exact_match`` and ``f1`` in per cent.

        For Chinese text these are CMRC 2018's; its ``average`` of both is added, and SQuAD's scores of
        the same answers, ``squad_exact_match`` and ``squad_f1``. ``{}`` without ground truths.
        """
        made = own_features(features)
        ranked = ranked_spans(made, outputs, self.settings.n_best)
        names = [made.question(number).id for number in range(len(ranked))]
        predictions = {q: spans[0].text if spans else "" for q, spans in zip(names, ranked)}
        write_answers(folder / PREDICTIONS, predictions)
        entries = {q: n_best_entries(spans) for q, spans in zip(names, ranked)}
        write_answers(folder / NBEST_PREDICTIONS, entries)
        if not made.data.labelled:
            return {}
        truths, metric = made.truths(), self.metric_of(made)
        score = squad_score(truths, predictions, metric)
        scores = {"exact_match": score.exact_match, "f1": score.f1}
        if metric is ENGLISH:
            return scores
        english = squad_score(truths, predictions)
        return {
            **scores,
            "average": (score.exact_match + score.f1) / 2,
            "squad_exact_match": english.exact_match,
            "squad_f1": english.f1,
        }

    def metric_of(self, features: SquadFeatures) -> Metric:
        """How answers are compared with these ground truths; logged where it is not SQuAD's way."""
        texts = (text for answers in features.truths().values() for text in answers)
        metric = metric_for(self.settings.metric_language, texts)
        if metric is not ENGLISH:
            log.info("%s: scored by the rules of %s", features.data.path.name, metric.name)
        return metric

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """``answer``, ``score``, ``start``, ``end`` (characters of the context, the end exclusive) of
        each item, and the best ones as ``n_best``. The score is the softmax over these.
        """
        ranked = ranked_spans(own_features(features), outputs, SHOWN_ANSWERS)
        return [{**listed[0], "n_best": listed} for listed in map(placed, ranked)]


def own_features(features: Features) -> SquadFeatures:
    """The features, which must be of SQuAD with its texts."""
    if not isinstance(features, SquadFeatures):
        raise TypeError(f"features of another task: {type(features).__name__}")
    return features
