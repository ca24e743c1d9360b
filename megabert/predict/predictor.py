"""A fine-tuned or pretrained checkpoint, ready to answer: which task it is, its model, its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.finetune.starting_weights import read_weights
from megabert.model.encoder import variant_of
from megabert.model.weights import load_into, true_config
from megabert.parallel.layers import TensorParallel
from megabert.predict.fill_mask import FillMask
from megabert.tasks.base import Features, ItemFormat
from megabert.tasks.batches import batch_on_device
from megabert.tasks.registry import make_task, task_class, task_names, tasks_with

log = get_logger()


@dataclass(frozen=True)
class AnswerOptions:
    """How to answer.

    Attributes:
        task: instead of the one that the checkpoint names.
        batch_size: rows of a batch.
        top_k: answers to list for each item; None: what the task gives, one answer to a question.
        max_length: tokens of a row at most.
        settings: of tasks, by name, instead of the checkpoint's.
        device: auto, cpu or cuda.
        precision: fp32 or bf16.
    """

    task: str | None = None
    batch_size: int = 32
    top_k: int | None = None
    max_length: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "fp32"


class Answering(Protocol):
    """The part of a task (:class:`megabert.tasks.base.Task`) that answers inputs."""

    name: str
    max_length: int
    input_fields: tuple[tuple[str, ...], ...]
    item_format: ItemFormat | None
    ranks_answers: bool

    def used_settings(self) -> frozenset[str]:
        """Settings that have an effect."""

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Any:
        """Inputs as rows."""

    def predict(self, model: Any, batch: PackedBatch[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors [B, ...]."""

    def answers(self, features: Any, outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One object per item."""


@dataclass(frozen=True)
class Predictor:
    """A task with its model on a device.

    Attributes:
        task, model, tokenizer, device: what answers, where.
        batch_size: rows of a batch.
        top_k: as in :class:`AnswerOptions`.
    """

    task: Answering
    model: torch.nn.Module
    tokenizer: Tokenizer
    device: torch.device
    batch_size: int
    top_k: int | None

    def features(self, items: list[dict[str, Any]]) -> Features:
        """Rows of the items; UserError for an invalid one."""
        made: Features = self.task.item_features(items, self.tokenizer)
        return made

    def answers(self, features: Features) -> list[dict[str, Any]]:
        """One object per item, in order. Rows of similar length share a batch."""
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
        max_length = int(features.lengths[rows].max())
        batch = batch_on_device(features, rows, max_length, self.device)
        found = self.task.predict(self.model, batch)
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _shown(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer with the requested number of alternatives."""
        shown = dict(answer)
        if "n_best" in shown:
            shown["n_best"] = shown["n_best"][: self.top_k]
            if self.top_k is None:
                del shown["n_best"]
        if isinstance(shown.get("scores"), Mapping) and self.top_k is not None:
            ranked = sorted(shown["scores"].items(), key=lambda pair: -pair[1])
            shown["scores"] = dict(ranked[: self.top_k])
        return shown


def open_predictor(checkpoint: Path, choices: AnswerOptions) -> Predictor:
    """Read a checkpoint and make it ready.

    Raises:
        UserError: not a checkpoint, without a head that answers, or one that does not fit ``--task``.
    """
    source, trained_with = read_weights(checkpoint)
    if source.tokenizer is None:
        raise UserError(
            f"--checkpoint {checkpoint} has no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    tokenizer = open_tokenizer(
        source.tokenizer, source.config.vocab_size, str(checkpoint), trained_with
    )
    config = replace(true_config(source.config), hidden_dropout_prob=0.0)
    name = _task_name(source, choices.task)
    if source.head in FillMask.heads:
        max_length = _max_length(source, choices, source.config.max_position_embeddings)
        filling = FillMask(max_length, source.head, choices.top_k)
        task: Answering = filling
        model = filling.build_model(config)
    else:
        task, model = _fine_tuned(source, name, config, choices)
    _tell_unused(task, choices)
    load_into(model, source.tensors, TensorParallel(), source=source.origin)
    device = chosen_device(choices.device)
    dtype = torch.bfloat16 if choices.precision == "bf16" else torch.float32
    model.to(device, dtype).eval()
    log.info("%s: %s on %s, %s", source.origin, name, device, choices.precision)
    return Predictor(task, model, tokenizer, device, choices.batch_size, choices.top_k)


def _fine_tuned(
    source: WholeModel, name: str, config: ModelConfig, choices: AnswerOptions
) -> tuple[Answering, torch.nn.Module]:
    """The task with the settings of its fine-tuning, and its model."""
    known = task_class(name)
    record = source.task_record if source.task in (None, *tasks_with(source.head)) else {}
    usual = record.get("max_length") or known.default_max_length
    max_length = _max_length(source, choices, usual)
    settings = known.answer_settings(record, choices.settings, max_length)
    task = make_task(name, settings, max_length)
    task.load_labels(source.labels or task.unnamed_labels(source.outputs), record)
    return task, task.build_model(config, TensorParallel(), None, False)


def _task_name(source: WholeModel, wanted: str | None) -> str:
    """The task that is given, or that the checkpoint was trained for, or that its head implies."""
    if source.head is ENCODER_ONLY:
        raise UserError(
            f"{source.origin} is a bare encoder: it has no head to answer with; fine-tune it with "
            "launch/finetune.py first"
        )
    fitting = (FillMask.name,) if source.head in FillMask.heads else tasks_with(source.head)
    if not fitting:
        raise UserError(
            f"{source.origin} has only a head for {source.head}, which answers nothing here; fine-tune "
            "it with launch/finetune.py first"
        )
    if wanted is not None:
        _check_wanted(source, wanted, fitting)
        return wanted
    if source.task in fitting:
        return source.task
    if source.task is not None and source.task not in task_names():
        raise UserError(
            f"{source.origin} was fine-tuned for the task {source.task!r}, which is not known here: install "
            f"the package that adds it, or give --task, one of {', '.join(fitting)}"
        )
    if source.task is not None:
        known = task_class(source.task)
        raise UserError(
            f"{source.origin} was fine-tuned for {source.task}, whose head is {known.head}, but it has one for "
            f"{source.head}: give --task, one of {', '.join(fitting)}"
        )
    if len(fitting) == 1:
        return fitting[0]
    implied = (task_class(name).implied_by(source.labels, source.outputs) for name in fitting)
    name = next((name for name in implied if name is not None), None)
    if name is None:
        raise UserError(
            f"{source.origin} does not name a task: give --task"
            + (f", one of {', '.join(fitting)}" if fitting else "")
        )
    log.info(
        "%s does not name a task; using %s (--task chooses: %s)",
        source.origin,
        name,
        ", ".join(fitting),
    )
    return name


def _check_wanted(source: WholeModel, wanted: str, fitting: tuple[str, ...]) -> None:
    known = (*task_names(), FillMask.name)
    if wanted not in known:
        raise UserError(f"--task {wanted} is unknown; known tasks: {', '.join(known)}")
    if wanted not in fitting:
        head = FillMask.heads[-1] if wanted == FillMask.name else task_class(wanted).head
        raise UserError(
            f"--task {wanted} needs a {head} head, {source.origin} has one for {source.head} "
            f"(--task {', '.join(fitting)})"
        )


def _tell_unused(task: Answering, choices: AnswerOptions) -> None:
    """Log the options that have no effect on this task."""
    for name in choices.settings.keys() - task.used_settings():
        log.warning("--%s has no effect on %s", name.replace("_", "-"), task.name)
    if choices.top_k is not None and not task.ranks_answers:
        log.warning("--top-k has no effect on %s", task.name)


def _max_length(source: WholeModel, choices: AnswerOptions, usual: int) -> int:
    most, wanted = source.config.max_position_embeddings, choices.max_length
    if wanted is not None and wanted > most:
        limit = variant_of(source.config).length_limit(source.config)
        raise UserError(f"--max-length {wanted} is longer than {limit} ({source.origin})")
    return wanted or min(usual, most)


def chosen_device(wanted: str) -> torch.device:
    """The device of ``--device``; UserError if there is no GPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    return torch.device(wanted)
