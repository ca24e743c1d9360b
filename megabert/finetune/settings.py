"""Settings of ``launch/finetune.py``: the task, its inputs, and what differs from pretraining.

Precedence: flag > ``--config`` > DeepSpeed file > default. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.checkpoint_path import model_is_there
from megabert.config.deepspeed_file import deepspeed_layer, read_deepspeed_config
from megabert.config.flags import Given, SettingsLayer, setting
from megabert.config.numbers import (
    Count,
    Fraction,
    Limits,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Probability,
)
from megabert.config.optimizers import OPTIMIZERS
from megabert.config.run_config import batch_of_other_ranks, with_own_output
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.config.trackers import TrackerSettings
from megabert.config.training import BatchSettings, OptimizerSettings, ParallelSettings
from megabert.config.values import DEFERRED
from megabert.tasks.registry import settings_sections, task_class
from megabert.tasks.settings import TaskSettings

EPOCH, END = "epoch", "end"
"""Values of ``--eval-interval`` other than a number of updates."""


@dataclass(frozen=True, config=DEFERRED)
class SelectionSettings:
    """Evaluation, seeds and choice of the best model"""

    eval_interval: PositiveInt | Literal["epoch", "end"] = setting(
        "epoch",
        "updates between evaluations of --eval; epoch: once per epoch; end: only at the end",
    )
    keep: Literal["best", "last"] = setting(
        "best", "model to save in final/, which the predictions and --test use"
    )
    patience: NonNegativeInt = setting(
        0, "stop after this many evaluations in a row without a better score; 0 never stops early"
    )
    seeds: Annotated[int, Limits(gt=0, le=10_000)] = setting(
        1,
        "number of runs, with --seed, --seed + 1, ...; results.json has their mean and standard deviation",
    )
    lrs: tuple[NonNegativeFloat, ...] = setting(
        (), "learning rates to try instead of --lr, each with every seed", metavar="X"
    )
    resume: Literal["never", "auto"] = setting(
        "never", "auto: keep the finished runs of --output and do the others", resume="free"
    )

    def __post_init__(self) -> None:
        if len(set(self.lrs)) < len(self.lrs):
            rates = ",".join(map(str, self.lrs))
            raise UserError(f"--lrs {rates}: a learning rate is given twice; keep one")


@dataclass(frozen=True, config=DEFERRED)
class FinetuneBatchSettings(BatchSettings):
    """Batch"""

    global_batch_size: Count | None = setting(
        32, "examples per update over all ranks", flags=("--batch-size", "--global-batch-size")
    )
    micro_batch_size: Count | None = setting(
        None,
        "rows per rank and micro step (default: the largest that divides the rank's part of the batch and has at "
        "most 8192 tokens)",
        resume="free",
    )
    eval_batch_size: Count = setting(
        32, "examples per rank that are evaluated at once", resume="free"
    )


@dataclass(frozen=True, config=DEFERRED)
class FinetuneOptimizerSettings(OptimizerSettings):
    """Optimizer and schedule"""

    epochs: Annotated[float, Limits(gt=0.0, le=1e6)] = setting(
        2.0, "times that each example is used; may be a fraction"
    )
    optimizer: str = setting("adamw", "optimizer", choices=OPTIMIZERS.names)
    lr: NonNegativeFloat | None = setting(5e-5, "peak learning rate")
    beta2: Probability = setting(0.999, "decay rate of the second moment")
    schedule: Literal["poly", "linear", "cosine", "constant"] = setting(
        "linear", "learning rate after warm-up"
    )
    warmup_fraction: Fraction | None = setting(
        0.1, "fraction of the steps in which the learning rate rises"
    )
    steps: Count | None = setting(
        None, "updates (default: from --epochs and the number of examples)"
    )


@dataclass(frozen=True, config=DEFERRED)
class _FirstSection:
    task: TaskSettings


@dataclass(frozen=True, config=DEFERRED)
class FinetuneSettings(_FirstSection):
    """The settings of ``launch/finetune.py`` for any task.

    :func:`finetune_settings` gives the class with the sections of the registered tasks.
    """

    initial_weights: InitialWeightSettings
    selection: SelectionSettings
    batch: FinetuneBatchSettings
    optimizer: FinetuneOptimizerSettings
    parallel: ParallelSettings
    trackers: TrackerSettings

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
        raise UserError(
            f"a task's settings section has the reserved name {min(taken)!r}; rename it"
        )
    # Fields come in the order of the bases, the last one first.
    of_tasks = make_dataclass("_TaskSections", sections, bases=(_FirstSection,), frozen=True)
    body = {"__doc__": FinetuneSettings.__doc__, "__module__": __name__}
    made: Any = dataclass(frozen=True, config=DEFERRED)(
        type("FinetuneSettings", (FinetuneSettings, of_tasks), body)
    )
    tree: type[FinetuneSettings] = made
    return tree


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedTask(TaskSettings):
    """Task and files"""

    checkpoint: Path
    output: Path
    optional_inputs: ClassVar = (
        "train", "eval", "test", "max_length", "max_train_examples", "dropout", "eval_share",
        "text_column", "text_pair_column", "label_column",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedFinetuneBatch(FinetuneBatchSettings):
    """Batch"""

    global_batch_size: Count
    micro_batch_size: Count
    gradient_accumulation_steps: Count
    optional_inputs: ClassVar = ()


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedFinetuneOptimizer(FinetuneOptimizerSettings):
    """Optimizer and schedule; ``steps`` of None follows from the training file."""

    lr: NonNegativeFloat
    warmup_fraction: Fraction
    optional_inputs: ClassVar = (
        "steps", "max_trust_ratio", "min_trust_ratio", "parameter_groups",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class ResolvedFinetuning:
    """All settings of a fine-tuning run, or of several with seeds and learning rates.

    Attributes:
        of_tasks: the sections of the tasks' own settings, by name.
        batch: as given; :class:`DividedFinetuning` has the sizes for a number of ranks.
        deepspeed_sections: the sections of the user's DeepSpeed file.
        batch_is_of_a_run: the division of the batch is that of another run, perhaps of another number of ranks.
    """

    task: ResolvedTask
    of_tasks: dict[str, Any]
    initial_weights: InitialWeightSettings
    selection: SelectionSettings
    batch: FinetuneBatchSettings
    optimizer: ResolvedFinetuneOptimizer
    parallel: ParallelSettings
    trackers: TrackerSettings
    deepspeed_sections: dict[str, Any]
    batch_is_of_a_run: bool = False

    def of_task(self, section: str | None) -> Any:
        """The section of a task's own settings; None for a task without."""
        return None if section is None else self.of_tasks[section]

    def with_random_weights(self, drawn: InitialWeightSettings) -> ResolvedFinetuning:
        """These settings with ``--random-init on`` and weights drawn this way."""
        return replace(self, task=replace(self.task, random_init=True), initial_weights=drawn)

    def divided(self, batch: ResolvedFinetuneBatch) -> DividedFinetuning:
        """These settings with definite batch sizes."""
        parts = {field.name: getattr(self, field.name) for field in fields(ResolvedFinetuning)}
        return DividedFinetuning(**(parts | {"batch": batch}))


@dataclass(frozen=True, kw_only=True, config=DEFERRED)
class DividedFinetuning(ResolvedFinetuning):
    """The settings of a run on a number of ranks, as ``config.yaml`` records them."""

    batch: ResolvedFinetuneBatch


def resolve_finetuning(given: Given) -> ResolvedFinetuning:
    """The settings of the command; every value that has a default is set.

    Raises:
        UserError: a wrong value, or no checkpoint, or nothing to train on or to score.
    """
    given = _with_the_rate_of_a_flag(with_own_output(given, "task"))
    tree = finetune_settings()
    first = flags.build(tree, given.file, given.flags)
    raw: dict[str, Any] = {}
    from_file = SettingsLayer()
    if first.parallel.deepspeed_config is not None:
        raw = read_deepspeed_config(first.parallel.deepspeed_config)
        from_file = deepspeed_layer(raw, first.parallel.deepspeed_config)
    settings = flags.build(tree, from_file, given.file, given.flags)
    task = settings.task
    if task.checkpoint is None:
        raise UserError(
            "--checkpoint is missing: give a megabert folder, a pretraining run or a Hugging Face "
            "BERT folder"
        )
    if task.train is None and task.eval is None and task.test is None:
        raise UserError("none of --train, --eval and --test is given: there is nothing to do")
    if task.random_init and task.train is None:
        raise UserError("--random-init on needs --train: random weights are not worth scoring")
    if settings.initial_weights.init_local_heads and not task.random_init:
        raise UserError(
            "--init-local-heads is for random weights, and --checkpoint's are used: leave it out, or give "
            "--random-init on"
        )
    if settings.parallel.sequence_parallel:
        raise UserError("--sequence-parallel on is only for pretraining; leave it out")
    if given.flags.sets("optimizer", "lr") and given.flags.sets("selection", "lrs"):
        raise UserError("--lr and --lrs are both given; keep one")
    _check_selection(settings)
    if task.output is None:
        task = replace(task, output=Path("runs") / task.task)
    return ResolvedFinetuning(
        task=flags.narrow_section(ResolvedTask, task),
        of_tasks={name: getattr(settings, name) for name in settings_sections()},
        initial_weights=settings.initial_weights,
        selection=settings.selection,
        batch=settings.batch,
        optimizer=flags.narrow_section(ResolvedFinetuneOptimizer, settings.optimizer),
        parallel=settings.parallel,
        trackers=settings.trackers,
        deepspeed_sections=raw,
        batch_is_of_a_run=batch_of_other_ranks(given),
    )


def _with_the_rate_of_a_flag(given: Given) -> Given:
    """``given``; a flag ``--lr`` replaces the rates of the file, as any flag."""
    if not given.flags.sets("optimizer", "lr"):
        return given
    return replace(given, file=given.file.without(("selection", "lrs")))


def held_out_share(task: TaskSettings) -> float:
    """Fraction of the training file that is held out and scored (imports torch where no flag says it)."""
    if task.train is None or task.eval is not None:
        return 0.0
    return task_class(task.task).held_out if task.eval_share is None else task.eval_share


def _check_selection(settings: FinetuneSettings) -> None:
    """Raise UserError where the settings of evaluation and selection contradict each other."""
    task, selection = settings.task, settings.selection
    if task.eval_share and (task.eval is not None or task.train is None):
        other = "--eval is" if task.eval is not None else "--train is not"
        raise UserError(f"--eval-share {task.eval_share:g}: {other} given; leave it out")
    if any(settings.of_task(name) != kind() for name, kind in settings_sections().items()):
        chosen = task_class(task.task)  # imports torch
        chosen.check_settings(settings.of_task(chosen.section), evaluates=task.eval is not None)
    if (selection.lrs or selection.seeds > 1) and task.train is None:
        raise UserError("--seeds and --lrs are for training: give --train")
    scores = selection.lrs or selection.patience or isinstance(selection.eval_interval, int)
    if scores and task.eval is None and held_out_share(task):
        task = replace(task, eval=task.train)  # whose rest is scored
    if selection.lrs and task.eval is None:
        raise UserError("--lrs needs --eval: its scores decide which rate is the best")
    if selection.patience and (task.train is None or task.eval is None):
        raise UserError("--patience needs --train and --eval: their scores decide when to stop")
    if isinstance(selection.eval_interval, int) and (task.train is None or task.eval is None):
        raise UserError(
            "--eval-interval needs --train and --eval: nothing is scored while training"
        )
    if selection.patience and selection.eval_interval == END:
        raise UserError("--patience with --eval-interval end: give a number of updates, or epoch")


def check_task_files(settings: ResolvedFinetuning) -> None:
    """Refuse files and folders that are not there, in a moment and before torch is imported.

    Raises:
        UserError: which flag names something that is missing, and what to do.
    """
    task = settings.task
    if not model_is_there(task.checkpoint):
        raise UserError(
            f"--checkpoint {task.checkpoint} does not exist; give a megabert folder, a pretraining run, a "
            "Hugging Face BERT folder, or a checkpoint of another project"
        )
    for name, path in (("train", task.train), ("eval", task.eval), ("test", task.test)):
        if path is not None and not path.exists():
            raise UserError(f"--{name} {path}: no such file")
