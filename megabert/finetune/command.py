"""Fine-tuning: one loop for all tasks, on the engine that also pretrains.

    settings     flags, --config and DeepSpeed file -> one tree of settings
    inputs       checkpoint, tokenizer, features; every wrong input is found before anything is written
    loop         update, log; score at intervals and keep the best model (selection, evaluation,
                 checkpoints)
    sweep        several runs: seeds and learning rates (resume)

The loss of an update is the mean over the rows of its global batch. The rows of a global batch are
chosen before it is cut into ranks and micro batches, so the update is the same for any division.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from megabert.config.model import ModelConfig
from megabert.engine.broadcast import broadcast_object
from megabert.engine.config import resolve_precision
from megabert.engine.launch import World, start
from megabert.engine.metrics.trackers.sending import Tracking
from megabert.engine.run_lock import run_folder_locked
from megabert.engine.self_test import TestedRun, self_test
from megabert.engine.watch.ending import WatchedRun
from megabert.engine.watch.guard import watched_to_the_end
from megabert.finetune.inputs import (
    check_free,
    divide_rows,
    make_task_of,
    open_checkpoint,
    read_features,
)
from megabert.finetune.loop import FinetuneLoop, build_loop
from megabert.finetune.resume import finished
from megabert.finetune.settings import ResolvedFinetuning
from megabert.finetune.sweep import combinations, sweep


def finetune(settings: ResolvedFinetuning) -> dict[str, Any]:
    """Run ``launch/finetune.py`` with these settings.

    Returns what ``results.json`` holds, on every rank.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss is not finite any more.
    """
    resolve_precision(settings.parallel.precision, torch.cuda.is_available())
    watched = WatchedRun(settings.parallel.hang_timeout, settings.task.output, _what_is_kept)
    world = start(settings.parallel.tensor_parallel, watched)
    with (
        world.closed_at_the_end(),
        watched_to_the_end(world.watcher),
    ):
        broadcast_object(world, Tracking(settings.trackers).require)
        with run_folder_locked(settings.task.output, world):
            return _run(settings, world)


def _run(settings: ResolvedFinetuning, world: World) -> dict[str, Any]:
    if settings.parallel.self_test == "on":
        sections = settings.deepspeed_sections
        self_test(TestedRun(ModelConfig(), settings.optimizer, settings.parallel, sections), world)
    return run_all(settings, world)


def _what_is_kept() -> str:
    return "finished runs are kept: start again with --resume auto"


def run_all(settings: ResolvedFinetuning, world: World) -> dict[str, Any]:
    """One run, or one of each seed and learning rate; the results (a collective)."""
    if combinations(settings):
        return sweep(settings, world)
    if settings.selection.resume == "auto":
        divided, _ = divide_rows(settings, world)
        results = broadcast_object(world, partial(finished, settings.task.output, divided))
        if results is not None:
            return results
    return prepare_run(settings, world).run()


def prepare_run(settings: ResolvedFinetuning, world: World) -> FinetuneLoop:
    """Read the inputs, claim the run folder, and build model and engine of one run."""
    broadcast_object(world, partial(check_free, settings.task.output))  # before long reading
    task = make_task_of(settings)
    inputs = read_features(settings, task, open_checkpoint(settings, task, world), world)
    return build_loop(settings, world, task, inputs)
