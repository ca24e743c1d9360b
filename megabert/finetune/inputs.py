"""What a fine-tuning run starts from: checkpoint, tokenizer, features and a free run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from megabert.common.errors import UserError
from megabert.common.files import require_file
from megabert.common.log import get_logger
from megabert.common.names import RUN_DEEPSPEED_LOG, RUN_FAULTS
from megabert.common.processes.locks import is_lock_name
from megabert.common.storage import named_storage_errors
from megabert.config.flags import Given
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import ENCODER_ONLY, WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.engine.broadcast import broadcast_object, broadcast_tensors, made_by_each
from megabert.engine.config import BatchSizes, micro_batch_limit, resolve_batch
from megabert.engine.launch import World
from megabert.finetune.settings import (
    DividedFinetuning,
    ResolvedFinetuneBatch,
    ResolvedFinetuning,
    held_out_share,
)
from megabert.finetune.starting_weights import read_weights
from megabert.model.encoder import variant_of
from megabert.tasks.base import Features, Task
from megabert.tasks.files.names import NamedColumns
from megabert.tasks.registry import make_task, settings_sections, task_class

_COLUMNS = ("text_column", "text_pair_column", "label_column")

log = get_logger()


def log_unused(given: Given, task: str) -> None:
    """Log the flags that change nothing for ``task``."""
    chosen = task_class(task)
    silent = () if chosen.names_columns else _COLUMNS
    for name in (*silent, *(() if chosen.skips_lines else ("bad_lines",))):
        if given.flags.sets("task", name):
            log.info("--%s has no effect on --task %s", name.replace("_", "-"), task)
    for section in settings_sections():
        used = chosen.used_settings() if section == chosen.section else frozenset()
        for name in given.flags.values.get(section, {}):
            if name not in used:
                log.info("--%s has no effect on --task %s", name.replace("_", "-"), task)


@dataclass(frozen=True)
class FinetuneInputs:
    """What a run starts from."""

    model: WholeModel
    tokenizer: Tokenizer
    train: Features | None
    evaluation: Features | None
    test: Features | None


def make_task_of(settings: ResolvedFinetuning) -> Task:
    """The task that the settings name."""
    place = settings.task
    own = settings.of_task(task_class(place.task).section)
    task = make_task(place.task, own, place.max_length)
    task.bad_lines = place.bad_lines
    task.columns = NamedColumns(place.text_column, place.text_pair_column, place.label_column)
    return task


def divide_rows(settings: ResolvedFinetuning, world: World) -> tuple[DividedFinetuning, BatchSizes]:
    """The settings with the batch sizes for the world's ranks, and these sizes.

    Raises:
        UserError: the sizes do not multiply out.
    """
    sizes = resolve_batch(
        settings.batch,
        world.topology.data_parallel,
        micro_batch_limit(make_task_of(settings).max_length),
        divided_before=settings.batch.global_batch_size if settings.batch_is_of_a_run else None,
    )
    batch = ResolvedFinetuneBatch(
        global_batch_size=sizes.global_size,
        micro_batch_size=sizes.micro_size,
        gradient_accumulation_steps=sizes.accumulation,
        eval_batch_size=settings.batch.eval_batch_size,
    )
    return settings.divided(batch), sizes


def open_checkpoint(settings: ResolvedFinetuning, task: Task, world: World) -> FinetuneInputs:
    """Read checkpoint and tokenizer, and check that they fit (a collective); the task's files come later.

    The main rank reads the weights and sends them to the others. The task loads the labels of a
    checkpoint that was fine-tuned for it.

    Raises:
        UserError: the checkpoint is damaged, incomplete, or of another task.
    """
    place = settings.task
    path = place.checkpoint
    tensors: dict[str, torch.Tensor] = {}

    def read() -> tuple[WholeModel, str | None]:
        model, trained_with = read_weights(path)
        tensors.update(model.tensors)
        return replace(model, tensors={}), trained_with

    model, trained_with = broadcast_object(world, read)
    model.tensors = broadcast_tensors(world, tensors)
    if model.tokenizer is None:
        raise UserError(
            f"--checkpoint {path} has no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    folder, size = model.tokenizer, model.config.vocab_size
    tokenizer = made_by_each(
        world,
        lambda: open_tokenizer(folder, size, str(path), trained_with),
        lambda found: f"tokenizer {found.sha256[:12]}",
    )
    model = _load_head(settings, task, model)
    _check_length(task.max_length, model, path)
    return FinetuneInputs(model, tokenizer, None, None, None)


def read_features(
    settings: ResolvedFinetuning, task: Task, inputs: FinetuneInputs, world: World
) -> FinetuneInputs:
    """The files of the settings, read by each rank (a collective).

    ``task`` knows its checkpoint's labels.

    Raises:
        UserError: a file is missing, damaged, or not the task's, or changed between the ranks' readings.
    """
    return made_by_each(world, partial(_read_features, settings, task, inputs), _facts)


def _facts(inputs: FinetuneInputs) -> str:
    """Which rows were read, in words."""
    files = {"train": inputs.train, "eval": inputs.evaluation, "test": inputs.test}
    return ", ".join(
        f"{name}: {len(found.lengths):,} rows, {int(found.lengths.sum()):,} tokens"
        for name, found in files.items()
        if found is not None
    )


def _read_features(
    settings: ResolvedFinetuning, task: Task, inputs: FinetuneInputs
) -> FinetuneInputs:
    place, tokenizer = settings.task, inputs.tokenizer
    train, evaluation, share = None, None, held_out_share(place)
    if place.train is not None:
        drawn = (place.max_train_examples, place.seed)
        if share:
            train, evaluation = task.split_features(place.train, tokenizer, *drawn, share)
            log.info(
                "--eval is not given: %g of the examples of --train are held out and scored, drawn by --seed %d "
                "(--eval-share)",
                share,
                place.seed,
            )
        else:
            train = task.train_features(place.train, tokenizer, *drawn)
        log.info("train %s", train.describe())
    if place.eval is not None:
        evaluation = task.eval_features(place.eval, tokenizer)
    test = None if place.test is None else task.eval_features(place.test, tokenizer)
    for name, features in (("eval", evaluation), ("test", test)):
        if features is not None:
            log.info("%s %s", name, features.describe())
    model, outputs = inputs.model, max(1, len(task.labels))
    if train is not None and _has_head(model, task) and model.outputs not in (0, outputs):
        reason = f"it gives {model.outputs} scores, the training data needs {outputs}"
        model = _without_head(model, task, reason)
    return replace(inputs, model=model, train=train, evaluation=evaluation, test=test)


def _load_head(settings: ResolvedFinetuning, task: Task, model: WholeModel) -> WholeModel:
    """Let the task load the labels of a fine-tuned checkpoint, or leave out its head.

    Raises:
        UserError: there is no head, it is of another task, or has other labels, and there is nothing to
            train a new one on.
    """
    place = settings.task
    if place.train is None and not _has_head(model, task):
        found = model.task or ("none" if model.head is ENCODER_ONLY else model.head.name)
        raise UserError(
            f"--checkpoint {place.checkpoint} has no head for --task {task.name} (its head: {found}): "
            "give its own --task, or --train to train a new head"
        )
    if place.random_init or not _has_head(model, task):
        return model
    if place.new_head:
        return _without_head(model, task, "--new-head on")
    same = model.task in (None, task.name)
    if not same and model.task not in task.continues:
        reason = f"it was fine-tuned for {model.task}"
        if place.train is not None:
            return _without_head(model, task, reason)
        raise UserError(
            f"--checkpoint {place.checkpoint} was fine-tuned for {model.task}, not for {task.name}: "
            f"give --task {model.task}, or --train to train a head for {task.name}"
        )
    labels = model.labels
    if not labels and place.train is None:
        labels = task.scored_labels(model.outputs)
        if labels:
            log.info(
                "%s names no labels: its outputs are called %s; names belong into id2label of its config.json",
                model.origin,
                " to ".join((labels[0], labels[-1])),
            )
    try:
        task.load_labels(labels, model.task_record if same else {})
    except UserError as error:
        if place.train is None:
            raise
        return _without_head(model, task, str(error))
    log.info("the head of %s is used", model.origin)
    if place.train is None and same:
        before = task.record()
        task.load_lengths(model.task_record, place.max_length)
        changed = {
            name: value for name, value in task.record().items() if value != before.get(name)
        }
        if changed:
            values = ", ".join(f"{name} {value}" for name, value in changed.items())
            log.info("as in its fine-tuning: %s", values)
    return model


def _has_head(model: WholeModel, task: Task) -> bool:
    """Whether the checkpoint has the task's kind of head."""
    return not set(task.head.modules).isdisjoint(name.split(".")[0] for name in model.tensors)


def _without_head(model: WholeModel, task: Task, reason: str) -> WholeModel:
    """The model without the task's head; it keeps a pooler."""
    modules = tuple(f"{module}." for module in task.head.modules)
    log.info("a new head is drawn instead of that of %s: %s", model.origin, reason)
    others = {name: t for name, t in model.tensors.items() if not name.startswith(modules)}
    return replace(model, tensors=others, labels=(), task=None, task_record={})


def _check_length(length: int, model: WholeModel, path: Path) -> None:
    if length > model.config.max_position_embeddings:
        raise UserError(
            f"--max-length {length} is longer than {variant_of(model.config).length_limit(model.config)} ({path})"
        )
    if length > model.trained_positions:
        log.warning(
            "pretraining saw positions up to %d only; those up to --max-length %d are untrained",
            model.trained_positions,
            length,
        )


def check_free(output: Path) -> None:
    """Raise UserError if the run folder exists and is not empty."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a new folder")
    with named_storage_errors(output, "cannot be read"):
        found = [path.name for path in output.iterdir()] if output.is_dir() else []
        if RUN_DEEPSPEED_LOG in found:
            require_file(output / RUN_DEEPSPEED_LOG)
    if any(
        name not in (RUN_DEEPSPEED_LOG, RUN_FAULTS) and not is_lock_name(name) for name in found
    ):
        raise UserError(
            f"{output} is not empty: it may belong to another run; choose another --output"
        )


def claim_output(output: Path, world: World) -> None:
    """Make the run folder (a collective).

    Raises:
        UserError: it exists and is not empty, or cannot be created.
    """

    def make() -> None:
        check_free(output)
        with named_storage_errors(f"--output {output}", "cannot be created"):
            output.mkdir(parents=True, exist_ok=True)

    broadcast_object(world, make)
