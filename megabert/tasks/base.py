"""What the fine-tuning loop asks of a task, and nothing more.

A task turns a file into features, builds the model with its head, computes the loss of a batch,
reduces a batch's output to a few numbers a feature, and scores those numbers. It knows neither ranks
nor DeepSpeed; the loop knows neither questions nor labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from megabert.config.model import ModelConfig

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutSeeds

Batch = dict[str, Any]
"""Tensors, and whole numbers, by name: a batch of features as :func:`megabert.tasks.batches.packed`."""
Forward = Callable[..., Any]
"""A model, or an engine around one: called with the names of :func:`inputs_of`."""


def inputs_of(batch: Batch) -> Batch:
    """What the encoder reads of a batch: packed tokens, and the samples' numbers if they have any."""
    names = (
        "input_ids", "token_type_ids", "cu_seqlens", "max_seqlen", "sample_numbers", "first_sample",
    )  # fmt: skip
    return {name: batch[name] for name in names if name in batch}


class Features(Protocol):
    """The inputs of one file: one row is one sequence for the model."""

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The given rows, padded to the longest of them.

        Always ``input_ids``, ``token_type_ids``, ``attention_mask`` (1 = real), int64 [B, S], and
        whatever else the task's ``loss`` and ``predict`` read.
        """

    def describe(self) -> str:
        """One line for the log: how much of what, and what was left out."""

    def sizes(self) -> dict[str, int]:
        """The same as numbers, for results.json."""


class Task(Protocol):
    """A fine-tuning task."""

    name: str
    new_heads: tuple[str, ...]
    """Modules of the model that a pretrained checkpoint need not hold, as ``("qa",)``."""
    metric: str
    """The score that tells a better model from a worse one; larger is better."""
    labels: tuple[str, ...]
    """Names of the head's outputs, in their order; empty where they have no names. Found in the
    training file, or adopted from a checkpoint."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Take over what a fine-tuned checkpoint was trained with, before anything else is called.

        Args:
            labels: of the checkpoint.
            record: what :meth:`record` gave when it was saved; {} for a foreign checkpoint.

        Raises:
            UserError: they do not fit this task.
        """

    def record(self) -> dict[str, Any]:
        """Plain values that a saved model needs, beside its labels, to be used again."""

    def settle(self) -> None:
        """Training and choosing are over: from now on :meth:`score` changes nothing of the task."""

    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> Features:
        """Read a training file; at most ``max_examples`` of its examples, drawn by ``seed``."""

    def eval_features(self, path: Path, tokenizer: Tokenizer) -> Features:
        """Read a file to score, all of it."""

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Features:
        """Unlabelled inputs as :mod:`launch.predict` gets them, in the field names of the task's files.

        Raises:
            UserError: a field is missing or of another type; the message names the item from 1.
        """

    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One JSON object an item of ``item_features``, in their order."""

    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder with this task's head, weights not yet drawn or loaded."""

    def loss(self, model: Forward, batch: Batch) -> torch.Tensor:
        """Mean loss over the rows of the batch, a float32 scalar."""

    def predict(self, model: Forward, batch: Batch) -> Batch:
        """Tensors [B, ...] whose further dimensions are the same for every batch."""

    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write the predictions into ``folder`` and return the scores.

        ``outputs`` holds ``predict``'s tensors for all rows of ``features``, in their order.
        """
