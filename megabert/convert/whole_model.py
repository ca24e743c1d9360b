"""A model between two formats: whole fp32 tensors under our names, whatever it came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.name_table import check_depth, first_names
from megabert.model.encoder import Encoder
from megabert.model.head_registry import Head, task_heads
from megabert.model.heads import MASKED_LM, PRETRAINING
from megabert.model.weights import load_into, true_config
from megabert.parallel.layers import TensorParallel


@dataclass
class WholeModel:
    """Weights on their way from one format to another.

    Attributes:
        config: the model, with its true vocabulary size.
        tensors: our names -> whole fp32 tensors without vocabulary padding.
        tokenizer: folder with the tokenizer's files, None if there is none.
        trained_positions: rows of the position table that training has seen.
        origin: where the weights come from, for the record and for messages.
        left_out: (name, reason) of everything in the source that is not converted.
        labels: names of the outputs of a classification head, in their order; () if they have none.
        task: the task that the model was fine-tuned for, as ``launch/finetune.py`` names it.
        task_record: what that task needs besides, to be used again (``Task.record``).
        tokenizer_sha256: of the tokenizer that the model was trained with, if it is recorded.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    tokenizer: Path | None
    trained_positions: int
    origin: str
    left_out: list[tuple[str, str]] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    task: str | None = None
    task_record: dict[str, Any] = field(default_factory=dict)
    tokenizer_sha256: str | None = None

    @property
    def has_pooler(self) -> bool:
        """Whether the pooler's weights are among the tensors."""
        return "bert.pooler.dense.weight" in self.tensors

    @property
    def has_crf(self) -> bool:
        """Whether a conditional random field stands on the token head."""
        return any(name.startswith("crf.") for name in self.tensors)

    @property
    def outputs(self) -> int:
        """Scores a classification head gives; 0 for other heads."""
        return self.head.outputs_in(self.tensors)

    @property
    def head(self) -> Head:
        """The head on the encoder; decides the class on the other side."""
        heads = (*task_heads(), PRETRAINING, MASKED_LM, ENCODER_ONLY)
        return next(head for head in heads if head.is_in(self.tensors))


class EncoderOnly(nn.Module):
    """Our encoder with its parameters named as in the models with heads (``bert.`` in front)."""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__()
        self.bert = Encoder(config, pooler=pooler)


ENCODER_ONLY = Head(
    "encoder",
    modules=(),
    tensors=(),
    build=lambda config, outputs: EncoderOnly(config, pooler=False),
    transformers_suffix="Model",
)


def empty_model(config: ModelConfig, head: Head, pooler: bool, outputs: int = 0) -> nn.Module:
    """Our model of one rank for this head, with unpadded vocabulary and unset weights.

    ``pooler`` counts for a bare encoder only: pretraining and sequence classification always have
    one, the other heads never. ``outputs``: scores of a classification head. A conditional random
    field is no part of it: the output of a token head are its emissions.
    """
    config = replace(true_config(config), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if head is ENCODER_ONLY:
        return EncoderOnly(config, pooler)
    return head.build(config, outputs)


def expected_shapes(model: WholeModel) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this configuration and head has."""
    with torch.device("meta"):
        empty = empty_model(model.config, model.head, model.has_pooler, model.outputs)
    shapes = {name: tuple(p.shape) for name, p in empty.named_parameters()}
    optional = model.head.optional_tensors(model.outputs)
    if not model.tensors.keys().isdisjoint(optional):
        shapes |= optional
    return shapes


def check_tensors(model: WholeModel) -> None:
    """Compare names and shapes with those of our model, and set aside what it has no place for.

    A pooler without a sentence task, and a sentence head without a pooler or an MLM head, go to
    ``left_out``; nothing else may be too many.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or not finite, or the labels are
            not as many as the scores.
    """
    check_depth(model.config.num_hidden_layers, len(model.tensors), model.origin)
    try:
        expected = expected_shapes(model)
    except RuntimeError as error:
        raise UserError(f"{model.origin}: its configuration describes no model: {error}") from error
    absent = [name for name in expected if name not in model.tensors]
    if absent:
        raise UserError(f"{model.origin}: missing tensors: {first_names(absent)}")
    for name in [name for name in model.tensors if name not in expected]:
        if not name.startswith(("bert.pooler.", "nsp.")):
            raise UserError(f"{model.origin}: unexpected tensor {name}")
        model.left_out.append((name, f"no part of a model of this kind ({model.head})"))
        del model.tensors[name]
    for name, tensor in model.tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise UserError(
                f"{model.origin}: {name} has shape {list(tensor.shape)}, its configuration "
                f"asks for {list(expected[name])}"
            )
    _check_finite(model)
    if model.outputs and model.labels and len(model.labels) != model.outputs:
        raise UserError(
            f"{model.origin}: {len(model.labels)} labels are named, but its head gives "
            f"{model.outputs} scores"
        )


def _check_finite(model: WholeModel) -> None:
    """Refuse values that are not finite: a model with one computes nothing.

    Raises:
        UserError: names the tensors that hold any.
    """
    broken = [name for name, tensor in model.tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{model.origin}: NaN or infinite values in {first_names(broken)}: the training that wrote "
            "it had diverged, or the file is damaged; take an earlier checkpoint"
        )


def loaded_model(model: WholeModel) -> nn.Module:
    """Our model with these weights, in evaluation mode (:func:`empty_model`)."""
    ours = empty_model(model.config, model.head, model.has_pooler, model.outputs)
    load_into(ours, model.tensors, TensorParallel(), source=model.origin)
    return ours.eval()
