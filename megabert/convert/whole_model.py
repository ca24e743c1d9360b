"""A model between two formats: whole fp32 tensors under megabert's names, from any format."""

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
from megabert.model.heads import MASKED_LM, NEXT_SENTENCE, PRETRAINING
from megabert.model.weights import load_into, true_config
from megabert.parallel.layers import TensorParallel


@dataclass
class WholeModel:
    """A model that is being converted.

    Attributes:
        config: the model, with its true vocabulary size.
        tensors: megabert's names -> whole fp32 tensors without vocabulary padding.
        tokenizer: folder with the tokenizer's files, or None.
        trained_positions: number of rows of the position table that training has used.
        origin: the source of the weights, for the record and for messages.
        left_out: (name, reason) of every part of the source that is not converted.
        labels: names of the outputs of a classification head, in order; () if they have none.
        task: the task that the model was fine-tuned for, as ``launch/finetune.py`` names it.
        task_record: further settings that the task needs to be used again (``Task.record``).
        tokenizer_sha256: SHA-256 of the tokenizer that the model was trained with, if recorded.
        history: how it was trained, as far as known (:mod:`megabert.convert.exports.history`).
        embedding: how its vectors of sequences are made, if it was trained for that: ``pooling``,
            ``normalize``, ``max_length``.
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
    history: list[dict[str, Any]] = field(default_factory=list)
    embedding: dict[str, Any] = field(default_factory=dict)

    @property
    def has_pooler(self) -> bool:
        """Whether the pooler's weights are among the tensors."""
        return "bert.pooler.dense.weight" in self.tensors

    @property
    def has_crf(self) -> bool:
        """Whether the token head has a conditional random field."""
        return any(name.startswith("crf.") for name in self.tensors)

    @property
    def outputs(self) -> int:
        """Number of outputs of a classification head; 0 for other heads."""
        return self.head.outputs_in(self.tensors)

    @property
    def head(self) -> Head:
        """The head on the encoder; it determines the class in other software."""
        heads = (*task_heads(), PRETRAINING, MASKED_LM, NEXT_SENTENCE, ENCODER_ONLY)
        return next(head for head in heads if head.is_in(self.tensors))


def without_embedding(model: WholeModel) -> WholeModel:
    """The model for a format that has no place for how vectors are made; ``left_out`` says so."""
    if not model.embedding:
        return model
    left = ("pooling and normalisation", "only --to sentence-transformers and megabert keep them")
    return replace(model, embedding={}, left_out=[*model.left_out, left])


class EncoderOnly(nn.Module):
    """The encoder, with parameters named as in models with heads (prefix ``bert.``)."""

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
    """megabert's model for this head: one rank, unpadded vocabulary, uninitialised weights.

    A conditional random field is not included: the outputs of a token head are its emissions.

    Args:
        config: the model.
        head: the head.
        pooler: whether an encoder without a head has a pooler; pretraining and sequence
            classification always have one, other heads never.
        outputs: number of outputs of a classification head.
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


def with_plain_outputs(model: WholeModel) -> WholeModel:
    """The model whose outputs are in its labels' own units, where its task recorded a mean and a scale.

    Other software knows neither: they go into the head's weights, so that a label is the output itself.
    """
    record = dict(model.task_record)
    mean, scale = record.pop("output_mean", 0.0), record.pop("output_scale", 1.0)
    if (mean, scale) == (0.0, 1.0):
        return model
    weight = model.head.tensors[0]
    bias = weight.removesuffix("weight") + "bias"
    tensors = dict(model.tensors)
    tensors[weight] = (tensors[weight].double() * scale).float()
    tensors[bias] = (tensors[bias].double() * scale + mean).float()
    return replace(model, tensors=tensors, task_record=record)


def check_tensors(model: WholeModel) -> None:
    """Compare names and shapes with those of megabert's model, and remove two kinds of surplus.

    A pooler without a sentence task, and a sentence head without a pooler, move to ``left_out``; any
    other surplus is an error.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or not finite, or the number of
            labels differs from the number of outputs.
    """
    check_depth(model.config.num_hidden_layers, len(model.tensors), model.origin)
    try:
        expected = expected_shapes(model)
    except RuntimeError as error:
        raise UserError(
            f"{model.origin}: its configuration does not describe a valid model: {error}"
        ) from error
    absent = [name for name in expected if name not in model.tensors]
    if absent:
        raise UserError(f"{model.origin}: missing tensors: {first_names(absent)}")
    for name in [name for name in model.tensors if name not in expected]:
        if not name.startswith(("bert.pooler.", "nsp.")):
            raise UserError(f"{model.origin}: unexpected tensor {name}")
        model.left_out.append((name, f"not part of a model of this kind ({model.head})"))
        del model.tensors[name]
    for name, tensor in model.tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise UserError(
                f"{model.origin}: {name} has shape {list(tensor.shape)}, but its configuration "
                f"requires {list(expected[name])}"
            )
    _check_finite(model)
    if model.outputs and model.labels and len(model.labels) != model.outputs:
        raise UserError(
            f"{model.origin}: it names {len(model.labels)} labels, but its head has "
            f"{model.outputs} outputs"
        )


def _check_finite(model: WholeModel) -> None:
    """Check that all values are finite: a model with another value gives only NaN.

    Raises:
        UserError: there are other values; the message names the tensors.
    """
    broken = [name for name, tensor in model.tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{model.origin}: NaN or infinite values in {first_names(broken)}: the training "
            "diverged, or the file is damaged; use an earlier checkpoint"
        )


def loaded_model(model: WholeModel) -> nn.Module:
    """megabert's model with these weights, in evaluation mode (:func:`empty_model`)."""
    ours = empty_model(model.config, model.head, model.has_pooler, model.outputs)
    load_into(ours, model.tensors, TensorParallel(), source=model.origin)
    return ours.eval()
