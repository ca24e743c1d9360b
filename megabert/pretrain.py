"""Pretraining: masked language model and sentence pairs, phase 1 and phase 2.

    pretrain_inputs   flags, --config, DeepSpeed file and phase recipe -> settings, shards, model shape
    prepare           model and engine; then fresh weights, a phase change, or a resumed run
    Loop              update, judge, log, evaluate, save; knows not how weights and batches are divided

The loss of an update is the mean over all masked positions of its global batch, plus the mean over
all its pairs. Micro batches hold different numbers of masked positions, so their sums are divided by
the counts of the whole global batch: the update is the same for any division into ranks and micro
batches, and with packing as without.

What an update came to stays on the device until a line of metrics, an evaluation or a checkpoint is
due. Then every update since is judged, in order (:mod:`megabert.guards`), so that no checkpoint is
written behind a bad one.
"""

from __future__ import annotations

import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megabert.config import PretrainSettings
from megabert.data import skipping
from megabert.data.loader import MicroBatches, count_samples, evaluation_batches
from megabert.data.packing import Window, choose_window
from megabert.engine import phases, runs
from megabert.engine.build import TrainingEngine, build_engine
from megabert.engine.checkpoint import (
    Checkpoint,
    check_room,
    find_checkpoint,
    save_checkpoint,
)
from megabert.engine.config import resolve_precision
from megabert.engine.exchange import from_main
from megabert.engine.launch import World, lost_ranks_named, start
from megabert.engine.metrics import MetricsWriter, Throughput
from megabert.engine.rollback import return_to_checkpoint
from megabert.flags import Values
from megabert.guards import Fault, RunGuard, Sums, Update, rollback_event
from megabert.log import Progress, RankError, UserError, get_logger, human_duration
from megabert.model.flops import sequence_flops
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.naming import RUN_RESULTS, checkpoint_tag
from megabert.parallel.rng import DropoutStreams
from megabert.pretrain_inputs import Inputs, divide, open_inputs, resolve

log = get_logger()


def pretrain(given: Values, config_file: Values) -> dict[str, Any]:
    """Run ``launch/pretrain.py`` with the values of its flags and its ``--config``.

    Returns what ``results.json`` holds.

    Raises:
        UserError: a wrong input, before anything is written.
        TrainingStopped: the loss jumped or is not finite; the last checkpoint is kept.
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
    run, optimizer = settings.run, settings.optimizer
    assert run.output is not None
    assert optimizer.lr is not None
    assert optimizer.steps is not None
    assert optimizer.warmup_fraction is not None
    checkpoint = runs.open_run(run.output, run.resume, world, find_checkpoint)
    kept = checkpoint.record["global_batch_size"] if checkpoint else None
    settings, batch = divide(settings, world.topology.data_parallel, kept)
    skipped = skipping.parse_ranges(run.skip_samples, batch.global_size)
    facts = runs.facts(settings, inputs.model, inputs.manifest)
    runs.require_same(checkpoint, facts)
    source = None
    if checkpoint is None and run.init_from is not None:
        tokenizer = inputs.manifest.tokenizer.sha256
        source = phases.find_source(run.init_from, inputs.model, tokenizer, world)
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
    elif source is not None:
        phases.hand_over(engine, model, source, run.output, moments=run.init_moments)
        log.info("weights%s of %s", " and moments" if run.init_moments else "", source.folder)
    if world.is_main:
        runs.write_settings(run.output, settings, engine.config, inputs.save_tokenizer)
        check_room(engine, run.output, run.keep_last)
    log.info("%s", engine.describe())
    trained = runs.trained_positions(settings, checkpoint or source)
    log.info("position rows trained at the end of this run: %d", trained)
    facts = {**facts, "trained_positions": trained}
    return Loop(settings, inputs, engine, streams, checkpoint, facts, skipped)


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
        skipped: list[skipping.Range],
    ) -> None:
        self.settings, self.inputs, self.engine, self.streams = settings, inputs, engine, streams
        self.world, self.facts = engine.world, facts
        self.run_folder = settings.run.output or Path()
        self.steps = settings.optimizer.steps or 0
        self.last = min(self.steps, settings.run.stop_after or self.steps)
        known = skipping.merge_ranges(
            checkpoint.record.get("skipped_ranges", []) if checkpoint else []
        )
        if late := skipping.too_late(
            skipped, known, checkpoint.consumed_samples if checkpoint else 0
        ):
            log.warning("--skip-samples: the run is already past %s", skipping.show_ranges(late))
        self.skipped = skipping.merge_ranges([*known, *skipped])
        open_loader = partial(
            MicroBatches,
            inputs.train,
            engine.batch.micro_size,
            self.world.topology.data_parallel_rank,
            self.world.topology.data_parallel,
            num_workers=settings.data.loader_workers,
            pin_memory=self.world.device.type == "cuda",
            window=self._window() if settings.data.packing == "on" else None,
            packing_budget=settings.data.packing_budget,
        )
        self.batches = skipping.GlobalBatches(
            open_loader, engine.batch.global_size, engine.batch.accumulation
        )
        self.guard = RunGuard(settings.run)
        self.pending: list[tuple[torch.Tensor, Update]] = []
        self.meter = Throughput()
        self.progress = Progress("pretrain", self.last, interval=30.0)
        self.stop_requested = False
        self._stand_at(checkpoint)

    def _window(self) -> Window:
        batch = self.engine.batch
        window = choose_window(batch.micro_size, batch.accumulation, batch.data_parallel)
        samples = window.micro_batches * batch.micro_size
        log.info(
            "packing windows of %d samples: micro steps %d x data-parallel ranks %d",
            samples,
            *window,
        )
        if batch.micro_size == 1:
            log.warning("--packing on has no effect with one sample a micro batch: raise it")
        return window

    def _stand_at(self, checkpoint: Checkpoint | None) -> None:
        """Be where the run was when it wrote ``checkpoint``; None: at its beginning."""
        record = checkpoint.record if checkpoint else {}
        self.batches.move(checkpoint.consumed_samples if checkpoint else 0, self.skipped)
        self.guard.restore(record.get("guard", []))
        self.pending.clear()
        self.unlogged = Sums(*record.get("unlogged", []))
        self.unlogged_padding = float(record.get("unlogged_padding", 0.0))
        self.tokens = int(record.get("tokens", 0))
        self.elapsed_before = float(record.get("elapsed_seconds", 0.0))
        self.started = time.monotonic()
        self.meter.read(self.batches.seconds_waited)
        self.metrics = MetricsWriter(
            self.run_folder,
            enabled=self.world.is_main,
            resumed_step=checkpoint.step if checkpoint else None,
        )
        self.saved_step = checkpoint.step if checkpoint else -1
        self.last_line: dict[str, Any] = {}
        self.last_evaluation: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train to the last step; returns the results, which are also in ``results.json``."""
        signal.signal(signal.SIGTERM, self._request_stop)
        run = self.settings.run
        while self.engine.steps_done < self.last:
            if not self._update():
                self._all_sound()  # DeepSpeed has waited for the device already
                continue
            step = self.engine.steps_done
            before_last = step < self.last
            log_now = step % run.log_interval == 0 or not before_last
            evaluate = run.eval_interval and step % run.eval_interval == 0 and before_last
            save = run.save_interval and step % run.save_interval == 0 and before_last
            ratios = run.trust_ratio_interval and step % run.trust_ratio_interval == 0
            stop = log_now and not self.world.agree(not self.stop_requested)
            saves_next = bool(save or stop or not before_last)
            look = log_now or evaluate or save or ratios
            if look and not self._all_sound(weights=saves_next):
                continue
            if log_now:
                self._log()
            if ratios:
                self.metrics.write_tensors(step, self.engine.tensor_norms())
            if stop:
                log.info("asked to stop: saving after step %d", step)
                break
            if evaluate:
                self._evaluate()
            if save:
                self._save()
        self.batches.close()
        if self.engine.steps_done == self.last:
            self._evaluate()
        if self.saved_step < self.engine.steps_done:
            self._save()
        return self._finish()

    def _update(self) -> bool:
        """One update with the next global batch; False if DeepSpeed did not apply it."""
        try:
            micro_batches = self.batches.next()
        except UserError as error:
            raise RankError(str(error)) from error
        masked, pairs = self._global_counts(micro_batches)
        # this rank's: losses, correct, counts, tokens; the gradient norm; this rank's padding
        sums = torch.zeros(9, dtype=torch.float64, device=self.world.device)
        applied = False
        for batch in micro_batches:
            self.streams.start(batch.pop("first_sample"))
            real_tokens = int(batch["attention_mask"].sum())
            output = self.engine(**self._to_device(batch))
            self.engine.backward(output.mlm_loss_sum / masked + output.nsp_loss_sum / pairs)
            sums[:6] += torch.stack([value.detach().double() for value in output])
            sums[6] += real_tokens
            sums[8] += batch["input_ids"].numel() - real_tokens
            self.meter.add(real_tokens, count_samples(batch))
            applied = self.engine.step()
        sums[7] = self.engine.norm_on_device()
        stop = self.batches.position
        samples = stop - self.engine.batch.global_size, stop
        number = self.engine.steps_done + (0 if applied else 1)
        self.pending.append((sums, Update(number, samples, applied)))
        return applied

    def _all_sound(self, *, weights: bool = False) -> bool:
        """Look at all updates since the last look; False if the run went back to a checkpoint.

        The only place of the loop where a GPU waits for the host. ``weights``: look at the weights
        too, which are about to be saved.

        Raises:
            TrainingStopped: one of them is bad, and the run is not to go back, or cannot.
        """
        table = torch.stack([sums for sums, _ in self.pending])  # [updates, 9]
        fault = None
        for row, (_, update) in zip(
            self.world.sum_over_data_parallel(table).tolist(), self.pending
        ):
            clipped = update.applied and self.engine.clips(row[7])
            sums = Sums(*row[:7])._replace(clip_hits=float(clipped))
            fault = self.guard.fault(update, sums.loss, row[7])
            if fault is not None:
                break
            self.unlogged = self.unlogged.plus(sums)
            self.unlogged_padding += row[8]
            self.tokens += round(sums.tokens)
        if fault is None and weights and not self.engine.weights_are_finite():
            _, last = self.pending[-1]
            reason = f"the weights are not finite after step {last.step}"
            fault = Fault(last.step, last.samples, reason)
        self.pending.clear()
        found = fault
        fault = from_main(self.world, lambda: found)
        if fault is None:
            return True
        self._go_back(fault)
        return False

    def _go_back(self, fault: Fault) -> None:
        """Return to the last checkpoint, and leave the bad update's samples out from now on.

        Raises:
            TrainingStopped: the run is not to go back, or cannot.
        """
        self.skipped = skipping.merge_ranges([*self.skipped, fault.samples])
        checkpoint = None
        if self.guard.may_go_back(fault):
            checkpoint = return_to_checkpoint(self.engine, self.run_folder, self.saved_step)
        if checkpoint is None:
            kept = checkpoint_tag(self.saved_step) if self.saved_step >= 0 else None
            raise self.guard.stopped(fault, kept, skipping.show_ranges(self.skipped))
        self.metrics.close()
        self._stand_at(checkpoint)
        self.metrics.write(rollback_event(fault, checkpoint.step))
        log.warning("%s; back at %s, to go on without them", fault, checkpoint.folder.name)

    def _global_counts(
        self, micro_batches: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked positions and pairs of the whole global batch (at least 1 each), 0-d tensors."""
        counts = torch.tensor(
            [
                sum(len(batch["masked_positions"]) for batch in micro_batches),
                sum(len(batch.get("next_sentence_labels", ())) for batch in micro_batches),
            ],
            dtype=torch.float32,
        ).to(self.world.device, non_blocking=True)
        masked, pairs = self.world.sum_over_data_parallel(counts).clamp(min=1.0).unbind()
        return masked, pairs

    def _to_device(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {
            name: value.to(self.world.device, non_blocking=True) for name, value in batch.items()
        }

    def _log(self) -> None:
        """Write a metrics line of the updates since the last one."""
        norm = self.engine.grad_norm()
        rates = self.meter.read(self.batches.seconds_waited)
        ranks = self.world.topology.data_parallel
        step = self.engine.steps_done
        line = {
            "step": step,
            **self.unlogged.metrics(),
            "lr": self.engine.deepspeed.lr_scheduler.lr(step),
            "grad_norm": norm,
            "tokens_per_second": rates["tokens_per_second"] * ranks,
            "samples_per_second": rates["samples_per_second"] * ranks,
            "padding_fraction": self.unlogged_padding
            / max(1.0, self.unlogged_padding + self.unlogged.tokens),
            "data_wait_fraction": rates["data_wait_fraction"],
            "model_tflops_per_second": self._flops(rates["samples_per_second"]) / 1e12,
            "clip_hits": int(self.unlogged.clip_hits),
            "skipped_steps": self.engine.skipped_steps,
            "consumed_samples": self.batches.position,
            "tokens": self.tokens,
            "elapsed_seconds": self._elapsed(),
        }
        self.unlogged, self.unlogged_padding = Sums(), 0.0
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
        values = Sums(*self.world.sum_over_data_parallel(sums).tolist()).metrics()
        self.last_evaluation = {
            "step": self.engine.steps_done,
            **{
                f"eval_{name}": values[name]
                for name in ("mlm_loss", "mlm_accuracy", "nsp_accuracy")
            },
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
        record = {
            **self.facts,
            "step": self.engine.steps_done,
            "consumed_samples": self.batches.position,
            "tokens": self.tokens,
            "elapsed_seconds": self._elapsed(),
            "guard": self.guard.window,
            "skipped_ranges": self.skipped,
            "unlogged": self.unlogged,
            "unlogged_padding": self.unlogged_padding,
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
