"""Settings of ``launch/plan.py``; every setting is one flag (``megabert.config.flags``)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.common.hardware import ACCELERATORS
from megabert.config import flags
from megabert.config.deepspeed_file import deepspeed_layer, read_deepspeed_config
from megabert.config.flags import Given, SettingsLayer, setting
from megabert.config.numbers import (
    Count,
    Limits,
    PositiveFloat,
    PositiveInt,
    Probability,
    Ranks,
    Share,
    Size,
)
from megabert.config.recipes import RECIPES, Phase
from megabert.config.run_config import divides_batch
from megabert.config.sections.averaging import AveragingSettings
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.config.sections.loss import LossSettings
from megabert.config.sections.masking import MaskingSettings
from megabert.config.sections.muon import MuonPart
from megabert.config.sections.replacing import without_replaced
from megabert.config.sections.run import RunSettings
from megabert.config.sections.schedule import ScheduleSettings
from megabert.config.sections.seeds import SeedSettings
from megabert.config.sections.shape import ModelSettings
from megabert.config.training import (
    BatchSettings,
    DataSettings,
    OptimizerSettings,
    ParallelSettings,
    PretrainSettings,
)
from megabert.config.values import DEFERRED

CPU = "cpu"
Padding = Annotated[float, Limits(ge=0.0, lt=0.75)]


@dataclass(frozen=True, config=DEFERRED)
class MachineSettings:
    """Machine"""

    gpus: Ranks = setting(8, "ranks of the run, one per device")
    gpu: str = setting(
        "h100",
        "device; cpu is this machine, which is measured",
        choices=lambda: (CPU, *ACCELERATORS),
    )
    gpus_per_node: Ranks = setting(8, "devices per host")
    network_bandwidth: PositiveFloat | None = setting(
        None, "GB/s each way per device between hosts (default: that of NVIDIA's systems)"
    )
    efficiency: Share | None = setting(
        None,
        "fraction of the precision's peak that forward and backward reach (default: see --verbose)",
    )
    memory_margin: Probability = setting(
        0.1, "fraction of the device's memory to leave free (fragmentation, other programs)"
    )


@dataclass(frozen=True, config=DEFERRED)
class PlannedParallelSettings(ParallelSettings):
    """Parallelism and precision"""

    zero_stage: Literal[0, 1, 2, 3] = setting(
        1, "DeepSpeed ZeRO stage", flags=("--zero-stage", "--zero")
    )


@dataclass(frozen=True, config=DEFERRED)
class AssumptionSettings:
    """Data that the plan does not read"""

    vocab_size: Size | None = setting(
        None, "vocabulary size of the tokenizer (default: the preset's)"
    )
    padding: Padding | None = setting(
        None,
        "fraction of a padded batch that is padding (default: 0.048 up to 256 tokens, 0.082 above)",
        metavar="FRACTION",
    )


@dataclass(frozen=True, config=DEFERRED)
class PlanFlags(PretrainSettings):
    """All settings of ``launch/plan.py``: those of ``launch/pretrain.py``, the machine, assumptions."""

    parallel: PlannedParallelSettings
    machine: MachineSettings
    assumptions: AssumptionSettings


COUNTED = frozenset(
    {
        "seq_length", "mask_fraction", "final_mask_fraction", "sentence_task", "packing", "global_batch_size",
        "micro_batch_size", "gradient_accumulation_steps", "loader_workers", "optimizer", "steps", "train_tokens", "tensor_parallel",
        "sequence_parallel",
        "zero_stage", "precision", "activation_checkpointing", "deepspeed_config", "phase", "ema_decay",
        "ramp_duration", "muon_steps", "muon_precision",
    }
)  # fmt: skip
"""Settings of data, masking, batch, optimizer, parallelism and run that change a plan."""


def hidden_flags() -> set[str]:
    """Settings whose flags are accepted, so that a command of pretraining can be planned as it is, but
    change nothing."""
    found = {
        "dropout", "attention_dropout", "initializer_range", "hidden_act", "layer_norm_eps",
        "max_relative_position",
    }  # fmt: skip
    for section in (
        DataSettings, BatchSettings, OptimizerSettings, ScheduleSettings, ParallelSettings, RunSettings,
        MaskingSettings, SeedSettings, InitialWeightSettings, AveragingSettings, LossSettings,
    ):  # fmt: skip
        found |= {field.name for field in fields(section)} - COUNTED
    return found


@dataclass(frozen=True, config=DEFERRED)
class LayoutSettings:
    """How the run is divided; see :class:`~megabert.config.training.ParallelSettings`."""

    zero: Literal[0, 1, 2, 3] = 1
    tensor_parallel: Ranks = 1
    sequence_parallel: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    activation_checkpointing: bool = False
    attention: Literal["auto", "triton", "flash"] = "auto"
    packing: Literal["on", "off"] = "on"
    deepspeed_config: Path | None = None


@dataclass(frozen=True, config=DEFERRED)
class MatrixRule:
    """How whole matrices are updated.

    Attributes:
        optimizer: its name.
        steps: of the iteration.
        precision: of it, and of what is sent for it: ``bf16``, ``fp32`` or ``auto``.
    """

    optimizer: str
    steps: int = MuonPart.muon_steps
    precision: Literal["auto", "bf16", "fp32"] = "auto"


@dataclass(frozen=True, config=DEFERRED)
class RecipeSettings:
    """What the run computes; None: the phase's published value, the preset's, or the largest that fits."""

    phase: Phase = 1
    vocab_size: Size | None = None
    seq_length: Size | None = None
    mask_fraction: float = 0.15
    padding: Padding | None = None
    sentence_task: Literal["nsp", "sop", "none"] = "nsp"
    global_batch_size: Count | None = None
    micro_batch_size: Count | None = None
    accumulation: Count | None = None
    steps: Count | None = None
    optimizer: str = "lamb"
    muon_steps: PositiveInt = MuonPart.muon_steps
    muon_precision: Literal["auto", "bf16", "fp32"] = "auto"
    averaged: bool = False
    loader_workers: Annotated[int, Limits(ge=0, le=1024)] | None = None
    batch_ramp: tuple[str, ...] = ()
    length_ramp: tuple[str, ...] = ()
    train_tokens: int | None = None
    ramp_duration: str | int | None = None

    @property
    def matrix_rule(self) -> MatrixRule:
        """How whole matrices are updated."""
        return MatrixRule(self.optimizer, self.muon_steps, self.muon_precision)


@dataclass(frozen=True, config=DEFERRED)
class PlanSettings:
    """What is planned: a model on a machine, in a layout, for a recipe."""

    model: ModelSettings
    machine: MachineSettings
    layout: LayoutSettings
    recipe: RecipeSettings


def read_flags(given: Given) -> PlanFlags:
    """The settings: flag > ``--config`` > DeepSpeed file > the recipe's optimizer > default.

    Micro batch and accumulation of ``--config`` that do not fit the number of devices are left out.

    Raises:
        UserError: a wrong value, or a decay branch of unknown length.
    """
    given = without_replaced(given)
    chosen = flags.build(PlanFlags, given.file, given.flags)
    published = {"optimizer": {"optimizer": RECIPES[chosen.run.phase].optimizer}}
    layers, path = [SettingsLayer(published)], chosen.parallel.deepspeed_config
    if path is not None:
        layers.append(deepspeed_layer(read_deepspeed_config(path), path))
    chosen = flags.build(PlanFlags, *layers, given.file, given.flags)
    if chosen.schedule.decay_from is not None and chosen.optimizer.steps is None:
        raise UserError(
            f"--decay-from {chosen.schedule.decay_from}: the planner reads no run, and a branch's length follows "
            "from it; plan with --config RUN/config.yaml, of the stable run or the branch, and --steps"
        )
    batch, ranks = chosen.batch, max(1, chosen.machine.gpus // chosen.parallel.tensor_parallel)
    micro, accumulation = batch.micro_batch_size, batch.gradient_accumulation_steps
    if batch.global_batch_size is None:
        if micro is None or accumulation is None:
            return chosen
        return replace(chosen, batch=replace(batch, global_batch_size=micro * accumulation * ranks))
    parts = (micro or 1) * (accumulation or 1) * ranks
    whole = micro is not None and accumulation is not None
    fits = batch.global_batch_size == parts if whole else batch.global_batch_size % parts == 0
    if fits or divides_batch(given.flags):
        return chosen
    # a run's config.yaml has the division for the run's own number of ranks
    return replace(
        chosen, batch=replace(batch, micro_batch_size=None, gradient_accumulation_steps=None)
    )


def plan_settings(chosen: PlanFlags) -> PlanSettings:
    """What the flags ask to plan.

    Raises:
        UserError: a model to start from, and no shape.
    """
    if (
        chosen.run.init_from is not None
        and (chosen.model.model or chosen.model.hidden_size) is None
    ):
        raise UserError(
            f"--init-from {chosen.run.init_from}: the planner reads no model; give its shape with --model, with "
            "--hidden-size and its other flags, or with --config RUN/config.yaml of a run that started from it"
        )
    data, parallel, batch = chosen.data, chosen.parallel, chosen.batch
    layout = LayoutSettings(
        zero=parallel.zero_stage,
        tensor_parallel=parallel.tensor_parallel,
        sequence_parallel=parallel.sequence_parallel,
        precision=parallel.precision,
        activation_checkpointing=parallel.activation_checkpointing,
        attention=parallel.attention,
        packing=data.packing,
        deepspeed_config=parallel.deepspeed_config,
    )
    recipe = RecipeSettings(
        phase=chosen.run.phase,
        vocab_size=chosen.assumptions.vocab_size,
        seq_length=data.seq_length,
        mask_fraction=max(data.mask_fraction, chosen.masking.final_mask_fraction or 0.0),
        padding=chosen.assumptions.padding,
        sentence_task=data.sentence_task,
        global_batch_size=batch.global_batch_size,
        micro_batch_size=batch.micro_batch_size,
        accumulation=batch.gradient_accumulation_steps,
        steps=chosen.optimizer.steps,
        train_tokens=chosen.schedule.train_tokens,
        optimizer=chosen.optimizer.optimizer,
        muon_steps=chosen.optimizer.muon_steps,
        muon_precision=chosen.optimizer.muon_precision,
        averaged=chosen.averaging.ema_decay > 0.0,
        loader_workers=data.loader_workers,
        batch_ramp=chosen.ramps.batch_ramp,
        length_ramp=chosen.ramps.length_ramp,
        ramp_duration=chosen.schedule.ramp_duration,
    )
    return PlanSettings(chosen.model, chosen.machine, layout, recipe)
