"""Where a run's first weights come from: an earlier run (phase change) or its own checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megabert.config import ModelConfig
from megabert.engine.build import TrainingEngine
from megabert.engine.checkpoint import (
    Checkpoint,
    damaged_file,
    load_checkpoint,
    newest_checkpoint,
)
from megabert.engine.universal import (
    WholeCheckpoint,
    merge_partitions,
    open_merged,
    universal_checkpoint_info,
)
from megabert.engine.whole_state import write_state
from megabert.log import UserError
from megabert.model.heads import BertForPreTraining

# Fields of a model that a phase change may alter: they shape no tensor.
_FREE = {"name", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"}


def whole_shapes(model: ModelConfig, heads: list[str]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the unsplit model, by name."""
    with torch.device("meta"):
        whole = BertForPreTraining(model, sentence_task="nsp" in heads)
    return {name: tuple(parameter.shape) for name, parameter in whole.named_parameters()}


def universal_info(engine: TrainingEngine, model: ModelConfig) -> dict[str, Any]:
    """DeepSpeed's ``universal_checkpoint_info`` for the engine's model."""
    return universal_checkpoint_info(name for name, _ in engine.module.named_parameters())


def find_source(path: Path, model: ModelConfig, tokenizer_sha256: str) -> Checkpoint:
    """The checkpoint that ``--init-from`` names, if this run's model can take its tensors.

    Raises:
        UserError: no checkpoint there, another tokenizer, another shape (positions included), or
            damaged files.
    """
    source = newest_checkpoint(path)
    if source.record["tokenizer_sha256"] != tokenizer_sha256:
        raise UserError(
            f"--init-from {path}: its tokenizer ({source.record['tokenizer_sha256'][:12]}...) is not "
            f"the shards' ({tokenizer_sha256[:12]}...); shard the text with the run's tokenizer/"
        )
    theirs, ours = source.record["model"], model.to_dict()
    differing = [
        f"{name} {theirs.get(name)} -> {value}"
        for name, value in ours.items()
        if name not in _FREE and theirs.get(name) != value
    ]
    if differing:
        raise UserError(f"--init-from {path}: another model ({'; '.join(differing)})")
    fault = damaged_file(source)
    if fault is not None:
        raise UserError(f"--init-from {path}: {fault}")
    return source


def hand_over(
    engine: TrainingEngine, model: nn.Module, source: Checkpoint, run: Path, *, moments: bool
) -> None:
    """Put ``source``'s weights (and moments) into a fresh engine; step and schedule stay at 0.

    Works from any ZeRO stage, data and tensor parallel degree to any other: rank 0 merges the
    source to whole tensors inside the folder ``run``, every rank then takes its own parts.
    """
    world = engine.world
    merged = run / "merging.tmp"
    if world.is_main:
        shutil.rmtree(merged, ignore_errors=True)
        merge_partitions(source.folder, merged)
    world.barrier()
    try:
        shapes = whole_shapes(ModelConfig.from_dict(source.record["model"]), source.record["heads"])
        whole: Any = open_merged(source.folder, merged, shapes)
        missing = [name for name, _ in model.named_parameters() if name not in shapes]
        if missing:
            raise UserError(
                f"{source.folder} has no {missing[0]}: it was trained with another --sentence-task"
            )
        if not moments:
            whole = _WeightsOnly(whole)
        write_state(engine.deepspeed, world.tp, whole, step=0)
    finally:
        world.barrier()
        if world.is_main:
            shutil.rmtree(merged, ignore_errors=True)


class _WeightsOnly(Mapping[str, Mapping[str, torch.Tensor]]):
    """A checkpoint's whole tensors without their moments, read when asked for."""

    def __init__(self, whole: WholeCheckpoint) -> None:
        self._whole = whole

    def __getitem__(self, name: str) -> Mapping[str, torch.Tensor]:
        return {"weight": self._whole.read(name, "weight")}

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def resume(engine: TrainingEngine, checkpoint: Checkpoint) -> None:
    """Go on from the run's own checkpoint, bit for bit; the schedule is checked against the step.

    Raises:
        UserError: it was written by another topology, ZeRO stage or precision.
    """
    load_checkpoint(engine, checkpoint)
    schedule = engine.deepspeed.lr_scheduler
    if schedule.applied_steps != checkpoint.step:
        raise UserError(
            f"{checkpoint.folder}: its schedule stands at update {schedule.applied_steps}, "
            f"its record at {checkpoint.step}; the checkpoint is not sound"
        )
