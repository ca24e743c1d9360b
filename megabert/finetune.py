"""Fine-tuning: one loop for all tasks, on the engine that also pretrains.

    resolve    flags, --config and DeepSpeed file -> settings
    prepare    checkpoint, tokenizer, features, model, engine; every wrong input is met before
               anything is written
    Loop       update, log; then save the model, predict, score

The loss of an update is the mean over the rows of its global batch. The rows of a global batch are
chosen before it is cut into ranks and micro batches, so the update is the same for any division.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabert import flags
from megabert.config import ModelConfig
from megabert.convert.whole_model import WholeModel
from megabert.engine.build import TrainingEngine, build_engine
from megabert.engine.checkpoint_record import write_json, write_text
from megabert.engine.config import (
    deepspeed_values,
    read_deepspeed_config,
    resolve_batch,
    resolve_precision,
)
from megabert.engine.exchange import from_main, gather_rows, portions
from megabert.engine.launch import World, lost_ranks_named, start
from megabert.engine.metrics import MetricsWriter, Throughput
from megabert.engine.whole_state import read_state
from megabert.finetune_inputs import Inputs, check_free, claim_output, open_inputs
from megabert.flags import Values
from megabert.log import Progress, TrainingStopped, UserError, get_logger, human_duration
from megabert.model.init import initialize_weights
from megabert.model.weights import load_into, save_weights
from megabert.naming import RUN_CONFIG, RUN_DEEPSPEED_CONFIG, RUN_FINAL, RUN_RESULTS
from megabert.parallel.rng import DropoutStreams
from megabert.task_config import FinetuneSettings
from megabert.tasks.base import Features, Task
from megabert.tasks.batches import BatchPlan, packed, steps_for
from megabert.tasks.registry import make_task

TOKENS_PER_MICRO_STEP = 8192
"""A micro batch that nobody set holds at most this many tokens."""

log = get_logger()


def resolve(given: Values, config_file: Values) -> tuple[FinetuneSettings, dict[str, Any]]:
    """All settings, and the user's DeepSpeed sections.

    Precedence: flag > ``--config`` > DeepSpeed file > default.

    Raises:
        UserError: a wrong value, or no checkpoint, or nothing to train on or to score.
    """
    by_hand = flags.join(config_file, given)
    first = flags.build(FinetuneSettings, by_hand)
    raw: dict[str, Any] = {}
    layers: list[Values] = [by_hand]
    path = first.parallel.deepspeed_config
    if path is not None:
        raw = read_deepspeed_config(path)
        layers.insert(0, deepspeed_values(raw, path))
    settings = flags.build(FinetuneSettings, flags.join(*layers))
    task = settings.task
    if task.checkpoint is None:
        raise UserError(
            "--checkpoint is missing: give a megabert folder, a pretraining run or a Hugging Face "
            "BERT folder"
        )
    if task.train is None and task.eval is None:
        raise UserError("neither --train nor --eval is given: there is nothing to do")
    if task.random_init and task.train is None:
        raise UserError("--random-init on without --train: random weights are not worth scoring")
    if settings.parallel.sequence_parallel:
        raise UserError("--sequence-parallel on is for pretraining; leave it out")
    if task.output is None:
        settings = replace(settings, task=replace(task, output=Path("runs") / task.task))
    return settings, raw


def finetune(given: Values, config_file: Values) -> dict[str, Any]:
    """Run ``launch/finetune.py`` with the values of its flags and its ``--config``.

    Returns what ``results.json`` holds (on every rank; scores on the main one only).

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss is not finite any more.
    """
    settings, raw = resolve(given, config_file)
    resolve_precision(settings.parallel.precision, torch.cuda.is_available())
    world = start(settings.parallel.tensor_parallel)
    try:
        with lost_ranks_named():
            return prepare(settings, raw, world).run()
    finally:
        world.close()


def prepare(settings: FinetuneSettings, raw: dict[str, Any], world: World) -> Loop:
    """Read the inputs, claim the run folder, and build model and engine."""
    place = settings.task
    task = make_task(
        place.task, place.max_length, settings.squad, settings.classification, settings.tagging
    )
    assert place.output is not None
    from_main(world, partial(check_free, place.output))  # before the long reading
    batch = resolve_batch(
        settings.batch,
        world.topology.data_parallel,
        max(1, TOKENS_PER_MICRO_STEP // task.max_length),
    )
    inputs = open_inputs(settings, task, world)
    optimizer, steps = settings.optimizer, 0
    if inputs.train is not None:
        rows = len(inputs.train.lengths)
        steps = optimizer.steps or steps_for(rows, batch.global_size, optimizer.epochs)
    settings = replace(
        settings,
        batch=replace(
            settings.batch,
            global_batch_size=batch.global_size,
            micro_batch_size=batch.micro_size,
            gradient_accumulation_steps=batch.accumulation,
        ),
    )
    streams = DropoutStreams(place.seed)
    model, config = _build_model(settings, task, inputs.model, world, streams)
    assert optimizer.lr is not None
    claim_output(place.output, world)
    engine = build_engine(
        model,
        world,
        optimizer,
        settings.parallel,
        batch,
        optimizer.schedule,
        max(1, steps),
        optimizer.lr,
        optimizer.warmup_fraction or 0.0,
        raw,
    )
    if world.is_main:
        write_text(place.output / RUN_CONFIG, flags.to_yaml(settings))
        write_json(place.output / RUN_DEEPSPEED_CONFIG, engine.config)
    log.info("%s", engine.describe())
    return Loop(settings, task, inputs, config, engine, steps)


def _build_model(
    settings: FinetuneSettings,
    task: Task,
    source: WholeModel,
    world: World,
    streams: DropoutStreams,
) -> tuple[torch.nn.Module, ModelConfig]:
    """The task's model with the checkpoint's weights (or random ones)."""
    place, config = settings.task, source.config
    if place.dropout is not None:
        config = replace(
            config,
            hidden_dropout_prob=place.dropout,
            attention_probs_dropout_prob=place.dropout,
        )
    checkpointing = settings.parallel.activation_checkpointing
    model = task.build_model(config, world.tp, streams, checkpointing)
    initialize_weights(model, config, place.seed)
    if place.random_init:
        log.info("random weights in the shape of %s", source.origin)
    else:
        # Scoring without training needs every weight from the checkpoint.
        new = task.new_heads if place.train is not None else ()
        load_into(model, source.tensors, world.tp, new_heads=new, source=source.origin)
    return model, config


class Loop:
    """One run: all updates, then the fine-tuned model, then the scores."""

    def __init__(
        self,
        settings: FinetuneSettings,
        task: Task,
        inputs: Inputs,
        config: ModelConfig,
        engine: TrainingEngine,
        steps: int,
    ) -> None:
        self.settings, self.task, self.inputs, self.config = settings, task, inputs, config
        self.engine, self.world, self.steps = engine, engine.world, steps
        self.output = settings.task.output or Path()
        self.metrics = MetricsWriter(self.output, enabled=self.world.is_main)
        self.meter = Throughput()
        self.started = time.monotonic()
        self.results: dict[str, Any] = {
            "task": task.name,
            "checkpoint": str(settings.task.checkpoint),
            "random_init": settings.task.random_init,
            "seed": settings.task.seed,
        }

    def run(self) -> dict[str, Any]:
        """Train, save, score; returns the results, which are also in ``results.json``."""
        if self.inputs.train is not None:
            self._train(self.inputs.train)
            self._save()
        if self.inputs.evaluation is not None:
            self._evaluate(self.inputs.evaluation)
        self.metrics.close()
        topology = self.world.topology
        self.results |= {
            "model": self.config.to_dict(),
            "precision": self.engine.precision,
            "zero_stage": self.engine.zero_stage,
            "world_size": topology.world_size,
            "tensor_parallel": topology.tensor_parallel,
            "elapsed_seconds": round(time.monotonic() - self.started, 3),
            "settings": flags.to_values(self.settings),
        }
        if self.world.is_main:
            write_json(self.output / RUN_RESULTS, self.results)
        self.world.barrier()
        return self.results

    def _train(self, features: Features) -> None:
        batch, every = self.engine.batch, self.settings.task.log_interval
        plan = BatchPlan(features.lengths, batch.global_size, self.steps, self.settings.task.seed)
        progress = Progress(self.task.name, self.steps, interval=30.0)
        began = time.monotonic()
        total = torch.zeros((), device=self.world.device)
        attempt = logged = 0
        while self.engine.steps_done < self.steps:
            total += self._update(features, plan.rows(attempt % self.steps), attempt)
            attempt += 1
            step = self.engine.steps_done
            if step != logged and (step % every == 0 or step == self.steps):
                line = self._log(total, step - logged, began)
                logged = step
                total = torch.zeros_like(total)
                if self.world.is_main:
                    progress.update(
                        step,
                        f"step {step}/{self.steps}  loss {line['loss']:.4f}  lr {line['lr']:.2e}  "
                        f"{line['samples_per_second']:.1f} samples/s",
                    )
        seconds = time.monotonic() - began
        if self.world.is_main:
            progress.close(f"{self.steps} steps after {human_duration(seconds)}")
        self.results |= {
            "train": features.sizes(),
            "steps": self.steps,
            "skipped_steps": self.engine.skipped_steps,
            "train_loss": line["loss"],
            "train_seconds": round(seconds, 3),
            "train_samples_per_second": attempt * batch.global_size / seconds,
        }

    def _update(self, features: Features, rows: np.ndarray, attempt: int) -> torch.Tensor:
        """One update; this rank's share of its loss."""
        batch, topology = self.engine.batch, self.world.topology
        total = torch.zeros((), device=self.world.device)
        for micro in range(batch.accumulation):
            first = (
                micro * topology.data_parallel + topology.data_parallel_rank
            ) * batch.micro_size
            mine = rows[first : first + batch.micro_size]
            batch_of_mine = self._packed(features, mine)
            numbers = attempt * batch.global_size + first + np.arange(len(mine))
            batch_of_mine["sample_numbers"] = torch.from_numpy(numbers).to(self.world.device)
            batch_of_mine["first_sample"] = attempt * batch.global_size + first
            loss = self.task.loss(self.engine, batch_of_mine)
            share = loss / (batch.accumulation * batch.data_parallel)
            self.engine.backward(share)
            self.engine.step()
            total += share.detach()
            self.meter.add(int(features.lengths[mine].sum()), len(mine))
        return total

    def _packed(self, features: Features, rows: np.ndarray) -> dict[str, Any]:
        """The rows without padding, on the device; whole numbers stay as they are."""
        batch = packed(features.batch(rows), self.task.max_length)
        return {
            name: torch.from_numpy(value).to(self.world.device, non_blocking=True)
            if isinstance(value, np.ndarray)
            else value
            for name, value in batch.items()
        }

    def _log(self, total: torch.Tensor, updates: int, began: float) -> dict[str, Any]:
        """Write a metrics line; the only place of the loop where a GPU waits for the host."""
        loss = float(self.world.sum_over_data_parallel(total)) / updates
        norm, step = self.engine.grad_norm(), self.engine.steps_done
        rates, ranks = self.meter.read(0.0), self.world.topology.data_parallel
        line = {
            "step": step,
            "loss": loss,
            "lr": self.engine.deepspeed.lr_scheduler.lr(step),
            "grad_norm": norm,
            "samples_per_second": rates["samples_per_second"] * ranks,
            "tokens_per_second": rates["tokens_per_second"] * ranks,
            "skipped_steps": self.engine.skipped_steps,
            "consumed_samples": step * self.engine.batch.global_size,
            "elapsed_seconds": round(time.monotonic() - began, 3),
        }
        if not math.isfinite(loss) and self.engine.precision != "fp16":
            raise TrainingStopped(f"the loss is {loss} at step {step}; try a lower --lr")
        self.metrics.write(line)
        return line

    def _save(self) -> None:
        """Write the fine-tuned model with its tokenizer as ``final`` (a collective)."""
        state = read_state(self.engine.deepspeed, self.world.tp, ("weight",))
        if self.world.is_main:
            save_weights(
                self.output / RUN_FINAL,
                self.config,
                {name: values["weight"] for name, values in state.items()},
                self.inputs.model.tokenizer,
                trained_positions=max(self.inputs.model.trained_positions, self.task.max_length),
                source=self.inputs.model.origin,
                tokenizer_sha256=self.inputs.tokenizer.sha256,
                task=self.task.name,
            )
            log.info("fine-tuned model: %s", self.output / RUN_FINAL)
        self.world.barrier()

    def _evaluate(self, features: Features) -> None:
        """Predict every row once over all data-parallel ranks; the main rank scores."""
        topology, began = self.world.topology, time.monotonic()
        lengths = features.lengths
        progress = Progress("score", len(lengths), interval=30.0)
        rows, outputs, seen = [], [], 0
        self.engine.module.eval()
        with torch.no_grad():
            for mine, counts in portions(
                lengths,
                self.settings.batch.eval_batch_size,
                topology.data_parallel_rank,
                topology.data_parallel,
            ):
                found = self.task.predict(self.engine, self._packed(features, mine))
                if counts:
                    rows.append(mine)
                    outputs.append({name: value.cpu().numpy() for name, value in found.items()})
                seen += len(mine) * topology.data_parallel
                if self.world.is_main:
                    progress.update(seen, f"{min(seen, len(lengths)):,} rows")
        self.engine.module.train()
        whole = gather_rows(self.world, rows, outputs, len(lengths))
        seconds = time.monotonic() - began
        self.results |= {
            "eval": features.sizes(),
            "eval_seconds": round(seconds, 3),
            "eval_samples_per_second": len(lengths) / seconds,
        }
        if self.world.is_main:
            scores = self.task.score(features, whole, self.output)
            self.results |= scores
            progress.close("  ".join(f"{name} {value:.2f}" for name, value in scores.items()))
            self.metrics.write(
                {"step": self.steps, **{f"eval_{key}": value for key, value in scores.items()}}
            )
