"""A run's first weights: from an earlier run (phase change) or from its own checkpoint.

    transfer     weights and moments of another run; step and schedule stay at 0
    resume       everything from the run's own checkpoint. Where the layout is the same, DeepSpeed
                 loads its own files, bit for bit; otherwise (other ranks, ZeRO stage, precision...)
                 the state goes through whole tensors, as in a phase change, and then the counters
                 are set

Whole tensors: every rank reads them from the files of all ranks and takes its own parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megabert.checkpoint.deepspeed_files import (
    CheckpointReader,
    check_content,
    only_checkpoint_content,
)
from megabert.checkpoint.layout import Layout, restore_counters
from megabert.checkpoint.merged import WholeCheckpoint, whole_checkpoint
from megabert.checkpoint.record import Checkpoint, damaged_file
from megabert.checkpoint.save_load import (
    newest_checkpoint,
    shared_fault,
)
from megabert.checkpoint.universal import universal_checkpoint_info
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.model import ModelConfig
from megabert.engine.broadcast import broadcast_object, first_of_ranks, made_by_each
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine
from megabert.model.parameters import WholeParameter, pretraining_parameters, whole_parameters


def recorded_parameters(model: ModelConfig, heads: Collection[str]) -> Mapping[str, WholeParameter]:
    """Every parameter of the model that a checkpoint's record describes, by name."""
    return pretraining_parameters(model, sentence_task="nsp" in heads)


def universal_info(engine: TrainingEngine, model: ModelConfig) -> dict[str, Any]:
    """DeepSpeed's ``universal_checkpoint_info`` for the engine's model."""
    return universal_checkpoint_info(whole_parameters(engine.module, engine.world.tp.size))


def find_source(
    path: Path,
    require_fit: Callable[[Checkpoint], None],
    world: World | None = None,
    flag: str = "--init-from",
) -> Checkpoint:
    """The checkpoint that ``flag`` names, if it fits this run and is undamaged.

    ``require_fit`` raises UserError for one that does not; it is called before the files are read.
    ``world``: its main rank chooses, because ``latest`` may be an older one on another host whose network
    file system lags, and its ranks divide the reading of the files (all call); None: this process alone.

    Raises:
        UserError: ``path`` has no checkpoint, or it does not fit, or has damaged files.
    """

    def choose() -> Checkpoint:
        source = newest_checkpoint(path)
        require_fit(source)
        return source

    source = choose() if world is None else broadcast_object(world, choose)
    fault = damaged_file(source) if world is None else shared_fault(source, world)
    if fault is not None:
        raise UserError(f"{flag} {path}: {fault}")
    return source


def transfer(
    engine: TrainingEngine, model: nn.Module, source: Checkpoint, *, moments: bool
) -> None:
    """Load ``source``'s weights (and moments) into a new engine; step and schedule stay at 0.

    Works from any ZeRO stage, data and tensor parallel degree to any other.
    """
    _write_whole(engine, model, source, moments=moments, step=0)
    _require_finite(engine, source)


def _write_whole(
    engine: TrainingEngine, model: nn.Module, source: Checkpoint, *, moments: bool, step: int
) -> int:
    """Load ``source`` into ``engine`` through whole tensors; returns the optimizer's step in it."""
    parameters = recorded_parameters(
        ModelConfig.from_dict(source.record["model"]), source.field("heads")
    )
    missing = [name for name, _ in model.named_parameters() if name not in parameters]
    if missing:
        raise UserError(
            f"{source.folder} has no {missing[0]}: it was trained with another --sentence-task"
        )
    _check_content(source, engine.world)
    whole = made_by_each(
        engine.world,
        lambda: whole_checkpoint(source.folder, parameters),
        lambda found: (found.step, found.states),
    )
    tensors: Any = whole if moments else _WeightsOnly(whole)
    engine.load_whole_tensors(tensors, step)
    if engine.world.is_main:
        whole.log_difference()
    return whole.step


class _WeightsOnly(Mapping[str, Mapping[str, torch.Tensor]]):
    """A checkpoint's whole tensors without their moments, read on access."""

    def __init__(self, whole: WholeCheckpoint) -> None:
        self._whole = whole

    def __getitem__(self, name: str) -> Mapping[str, torch.Tensor]:
        return {"weight": self._whole.read(name, "weight")}

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def resume(engine: TrainingEngine, checkpoint: Checkpoint) -> None:
    """Resume from the run's own checkpoint, written by any topology, ZeRO stage and precision.

    Raises:
        UserError: the checkpoint is not consistent.
    """
    before, now = Layout.from_record(checkpoint.record), Layout.of(engine)
    if before.fits(now):
        _check_content(checkpoint, engine.world)
        with only_checkpoint_content():
            found = engine.load_files(checkpoint.folder, checkpoint.step, CheckpointReader())
        if not found:
            raise UserError(f"{checkpoint.folder}: DeepSpeed found nothing to load there")
        engine.average_copies()  # checkpoints of earlier versions hold them as they were
    else:
        step = _write_whole(engine, engine.module, checkpoint, moments=True, step=checkpoint.step)
        _require_step(checkpoint, "optimizer", step)
        restore_counters(engine, checkpoint.record)
    _require_step(checkpoint, "schedule", engine.scheduled_steps)
    _require_step(checkpoint, "optimizer", engine.optimizer_steps)
    _require_finite(engine, checkpoint)
    if now.has_average and not before.has_average:
        get_logger().info(
            "--ema-decay: %s has no averaged weights; the average starts from its present weights",
            checkpoint.folder.name,
        )
    if before.has_average and not now.has_average:
        get_logger().info(
            "the averaged weights of %s are dropped: this run has no --ema-decay",
            checkpoint.folder.name,
        )
    get_logger().info("resumed from %s %s", checkpoint.folder.name, before.describe_change(now))


def _check_content(checkpoint: Checkpoint, world: World) -> None:
    """Check that the files hold what DeepSpeed writes; ranks share them and agree (all call).

    Raises:
        UserError: on every rank, the first file that does not.
    """
    mine = None
    try:
        check_content(checkpoint.folder, world.topology.rank, world.topology.world_size)
    except UserError as error:
        mine = str(error)
    first = first_of_ranks(world, mine)
    if first is not None:
        raise UserError(first)


def _require_finite(engine: TrainingEngine, source: Checkpoint) -> None:
    """Refuse what would make every loss NaN, so that the samples are not blamed for it (all ranks call).

    Raises:
        UserError: the checkpoint, and which of its tensors.
    """
    what = engine.not_finite()
    if what is not None:
        raise UserError(
            f"{source.folder}: {what} is NaN or infinite; the fault is in the checkpoint, not in the "
            "samples: use another one (--resume TAG, or --init-from with its folder)"
        )


def _require_step(checkpoint: Checkpoint, what: str, step: int) -> None:
    if step != checkpoint.step:
        raise UserError(
            f"{checkpoint.folder}: its {what} is at update {step}, its record at {checkpoint.step}; "
            "the checkpoint is not consistent: resume from another one (--resume TAG)"
        )
