"""Build a training engine: our model and optimizer inside DeepSpeed's engine."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.config import BatchSizes, make_deepspeed_config, resolve_precision
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.zero.config import check_zero_config
from megabert.engine.zero.fixes import attach_lamb
from megabert.kernels.float8 import use_float8
from megabert.optim.backend import apex_lamb, choose_backend
from megabert.optim.lamb import Lamb
from megabert.optim.param_groups import parameter_groups, read_parameter_groups
from megabert.optim.schedule import Schedule


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
