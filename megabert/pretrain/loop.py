"""The loop of one pretraining run: update, judge, log, evaluate, save.

The sums of an update stay on the device until a line of metrics, an evaluation or a checkpoint is due.
Then every update since is judged, in order (:mod:`megabert.pretrain.loss_guard`), so that no checkpoint
is written after a bad update.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NoReturn

import torch

from megabert.checkpoint import resume
from megabert.checkpoint.retention import evaluated
from megabert.checkpoint.rollback import return_to_checkpoint
from megabert.checkpoint.save_load import Checkpoint, abandon_later, save_checkpoint
from megabert.common.errors import AgreedStop, StoppedOnRequest, UserError
from megabert.common.files import write_json
from megabert.common.log import get_logger, human_duration
from megabert.common.names import RUN_CHECKPOINTS, RUN_RESULTS, checkpoint_tag
from megabert.common.processes.stopping import stop_watch
from megabert.common.progress import Progress
from megabert.common.storage import RESUME, StorageFault, named_storage_errors
from megabert.config import flags
from megabert.config.training import DividedSettings
from megabert.data.samples import skip
from megabert.data.samples.course import CourseStage
from megabert.engine.agreement import StopAgreement
from megabert.engine.broadcast import broadcast_object
from megabert.engine.metrics.clock import OTHER
from megabert.engine.metrics.profiler import profiled
from megabert.engine.metrics.throughput import Meter
from megabert.engine.metrics.token_counts import Workload, workload
from megabert.engine.metrics.trackers.sending import Tracking
from megabert.engine.metrics.writer import MetricsWriter, progress_text
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.watch.pulse import PULSE
from megabert.pretrain.batches import (
    UnreadableData,
    global_counts,
    open_batches,
    require_readable,
    stage_sizes,
)
from megabert.pretrain.best import BestCheckpoint, retention_of
from megabert.pretrain.evaluation import evaluate, evaluation_lines
from megabert.pretrain.inputs import Inputs, mask_schedule
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.lengths.durations import Interval, last_update
from megabert.pretrain.loss_guard import Fault, RunGuard, Sums, Update, rollback_event
from megabert.pretrain.run_folder import trained_positions

log = get_logger()


class Loop:
    """One run from its first or resumed step to its last."""

    def __init__(
        self,
        settings: DividedSettings,
        inputs: Inputs,
        engine: TrainingEngine,
        checkpoint: Checkpoint | None,
        identity: dict[str, Any],
        skipped: list[skip.Range],
    ) -> None:
        self.settings, self.inputs, self.engine = settings, inputs, engine
        self.world, self.identity = engine.world, identity
        self.run_folder = settings.run.output
        self.checkpoints = self.run_folder / RUN_CHECKPOINTS
        self.retention = retention_of(settings.run)
        self.best = BestCheckpoint(self.retention, self.checkpoints)
        self.better = False  # the last evaluation is the best so far, and no checkpoint has it yet
        self.steps = settings.optimizer.steps
        self.course, run = course_of(settings), settings.run
        course = partial(course_of, settings)
        self.last = last_update(settings, course)
        self.log_due = Interval(run.log_interval, course)
        self.evaluation_due = Interval(run.eval_interval, course)
        self.save_due = Interval(run.save_interval, course)
        known = skip.merge_ranges(checkpoint.record.get("skipped_ranges", []) if checkpoint else [])
        if late := skip.already_trained(
            skipped, known, checkpoint.consumed_samples if checkpoint else 0
        ):
            log.warning("--skip-samples: the run is already past %s", skip.show_ranges(late))
        self.skipped = skip.merge_ranges([*known, *skipped])
        self.stage = self.course.final  # that of the last update, once there was one
        self.samples = inputs.along(self.course)
        self.batches = open_batches(settings, self.samples, self.world, engine.batch)
        self.mask_schedule = mask_schedule(settings, self.course)
        self.guard = RunGuard(settings.run)
        self.pending: list[tuple[torch.Tensor, Workload, Update]] = []
        peak = settings.run.peak_tflops
        self.meter = Meter(
            self.world, inputs.model, engine.precision, peak * 1e12 if peak else None
        )
        self.clock = self.meter.clock
        self.tracking = Tracking(settings.trackers, flags.to_values(settings, absolute=True))
        self.progress = Progress("pretrain", self.course.tokens(self.last), interval=30.0)
        self.watch = stop_watch()
        self.agreement = StopAgreement(self.world, self.watch)
        self.epochs_named: set[tuple[int, int, int]] = set()
        self.stopped: str | None = None  # who asked the run to stop, once all ranks know
        self._restore_position(checkpoint)
        self.evaluate_first = self.saved_step < 0 and settings.run.eval_at_start

    def _restore_position(self, checkpoint: Checkpoint | None) -> None:
        """Restore the loop's state from ``checkpoint``; None: that of the start of the run.

        A decay branch begins with a checkpoint of another run.
        """
        record = checkpoint.record if checkpoint else {}
        own = checkpoint and checkpoint.folder.is_relative_to(self.checkpoints)
        if own and checkpoint:
            tag = checkpoint.folder.name
            broadcast_object(self.world, lambda: abandon_later(self.checkpoints, tag))
        self.batches.move(checkpoint.consumed_samples if checkpoint else 0, self.skipped)
        self.guard.restore(record.get("guard", []))
        self.pending.clear()
        self.unlogged = Sums(*record.get("unlogged", []))
        self.tokens = int(record.get("tokens", 0))
        self._open_metrics(checkpoint.step if checkpoint and own else None)
        self.elapsed_before = float(record.get("elapsed_seconds", 0.0))
        self.started = time.monotonic()
        self.progress.restart(self.course.tokens(checkpoint.step if checkpoint else 0))
        self.meter.restore(record, self.batches.seconds_waited)
        self.saved_step = checkpoint.step if checkpoint and own else -1
        self.better = False
        broadcast_object(self.world, lambda: self.best.mark(self.saved_step))
        self.last_line: dict[str, Any] = dict(self.metrics.last_line)  # of the main rank
        known = broadcast_object(self.world, lambda: dict(self.metrics.evaluation))
        marked = self.settings.run.keep_best is None or "evaluation" in record
        self.last_evaluation: dict[str, Any] = known if marked else {}

    def _open_metrics(self, resumed_step: int | None) -> None:
        self.metrics = MetricsWriter(self.run_folder, enabled=False)

        def open_files() -> None:
            with named_storage_errors(self.run_folder, then=RESUME):
                self.metrics = MetricsWriter(
                    self.run_folder,
                    enabled=True,
                    resumed_step=resumed_step,
                    tracking=self.tracking,
                )

        broadcast_object(self.world, open_files)

    def run(self) -> dict[str, Any]:
        """Train to the last step; returns the results, which are also in ``results.json``.

        Raises:
            StoppedOnRequest: some rank was asked to stop before; everything is saved.
        """
        with self.tracking.ended():
            return self._run()

    def _run(self) -> dict[str, Any]:
        self.watch.look(self.settings.run.stop_grace, self._kept)
        profile = self.settings.run.profile
        try:
            with (
                self.clock.running(),
                profiled(profile, self.run_folder, self.world, self.meter, self._remark),
            ):
                if self.evaluate_first:
                    self._evaluate()  # if asked to stop meanwhile, the run stops after its first update
                    self.better = False  # what the run starts from is not one of its checkpoints
                self._train()
            self.batches.close()
            ended = self.engine.steps_done == self.last
            if ended and self.last_evaluation.get("step") != self.last and not self._evaluate():
                self._stop()
        except UnreadableData as error:
            self._end_without_data(str(error))
        if self.saved_step < self.engine.steps_done:
            self._save()
        elif self.better:  # an earlier job saved this step, and ended before its evaluation
            broadcast_object(
                self.world, lambda: self.best.mark_evaluated(self.last_evaluation, self.saved_step)
            )
        results = self._finish()
        if self.stopped is not None:
            tag = self.checkpoints / checkpoint_tag(self.saved_step)
            raise StoppedOnRequest(
                f"{self.stopped}: saved {tag} of {self.steps} steps; continue with --resume auto"
            )
        return results

    def _train(self) -> None:
        """Update until the last step, or until the run is asked to stop."""
        run = self.settings.run
        while self.engine.steps_done < self.last:
            self._require_first_batch()
            with PULSE.update(self.engine.steps_done + 1):
                applied = self._update()
            if not applied:
                self._all_finite()  # DeepSpeed has waited for the device already
                continue
            step = self.engine.steps_done
            before_last = step < self.last
            log_now = self.log_due.due(step) or not before_last
            evaluate = self.evaluation_due.due(step) and before_last
            kept = run.keep_every is not None and step % run.keep_every == 0
            save = (self.save_due.due(step) or kept) and before_last
            ratios = run.trust_ratio_interval and step % run.trust_ratio_interval == 0
            stop = self.agreement.asked and before_last
            may_save = bool(save or stop or evaluate or not before_last)  # it may be asked to stop
            look = log_now or evaluate or save or ratios or stop
            if look and not self._all_finite(weights=may_save):
                continue
            if log_now:
                self._log()
            if ratios:
                self.metrics.write_tensors(step, self.engine.tensor_norms())
            if stop or (evaluate and not self._evaluate()):
                self._stop()
                break
            if log_now or evaluate or ratios:
                self._require_metrics()
            if save or self.better:
                self._save()

    def _stop(self) -> None:
        """Note that the run was asked to stop (a collective); it saves what is not saved, and ends."""
        self.stopped = self.agreement.reason()
        log.info("%s: stopping after step %d", self.stopped, self.engine.steps_done)

    def _require_metrics(self) -> None:
        """End the run, with a checkpoint if there is room for one, if its metrics cannot be written.

        Raises:
            StorageFault: they cannot; with the file, the reason, and what is kept.
        """
        if self.world.agree(self.metrics.failure is None):
            return
        failure = broadcast_object(self.world, lambda: self.metrics.failure)
        step = self.engine.steps_done
        if self.saved_step < step and self.engine.weights_are_finite():
            try:
                self._save()
            except StorageFault as error:
                more = "" if str(error) == failure else f"; {error}"
                raise StorageFault(f"stopped after step {step}: {failure}{more}") from error
        kept = checkpoint_tag(self.saved_step) if self.saved_step >= 0 else "no checkpoint"
        raise StorageFault(f"stopped after step {step} ({kept} is kept): {failure}")

    def _update(self) -> bool:
        """One update with the next global batch; False if DeepSpeed did not apply it."""
        clock, step = self.clock, self.engine.steps_done + 1
        clock.begin(sampled=self.log_due.due(step) or step == self.last)
        PULSE.enter("reading samples")
        before = self.batches.position
        micro_batches = self.batches.next(more=step < self.last)
        PULSE.enter("update")
        clock.enter(OTHER)
        failed = self.batches.fault is not None
        masked, pairs = global_counts(self.agreement, self.world, micro_batches, failed=failed)
        if self.agreement.failed:
            clock.end()
            self.batches.position = before  # this batch is not trained on
            require_readable(self.world, self._fault_of_data())
        stop = self.batches.position
        self._enter_stage(self.course.at_sample(stop - 1), step)
        # this rank's: losses, correct, counts; the gradient norm; the z-loss
        sums = torch.zeros(8, dtype=torch.float64, device=self.world.device)
        work, applied = Workload(), False
        for batch in micro_batches:
            work = work.plus(workload(batch))
            clock.enter("forward")
            output = self.engine(batch.to(self.world.device))
            clock.enter("backward")
            self.engine.backward(output.mlm_loss_sum / masked + output.nsp_loss_sum / pairs)
            clock.enter(OTHER)
            values = output.sums()
            sums[:6] += values[:6]
            sums[7] += values[6]
            clock.enter("optimizer")
            applied = self.engine.step()
            clock.enter(OTHER)
        sums[6] = self.engine.norm_on_device()
        clock.end()
        samples = stop - self.stage.batch, stop
        number = self.engine.steps_done + (0 if applied else 1)
        self._name_epochs(before, stop, number)
        self.pending.append((sums, work, Update(number, samples, applied)))
        return applied

    def _enter_stage(self, stage: CourseStage, step: int) -> None:
        """Divide the updates as this stage of the course needs it, from update ``step`` on."""
        self.engine.divide(stage_sizes(self.engine.batch, self.course, stage))
        if stage != self.stage and not self.course.constant:
            log.info(
                "step %d: from here on batches of %d sequences of %d tokens",
                step, stage.batch, stage.length,
            )  # fmt: skip
        self.stage = stage

    def _name_epochs(self, first: int, stop: int, step: int) -> None:
        """Log once which corpora begin another epoch among these samples of the run."""
        for corpus, epoch, sample, length in self.samples.epochs_begun(first, stop):
            if (corpus, epoch, length) not in self.epochs_named:
                self.epochs_named.add((corpus, epoch, length))
                log.info(
                    "%s: epoch %d%s begins with sample %d of the run (step %d)",
                    self.inputs.trained[corpus].name,
                    epoch,
                    f" of length {length}" if len(self.course.lengths) > 1 else "",
                    sample,
                    step,
                )

    def _require_first_batch(self) -> None:
        """With batches read ahead: all ranks have one to begin with, at the start and after a return."""
        if self.batches.ahead and self.batches.at_start:
            self.batches.ready()
            require_readable(self.world, self._fault_of_data())

    def _fault_of_data(self) -> str | None:
        return None if self.batches.fault is None else str(self.batches.fault)

    def _end_without_data(self, reason: str) -> NoReturn:
        """Save what was trained, and end the run (all ranks call, between two updates).

        Raises:
            UserError: there is nothing to save.
            AgreedStop: the fault of the data, and the checkpoint.
        """
        self.batches.close()
        if self.pending:  # if this returns to a checkpoint, that is the one to name
            self._all_finite(weights=True)
        step = self.engine.steps_done
        if step == 0:
            raise UserError(reason)
        if self.saved_step < step:
            self._save()
        self.metrics.close()
        raise AgreedStop(
            f"{reason}; {checkpoint_tag(step)} is saved: put this right, and continue with "
            "--resume auto"
        )

    def _all_finite(self, *, weights: bool = False) -> bool:
        """Judge all updates since the last call; False if the run returned to a checkpoint.

        This is the only place in the loop where a GPU waits for the host. ``weights``: also check the
        weights, which are about to be saved.

        Raises:
            TrainingStopped: an update is bad, and the run may not or cannot return to a checkpoint.
        """
        fault, ranks = None, self.world.topology.data_parallel
        for row, (_, _, update) in zip(self._summed(), self.pending):
            work, norm = Workload(*row[8:]), row[6] / ranks  # every rank has the same norm
            clipped = update.applied and self.engine.clips(norm)
            sums = Sums(*row[:6])._replace(
                tokens=work.tokens, clip_hits=float(clipped), z_loss=row[7]
            )
            fault = self.guard.fault(update, sums.loss, norm)
            if fault is not None:
                break
            self.unlogged = self.unlogged.plus(sums)
            self.meter.add(work)
            self.tokens += round(work.tokens)
        if fault is None and weights and not self.engine.weights_are_finite():
            _, _, last = self.pending[-1]
            reason = f"the weights are not finite after step {last.step}"
            fault = Fault(last.step, last.samples, reason)
        self.pending.clear()
        found = fault
        fault = broadcast_object(self.world, lambda: found)
        if fault is None:
            return True
        self._go_back(fault)
        return False

    def _summed(self) -> list[list[float]]:
        """Sums, norm and work of each pending update, summed over the data-parallel ranks."""
        work = torch.tensor([work for _, work, _ in self.pending], dtype=torch.float64)
        sums = torch.stack([sums for sums, _, _ in self.pending])
        table = torch.cat([sums, work.to(sums.device)], dim=1)  # [updates, 8 + 5]
        rows: list[list[float]] = self.world.sum_over_data_parallel(table).tolist()
        return rows

    def _go_back(self, fault: Fault) -> None:
        """Return to the last checkpoint, and skip the bad update's samples from now on.

        Raises:
            TrainingStopped: the run may not or cannot return to a checkpoint.
        """
        self.skipped = skip.merge_ranges([*self.skipped, fault.samples])
        checkpoint = None
        if self.guard.may_go_back(fault):
            checkpoint = return_to_checkpoint(self.engine, self.run_folder, self.saved_step)
        if checkpoint is None:
            kept = checkpoint_tag(self.saved_step) if self.saved_step >= 0 else None
            raise self.guard.stopped(fault, kept, skip.show_ranges(self.skipped))
        self.metrics.close()
        self._restore_position(checkpoint)
        self.metrics.write(rollback_event(fault, checkpoint.step))
        log.warning(
            "%s; returned to %s, continuing without these samples", fault, checkpoint.folder.name
        )

    def _log(self) -> None:
        """Write a metrics line of the updates since the last one."""
        norm, step = self.engine.grad_norm(), self.engine.steps_done
        line = {
            "step": step,
            **self.unlogged.metrics(),
            "lr": self.engine.learning_rate_at(step),
            "grad_norm": norm,
            **self.meter.line(self.batches.seconds_waited),
            "clip_hits": int(self.unlogged.clip_hits),
            "skipped_steps": self.engine.skipped_steps,
            "consumed_samples": self.batches.position,
            "tokens": self.tokens,
            **self._shown_stage(),
            "elapsed_seconds": self._elapsed(),
        }
        if self.mask_schedule is not None:
            line["mask_fraction"] = self.mask_schedule.fraction(self.batches.position - 1)
        self.unlogged = Sums()
        self.last_line = line
        self.metrics.write(line)
        if self.world.is_main:
            self.progress.update(
                self.course.tokens(step), f"step {step}/{self.last}  {progress_text(line)}"
            )

    def _shown_stage(self) -> dict[str, int]:
        """Batch size and length of the last update, for a line of metrics; nothing in a run without ramps."""
        if self.course.constant:
            return {}
        return {"global_batch_size": self.stage.batch, "seq_length": self.stage.length}

    def _evaluate(self) -> bool:
        """Losses and accuracies of the evaluation samples: the same samples and masks every time.

        False if the run was asked to stop before it had them.
        """
        if not self.inputs.evaluated:
            return True
        began, step = time.monotonic(), self.engine.steps_done
        with PULSE.doing("evaluation"):
            values = evaluate(self.engine, self.settings, self.inputs)
        if values is None:
            return False
        self.last_evaluation = {"step": step, **values}
        self.metrics.write(self.last_evaluation)
        seconds = time.monotonic() - began
        self.meter.pause(seconds)
        corpora = [c.name for c in self.inputs.evaluated] if len(self.inputs.corpora) > 1 else []
        for line in evaluation_lines(values, corpora, seconds):
            log.info("step %d  %s", step, line)
        self.better = broadcast_object(
            self.world, lambda: self.best.is_improved(values, self.saved_step)
        )
        return True

    def _save(self) -> None:
        began = time.monotonic()
        lengths = [stage.length for stage in self.course.reached(self.batches.position)]
        earlier = self.identity["trained_positions"]
        record = {
            **self.identity,
            "trained_positions": trained_positions(lengths, self.inputs.model, earlier),
            "step": self.engine.steps_done,
            "consumed_samples": self.batches.position,
            "tokens": self.tokens,
            "elapsed_seconds": self._elapsed(),
            "guard": self.guard.window,
            "skipped_ranges": self.skipped,
            "unlogged": self.unlogged,
            **self.meter.record(),
        }
        if self.last_evaluation.get("step") == self.engine.steps_done:
            values = {k: v for k, v in self.last_evaluation.items() if k != "step"}
            record["evaluation"] = evaluated(values)
        with PULSE.doing("saving a checkpoint"):
            folder = save_checkpoint(
                self.engine,
                self.run_folder,
                record,
                resume.universal_info(self.engine, self.inputs.model),
                self.retention,
            )
        self.saved_step, self.better = self.engine.steps_done, False
        self.meter.pause(time.monotonic() - began)
        log.info("saved %s (%.1f s)", folder, time.monotonic() - began)

    def _remark(self, event: dict[str, Any]) -> None:
        self.metrics.write({"step": self.engine.steps_done, **event})

    def _elapsed(self) -> float:
        return round(self.elapsed_before + time.monotonic() - self.started, 3)

    def _kept(self) -> str:
        """What is left if the process ends now; called by the thread of the watch."""
        if self.saved_step < 0:
            return "; no checkpoint is saved yet"
        return f"; the last checkpoint is {checkpoint_tag(self.saved_step)}; continue with --resume auto"

    def _finish(self) -> dict[str, Any]:
        step = self.engine.steps_done
        best = broadcast_object(self.world, lambda: self.best.result(self.saved_step))
        began = self.identity.get("decay_from")
        results = {
            "step": step,
            "steps": self.steps,
            **({"decay_from": began} if began else {}),
            "finished": step == self.steps and self.stopped is None,
            **{key: value for key, value in self.last_line.items() if key != "step"},
            **{key: value for key, value in self.last_evaluation.items() if key != "step"},
            **({"best": best} if best else {}),
            "whole_run": self.meter.whole_run(),
            "elapsed_seconds": self._elapsed(),
        }
        self.metrics.close()
        self._require_metrics()
        broadcast_object(self.world, lambda: write_json(self.run_folder / RUN_RESULTS, results))
        self.tracking.results(results)
        if self.world.is_main:
            self.progress.close(f"step {step}/{self.steps} after {human_duration(self._elapsed())}")
        self.watch.leave()
        self.world.barrier()
        return results
