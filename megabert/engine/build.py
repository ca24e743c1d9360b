"""Build a training engine: our model and optimizer inside DeepSpeed's engine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from megabert.common.errors import UserError, first_fault
from megabert.common.log import get_logger
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine.config import BatchSizes, make_deepspeed_config, resolve_precision
from megabert.engine.launch import World
from megabert.engine.library_log import prints_logged
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.zero.config import check_zero_config
from megabert.engine.zero.fixes import prepare_engine, spare_compiler
from megabert.kernels.attention.dispatch import use_attention
from megabert.kernels.float8 import use_float8
from megabert.optim.base import ShardedOptimizer
from megabert.optim.curve import Curve
from megabert.optim.param_groups import (
    MOMENTS,
    parameter_groups,
    read_parameter_groups,
    with_own_moments,
)
from megabert.optim.registry import StateLayout, optimizer_spec
from megabert.optim.schedule import Schedule

_ALWAYS_READ = frozenset(
    {
        "optimizer", "lr", "weight_decay", "parameter_groups", "gradient_clipping", "schedule",
        "warmup_fraction", "steps",
    }
)  # fmt: skip
"""Fields of OptimizerSettings that do not belong to an optimizer's rule."""


def _optimizer(
    model: nn.Module, settings: OptimizerSettings, layout: StateLayout
) -> ShardedOptimizer:
    """The optimizer over the model's parameter groups and the user's own.

    Raises:
        UserError: a group that matches nothing; an optimizer that would not be exact in this layout.
    """
    spec = optimizer_spec(settings.optimizer)
    read = spec.fields_read(settings)
    for field in fields(OptimizerSettings):
        unused = field.name not in _ALWAYS_READ | read
        if unused and getattr(settings, field.name) != field.default:
            flag = "--" + field.name.replace("_", "-")
            get_logger().warning("%s has no effect with --optimizer %s", flag, spec.name)
    own = []
    if settings.parameter_groups is not None:
        own = read_parameter_groups(settings.parameter_groups)
    unused_keys = [name for name in MOMENTS if name not in read]
    unused_keys += [] if "adapt_all" in read else ["adapt"]
    unused_keys += [] if spec.matrices is not None else ["muon"]
    for number, rule in enumerate(own, 1):
        for name in unused_keys:
            if getattr(rule, name) is not None:
                raise UserError(
                    f"--parameter-groups: group {number} ({rule.match!r}) sets {name}, which --optimizer "
                    f"{spec.name} does not use; leave it out"
                )
    groups = parameter_groups(
        model, settings.weight_decay, adapt_all=settings.adapt_all, own=own, matrices=spec.matrices
    )
    groups = with_own_moments(groups, (settings.beta1, settings.beta2), settings.eps)
    return spec.make(groups, settings, layout)


def _schedule(optimizer: ShardedOptimizer, settings: OptimizerSettings) -> Schedule:
    lr, steps, warmup = settings.lr, settings.steps, settings.warmup_fraction
    if lr is None or steps is None or warmup is None:
        raise ValueError("an engine needs settings with lr, steps and warmup_fraction")
    return Schedule(optimizer, Curve(settings.schedule, steps, lr, warmup))


def build_engine(
    model: nn.Module,
    world: World,
    settings: OptimizerSettings,
    parallel: ParallelSettings,
    batch: BatchSizes,
    deepspeed_sections: dict[str, Any] | None = None,
) -> TrainingEngine:
    """Wrap ``model`` (weights already initialized, fp32) for training in ``world``.

    Args:
        settings: with ``lr``, ``steps`` and ``warmup_fraction`` of the whole schedule;
            :meth:`TrainingEngine.follow` replaces it by one with more to set.
        deepspeed_sections: a user's DeepSpeed file.

    Raises:
        UserError: fp16 without a GPU, a configuration that cannot be exact, or an optimizer backend
            that cannot be used here.
        ValueError: settings without a schedule.
    """
    import deepspeed
    from pydantic import ValidationError

    precision = resolve_precision(parallel.precision, world.device.type == "cuda")
    spare_compiler()
    config = make_deepspeed_config(deepspeed_sections or {}, batch, settings, parallel, precision)
    check_zero_config(config)
    model.to(world.device)
    use_attention(model, parallel.attention)
    if precision == "fp8":
        use_float8(model, by_row=parallel.fp8_scaling == "row")
    optimizer = _optimizer(model, settings, StateLayout(parallel.zero_stage, world.tp.size))
    schedule = _schedule(optimizer, settings)
    try:
        with prints_logged():
            engine, _, _, _ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                lr_scheduler=schedule,
                mpu=world.mpu,
                config=config,
                dist_init_required=False,
            )
    except ValidationError as error:  # of a value that DeepSpeed alone reads
        raise UserError(f"--deepspeed_config: {error.title}: {first_fault(error)}") from error
    prepare_engine(engine, world.tp)
    return TrainingEngine(engine, optimizer, world, batch, precision, config)
