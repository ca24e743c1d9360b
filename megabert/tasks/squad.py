"""SQuAD v1.1: extractive question answering (Rajpurkar et al. 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.config import ModelConfig
from megabert.model.heads import BertForQuestionAnswering
from megabert.task_config import SquadSettings
from megabert.tasks.base import Batch, Features, Forward, inputs_of
from megabert.tasks.squad_answers import best_spans, rank_answers, write_json
from megabert.tasks.squad_data import read_squad
from megabert.tasks.squad_features import SquadFeatures
from megabert.tasks.squad_metric import squad_score

if TYPE_CHECKING:
    from megabert.data.tokenization import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutStreams

PREDICTIONS = "predictions.json"
NBEST_PREDICTIONS = "nbest_predictions.json"


class Squad:
    """The task ``squad``: see :class:`megabert.tasks.base.Task` for what each method does."""

    name = "squad"
    new_heads: tuple[str, ...] = ("qa",)
    metric = "f1"
    labels: tuple[str, ...] = ()

    def __init__(self, settings: SquadSettings, max_length: int = 384) -> None:
        self.settings = settings
        self._max_length = max_length

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""
        return self._max_length

    def adopt(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Nothing to take over: a span has no labels."""

    def record(self) -> dict[str, Any]:
        """Nothing beside the weights."""
        return {}

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> SquadFeatures:
        """Rows of the questions with a sound answer; ``max_examples`` counts questions."""
        return SquadFeatures(
            read_squad(path),
            tokenizer,
            self.settings,
            max_length=self.max_length,
            training=True,
            max_examples=max_examples,
            seed=seed,
        )

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> SquadFeatures:
        """Rows of all questions that have a ground truth."""
        return SquadFeatures(
            read_squad(path),
            tokenizer,
            self.settings,
            max_length=self.max_length,
            training=False,
        )

    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        streams: DropoutStreams | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder and two output rows, start and end."""
        return BertForQuestionAnswering(
            config, tensor_parallel, streams, activation_checkpointing=activation_checkpointing
        )

    def loss(self, model: Forward, batch: Batch) -> torch.Tensor:
        """Mean of the cross-entropies of start and end over the real positions, in float32."""
        targets = batch["start_positions"], batch["end_positions"]
        sides = model(**inputs_of(batch))
        losses = [F.cross_entropy(side.float(), target) for side, target in zip(sides, targets)]
        return (losses[0] + losses[1]) / 2

    def predict(self, model: Forward, batch: Batch) -> Batch:
        """The best spans of each row (see ``best_spans``)."""
        start_logits, end_logits = model(**inputs_of(batch))
        width = batch["answer_starts"].size(1)
        return best_spans(
            start_logits[:, :width],
            end_logits[:, :width],
            batch["answer_starts"],
            batch["answer_ends"],
            max_answer_length=self.settings.max_answer_length,
            n_best=self.settings.n_best,
        )

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write both prediction files; ``exact_match`` and ``f1`` in per cent."""
        if not isinstance(features, SquadFeatures):
            raise TypeError(f"features of another task: {type(features).__name__}")
        answers = rank_answers(features, outputs, self.settings.n_best)
        predictions = {question: ranked[0]["text"] for question, ranked in answers.items()}
        write_json(folder / PREDICTIONS, predictions)
        write_json(folder / NBEST_PREDICTIONS, answers)
        score = squad_score(features.truths(), predictions)
        return {"exact_match": score.exact_match, "f1": score.f1}
