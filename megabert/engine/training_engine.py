"""DeepSpeed's engine as a training loop sees it: micro steps, norms, whole tensors and counters.

    for each micro step:   engine.backward(loss)          # loss: a part of the update's mean, see below
                           if engine.step(): ...          # True when the update was applied

:meth:`TrainingEngine.backward` takes each micro step's part of the *update's* loss: a sum over the
micro step's items divided by the number of items in the whole global batch. DeepSpeed divides by the
accumulation steps and averages over data-parallel ranks; the engine multiplies these two factors back
in, so that the update is the gradient of the global batch's mean for any ranks and micro batches.

No other class holds DeepSpeed's engine. The checkpoint package uses :meth:`TrainingEngine.save_files`
and :meth:`TrainingEngine.load_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megabert.common.errors import TrainingStopped
from megabert.common.log import get_logger
from megabert.engine.broadcast import first_of_ranks
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World
from megabert.engine.watch.pulse import PULSE
from megabert.engine.zero.averaged import averaged_weights
from megabert.engine.zero.fixes import grad_norm, keep_scaler_settings, scaler_of
from megabert.engine.zero.partitions import FlatPartition, partitions_of
from megabert.engine.zero.whole_tensors import (
    average_copies,
    iterate_state,
    optimizer_step,
    state_names,
    write_state,
)
from megabert.optim.base import ShardedOptimizer, TensorNorms
from megabert.optim.curve import Curve

MOST_SKIPPED_IN_A_ROW = 50
"""A run stops when this many consecutive updates overflow."""


def _all_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(torch.linalg.vector_norm(values, torch.inf)))


@dataclass
class TrainingEngine:
    """DeepSpeed's engine with what a training loop needs, and nothing else."""

    _deepspeed: Any
    optimizer: ShardedOptimizer
    world: World
    batch: BatchSizes
    precision: str
    config: dict[str, Any]
    steps_done: int = 0
    _skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        self._division = self.batch

    def divide(self, batch: BatchSizes) -> None:
        """The sizes of the updates from now on; called between two updates.

        DeepSpeed counts micro steps from the start of the job, and an update ends where the count is a
        multiple of the accumulation. It begins again here, so that the first update of another accumulation
        is a whole one, as after a resume.
        """
        if batch == self._division:
            return
        engine = self._deepspeed
        engine.set_train_micro_batch_size(batch.micro_size)
        engine.set_train_batch_size(batch.global_size)
        engine.micro_steps = 0
        self._division = batch

    @property
    def module(self) -> nn.Module:
        """The model; call the engine itself for a training forward."""
        return self._deepspeed.module

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Forward through DeepSpeed (ZeRO 3 gathers weights, training or evaluation mode)."""
        PULSE.tick()
        return self._deepspeed(*inputs, **named)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro step's part (a scalar) of the update's mean loss."""
        PULSE.tick()
        batch = self._division
        self._deepspeed.backward(loss * (batch.accumulation * batch.data_parallel))

    def step(self) -> bool:
        """End a micro step; True if it was the last of an update that was applied.

        Raises:
            TrainingStopped: many consecutive updates overflowed.
        """
        engine = self._deepspeed
        boundary = engine.is_gradient_accumulation_boundary()
        skipped = engine.skipped_steps
        PULSE.tick()
        engine.step()
        if not boundary:
            return False
        if engine.skipped_steps > skipped:
            self._count_skipped()
            return False
        self._skipped_in_a_row = 0
        self.steps_done += 1
        return True

    def _count_skipped(self) -> None:
        self._skipped_in_a_row += 1
        get_logger().warning(
            "update after step %d not applied: a gradient is infinite or NaN (%d in a row)",
            self.steps_done,
            self._skipped_in_a_row,
        )
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            cure = "a lower --lr"
            if self.precision == "fp16":
                cure += ", bf16, or a smaller fixed fp16.loss_scale in a DeepSpeed file"
            raise TrainingStopped(
                f"{self._skipped_in_a_row} updates in a row overflowed after step {self.steps_done} in "
                f"{self.precision}; resume from the last checkpoint, or start again, with {cure}"
            )

    def close(self) -> None:
        """Free DeepSpeed's buffers and hooks; the engine cannot be used afterwards."""
        self._deepspeed.destroy()

    # ---------------------------------------------------------------- current settings

    @property
    def zero_stage(self) -> int:
        """ZeRO stage in force."""
        return int(self._deepspeed.zero_optimization_stage())

    @property
    def optimizer_wrapper(self) -> str:
        """Name of DeepSpeed's class around the optimizer; "none" where there is no wrapper."""
        wrapper = self._deepspeed.optimizer
        return "none" if wrapper is self._deepspeed.basic_optimizer else type(wrapper).__name__

    @property
    def learning_rate(self) -> float:
        """Rate of the next update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def follow(self, curve: Curve) -> None:
        """Use these learning rates."""
        self._deepspeed.lr_scheduler.follow(curve)

    def trains_nothing(self, done: int = 0) -> str | None:
        """See :meth:`Curve.trains_nothing`."""
        warning: str | None = self._deepspeed.lr_scheduler.curve.trains_nothing(done)
        return warning

    def learning_rate_at(self, step: int) -> float:
        """Rate of update ``step``, counted from 1, by the run's schedule."""
        return float(self._deepspeed.lr_scheduler.lr(step))

    def clips(self, norm: float) -> bool:
        """Whether a gradient of this global norm is clipped."""
        limit = float(self._deepspeed.gradient_clipping())
        return 0.0 < limit < norm

    def describe(self) -> dict[str, str]:
        """The division of the work in a few words per topic, for the first lines of a run."""
        batch, topology = self.batch, self.world.topology
        return {
            "batch": f"{batch.global_size:,} = micro batch {batch.micro_size} x accumulation "
            f"{batch.accumulation} x data parallel {batch.data_parallel}",
            "ranks": f"{topology.world_size} = data parallel {topology.data_parallel} x tensor parallel "
            f"{topology.tensor_parallel}",
            "engine": f"ZeRO {self.zero_stage}, {self.precision}, {self.optimizer.describe()}",
        }

    # ---------------------------------------------------------------- norms

    def grad_norm(self) -> float:
        """Global gradient norm of the last update before clipping; waits for the device."""
        return grad_norm(self._deepspeed)

    def norm_on_device(self) -> Tensor:
        """:meth:`grad_norm` as a scalar tensor, without waiting; 0 if DeepSpeed measures none."""
        norm = self._deepspeed.get_global_grad_norm()
        if isinstance(norm, Tensor):
            return norm.detach()
        return torch.full((), 0.0 if norm is None else float(norm), device=self.world.device)

    def tensor_norms(self) -> list[TensorNorms]:
        """Trust ratio and norms of each adapted tensor in the last update, the same on every rank.

        They come from the sums that the update made; waits for the device. Empty if no tensor is
        adapted.
        """
        return self.optimizer.tensor_norms()

    def weights_are_finite(self) -> bool:
        """Whether all weights of all ranks are finite (one collective; waits for the device)."""
        good = all(_all_finite(item.flat) for item in self.partitions() if item.flat.numel())
        return self.world.agree(good)

    def not_finite(self) -> str | None:
        """A weight or state tensor of any rank that is NaN or infinite, or None (all ranks call)."""
        return first_of_ranks(self.world, next(self._not_finite_here(), None))

    def _not_finite_here(self) -> Iterator[str]:
        for item in self.partitions():
            state = self.optimizer.state.get(item.flat, {})
            for key in ("weight", *state_names(self.optimizer, item)):
                flat = item.flat if key == "weight" else state.get(key)
                if flat is None or not flat.numel() or _all_finite(flat):
                    continue
                for segment in item.partition.segments:
                    start = segment.partition_start
                    if not _all_finite(flat.reshape(-1)[start : start + segment.numel]):
                        yield f"{key} of {item.partition.names[segment.row]}"

    # ---------------------------------------------------------------- weights and moments

    def partitions(self) -> list[FlatPartition]:
        """This rank's fp32 partitions and what lies in them, in the same order on every rank."""
        return partitions_of(self._deepspeed)

    def whole_tensors(
        self, keys: Sequence[str] | None = None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every trained tensor whole, one at a time: see :func:`iterate_state` (a collective)."""
        return iterate_state(self._deepspeed, self.world.tp, keys)

    def load_whole_tensors(self, full: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Replace weights and moments: see :func:`write_state`.

        Raises:
            UserError: a parameter that ``full`` lacks, or one of another shape.
        """
        write_state(self._deepspeed, self.world.tp, full, step)

    def average_copies(self) -> None:
        """Make tensor-parallel ranks' copies equal: see the function of that name (all ranks call)."""
        found = average_copies(self._deepspeed, self.world.tp)
        if found is not None and self.world.is_main:
            get_logger().warning(
                "the copies on tensor-parallel ranks differed and are replaced by their mean; most: %s",
                found,
            )

    def keep_average(self, decay: float) -> None:
        """Keep a moving average of the weights, as optimizer state (before a checkpoint is loaded)."""
        self.optimizer.keep_average(decay)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within the block the model computes with the moving average; see :func:`averaged_weights`."""
        return averaged_weights(self._deepspeed, self.world.tp)

    # ---------------------------------------------------------------- counters

    @property
    def optimizer_steps(self) -> int:
        """Updates that the optimizer's state has received."""
        return optimizer_step(self._deepspeed)

    @property
    def scheduled_steps(self) -> int:
        """Applied updates that the learning-rate schedule has counted."""
        return int(self._deepspeed.lr_scheduler.applied_steps)

    @property
    def skipped_steps(self) -> int:
        """Updates not applied because a gradient overflowed."""
        return int(self._deepspeed.skipped_steps)

    @property
    def attempted_steps(self) -> int:
        """Applied and skipped updates, as DeepSpeed counts them."""
        return int(self._deepspeed.global_steps)

    @property
    def attempted_samples(self) -> int:
        """Sequences of the applied and skipped updates, as DeepSpeed counts them."""
        return int(self._deepspeed.global_samples)

    @property
    def loss_scale(self) -> float | None:
        """Factor of the loss in fp16; None in other precisions."""
        return float(self._deepspeed.optimizer.loss_scale) if self.precision == "fp16" else None

    def restore_counters(
        self, step: int, skipped: int, loss_scale: float | None, samples: int | None = None
    ) -> None:
        """Continue counting after ``step`` applied and ``skipped`` skipped updates.

        ``samples``: those of all these updates, if they had not all one batch size. ``loss_scale`` (None: none was saved) is used in fp16 where the scale is dynamic; a scale
        that the user has fixed stays.
        """
        engine = self._deepspeed
        engine.lr_scheduler.load_state_dict({"applied_steps": step})
        engine.skipped_steps = skipped
        engine.global_steps = step + skipped
        engine.global_samples = engine.global_steps * engine.train_batch_size()
        if samples is not None:
            engine.global_samples = samples
        self.steps_done = step
        if self.precision == "fp16" and loss_scale is not None and engine.dynamic_loss_scale():
            engine.optimizer.loss_scale = loss_scale

    # ---------------------------------------------------------------- DeepSpeed's files

    def save_files(self, folder: Path, client_state: dict[str, Any], writer: Any) -> None:
        """Write this rank's files of a DeepSpeed checkpoint into ``folder`` (all ranks call).

        ``writer``: the DeepSpeed checkpoint engine that writes them.
        """
        engine = self._deepspeed
        previous, engine.checkpoint_engine = engine.checkpoint_engine, writer
        try:
            engine.save_checkpoint(
                str(folder.parent), tag=folder.name, client_state=client_state, save_latest=False
            )
        finally:
            engine.checkpoint_engine = previous

    def load_files(self, folder: Path, step: int, reader: Any) -> bool:
        """Load what :meth:`save_files` wrote after update ``step``, bit for bit (all ranks call).

        ``reader``: the DeepSpeed checkpoint engine that reads them. DeepSpeed also takes over the
        optimizer's settings and the clipping of the checkpoint. Those of this run stay in force, so
        that a flag given on resume takes effect. False if DeepSpeed found nothing to load.
        """
        base, wrapper = self._deepspeed.basic_optimizer, self._deepspeed.optimizer
        settings = [
            {key: value for key, value in group.items() if key not in ("params", "lr", "step")}
            for group in base.param_groups
        ]
        clipping = getattr(wrapper, "clip_grad", None)
        engine = self._deepspeed
        scaler = scaler_of(engine)
        previous, engine.checkpoint_engine = engine.checkpoint_engine, reader
        try:
            path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
        finally:
            engine.checkpoint_engine = previous
        if path is None:
            return False
        for group, own in zip(base.param_groups, settings):
            group.update(own)
        if clipping is not None:
            wrapper.clip_grad = clipping
        keep_scaler_settings(engine, scaler)
        self.steps_done = step
        return True
