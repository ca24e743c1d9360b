"""One fine-tuning run: all updates of a model, the evaluations in between, the selected model."""

from __future__ import annotations

import gc
import math
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch

from megabert.common.errors import StoppedOnRequest, TrainingStopped
from megabert.common.files import write_json, write_text
from megabert.common.log import get_logger, human_duration
from megabert.common.names import (
    RUN_CONFIG,
    RUN_DEEPSPEED_CONFIG,
    RUN_DEEPSPEED_LOG,
    RUN_FINAL,
    RUN_RESULTS,
)
from megabert.common.processes.stopping import stop_watch
from megabert.common.progress import Progress
from megabert.common.storage import StorageFault
from megabert.config import flags
from megabert.config.model import ModelConfig
from megabert.config.sections.run import STOP_GRACE
from megabert.engine.agreement import StopAgreement
from megabert.engine.broadcast import broadcast_object
from megabert.engine.build import build_engine
from megabert.engine.launch import World
from megabert.engine.library_log import log_deepspeed_to
from megabert.engine.metrics.devices import peak_rank_memory
from megabert.engine.metrics.throughput import each_rank
from megabert.engine.metrics.trackers.sending import Tracking
from megabert.engine.metrics.writer import MetricsWriter, Throughput
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.watch.pulse import PULSE
from megabert.finetune.checkpoints import Final, build_model
from megabert.finetune.evaluation import (
    SCORING,
    TEST,
    EvaluationStopped,
    publish,
    score_file,
    shown,
)
from megabert.finetune.inputs import FinetuneInputs, claim_output, divide_rows
from megabert.finetune.selection import Selection, evaluation_steps
from megabert.finetune.settings import END, DividedFinetuning, ResolvedFinetuning
from megabert.tasks.base import Features, Task
from megabert.tasks.batches import BatchPlan, batch_on_device, steps_for

log = get_logger()


def build_loop(
    given: ResolvedFinetuning, world: World, task: Task, inputs: FinetuneInputs
) -> FinetuneLoop:
    """Claim the run folder, and build model and engine.

    Args:
        task: as the reading of ``inputs`` left it; the run works with a copy.

    Raises:
        UserError: the checkpoint does not fit the task, or the run folder is not free.
    """
    settings, division = divide_rows(given, world)
    place, optimizer = settings.task, settings.optimizer
    task = deepcopy(task)
    steps, scored_after = 0, frozenset([0])
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    if inputs.train is not None:
        rows, batch_size = len(inputs.train.lengths), division.global_size
        steps = optimizer.steps or steps_for(rows, batch_size, optimizer.epochs)
        interval = END if inputs.evaluation is None else settings.selection.eval_interval
        scored_after = evaluation_steps(interval, rows, batch_size, steps)
    model, config = build_model(settings, task, inputs, world)
    claim_output(place.output, world)
    log_deepspeed_to(place.output / RUN_DEEPSPEED_LOG, world)
    schedule = replace(optimizer, steps=max(1, steps))
    engine = build_engine(
        model, world, schedule, settings.parallel, division, settings.deepspeed_sections
    )

    def write() -> None:
        write_text(place.output / RUN_CONFIG, flags.to_yaml(settings, absolute=True))
        write_json(place.output / RUN_DEEPSPEED_CONFIG, engine.config)

    broadcast_object(world, write)
    for topic, text in engine.describe().items():
        log.info("%-10s%s", topic, text)
    if steps and (warning := engine.trains_nothing()):
        log.warning("%s", warning)
    return FinetuneLoop(settings, task, inputs, config, engine, UpdatePlan(steps, scored_after))


@dataclass(frozen=True)
class UpdatePlan:
    """Number of updates of a run, and those after which the model is evaluated."""

    steps: int
    scored_after: frozenset[int]


class FinetuneLoop:
    """One run: all updates, the evaluations in between, then the test file."""

    def __init__(
        self,
        settings: DividedFinetuning,
        task: Task,
        inputs: FinetuneInputs,
        config: ModelConfig,
        engine: TrainingEngine,
        plan: UpdatePlan,
    ) -> None:
        self.settings, self.task, self.inputs, self.config = settings, task, inputs, config
        self.engine, self.world = engine, engine.world
        self.steps, self.scored_after = plan.steps, plan.scored_after
        self.output = settings.task.output
        self.metrics = MetricsWriter(self.output, enabled=False)
        self.tracking = Tracking(settings.trackers, flags.to_values(settings, absolute=True))
        broadcast_object(self.world, self._open_metrics)
        self.meter = Throughput()
        chosen = settings.selection
        self.selection = Selection(task.metric, chosen.keep, chosen.patience)
        self.final = Final(self.output / RUN_FINAL, config, task, inputs, engine)
        self.watch = stop_watch()
        self.agreement = StopAgreement(self.world, self.watch)
        self.started = time.monotonic()
        self.paused = 0.0
        self.results: dict[str, Any] = {
            "task": task.name,
            "checkpoint": str(settings.task.checkpoint),
            "random_init": settings.task.random_init,
            "seed": settings.task.seed,
            "lr": settings.optimizer.lr,
        }

    def _open_metrics(self) -> None:
        self.metrics = MetricsWriter(self.output, enabled=True, tracking=self.tracking)

    def _require_metrics(self) -> None:
        """End the run if its metrics cannot be written (a collective).

        Raises:
            StorageFault: they cannot; with the file and the reason.
        """
        if not self.world.agree(self.metrics.failure is None):
            failure = broadcast_object(self.world, lambda: self.metrics.failure)
            raise StorageFault(f"stopped after step {self.engine.steps_done}: {failure}")

    def run(self) -> dict[str, Any]:
        """Train, evaluate, select; returns the results, which are also in ``results.json``.

        Raises:
            TrainingStopped: the loss is no longer finite; the model selected so far is in ``final``.
            StoppedOnRequest: some rank was asked to stop; a model is in ``final``.
        """
        with self.tracking.ended():
            return self._run()

    def _run(self) -> dict[str, Any]:
        try:
            if self.inputs.train is not None:
                self.watch.look(
                    STOP_GRACE,
                    lambda: "; run it again with --resume auto",
                    "the run stops after this update or batch, and keeps a model",
                )
                self._train(self.inputs.train)
                self.watch.interrupt()
            elif self.inputs.evaluation is not None:
                self._evaluate(self.inputs.evaluation)
            self.results |= self.selection.report()
            if self.inputs.test is not None:
                self._test(self.inputs.test)
            self._finish()
        finally:
            self.metrics.close()
        return self.results

    def _train(self, features: Features) -> None:
        """Update until the last step, or until ``--patience`` runs out."""
        batch, every = self.engine.batch, self.settings.task.log_interval
        plan = BatchPlan(features.lengths, batch.global_size, self.steps, self.settings.task.seed)
        progress = Progress(self.task.name, self.steps, interval=30.0)
        began = time.monotonic()
        total = torch.zeros((), device=self.world.device)
        attempt = logged = tokens = 0
        stop = False
        while self.engine.steps_done < self.steps and not stop:
            rows, before = plan.rows(attempt % self.steps), self.engine.steps_done
            with PULSE.update(before + 1):
                total += self._update(features, rows, attempt)
            attempt += 1
            tokens += int(features.lengths[rows].sum())
            step = self.engine.steps_done
            if step == before:
                continue  # the update overflowed
            score_now = step in self.scored_after
            if step % every == 0 or score_now:
                line = self._log(total, step - logged, began)
                logged = step
                total = torch.zeros_like(total)
                if self.world.is_main:
                    progress.update(
                        step,
                        f"step {step}/{self.steps}  loss {line['loss']:.4f}  lr {line['lr']:.2e}  "
                        f"{line['samples_per_second']:.1f} samples/s",
                    )
                self._require_metrics()
            if self.agreement.asked and step < self.steps:
                self._stop()
            if score_now and self.inputs.evaluation is not None:
                try:
                    stop = self._evaluate(self.inputs.evaluation, self.agreement)
                except EvaluationStopped:
                    self._stop()
        seconds = time.monotonic() - began - self.paused
        if self.world.is_main:
            progress.close(f"{step} steps after {human_duration(seconds)}")
        self.results |= {
            "train": features.sizes(),
            "steps": step,
            "stopped_early": step < self.steps,
            "skipped_steps": self.engine.skipped_steps,
            "train_loss": line["loss"],
            "train_seconds": round(seconds, 3),
            "train_samples_per_second": attempt * batch.global_size / seconds,
            "train_tokens_per_second": tokens / seconds,
        }
        if self.inputs.evaluation is None:
            self.final.save()

    def _stop(self) -> NoReturn:
        """End before the last update or in an evaluation: ``final`` keeps a model, and the run counts as unfinished.

        Raises:
            StoppedOnRequest: always.
        """
        reason = self.agreement.reason()
        if self.final.step is None:
            self.final.save()
        self.world.barrier()
        self.watch.leave()
        raise StoppedOnRequest(
            f"{reason}: stopped after step {self.engine.steps_done} of {self.steps}; {self.final.folder} "
            f"has the model of step {self.final.step}; --resume auto trains this run again from its start"
        )

    def _update(self, features: Features, rows: np.ndarray, attempt: int) -> torch.Tensor:
        """One update; this rank's part of its loss."""
        batch, topology = self.engine.batch, self.world.topology
        total = torch.zeros((), device=self.world.device)
        self.agreement.sum([])
        for micro in range(batch.accumulation):
            first = (
                micro * topology.data_parallel + topology.data_parallel_rank
            ) * batch.micro_size
            mine = rows[first : first + batch.micro_size]
            micro_batch = batch_on_device(
                features,
                mine,
                self.task.max_length,
                self.world.device,
                first_sample=attempt * batch.global_size + first,
            )
            loss = self.task.loss(self.engine, micro_batch)
            part = loss / (batch.accumulation * batch.data_parallel)
            self.engine.backward(part)
            self.engine.step()
            total += part.detach()
            self.meter.add(int(features.lengths[mine].sum()), len(mine))
        return total

    def _log(self, total: torch.Tensor, updates: int, began: float) -> dict[str, Any]:
        """Write a metrics line. Except for evaluation, only here does the host wait for a GPU."""
        loss = float(self.world.sum_over_data_parallel(total)) / updates
        norm, step = self.engine.grad_norm(), self.engine.steps_done
        rates, ranks = self.meter.read(0.0), self.world.topology.data_parallel
        line = {
            "step": step,
            "loss": loss,
            "lr": self.engine.learning_rate_at(step),
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

    def _evaluate(self, features: Features, agreement: StopAgreement | None = None) -> bool:
        """Evaluate the model and save it if it is selected; returns whether to stop training.

        Raises:
            EvaluationStopped: by the agreement; nothing is written.
        """
        began, step, train = time.monotonic(), self.engine.steps_done, self.inputs.train
        if train is not None and step == self.steps and self.final.step is None:
            self.final.save()  # scoring may fail
        only = len(self.scored_after) == 1
        folder = self.output if only else self.output / SCORING
        size = self.settings.batch.eval_batch_size
        with PULSE.doing("evaluation"):
            scored = score_file(self.engine, self.task, features, size, folder, agreement)
        epoch = 0.0
        if train is not None:
            epoch = step * self.engine.batch.global_size / len(train.lengths)
        selected = self.selection.add(step, epoch, scored.scores)
        if train is not None and selected:
            self.final.save()
        if not only:
            broadcast_object(self.world, lambda: publish(folder, self.output, selected))
        self.results |= {"eval": features.sizes(), **scored.rates("eval")}
        self.metrics.write(
            {"step": step, "epoch": self.selection.last["epoch"]}
            | {f"eval_{name}": value for name, value in scored.scores.items()}
        )
        if scored.scores:
            log.info(
                "step %d  %s%s", step, shown(scored.scores), "" if selected else "  (not selected)"
            )
        else:
            log.info("--eval has no labels: its predictions are those of the last model")
            self.scored_after = frozenset([self.steps])
        self.meter.pause(time.monotonic() - began)
        self.paused += time.monotonic() - began
        return self.selection.out_of_patience

    def _test(self, features: Features) -> None:
        """Predict ``--test`` with the selected model."""
        if self.final.step not in (None, self.engine.steps_done):
            self.final.restore()
        self.task.freeze_thresholds()
        size = self.settings.batch.eval_batch_size
        with PULSE.doing("predictions of --test"):
            scored = score_file(self.engine, self.task, features, size, self.output / TEST)
        scores = {f"test_{name}": value for name, value in scored.scores.items()}
        self.results |= {"test": features.sizes(), **scored.rates("test"), **scores}
        self.results["scores"] = {**self.results["scores"], **scores}
        log.info("predictions of --test: %s %s", self.output / TEST, shown(scores))

    def _finish(self) -> None:
        memory = each_rank(self.world, [peak_rank_memory(self.world.device)])
        topology = self.world.topology
        self.results |= {
            "model": self.config.to_dict(),
            "precision": self.engine.precision,
            "zero_stage": self.engine.zero_stage,
            "world_size": topology.world_size,
            "tensor_parallel": topology.tensor_parallel,
            "peak_memory_bytes": round(float(memory.max())),
            "elapsed_seconds": round(time.monotonic() - self.started, 3),
            "settings": flags.to_values(self.settings),
        }
        self.metrics.close()
        self._require_metrics()
        broadcast_object(self.world, lambda: write_json(self.output / RUN_RESULTS, self.results))
        self.tracking.results(self.results)
        self.world.barrier()

    def release(self) -> None:
        """Free model and optimizer, so that another run can follow in the same process."""
        self.engine.close()
        del self.engine, self.final
        gc.collect()
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
