"""Settings of ``launch/finetune.py``: the task, its inputs, and what differs from pretraining."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config.flags import setting
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.training import BatchSettings, Fraction, OptimizerSettings, ParallelSettings
from megabert.tasks.registry import settings_sections
from megabert.tasks.settings import TaskSettings


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
    optimizer: str = setting("adamw", "optimizer", choices=OPTIMIZERS.names)
    lr: NonNegativeFloat | None = setting(5e-5, "peak learning rate")
    schedule: Literal["poly", "linear", "cosine", "constant"] = setting(
        "linear", "learning rate after warm-up"
    )
    warmup_fraction: Fraction | None = setting(0.1, "share of the steps with rising rate")
    steps: PositiveInt | None = setting(None, "updates (from --epochs and the number of examples)")


@dataclass(frozen=True)
class _FirstSection:
    task: TaskSettings


@dataclass(frozen=True)
class FinetuneSettings(_FirstSection):
    """The settings of ``launch/finetune.py`` for any task.

    :func:`finetune_settings` gives the class with the sections of the registered tasks.
    """

    selection: SelectionSettings
    batch: FinetuneBatchSettings
    optimizer: FinetuneOptimizerSettings
    parallel: ParallelSettings

    def of_task(self, section: str | None) -> Any:
        """The section of a task's own settings; None for a task without."""
        return None if section is None else getattr(self, section)


def finetune_settings() -> type[FinetuneSettings]:
    """:class:`FinetuneSettings` with a section for each kind of task, after the section ``task``."""
    return _tree(tuple(settings_sections().items()))


@cache
def _tree(sections: tuple[tuple[str, type], ...]) -> type[FinetuneSettings]:
    taken = {field.name for field in fields(FinetuneSettings)} & {name for name, _ in sections}
    if taken:
        raise UserError(f"a task's settings section is called {min(taken)!r}; rename it")
    # Fields come in the order of the bases, the last one first.
    of_tasks = make_dataclass("_TaskSections", sections, bases=(_FirstSection,), frozen=True)
    body = {"__doc__": FinetuneSettings.__doc__, "__module__": __name__}
    made: Any = dataclass(frozen=True)(type("FinetuneSettings", (FinetuneSettings, of_tasks), body))
    tree: type[FinetuneSettings] = made
    return tree
