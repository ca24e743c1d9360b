"""Settings of ``launch/finetune.py``: the task, its inputs, and what differs from pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.config.flags import setting
from megabert.config.training import BatchSettings, Fraction, OptimizerSettings, ParallelSettings
from megabert.tasks.settings import (
    ClassificationSettings,
    SquadSettings,
    TaggingSettings,
    TaskSettings,
)


@dataclass(frozen=True)
class SelectionSettings:
    """Evaluation, seeds and choice of the best"""

    eval_interval: PositiveInt | str = setting(
        "epoch", "updates from one scoring of --eval to the next; or epoch, or end"
    )
    keep: Literal["best", "last"] = setting(
        "best", "model that final/, the predictions and --test are of"
    )
    patience: NonNegativeInt = setting(
        0, "stop after so many scorings in a row without a better one (0: never)"
    )
    seeds: PositiveInt = setting(
        1, "runs with --seed, --seed + 1, ...; results.json has mean and standard deviation"
    )
    lrs: float | str | None = setting(
        None, "learning rates to try instead of --lr, as 2e-5,3e-5,5e-5; each with every seed"
    )
    resume: Literal["never", "auto"] = setting(
        "never", "auto: keep the finished runs of --output and make the others"
    )


@dataclass(frozen=True)
class FinetuneBatchSettings(BatchSettings):
    """Batch"""

    global_batch_size: PositiveInt | None = setting(
        32, "examples an update over all ranks", flags=("--batch-size", "--global-batch-size")
    )
    eval_batch_size: PositiveInt = setting(32, "examples a rank scores at once")


@dataclass(frozen=True)
class FinetuneOptimizerSettings(OptimizerSettings):
    """Optimizer and schedule"""

    epochs: PositiveFloat = setting(2.0, "times each example is seen (may be a fraction)")
    optimizer: Literal["lamb", "lans", "adamw"] = setting("adamw", "optimizer")
    lr: NonNegativeFloat | None = setting(5e-5, "peak learning rate")
    schedule: Literal["poly", "linear", "cosine", "constant"] = setting(
        "linear", "learning rate after warm-up"
    )
    warmup_fraction: Fraction | None = setting(0.1, "share of the steps with rising rate")
    steps: PositiveInt | None = setting(None, "updates (from --epochs and the number of examples)")


@dataclass(frozen=True)
class FinetuneSettings:
    """All settings of ``launch/finetune.py``."""

    task: TaskSettings
    squad: SquadSettings
    classification: ClassificationSettings
    tagging: TaggingSettings
    selection: SelectionSettings
    batch: FinetuneBatchSettings
    optimizer: FinetuneOptimizerSettings
    parallel: ParallelSettings
