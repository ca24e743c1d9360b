"""What a fine-tuning task must provide: :class:`Task`.

A task turns a file into features, builds the model with its head, computes the loss of a batch,
reduces a batch's output to a few numbers per row, and scores those numbers. It does not depend on ranks
or DeepSpeed, and the loop does not depend on questions or labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.head_registry import Head
from megabert.tasks.files.faults import BadLines
from megabert.tasks.files.names import NamedColumns

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer
    from megabert.parallel.layers import TensorParallel
    from megabert.parallel.rng import DropoutSeeds

Forward = Callable[..., Any]
"""A model, or an engine around one: called with a batch."""


class Features(Protocol):
    """The inputs of one file: one row is one sequence for the model."""

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """The given rows, int64 [B], one sequence each, none longer than ``max_length``.

        Its labels are whatever else the task's ``loss`` and ``predict`` read.
        """

    def describe(self) -> str:
        """One line for the log: what it holds and what is left out."""

    def sizes(self) -> dict[str, Any]:
        """The same as plain values, mostly numbers, for results.json."""


class ItemFormat(Protocol):
    """A JSON document of a task's own, as inputs and as answers of ``launch/predict.py``."""

    name: str
    """As ``--input-format`` and ``--format`` give it."""
    title: str
    """In messages."""
    key: str
    """A JSON object with this key is such a document."""

    def read(self, path: Path) -> list[tuple[str, dict[str, Any]]]:
        """The inputs, each with its place in the file for messages.

        Raises:
            UserError: the file is not of this format.
        """

    def names(self, items: Sequence[dict[str, Any]]) -> list[str]:
        """The key of each item in the document of their answers.

        Raises:
            UserError: two have the same, or one has none that can be used; the item is named from 1.
        """

    def document(self, answers: Iterable[dict[str, Any]]) -> Any:
        """Answers, with the ``id`` of their inputs, as one JSON value."""


class Task(ABC):
    """A fine-tuning task: what a new one must provide.

    A subclass sets the class attributes, implements the abstract methods, and is registered with
    :func:`megabert.tasks.registry.register_task`; the other methods have defaults that suit a task of
    one text and one name. ``tests/extending/own_task.py`` is a small example.

    Args:
        settings: an object of ``settings_class``, or None.
        max_length: tokens per row at most; None: ``default_max_length``.
    """

    name: str
    """As ``--task`` gives it."""
    head: ClassVar[Head]
    """The head of the task's model; a head of its own is registered too (``register_head``)."""
    metric: str
    """The score that decides which model is better; larger is better."""
    labels: tuple[str, ...] = ()
    """Names of the head's outputs, in their order; empty where they have no names. Found in the
    training file, or loaded from a checkpoint."""

    section: ClassVar[str | None] = None
    """Section of the task's own settings in ``config.yaml``; several tasks may share one."""
    settings_class: ClassVar[type | None] = None
    """Frozen pydantic dataclass of these settings, whose fields :func:`megabert.config.flags.setting`
    makes: each is a flag of ``finetune.py``."""
    unused_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of the section that have no effect on this task."""
    default_max_length: ClassVar[int] = 128
    """Tokens per row at most, where ``--max-length`` is not given."""

    held_out: ClassVar[float] = 0.0
    """Fraction of the training file that is held out and scored, where ``--eval`` and ``--eval-share`` are
    not given."""
    names_columns: ClassVar[bool] = False
    """Whether ``--text-column``, ``--text-pair-column`` and ``--label-column`` have an effect."""
    columns: NamedColumns = NamedColumns()
    """What these flags name; set before a file is read."""
    skips_lines: ClassVar[bool] = False
    """Whether ``--bad-lines`` has an effect."""
    bad_lines: BadLines = "error"
    """What this flag says; set before a file is read."""

    input_fields: tuple[tuple[str, ...], ...] = (("text",),)
    """Names of each text of an input to answer, the usual one first; one or two texts."""
    item_format: ItemFormat | None = None
    """A document format of the task's own for inputs and answers."""
    ranks_answers: bool = False
    """Whether an answer lists alternatives, so that ``--top-k`` has an effect."""
    continues: ClassVar[tuple[str, ...]] = ()
    """Other tasks whose fine-tuned head this one can start from."""

    def __init__(self, settings: Any = None, max_length: int | None = None) -> None:
        self.settings = settings
        self.max_length = max_length or self.default_max_length

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every name that this class is registered under."""
        return (cls.name,)

    @classmethod
    def create(cls, name: str, settings: Any, max_length: int | None) -> Task:
        """The task of one of :meth:`names`."""
        return cls(settings, max_length)

    @classmethod  # noqa: B027  (most tasks have nothing to check)
    def check_settings(cls, settings: Any, evaluates: bool) -> None:
        """Raise UserError for settings that contradict each other; ``evaluates``: --eval is given."""

    @classmethod
    def implied_by(cls, labels: tuple[str, ...], outputs: int) -> str | None:
        """The name under which this class takes a foreign checkpoint with its head; None: not at all.

        Args:
            labels: names of the head's outputs; () if they have none.
            outputs: their number; 0 for a head whose outputs are not labels.
        """
        return None

    @classmethod
    def answer_settings(
        cls, record: Mapping[str, Any], given: Mapping[str, Any], max_length: int
    ) -> Any:
        """Settings to answer inputs with: those given, else those in the record, else the defaults.

        Args:
            record: of the checkpoint, see :meth:`record`.
            given: settings of the command line, of any task.
            max_length: tokens per row at most.
        """
        if cls.settings_class is None:
            return None
        known = cls.used_settings()
        values = {**record, **given}
        return cls.settings_class(**{key: value for key, value in values.items() if key in known})

    @classmethod
    def used_settings(cls) -> frozenset[str]:
        """Settings of the section that have an effect on this task."""
        if cls.settings_class is None:
            return frozenset()
        return frozenset(field.name for field in fields(cls.settings_class)) - cls.unused_settings

    def scored_labels(self, outputs: int) -> tuple[str, ...]:
        """What a file to score calls the outputs of a checkpoint that does not name them; () if that is unknown."""
        return ()

    def unnamed_labels(self, outputs: int) -> tuple[str, ...]:
        """Labels for the outputs of a checkpoint that does not name them."""
        return tuple(f"LABEL_{number}" for number in range(outputs))

    def load_labels(self, labels: tuple[str, ...], record: dict[str, Any]) -> None:
        """Load what a fine-tuned checkpoint was trained with, before anything else is called.

        Args:
            labels: of the checkpoint.
            record: what :meth:`record` gave when it was saved; {} for a foreign checkpoint.

        Raises:
            UserError: they do not fit this task.
        """
        self.labels = labels

    def record(self) -> dict[str, Any]:
        """Plain values that a saved model needs besides its labels to be used again."""
        return {"max_length": self.max_length}

    def load_lengths(self, record: dict[str, Any], given: int | None) -> None:
        """Use the lengths of a fine-tuning that is only scored, where no flag sets another.

        Args:
            record: as :meth:`record` made it.
            given: ``--max-length``.
        """
        if given is None and record.get("max_length"):
            self.max_length = int(record["max_length"])

    def freeze_thresholds(self) -> None:  # noqa: B027  (most tasks choose none)
        """Training and model selection are over: from now on :meth:`score` does not change the task."""

    @abstractmethod
    def train_features(
        self, path: Path, tokenizer: Tokenizer, max_examples: int | None, seed: int
    ) -> Features:
        """Read a training file; at most ``max_examples`` of its examples, drawn by ``seed``."""

    def split_features(
        self,
        path: Path,
        tokenizer: Tokenizer,
        max_examples: int | None,
        seed: int,
        share: float,
    ) -> tuple[Features, Features]:
        """Rows of a training file to train on, and rows to score from the share of its examples that ``seed``
        holds out; ``max_examples`` limits the former.
        """
        raise UserError(f"--eval-share: {self.name} holds no examples out; give a file as --eval")

    @abstractmethod
    def eval_features(self, path: Path, tokenizer: Tokenizer) -> Features:
        """Read a file to score, all of it."""

    @abstractmethod
    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Features:
        """Rows of the unlabelled inputs of ``launch/predict.py``, objects with ``input_fields``.

        Raises:
            UserError: a field is missing or of another type; the message names the item from 1.
        """

    @abstractmethod
    def answers(self, features: Features, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One JSON object per item of ``item_features``, in their order."""

    @abstractmethod
    def build_model(
        self,
        config: ModelConfig,
        tensor_parallel: TensorParallel,
        dropout_seeds: DropoutSeeds | None,
        activation_checkpointing: bool,
    ) -> torch.nn.Module:
        """The encoder with this task's head, weights not yet drawn or loaded."""

    @abstractmethod
    def loss(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> torch.Tensor:
        """Mean loss over the rows of the batch, a float32 scalar."""

    @abstractmethod
    def predict(self, model: Forward, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors [B, ...] whose further dimensions are the same for every batch."""

    @abstractmethod
    def score(
        self, features: Features, outputs: dict[str, np.ndarray], folder: Path
    ) -> dict[str, float]:
        """Write the predictions into ``folder`` and return the scores.

        ``outputs`` holds ``predict``'s tensors for all rows of ``features``, in their order.
        """
