"""The mean of several models, element by element: in float64, rounded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.common.names import RUN_CHECKPOINTS
from megabert.convert.whole_model import WholeModel, with_plain_outputs
from megabert.data.tokenizers.load import load_tokenizer

_MEANING = ("multi_label", "tag_scheme", "crf_constraints")
"""Of the record of a fine-tuning: what the outputs mean. Thresholds and lengths may differ: the first model's are kept."""
_NOT_SHAPE = (
    "name",
    "vocab_multiple",
    "initializer_range",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)


def places_to_average(inputs: tuple[Path, ...], count: int) -> tuple[Path, ...]:
    """The models of a mean: the newest ``count`` complete checkpoints of a run, or all inputs.

    Args:
        inputs: a run, or several inputs.
        count: number of models; 0 for all.

    Raises:
        UserError: there are fewer, or fewer than two; one input is named twice.
    """
    if len(inputs) > 1:
        if len({path.resolve() for path in inputs}) < len(inputs):
            raise UserError("--average: one of the inputs is named twice")
        if count not in (0, len(inputs)):
            raise UserError(
                f"--average {count}, but {len(inputs)} inputs: leave the number out for their mean"
            )
        return inputs
    from megabert.checkpoint.record import whole_checkpoints  # with DeepSpeed

    (run,) = inputs
    if not (run / RUN_CHECKPOINTS).is_dir():
        raise UserError(
            f"--average: {run} is not a run, whose checkpoints could be averaged; name the run, or several "
            "models after --input"
        )
    found = [checkpoint.folder for checkpoint in whole_checkpoints(run / RUN_CHECKPOINTS)]
    wanted = max(count, 2)
    if count == 1 or len(found) < wanted:
        ones = "checkpoint" if len(found) == 1 else "checkpoints"
        reason = f"{run} has {len(found)} complete {ones}, fewer than the {wanted} to average"
        if count == 1:
            reason = "a mean takes at least 2 models"
        raise UserError(
            f"--average: {reason}; --keep-last of launch/pretrain.py says how many a run keeps"
        )
    return tuple(reversed(found[: count or len(found)]))


def mean_of(models: Iterable[WholeModel]) -> WholeModel:
    """The mean. One model after another is asked for, and only one is held besides the sum.

    Raises:
        UserError: a model differs from the first in anything but its weights.
    """
    origins: list[str] = []
    kept: WholeModel | None = None
    facts: dict[str, Any] = {}
    sums: dict[str, torch.Tensor] = {}
    trained = []
    for one_model in models:
        model = with_plain_outputs(one_model)
        if kept is None:
            kept, facts = model, _facts(model)
        for what, (one, other) in _differences(facts, _facts(model)).items():
            raise UserError(
                f"--average: {kept.origin} and {model.origin} differ in {what}: "
                + " and ".join("none" if fact in (None, "") else str(fact) for fact in (one, other))
            )
        for name in list(model.tensors):
            value = model.tensors.pop(name).double()
            sums[name] = sums[name].add_(value) if name in sums else value
        origins.append(model.origin)
        trained.append(model.trained_positions)
    assert kept is not None
    return dataclasses.replace(
        kept,
        tensors={name: (sums.pop(name) / len(origins)).float() for name in list(sums)},
        trained_positions=min(trained),
        origin=f"the mean of {', '.join(origins)}",
    )


def _facts(model: WholeModel) -> dict[str, Any]:
    """What the models of a mean must share, by the words of a message."""
    place = model.tokenizer
    known = load_tokenizer(place).sha256 if place is not None else model.tokenizer_sha256
    config = {n: v for n, v in model.config.to_dict().items() if n not in _NOT_SHAPE}
    shapes = {f"the shape of {name}": list(t.shape) for name, t in model.tensors.items()}
    labels = ", ".join(model.labels)
    named = {"head": model.head.name, "labels": labels, "tokenizer": known, "task": model.task}
    return config | shapes | named | {name: model.task_record.get(name) for name in _MEANING}


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys with different values in two dictionaries, as (first, second)."""
    names = dict.fromkeys([*one, *other])
    return {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}
