"""A task from outside the package, with its own head, settings, files and metric.

It learns one number per text from lines ``NUMBER<TAB>TEXT``. To make it known, import this file, or
name it in the ``pyproject.toml`` of a package:

    [project.entry-points."megabert.tasks"]
    numbers = "own_task:Numbers"

    [project.entry-points."megabert.heads"]
    "number of a text" = "own_task:NUMBER"
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.flags import setting
from megabert.config.model import ModelConfig
from megabert.data.tokenizers.base import Tokenizer
from megabert.model.head_registry import Head, register_head
from megabert.model.task_heads import LabelHead, TaskModel
from megabert.tasks.base import Features, Forward, Task
from megabert.tasks.batches import draw_subset
from megabert.tasks.classification.data import texts_of_items
from megabert.tasks.classification.features import join_texts
from megabert.tasks.files.rows import Rows
from megabert.tasks.files.text_lines import read_lines
from megabert.tasks.registry import register_task

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class MeanModel(TaskModel):
    """Encoder, and one number per sequence from the mean of its tokens."""

    def __init__(self, config: ModelConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        self.number = LabelHead(config, 1)

    def head(self, hidden: Tensor, drop: Any, batch: PackedBatch[Tensor], **more: Any) -> Tensor:
        """``[T, H] -> [P]``."""
        means = [tokens.mean(0) for tokens in hidden.split(batch.lengths.tolist())]
        numbers: Tensor = self.number(torch.stack(means))
        return numbers[:, 0]


NUMBER = register_head(
    Head(
        "number of a text",
        modules=("number",),
        tensors=("number.classifier.weight",),
        build=lambda config, outputs: MeanModel(config, None, None, False),
        per_sequence=True,
    )
)


@dataclass(frozen=True)
class NumberSettings:
    """Numbers of texts"""

    scale: PositiveFloat = setting(10.0, "the model predicts the number divided by this")


@plain_dataclass(frozen=True)
class NumberFeatures:
    """F texts, and their numbers, float32 [F]."""

    rows: Rows
    numbers: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text."""
        return self.rows.lengths

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """Some of the texts, and their numbers."""
        return self.rows.batch(rows, max_length, {"numbers": self.numbers[rows]})

    def describe(self) -> str:
        """How many."""
        return f"{len(self.numbers)} texts"

    def sizes(self) -> dict[str, int]:
        """How many."""
        return {"texts": len(self.numbers)}


@register_task
class Numbers(Task):
    """The task ``numbers``."""

    name = "numbers"
    head = NUMBER
    metric = "within_one"
    section, settings_class = "numbers", NumberSettings
    default_max_length = 32

    def record(self) -> dict[str, Any]:
        """What the saved model needs to be used again."""
        return {"max_length": self.max_length, "scale": self.settings.scale}

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> NumberFeatures:
        """Lines of a file, or some of them."""
        lines = []
        for place, line in read_lines(path):
            number, tab, text = line.partition("\t")
            if not tab or not _NUMBER.fullmatch(number):
                raise UserError(f"{path} line {place}: expected NUMBER<TAB>TEXT, not {line[:40]!r}")
            lines.append((number, text))
        chosen = [lines[row] for row in draw_subset(len(lines), max_examples, seed)]
        rows, _, _ = join_texts(([text for _, text in chosen],), tokenizer, self.max_length)
        return NumberFeatures(rows, np.array([number for number, _ in chosen], np.float32))

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> NumberFeatures:
        """All lines of a file."""
        return self.train_features(path, tokenizer, None, 0)

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> NumberFeatures:
        """Objects with a ``text``."""
        texts = texts_of_items(items, self.input_fields)
        rows, _, _ = join_texts(texts, tokenizer, self.max_length)
        return NumberFeatures(rows, np.zeros(len(items), np.float32))

    def build_model(self, config: ModelConfig, *arguments: Any) -> MeanModel:
        """The encoder with the head."""
        return MeanModel(config, *arguments)

    def loss(self, model: Forward, batch: PackedBatch[Tensor]) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(model(batch).float(), batch.labels["numbers"] / self.settings.scale)

    def predict(self, model: Forward, batch: PackedBatch[Tensor]) -> dict[str, Tensor]:
        """``numbers`` float32 [B]."""
        return {"numbers": model(batch).float() * self.settings.scale}

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """``{"number"}`` of each text."""
        return [{"number": number} for number in outputs["numbers"].tolist()]

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Per cent of the numbers that are right to within one; the predictions as JSON."""
        assert isinstance(features, NumberFeatures)
        (folder / "numbers.json").write_text(json.dumps(outputs["numbers"].tolist()))
        errors = np.abs(outputs["numbers"] - features.numbers)
        return {"within_one": 100.0 * float((errors <= 1).mean()), "mean_error": errors.mean()}
