"""One training engine: our model and optimizer inside DeepSpeed's.

    engine = build_engine(model, world, optimizer, parallel, batch, schedule, raw)
    for each micro step:   engine.backward(loss)          # loss: the update's mean, see below
                           if engine.step(): ...          # True when that was an update

``backward`` takes each micro step's share of the *update's* loss: a sum over the micro step's items
divided by the number of items in the whole global batch. DeepSpeed divides by the accumulation steps
and averages over data-parallel ranks; the engine multiplies these two factors back in, so that the
update is the gradient of the global batch's mean whatever the ranks and micro batches are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from megabert.common.errors import TrainingStopped
from megabert.common.log import get_logger
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.config import BatchSizes, make_deepspeed_config, resolve_precision
from megabert.engine.launch import World
from megabert.engine.zero.config import check_zero_config
from megabert.engine.zero.fixes import attach_lamb, grad_norm
from megabert.engine.zero.partitions import slices_of
from megabert.kernels.float8 import use_float8
from megabert.optim.backend import apex_lamb, choose_backend
from megabert.optim.lamb import Lamb, TensorNorms
from megabert.optim.param_groups import parameter_groups, read_parameter_groups
from megabert.optim.schedule import Schedule

MOST_SKIPPED_IN_A_ROW = 50
"""Updates lost to overflow, one after another, after which a run stops."""


@dataclass
class TrainingEngine:
    """DeepSpeed's engine with what a training loop needs, and nothing else."""

    deepspeed: Any
    optimizer: torch.optim.Optimizer
    world: World
    batch: BatchSizes
    precision: str
    config: dict[str, Any]
    steps_done: int = 0
    _skipped_in_a_row: int = 0

    @property
    def module(self) -> nn.Module:
        """The model; call the engine itself for a training forward."""
        return self.deepspeed.module

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Forward through DeepSpeed (ZeRO 3 gathers weights, training or evaluation mode)."""
        return self.deepspeed(*inputs, **named)

    @property
    def learning_rate(self) -> float:
        """Rate of the next update."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def skipped_steps(self) -> int:
        """Updates not applied because a gradient overflowed."""
        return int(self.deepspeed.skipped_steps)

    @property
    def zero_stage(self) -> int:
        """Stage of ZeRO in force."""
        return int(self.deepspeed.zero_optimization_stage())

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a micro step's share (a scalar) of the update's mean loss."""
        self.deepspeed.backward(loss * (self.batch.accumulation * self.batch.data_parallel))

    def step(self) -> bool:
        """End a micro step; True if it was the last of an update that was applied.

        Raises:
            TrainingStopped: many updates in a row overflowed.
        """
        engine = self.deepspeed
        boundary = engine.is_gradient_accumulation_boundary()
        skipped = engine.skipped_steps
        engine.step()
        if not boundary:
            return False
        if engine.skipped_steps > skipped:
            self._count_skipped()
            return False
        self._skipped_in_a_row = 0
        self.steps_done += 1
        return True

    def grad_norm(self) -> float:
        """Global gradient norm of the last update before clipping; the device is waited for."""
        return grad_norm(self.deepspeed)

    def norm_on_device(self) -> torch.Tensor:
        """:meth:`grad_norm` as a scalar tensor, without waiting; 0 if DeepSpeed measures none."""
        norm = self.deepspeed.get_global_grad_norm()
        if isinstance(norm, torch.Tensor):
            return norm.detach()
        return torch.full((), 0.0 if norm is None else float(norm), device=self.world.device)

    def weights_are_finite(self) -> bool:
        """Whether all weights of all ranks are (one collective; the device is waited for)."""
        good = all(
            bool(torch.isfinite(torch.linalg.vector_norm(item.flat, torch.inf)))
            for item in slices_of(self.deepspeed)
            if item.flat.numel()
        )
        return self.world.agree(good)

    def tensor_norms(self) -> list[TensorNorms]:
        """Trust ratio and norms of each adapted tensor in the last update, the same on every rank.

        From the sums that the update made; the device is waited for. Empty where nothing adapts.
        """
        return self.optimizer.tensor_norms() if isinstance(self.optimizer, Lamb) else []

    def clips(self, norm: float) -> bool:
        """Whether a gradient of this global norm is clipped."""
        limit = float(self.deepspeed.gradient_clipping())
        return 0.0 < limit < norm

    def _count_skipped(self) -> None:
        self._skipped_in_a_row += 1
        get_logger().warning(
            "update after step %d not applied: a gradient is infinite or NaN (%d in a row)",
            self.steps_done,
            self._skipped_in_a_row,
        )
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            knob = (
                "a larger fp16.min_loss_scale or bf16"
                if self.precision == "fp16"
                else "a lower --lr"
            )
            raise TrainingStopped(
                f"{self._skipped_in_a_row} updates in a row overflowed after step {self.steps_done} "
                f"in {self.precision}; go on from the last checkpoint, or start again, with {knob}"
            )

    def describe(self) -> str:
        """What is really in force, in one line."""
        inner = type(self.deepspeed.optimizer).__name__
        own = type(self.optimizer).__name__
        if isinstance(self.optimizer, Lamb):
            own = f"{self.optimizer.rule} by {self.optimizer.backend.name}"
        return (
            f"{self.world.topology.describe()}; ZeRO {self.zero_stage}, {self.precision}, {inner}, {own}; "
            f"global batch {self.batch.global_size} = micro {self.batch.micro_size} x accumulation "
            f"{self.batch.accumulation} x data parallel {self.batch.data_parallel}"
        )


def make_optimizer(
    model: nn.Module, settings: OptimizerSettings, lr: float, zero_stage: int, tp_size: int
) -> torch.optim.Optimizer:
    """LAMB, LANS or AdamW over the model's parameter groups and the user's own.

    Raises:
        UserError: a group that matches nothing; apex where it would not be exact.
    """
    own = []
    if settings.parameter_groups is not None:
        own = read_parameter_groups(settings.parameter_groups)
    groups = parameter_groups(model, settings.weight_decay, adapt_all=settings.adapt_all, own=own)
    if settings.lamb_backend == "apex":
        return apex_lamb(
            groups,
            lr=lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            bias_correction=settings.bias_correction,
            bounds=(settings.min_trust_ratio, settings.max_trust_ratio),
            rule=settings.optimizer,
            zero_stage=zero_stage,
            tensor_parallel=tp_size,
        )
    return Lamb(
        groups,
        lr=lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        bias_correction=settings.bias_correction,
        min_trust_ratio=settings.min_trust_ratio,
        max_trust_ratio=settings.max_trust_ratio,
        rule=settings.optimizer,
    )


def build_engine(
    model: nn.Module,
    world: World,
    optimizer_settings: OptimizerSettings,
    parallel: ParallelSettings,
    batch: BatchSizes,
    schedule_name: str,
    steps: int,
    lr: float,
    warmup_fraction: float,
    raw_deepspeed: dict[str, Any] | None = None,
) -> TrainingEngine:
    """Wrap ``model`` (weights already initialized, fp32) for training in ``world``.

    ``steps``: updates of the whole schedule. ``raw_deepspeed``: a user's DeepSpeed sections.

    Raises:
        UserError: fp16 without a GPU, a configuration that cannot be exact, or an optimizer backend
            that cannot be used here.
    """
    import deepspeed

    precision = resolve_precision(parallel.precision, world.device.type == "cuda")
    config = make_deepspeed_config(
        raw_deepspeed or {}, batch, optimizer_settings, parallel, precision
    )
    check_zero_config(config)
    model.to(world.device)
    if precision == "fp8":
        use_float8(model, by_row=parallel.fp8_scaling == "row")
    optimizer = make_optimizer(model, optimizer_settings, lr, parallel.zero_stage, world.tp.size)
    schedule = Schedule(
        optimizer, schedule_name, steps=steps, peak=lr, warmup_fraction=warmup_fraction
    )
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        mpu=world.mpu,
        config=config,
        dist_init_required=False,
    )
    device = attach_lamb(engine, world.tp)
    if isinstance(optimizer, Lamb):
        optimizer.backend = choose_backend(
            optimizer_settings.lamb_backend, device, flat=parallel.zero_stage > 0
        )
    # a copy of a script that knows no tensor parallelism; launch/convert.py is the way out
    engine._copy_recovery_script = lambda _: None
    return TrainingEngine(engine, optimizer, world, batch, precision, config)
