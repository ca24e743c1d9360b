"""A fine-tuned or pretrained checkpoint, ready to answer: which task it is, its model, its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.finetune.inputs import read_weights
from megabert.model.encoder import variant_of
from megabert.model.heads import MASKED_LM, PRETRAINING
from megabert.model.task_heads import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from megabert.model.weights import load_into, true_config
from megabert.parallel.layers import TensorParallel
from megabert.predict.fill_mask import FillMask
from megabert.tasks.base import Features
from megabert.tasks.batches import rows_on_device
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.classification.task import Classification
from megabert.tasks.registry import CLASSIFICATION, OTHER_LENGTH, QA_LENGTH, TAGGING, make_task
from megabert.tasks.registry import QUESTION_ANSWERING as QA_TASKS
from megabert.tasks.settings import ClassificationSettings, SquadSettings, TaggingSettings, TaskName

FILL_MASK = "fill-mask"
TASKS = (*get_args(TaskName), FILL_MASK)
_FITTING = {
    QUESTION_ANSWERING: QA_TASKS,
    SEQUENCE_CLASSIFICATION: CLASSIFICATION,
    TOKEN_CLASSIFICATION: TAGGING,
    PRETRAINING: (FILL_MASK,),
    MASKED_LM: (FILL_MASK,),
}
"""Tasks that a head can do."""
_HEAD_OF = {task: head for head, tasks in _FITTING.items() for task in tasks}

log = get_logger()


@dataclass(frozen=True)
class Choices:
    """How to answer.

    Attributes:
        task: instead of the one that the checkpoint names.
        batch_size: rows of a batch.
        top_k: answers to list for each item; None: what the task gives, one answer to a question.
        max_length: tokens of a row at most.
        null_threshold: of squad2, instead of the checkpoint's.
        device: auto, cpu or cuda.
        precision: fp32 or bf16.
    """

    task: str | None = None
    batch_size: int = 32
    top_k: int | None = None
    max_length: int | None = None
    null_threshold: float | None = None
    device: str = "auto"
    precision: str = "fp32"


class Answering(Protocol):
    """The part of a task (:class:`megabert.tasks.base.Task`) that answers inputs."""

    name: str

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Any:
        """Inputs as rows."""

    def predict(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Tensors [B, ...]."""

    def answers(self, features: Any, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One object an item."""


def fields_of(task: Answering) -> tuple[tuple[str, ...], ...]:
    """Names of each text of an item, the usual one first; one or two texts."""
    if isinstance(task, Classification):
        return task.source.fields
    if task.name in QA_TASKS:
        return (("question",), ("context",))
    return (("text",),)


@dataclass(frozen=True)
class Predictor:
    """A task with its model on a device.

    Attributes:
        task, model, tokenizer, device: what answers, where.
        batch_size: rows of a batch.
        top_k: as in :class:`Choices`.
    """

    task: Answering
    model: torch.nn.Module
    tokenizer: Tokenizer
    device: torch.device
    batch_size: int
    top_k: int | None

    def features(self, items: list[dict[str, Any]]) -> Features:
        """Rows of the items; UserError for one that is not as it should be."""
        made: Features = self.task.item_features(items, self.tokenizer)
        return made

    def answers(self, features: Features) -> list[dict[str, Any]]:
        """One object an item, in order. Rows of like length share a batch."""
        outputs: dict[str, np.ndarray] = {}
        order = np.argsort(-features.lengths, kind="stable")
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            for name, values in self._predicted(features, rows).items():
                if name not in outputs:
                    outputs[name] = np.empty((len(order), *values.shape[1:]), values.dtype)
                outputs[name][rows] = values
        return [self._shown(answer) for answer in self.task.answers(features, outputs)]

    @torch.inference_mode()
    def _predicted(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        longest = int(features.lengths[rows].max())
        batch = rows_on_device(features, rows, longest, self.device)
        found = self.task.predict(self.model, batch)
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _shown(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer with so many alternatives as are asked for."""
        shown = dict(answer)
        if "n_best" in shown:
            shown["n_best"] = shown["n_best"][: self.top_k]
            if self.top_k is None:
                del shown["n_best"]
        if isinstance(shown.get("scores"), Mapping) and self.top_k is not None:
            ranked = sorted(shown["scores"].items(), key=lambda pair: -pair[1])
            shown["scores"] = dict(ranked[: self.top_k])
        return shown


def open_predictor(checkpoint: Path, choices: Choices) -> Predictor:
    """Read a checkpoint and make it ready.

    Raises:
        UserError: not a checkpoint, without a head that answers, or one that does not fit ``--task``.
    """
    source, trained_with = read_weights(checkpoint)
    if source.tokenizer is None:
        raise UserError(
            f"--checkpoint {checkpoint} holds no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    tokenizer = open_tokenizer(
        source.tokenizer, source.config.vocab_size, str(checkpoint), trained_with
    )
    config = replace(true_config(source.config), hidden_dropout_prob=0.0)
    name = _task_name(source, choices.task)
    _tell_unused(name, choices)
    if name == FILL_MASK:
        longest = _longest(source, choices.max_length, source.config.max_position_embeddings)
        filling = FillMask(longest, source.head == PRETRAINING, choices.top_k or 5)
        task: Answering = filling
        model = filling.build_model(config)
    else:
        task, model = _fine_tuned(source, name, config, choices)
    load_into(model, source.tensors, TensorParallel(), source=source.origin)
    device = _device(choices.device)
    dtype = torch.bfloat16 if choices.precision == "bf16" else torch.float32
    model.to(device, dtype).eval()
    log.info("%s: %s on %s, %s", source.origin, name, device, choices.precision)
    return Predictor(task, model, tokenizer, device, choices.batch_size, choices.top_k)


def _fine_tuned(
    source: WholeModel, name: str, config: ModelConfig, choices: Choices
) -> tuple[Answering, torch.nn.Module]:
    """The task as it was fine-tuned, and its model."""
    record = source.task_record if source.task in _FITTING[_HEAD_OF[name]] else {}
    usual = record.get("max_length") or (QA_LENGTH if name in QA_TASKS else OTHER_LENGTH)
    longest = _longest(source, choices.max_length, usual)
    known = {field.name for field in fields(SquadSettings)} - {"null_threshold"}
    limits = {key: value for key, value in record.items() if key in known}
    squad = SquadSettings(**{**limits, "null_threshold": choices.null_threshold})
    if squad.max_query_length > longest // 2:  # a model of few positions
        squad = replace(squad, max_query_length=longest // 2)
    task = make_task(name, longest, squad, ClassificationSettings(), TaggingSettings())
    labels = source.labels or tuple(f"LABEL_{i}" for i in range(source.outputs))
    if isinstance(task, Classification) and not source.labels and name != "tnews":
        labels = ()  # the data set knows its own order
    task.load_labels(labels, record)
    return task, task.build_model(config, TensorParallel(), None, False)


def _task_name(source: WholeModel, wanted: str | None) -> str:
    """The task asked for, or that the checkpoint was trained for, or that its head suggests."""
    if source.head == ENCODER_ONLY:
        raise UserError(
            f"{source.origin} is a bare encoder: it has no head to answer with; fine-tune it with "
            "launch/finetune.py first"
        )
    fitting = _FITTING[source.head]
    if wanted is not None:
        if wanted not in TASKS:
            raise UserError(f"--task {wanted} is not known; there are {', '.join(TASKS)}")
        if wanted not in fitting:
            raise UserError(
                f"--task {wanted} needs a {_HEAD_OF[wanted]} head, {source.origin} has one for "
                f"{source.head} (--task {', '.join(fitting)})"
            )
        return wanted
    if source.task in fitting:
        return str(source.task)
    name = fitting[0]
    if source.head == SEQUENCE_CLASSIFICATION:
        name = "stsb" if source.outputs == 1 else _by_labels(source.labels)
    if source.head == TOKEN_CLASSIFICATION:
        name = "conll"
    if len(fitting) > 1:
        log.info(
            "%s names no task: taken as %s (or --task %s)", source.origin, name, ", ".join(fitting)
        )
    return name


def _tell_unused(name: str, choices: Choices) -> None:
    """Name the choices that change nothing for this task."""
    if choices.null_threshold is not None and name != "squad2":
        log.warning("--null-threshold has no effect on %s", name)
    if choices.top_k is not None and name in (*TAGGING, "stsb"):
        log.warning("--top-k has no effect on %s", name)


def _by_labels(labels: tuple[str, ...]) -> str:
    """The pair task whose labels these are; else tnews, one text with labels of any name."""
    given = sorted(label.lower() for label in labels)
    for name in ("mnli", "rte"):
        if given == sorted(GLUE[name].labels):
            return name
    return "tnews"


def _longest(source: WholeModel, wanted: int | None, usual: int) -> int:
    most = source.config.max_position_embeddings
    if wanted is not None and wanted > most:
        raise UserError(
            f"--max-length {wanted} is longer than {variant_of(source.config).length_limit(source.config)} ({source.origin})"
        )
    return wanted or min(usual, most)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    return torch.device(wanted)
