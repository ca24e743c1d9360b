"""Pretraining: masked language model and sentence pairs, phase 1 and phase 2.

    pretrain_inputs   flags, --config, DeepSpeed file and phase recipe -> settings, shards, model shape
    prepare           model and engine; then fresh weights, a phase change, or a resumed run
    Loop              update, log, evaluate, save; knows nothing of how weights and batches are divided

The loss of an update is the mean over all masked positions of its global batch, plus the mean over
all its pairs. Micro batches hold different numbers of masked positions, so their sums are divided by
the counts of the whole global batch: the update is the same for any division into ranks and micro
batches.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megabert.config import PretrainSettings
from megabert.data.loader import MicroBatches, evaluation_batches
from megabert.engine import phases, runs
from megabert.engine.build import TrainingEngine, build_engine
from megabert.engine.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from megabert.engine.config import resolve_batch, resolve_precision
from megabert.engine.launch import World, lost_ranks_named, start
from megabert.engine.metrics import MetricsWriter, Throughput
from megabert.flags import Values
from megabert.log import (
    Progress,
    RankError,
    TrainingStopped,
    UserError,
    get_logger,
    human_duration,
)
from megabert.model.flops import sequence_flops
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.naming import RUN_RESULTS
from megabert.parallel.rng import DropoutStreams
from megabert.pretrain_inputs import Inputs, open_inputs, resolve

TOKENS_PER_MICRO_STEP = 8192
"""A micro batch that nobody set holds at most this many tokens."""

log = get_logger()


def pretrain(given: Values, config_file: Values) -> dict[str, Any]:
    """Run ``launch/pretrain.py`` with the values of its flags and its ``--config``.

    Returns what ``results.json`` holds.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss is not finite any more; the last checkpoint is kept.
    """
    settings, raw = resolve(given, config_file)
    resolve_precision(settings.parallel.precision, torch.cuda.is_available())
    inputs = open_inputs(settings)
    assert settings.run.output is not None
    world = start(settings.parallel.tensor_parallel)
    try:
        with lost_ranks_named(), runs.nothing_left_behind(settings.run.output):
            return prepare(settings, raw, inputs, world).run()
    finally:
        world.close()


def prepare(settings: PretrainSettings, raw: dict[str, Any], inputs: Inputs, world: World) -> Loop:
    """Build model and engine, and put fresh, handed-over or resumed weights into them."""
    length = settings.data.seq_length or 1
    batch = resolve_batch(
        settings.batch, world.topology.data_parallel, max(1, TOKENS_PER_MICRO_STEP // length)
    )
    settings = replace(
        settings,
        batch=replace(
            settings.batch,
            global_batch_size=batch.global_size,
            micro_batch_size=batch.micro_size,
            gradient_accumulation_steps=batch.accumulation,
        ),
    )
    run, optimizer = settings.run, settings.optimizer
    assert run.output is not None
    assert optimizer.lr is not None
    assert optimizer.steps is not None
    assert optimizer.warmup_fraction is not None
    facts = runs.facts(settings, inputs.model, inputs.manifest)
    checkpoint = runs.open_run(run.output, run.resume, facts, world, find_checkpoint)
    source = None
    if checkpoint is None and run.init_from is not None:
        source = phases.find_source(run.init_from, inputs.model, inputs.manifest.tokenizer.sha256)
    streams = DropoutStreams(run.seed, world.tp, world.device)
    model = BertForPreTraining(
        inputs.model,
        world.tp,
        streams,
        sentence_task=settings.data.sentence_task != "none",
        activation_checkpointing=settings.parallel.activation_checkpointing,
    )
    initialize_weights(model, inputs.model, run.seed)
    engine = build_engine(
        model,
        world,
        optimizer,
        settings.parallel,
        batch,
        optimizer.schedule,
        optimizer.steps,
        optimizer.lr,
        optimizer.warmup_fraction,
        raw,
    )
    if checkpoint is not None:
        phases.resume(engine, checkpoint)
        log.info("resumed from %s at step %d", checkpoint.folder.name, checkpoint.step)
    elif source is not None:
        phases.hand_over(engine, model, source, run.output, moments=run.init_moments)
        log.info("weights%s of %s", " and moments" if run.init_moments else "", source.folder)
    if world.is_main:
        runs.write_settings(run.output, settings, engine.config, Path(settings.data.data))
    log.info("%s", engine.describe())
    trained = runs.trained_positions(settings, checkpoint or source)
    log.info("position rows trained at the end of this run: %d", trained)
    return Loop(
        settings, inputs, engine, streams, checkpoint, {**facts, "trained_positions": trained}
    )


class Loop:
    """One run from its first or resumed step to its last."""

    def __init__(
        self,
        settings: PretrainSettings,
        inputs: Inputs,
        engine: TrainingEngine,
        streams: DropoutStreams,
        checkpoint: Checkpoint | None,
        facts: dict[str, Any],
    ) -> None:
        self.settings, self.inputs, self.engine, self.streams = settings, inputs, engine, streams
        self.world, self.facts = engine.world, facts
        self.run_folder = settings.run.output or Path()
        self.steps = settings.optimizer.steps or 0
        self.last = min(self.steps, settings.run.stop_after or self.steps)
        self.consumed = checkpoint.consumed_samples if checkpoint else 0
        self.tokens = int(checkpoint.record["tokens"]) if checkpoint else 0
        self.elapsed_before = float(checkpoint.record["elapsed_seconds"]) if checkpoint else 0.0
        self.started = time.monotonic()
        self.metrics = MetricsWriter(
            self.run_folder,
            enabled=self.world.is_main,
            resumed_step=checkpoint.step if checkpoint else None,
        )
        self.meter = Throughput()
        self.progress = Progress("pretrain", self.last, interval=30.0)
        self.saved_step = checkpoint.step if checkpoint else -1
        self.last_line: dict[str, Any] = {}
        self.last_evaluation: dict[str, Any] = {}
        self.stop_requested = False

    def run(self) -> dict[str, Any]:
        """Train to the last step; returns the results, which are also in ``results.json``."""
        signal.signal(signal.SIGTERM, self._request_stop)
        batches = MicroBatches(
            self.inputs.train,
            self.engine.batch.micro_size,
            self.world.topology.data_parallel_rank,
            self.world.topology.data_parallel,
            self.consumed,
            self.settings.data.loader_workers,
            pin_memory=self.world.device.type == "cuda",
        )
        run = self.settings.run
        sums = self._no_sums()
        while self.engine.steps_done < self.last:
            sums += self._update(batches)
            step = self.engine.steps_done
            if step % run.log_interval == 0 or step == self.last:
                self._log(sums, batches.seconds_waited)
                sums = self._no_sums()
                if not self.world.agree(not self.stop_requested):
                    log.info("asked to stop: saving after step %d", step)
                    break
            if run.eval_interval and step % run.eval_interval == 0 and step < self.last:
                self._evaluate()
            if run.save_interval and step % run.save_interval == 0 and step < self.last:
                self._save()
        batches.close()
        if self.engine.steps_done == self.last:
            self._evaluate()
        if self.saved_step < self.engine.steps_done:
            self._save()
        return self._finish()

    def _no_sums(self) -> torch.Tensor:
        """mlm loss, mlm correct, mlm count, nsp loss, nsp correct, nsp count, real tokens."""
        return torch.zeros(7, dtype=torch.float64, device=self.world.device)

    def _update(self, batches: Iterator[dict[str, Any]]) -> torch.Tensor:
        """One update of the global batch; its sums over this rank's micro batches, float64 [7]."""
        try:
            micro_batches = [next(batches) for _ in range(self.engine.batch.accumulation)]
        except UserError as error:
            raise RankError(str(error)) from error
        masked, pairs = self._global_counts(micro_batches)
        sums = self._no_sums()
        for batch in micro_batches:
            self.streams.start(batch.pop("first_sample"))
            real_tokens = int(batch["attention_mask"].sum())
            output = self.engine(**self._to_device(batch))
            self.engine.backward(output.mlm_loss_sum / masked + output.nsp_loss_sum / pairs)
            sums[:6] += torch.stack([value.detach().double() for value in output])
            sums[6] += real_tokens
            self.meter.add(real_tokens, len(batch["input_ids"]))
            self.engine.step()
        self.consumed += self.engine.batch.global_size
        return sums

    def _global_counts(
        self, micro_batches: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked positions and pairs of the whole global batch (at least 1 each), 0-d tensors."""
        counts = torch.tensor(
            [
                sum(len(batch["masked_positions"]) for batch in micro_batches),
                sum(len(batch["input_ids"]) for batch in micro_batches),
            ],
            dtype=torch.float32,
        ).to(self.world.device, non_blocking=True)
        masked, pairs = self.world.sum_over_data_parallel(counts).clamp(min=1.0).unbind()
        return masked, pairs

    def _to_device(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {
            name: value.to(self.world.device, non_blocking=True) for name, value in batch.items()
        }

    def _log(self, sums: torch.Tensor, data_wait: float) -> None:
        """Write a metrics line; the only place of the loop where a GPU waits for the host."""
        mlm, mlm_right, masked, nsp, nsp_right, pairs, tokens = self.world.sum_over_data_parallel(
            sums
        ).tolist()
        self.tokens += round(tokens)
        norm = self.engine.grad_norm()
        rates = self.meter.read(data_wait)
        ranks = self.world.topology.data_parallel
        mlm_loss, nsp_loss = mlm / max(1.0, masked), nsp / max(1.0, pairs)
        step = self.engine.steps_done
        line = {
            "step": step,
            "loss": mlm_loss + nsp_loss,
            "mlm_loss": mlm_loss,
            "nsp_loss": nsp_loss if pairs else None,
            "mlm_accuracy": mlm_right / max(1.0, masked),
            "nsp_accuracy": nsp_right / pairs if pairs else None,
            "lr": self.engine.deepspeed.lr_scheduler.lr(step),
            "grad_norm": norm,
            "tokens_per_second": rates["tokens_per_second"] * ranks,
            "samples_per_second": rates["samples_per_second"] * ranks,
            "data_wait_fraction": rates["data_wait_fraction"],
            "model_tflops_per_second": self._flops(rates["samples_per_second"]) / 1e12,
            "skipped_steps": self.engine.skipped_steps,
            "consumed_samples": self.consumed,
            "tokens": self.tokens,
            "elapsed_seconds": self._elapsed(),
        }
        self._require_finite(line)
        self.last_line = line
        self.metrics.write(line)
        if self.world.is_main:
            self.progress.update(
                step,
                f"step {step}/{self.last}  loss {line['loss']:.4f}  lr {line['lr']:.3e}  "
                f"grad norm {norm:.3f}  {line['tokens_per_second']:,.0f} tokens/s",
            )

    def _flops(self, samples_per_second: float) -> float:
        data = self.settings.data
        return samples_per_second * sequence_flops(
            self.inputs.model, data.seq_length or 0, data.max_predictions or 0
        )

    def _require_finite(self, line: dict[str, Any]) -> None:
        # in half precision DeepSpeed skips an update whose gradient is not finite, and says so
        for name in ("loss", "grad_norm") if self.engine.precision == "fp32" else ("loss",):
            value = line[name]
            if not math.isfinite(value):
                kept = (
                    f"checkpoint of step {self.saved_step} is kept"
                    if self.saved_step >= 0
                    else ("no checkpoint was written yet")
                )
                raise TrainingStopped(
                    f"{name} is {value} at step {line['step']} (samples up to {self.consumed}); {kept}; "
                    "resume it with --resume auto and a lower --lr or more warm-up"
                )

    def _evaluate(self) -> None:
        """Held-out losses and accuracies: the same samples and masks every time."""
        if self.inputs.evaluation is None:
            return
        began = time.monotonic()
        self.engine.module.eval()
        sums = torch.zeros(6, dtype=torch.float64, device=self.world.device)
        with torch.no_grad():
            for batch in evaluation_batches(
                self.inputs.evaluation,
                self.engine.batch.micro_size,
                self.world.topology.data_parallel_rank,
                self.world.topology.data_parallel,
                self.settings.run.eval_samples,
            ):
                batch.pop("first_sample")
                batch.pop("real_samples")
                output = self.engine(**self._to_device(batch))
                sums += torch.stack([value.double() for value in output])
        self.engine.module.train()
        mlm, mlm_right, masked, _nsp, nsp_right, pairs = self.world.sum_over_data_parallel(
            sums
        ).tolist()
        self.last_evaluation = {
            "step": self.engine.steps_done,
            "eval_mlm_loss": mlm / max(1.0, masked),
            "eval_mlm_accuracy": mlm_right / max(1.0, masked),
            "eval_nsp_accuracy": nsp_right / pairs if pairs else None,
        }
        self.metrics.write(self.last_evaluation)
        seconds = time.monotonic() - began
        self.meter.pause(seconds)
        accuracy = self.last_evaluation["eval_nsp_accuracy"]
        log.info(
            "step %d  held out: MLM loss %.4f, MLM accuracy %.3f%s (%.1f s)",
            self.engine.steps_done,
            self.last_evaluation["eval_mlm_loss"],
            self.last_evaluation["eval_mlm_accuracy"],
            f", NSP accuracy {accuracy:.3f}" if accuracy is not None else "",
            seconds,
        )

    def _save(self) -> None:
        began = time.monotonic()
        topology = self.world.topology
        record = {
            **self.facts,
            "step": self.engine.steps_done,
            "consumed_samples": self.consumed,
            "tokens": self.tokens,
            "elapsed_seconds": self._elapsed(),
            "world_size": topology.world_size,
            "tensor_parallel": topology.tensor_parallel,
            "data_parallel": topology.data_parallel,
            "zero_stage": self.engine.zero_stage,
            "precision": self.engine.precision,
        }
        folder = save_checkpoint(
            self.engine,
            self.run_folder,
            record,
            phases.universal_info(self.engine, self.inputs.model),
            self.settings.run.keep_last,
        )
        self.saved_step = self.engine.steps_done
        self.meter.pause(time.monotonic() - began)
        log.info("saved %s (%.1f s)", folder, time.monotonic() - began)

    def _elapsed(self) -> float:
        return round(self.elapsed_before + time.monotonic() - self.started, 3)

    def _request_stop(self, *_: Any) -> None:
        self.stop_requested = True

    def _finish(self) -> dict[str, Any]:
        step = self.engine.steps_done
        results = {
            "step": step,
            "steps": self.steps,
            "finished": step == self.steps,
            **{key: value for key, value in self.last_line.items() if key != "step"},
            **{key: value for key, value in self.last_evaluation.items() if key != "step"},
            "elapsed_seconds": self._elapsed(),
        }
        self.metrics.close()
        if self.world.is_main:
            path = self.run_folder / RUN_RESULTS
            path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            self.progress.close(f"step {step}/{self.steps} after {human_duration(self._elapsed())}")
        self.world.barrier()
        return results
