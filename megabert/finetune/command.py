"""Fine-tuning: one loop for all tasks, on the engine that also pretrains.

    resolve            flags, --config and DeepSpeed file -> settings
    finetune_inputs    checkpoint, tokenizer, features; every wrong input is met before anything is
                       written
    finetune_run       update, log; now and then score, and keep the best model (finetune_selection,
                       finetune_evaluation, finetune_model)
    finetune_seeds     several runs: seeds and learning rates (finetune_resume)

The loss of an update is the mean over the rows of its global batch. The rows of a global batch are
chosen before it is cut into ranks and micro batches, so the update is the same for any division.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.flags import Values
from megabert.engine.broadcast import broadcast_object
from megabert.engine.config import deepspeed_values, read_deepspeed_config, resolve_precision
from megabert.engine.launch import World, lost_ranks_named, start
from megabert.finetune.inputs import TOKENS_PER_MICRO_STEP as TOKENS_PER_MICRO_STEP
from megabert.finetune.inputs import (
    check_free,
    divide,
    make_task_of,
    open_checkpoint,
    read_features,
    tell_unused,
)
from megabert.finetune.loop import Loop, build
from megabert.finetune.resume import finished
from megabert.finetune.selection import END, check_interval
from megabert.finetune.settings import FinetuneSettings, finetune_settings
from megabert.finetune.sweep import combinations, sweep
from megabert.tasks.registry import task_class


def resolve(given: Values, config_file: Values) -> tuple[FinetuneSettings, dict[str, Any]]:
    """All settings, and the user's DeepSpeed sections.

    Precedence: flag > ``--config`` > DeepSpeed file > default.

    Raises:
        UserError: a wrong value, or no checkpoint, or nothing to train on or to score.
    """
    by_hand = flags.join(config_file, given)
    first = flags.build(finetune_settings(), by_hand)
    raw: dict[str, Any] = {}
    layers: list[Values] = [by_hand]
    path = first.parallel.deepspeed_config
    if path is not None:
        raw = read_deepspeed_config(path)
        layers.insert(0, deepspeed_values(raw, path))
    settings = flags.build(finetune_settings(), flags.join(*layers))
    task = settings.task
    if task.checkpoint is None:
        raise UserError(
            "--checkpoint is missing: give a megabert folder, a pretraining run or a Hugging Face "
            "BERT folder"
        )
    if task.train is None and task.eval is None and task.test is None:
        raise UserError("none of --train, --eval and --test is given: there is nothing to do")
    if task.random_init and task.train is None:
        raise UserError("--random-init on without --train: random weights are not worth scoring")
    if settings.parallel.sequence_parallel:
        raise UserError("--sequence-parallel on is for pretraining; leave it out")
    if "lr" in given.get("optimizer", {}) and "lrs" in given.get("selection", {}):
        raise UserError("--lr and --lrs are both given; keep one")
    _check_selection(settings)
    tell_unused(given, task.task)
    if task.output is None:
        settings = replace(settings, task=replace(task, output=Path("runs") / task.task))
    return settings, raw


def _check_selection(settings: FinetuneSettings) -> None:
    """Raise UserError where the settings of the choice contradict each other."""
    task, selection = settings.task, settings.selection
    chosen = task_class(task.task)
    chosen.check_settings(settings.of_task(chosen.section), evaluates=task.eval is not None)
    interval = check_interval(selection)
    many = combinations(settings)
    if many and task.train is None:
        raise UserError("--seeds and --lrs are for training: give --train")
    if selection.lrs is not None and task.eval is None:
        raise UserError("--lrs needs --eval: its scores tell which rate is the best")
    if selection.patience and (task.train is None or task.eval is None):
        raise UserError("--patience needs --train and --eval: their scores tell when to stop")
    if isinstance(interval, int) and (task.train is None or task.eval is None):
        raise UserError(
            "--eval-interval needs --train and --eval: nothing is scored while training"
        )
    if selection.patience and interval == END:
        raise UserError("--patience with --eval-interval end: give a number of updates, or epoch")


def finetune(given: Values, config_file: Values) -> dict[str, Any]:
    """Run ``launch/finetune.py`` with the values of its flags and its ``--config``.

    Returns what ``results.json`` holds, on every rank.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss is not finite any more.
    """
    settings, raw = resolve(given, config_file)
    resolve_precision(settings.parallel.precision, torch.cuda.is_available())
    world = start(settings.parallel.tensor_parallel)
    try:
        with lost_ranks_named():
            return run_all(settings, raw, world)
    finally:
        world.close()


def run_all(settings: FinetuneSettings, raw: dict[str, Any], world: World) -> dict[str, Any]:
    """One run, or one of each seed and learning rate; the results (a collective)."""
    if combinations(settings):
        return sweep(settings, raw, world)
    if settings.selection.resume == "auto":
        divided, _ = divide(settings, world)
        output = settings.task.output or Path()
        results = broadcast_object(world, partial(finished, output, divided))
        if results is not None:
            return results
    return prepare(settings, raw, world).run()


def prepare(settings: FinetuneSettings, raw: dict[str, Any], world: World) -> Loop:
    """Read the inputs, claim the run folder, and build model and engine of one run."""
    settings, _ = divide(settings, world)
    broadcast_object(
        world, partial(check_free, settings.task.output or Path())
    )  # before long reading
    task = make_task_of(settings)
    inputs = read_features(settings, task, open_checkpoint(settings, task, world))
    return build(settings, raw, world, task, inputs)
