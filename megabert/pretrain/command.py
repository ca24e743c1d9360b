"""Pretraining: masked language model and sentence pairs, phase 1 and phase 2.

    settings     flags, --config, DeepSpeed file and phase recipe -> one tree of settings
    inputs       shards, model shape, batch sizes
    prepare      model and engine; then fresh weights, a phase change, or a resumed run
    Loop         update, judge, log, evaluate, save; it does not know how weights and batches are divided

The loss of an update is the mean over all masked positions of its global batch, plus the mean over
all its pairs. Micro batches hold different numbers of masked positions, so their sums are divided by
the counts of the whole global batch: the update is the same for any division into ranks and micro
batches, and with packing as without.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from megabert.checkpoint import resume
from megabert.checkpoint.save_load import check_room, find_checkpoint
from megabert.common.log import get_logger
from megabert.common.names import RUN_DEEPSPEED_LOG
from megabert.common.storage import named_storage_errors
from megabert.config.training import ResolvedSettings
from megabert.data.samples import skip
from megabert.engine.broadcast import broadcast_object
from megabert.engine.build import build_engine
from megabert.engine.config import resolve_precision
from megabert.engine.launch import World, start
from megabert.engine.library_log import log_deepspeed_to
from megabert.engine.metrics.profiler import require_room
from megabert.engine.metrics.trackers.sending import Tracking
from megabert.engine.run_lock import run_folder_locked
from megabert.engine.self_test import TestedRun, self_test
from megabert.engine.watch.ending import WatchedRun
from megabert.engine.watch.guard import watched_to_the_end
from megabert.model.encoder import variant_of
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel.rng import DropoutSeeds
from megabert.pretrain import run_folder
from megabert.pretrain.batches import stage_sizes
from megabert.pretrain.best import retention_of
from megabert.pretrain.evaluation import require_metric
from megabert.pretrain.inputs import Inputs, divide_batch, micro_limit, open_inputs
from megabert.pretrain.lengths.course import course_of, unreached
from megabert.pretrain.lengths.durations import curve_of, last_update
from megabert.pretrain.loop import Loop
from megabert.pretrain.opening import opening_lines
from megabert.pretrain.starting_model import open_branch, settle_model

log = get_logger()


def pretrain(settings: ResolvedSettings) -> dict[str, Any]:
    """Run ``launch/pretrain.py`` with these settings.

    Returns what ``results.json`` holds.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss jumped or is not finite; the last checkpoint is kept.
        StoppedOnRequest: the run was asked to stop before its last step, and has saved a checkpoint.
    """
    resolve_precision(settings.parallel.precision, torch.cuda.is_available())
    inputs = open_inputs(settings)
    require_metric(settings.run.keep_best, inputs, settings.averaging.eval_weights)
    output = settings.run.output
    watched = WatchedRun(
        settings.parallel.hang_timeout, output, partial(run_folder.what_is_kept, output)
    )
    world = start(settings.parallel.tensor_parallel, watched)
    with (
        world.closed_at_the_end(),
        watched_to_the_end(world.watcher),
    ):
        broadcast_object(world, Tracking(settings.trackers).require)
        with (
            run_folder_locked(settings.run.output, world),
            run_folder.nothing_left_behind(settings.run.output, world),
        ):
            return prepare(settings, inputs, world).run()


def prepare(settings: ResolvedSettings, inputs: Inputs, world: World) -> Loop:
    """Build model and engine, and load fresh, transferred or resumed weights into them."""
    settings = replace(settings, data=inputs.data)
    run, optimizer = settings.run, settings.optimizer
    checkpoint = run_folder.open_run(run.output, run.resume, world, find_checkpoint)
    start = checkpoint or open_branch(settings, world)
    if run.profile is not None and checkpoint is None:
        updates = last_update(settings, partial(course_of, settings))
        require_room(run.profile, updates - (start.step if start else 0))
    settings, inputs, source = settle_model(settings, inputs, start, world)
    resumed_size = start.field("global_batch_size") if start else None
    divided, batch = divide_batch(
        settings,
        world.topology.data_parallel,
        micro_limit(settings, inputs.model, world),
        resumed_size,
    )
    course = course_of(divided)
    for stage in course.stages:
        stage_sizes(batch, course, stage)
    if warning := unreached(course, optimizer.steps):
        log.warning("%s", warning)
    skipped = skip.parse_ranges(run.skip_samples, course)
    identity = run_folder.run_identity(divided, inputs)
    run_folder.require_same_run(start, identity, branch=checkpoint is None)
    log_deepspeed_to(run.output / RUN_DEEPSPEED_LOG, world)
    with_pairs = settings.data.sentence_task != "none"
    if settings.parallel.self_test == "on":
        sections = settings.deepspeed_sections
        self_test(
            TestedRun(inputs.model, optimizer, settings.parallel, sections, with_pairs), world
        )
    model = BertForPreTraining(
        inputs.model,
        replace(world.tp, sequence_parallel=settings.parallel.sequence_parallel),
        DropoutSeeds(run.seed),
        sentence_task=with_pairs,
        activation_checkpointing=settings.parallel.activation_checkpointing,
    )
    initial = settings.initial_weights
    model.mlm.z_loss = settings.loss.z_loss
    initialize_weights(
        model, inputs.model, settings.weight_seed, initial.init_scheme, initial.init_local_heads
    )
    engine = build_engine(
        model,
        world,
        optimizer,
        settings.parallel,
        batch,
        settings.deepspeed_sections,
    )
    engine.follow(curve_of(divided, partial(course_of, divided)))
    begun = start.step if start is not None else 0
    if checkpoint is None and (warning := engine.trains_nothing(begun)):
        log.warning("%s", warning)
    if settings.averaging.ema_decay:
        engine.keep_average(settings.averaging.ema_decay)
    if start is not None:
        resume.resume(engine, start)
    elif source is not None:
        source.load_into(engine, model, inputs.model, settings)

    def write() -> None:
        with named_storage_errors(run.output):
            run_folder.write_settings(run.output, divided, engine.config, inputs.save_tokenizer)
            check_room(engine, run.output, retention_of(run), optimizer.steps)

    broadcast_object(world, write)
    for line in opening_lines(divided, inputs, engine, start.consumed_samples if start else 0):
        log.info("%s", line)
    earlier = source.trained_positions if source is not None else 0
    if start is not None:
        earlier = int(start.record.get("trained_positions", 0))
    if variant_of(inputs.model).position_rows(inputs.model):
        lengths = [stage.length for stage, _ in course.parts(optimizer.steps)]
        trained = run_folder.trained_positions(lengths, inputs.model, earlier)
        log.info("%-10s%d are trained when this run ends", "positions", trained)
    identity = {**identity, "trained_positions": earlier}
    return Loop(divided, inputs, engine, start, identity, skipped)
