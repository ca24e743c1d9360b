"""Our settings and a user's DeepSpeed JSON, joined into one DeepSpeed configuration.

A DeepSpeed file is one layer of the settings (below flags and ``--config``, above the phase recipe):
its batch, precision, clipping, ZeRO and optimizer sections set ours. The configuration handed to
DeepSpeed is then made from the settings, so that the two never disagree; sections that have no
setting of ours (buckets, communication, profiling...) pass through unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.flags import Values
from megabert.config.training import BatchSettings, OptimizerSettings, ParallelSettings
from megabert.kernels.float8 import check_device
from megabert.optim.registry import optimizer_specs

# Top-level sections of DeepSpeed 0.19.8 that a training run may use. DeepSpeed itself accepts any
# misspelt name in silence.
_PASSED_THROUGH = {
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "fp16", "bf16", "data_types", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "sparse_gradients", "steps_per_print", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "flops_profiler", "comms_logger", "activation_checkpointing",
    "checkpoint", "aio", "tensorboard", "csv_monitor", "wandb", "comet", "seed",
    "use_node_local_storage", "disable_allgather", "compile", "timers", "nebula",
    "use_data_before_expert_parallelism", "graph_harvesting", "torch_autocast",
}  # fmt: skip
_TRANSLATED = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping", "optimizer",
}  # fmt: skip
_REFUSED = {
    "scheduler": "give --schedule, --lr, --warmup-fraction and --steps instead",
    "amp": "NVIDIA's apex.amp is retired; use the bf16 or fp16 section",
    "sequence_parallel_size": "not supported; use --tensor-parallel",
    "tensor_parallel": "use --tensor-parallel: megabert splits its own layers",
    "autotuning": "not supported; set the batch sizes by hand",
    "elasticity": "not supported; resume on another world size instead",
}
_OPTIMIZER_PARAMS = {
    "lr": "lr",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "bias_correction": "bias_correction",
    "max_coeff": "max_trust_ratio",
    "min_coeff": "min_trust_ratio",
}


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON file; misspelt or unsupported top-level sections are errors by name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--deepspeed_config {path}: {error.strerror}; see ds_configs/") from error
    except ValueError as error:
        raise UserError(f"--deepspeed_config {path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"--deepspeed_config {path}: expected a JSON object of sections")
    problems = []
    for key in content:
        if key in _REFUSED:
            problems.append(f"{key!r}: {_REFUSED[key]}")
        elif key not in _PASSED_THROUGH | _TRANSLATED:
            problems.append(f"unknown section {key!r}")
    if problems:
        raise UserError(f"--deepspeed_config {path}: {'; '.join(problems)}")
    return content


def deepspeed_values(raw: dict[str, Any], path: Path) -> Values:
    """The settings that a DeepSpeed file sets (``"auto"`` values set nothing)."""
    batch: dict[str, Any] = {}
    optimizer: dict[str, Any] = {}
    parallel: dict[str, Any] = {}
    for key, name in (
        ("train_batch_size", "global_batch_size"),
        ("train_micro_batch_size_per_gpu", "micro_batch_size"),
        ("gradient_accumulation_steps", "gradient_accumulation_steps"),
    ):
        if raw.get(key, "auto") != "auto":
            batch[name] = raw[key]
    if raw.get("gradient_clipping", "auto") != "auto":
        optimizer["gradient_clipping"] = raw["gradient_clipping"]
    optimizer.update(_optimizer_values(raw.get("optimizer"), path))
    parallel["zero_stage"] = raw.get("zero_optimization", {}).get("stage", 0)
    half = [kind for kind in ("bf16", "fp16") if raw.get(kind, {}).get("enabled") is True]
    if len(half) > 1:
        raise UserError(f"--deepspeed_config {path}: bf16 and fp16 are both on; keep one")
    if half or any(kind in raw for kind in ("bf16", "fp16")):
        parallel["precision"] = half[0] if half else "fp32"
    return {"batch": batch, "optimizer": optimizer, "parallel": parallel}


def _optimizer_values(section: Any, path: Path) -> dict[str, Any]:
    if section is None:
        return {}
    kind = str(section.get("type", "")).lower() if isinstance(section, dict) else ""
    specs = [spec for spec in optimizer_specs() if spec.deepspeed_types]
    found = [spec for spec in specs if kind in map(str.lower, spec.deepspeed_types)]
    if not found:
        known = " or ".join(spec.deepspeed_types[0] for spec in specs)
        raise UserError(
            f"--deepspeed_config {path}: optimizer type must be {known}, not {section!r}"
        )
    values: dict[str, Any] = {"optimizer": found[0].name}
    for key, value in section.get("params", {}).items():
        if value == "auto":
            continue
        if key == "betas":
            values["beta1"], values["beta2"] = value
        elif key in _OPTIMIZER_PARAMS:
            values[_OPTIMIZER_PARAMS[key]] = value
        else:
            raise UserError(
                f"--deepspeed_config {path}: optimizer.params.{key} is not known; "
                f"known are betas, {', '.join(_OPTIMIZER_PARAMS)}"
            )
    return values


@dataclass(frozen=True)
class BatchSizes:
    """The batch of a run: ``global_size = micro_size * accumulation * data_parallel`` sequences."""

    global_size: int
    micro_size: int
    accumulation: int
    data_parallel: int


def resolve_batch(
    settings: BatchSettings, data_parallel: int, micro_limit: int, *, kept: int | None = None
) -> BatchSizes:
    """Derive what is not given; check that the factors multiply out.

    ``kept``: global batch of the checkpoint that a run goes on from. It stays the same on any
    number of ranks, so a given micro batch and accumulation give way to it where they do not fit.

    Raises:
        UserError: they don't; the line shows the arithmetic.
    """
    micro, accumulation = settings.micro_batch_size, settings.gradient_accumulation_steps
    total = settings.global_batch_size
    if kept is not None:
        return _redivide(total or kept, micro, accumulation, data_parallel, micro_limit)
    if total is None:
        if micro is None:
            raise UserError("no batch size given: set --global-batch-size")
        total = micro * (accumulation or 1) * data_parallel
    if micro is None:
        share = total // (data_parallel * (accumulation or 1))
        micro = max((n for n in range(1, min(share, micro_limit) + 1) if share % n == 0), default=1)
    if accumulation is None:
        accumulation = max(1, total // (micro * data_parallel))
    product = micro * accumulation * data_parallel
    if product != total:
        raise UserError(
            f"batch sizes don't multiply out: global batch {total} is not micro batch {micro} x "
            f"accumulation {accumulation} x data-parallel ranks {data_parallel} = {product}; "
            "change --global-batch-size or --micro-batch-size"
        )
    return BatchSizes(total, micro, accumulation, data_parallel)


def _redivide(
    total: int, micro: int | None, accumulation: int | None, data_parallel: int, micro_limit: int
) -> BatchSizes:
    """A resumed run's batch: the micro batch given if it divides a rank's share, else smaller."""
    share, rest = divmod(total, data_parallel)
    if rest:
        raise UserError(
            f"the run's global batch {total} cannot be divided among {data_parallel} data-parallel "
            "ranks; resume with a number of ranks that divides it"
        )
    most = micro or min(micro_limit, share // (accumulation or 1))
    fitting = max((n for n in range(1, min(share, most) + 1) if share % n == 0), default=1)
    batch = BatchSizes(total, fitting, share // fitting, data_parallel)
    given = (micro or batch.micro_size, accumulation or batch.accumulation)
    if given != (batch.micro_size, batch.accumulation):
        get_logger().info(
            "global batch %d on %d data-parallel ranks: micro batch %d x accumulation %d "
            "(given: %d x %d)",
            total,
            data_parallel,
            batch.micro_size,
            batch.accumulation,
            *given,
        )
    return batch


def resolve_precision(precision: str, cuda: bool) -> str:
    """ "auto" made definite.

    Raises:
        UserError: fp16 without a GPU, which DeepSpeed cannot do; fp8 on a GPU without float8 units.
    """
    if precision == "auto":
        return "bf16" if cuda else "fp32"
    if precision == "fp16" and not cuda:
        raise UserError("DeepSpeed has no fp16 on CPU; use --precision bf16 or fp32")
    if precision == "fp8" and cuda:
        check_device(torch.device("cuda"))
    return precision


def storage_precision(precision: str) -> str:
    """What DeepSpeed keeps weights and gradients in: bf16 for fp8, else the precision itself."""
    return "bf16" if precision == "fp8" else precision


def _fit_accumulation(config: dict[str, Any], stage: int, precision: str) -> None:
    """Leave a DeepSpeed file's ``grad_accum_dtype`` out where DeepSpeed knows no such mixture.

    So a run can go on from its checkpoint in another precision or stage with the file that it has.
    """
    types = dict(config.get("data_types") or {})
    wanted = types.get("grad_accum_dtype") or precision
    if wanted != precision and (precision == "fp32" or stage == 0):
        del types["grad_accum_dtype"]
        config["data_types"] = types
        get_logger().warning(
            "data_types.grad_accum_dtype %s has no effect: %s at ZeRO %d sums gradients up in %s",
            wanted,
            precision,
            stage,
            precision,
        )


def make_deepspeed_config(
    raw: dict[str, Any],
    batch: BatchSizes,
    optimizer: OptimizerSettings,
    parallel: ParallelSettings,
    precision: str,
) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``; the optimizer is ours and not in it.

    ``precision``: as :func:`resolve_precision` gives it.
    """
    precision = storage_precision(precision)
    config = {key: value for key, value in raw.items() if key in _PASSED_THROUGH}
    zero = {
        # overlap_comm has changed gradient norms in releases of DeepSpeed: off unless asked for
        "overlap_comm": False,
        "contiguous_gradients": True,
        **config.get("zero_optimization", {}),
        "stage": parallel.zero_stage,
    }
    if parallel.zero_stage == 3:
        zero.setdefault("stage3_gather_16bit_weights_on_model_save", False)
    config.update(
        train_batch_size=batch.global_size,
        train_micro_batch_size_per_gpu=batch.micro_size,
        gradient_accumulation_steps=batch.accumulation,
        gradient_clipping=optimizer.gradient_clipping,
        zero_optimization=zero,
        zero_allow_untested_optimizer=True,
        # with ZeRO-Offload the optimizer is still ours
        zero_force_ds_cpu_optimizer=False,
    )
    config.setdefault("steps_per_print", 2**31)
    config["bf16"] = {**config.get("bf16", {}), "enabled": precision == "bf16"}
    config["fp16"] = {**config.get("fp16", {}), "enabled": precision == "fp16"}
    if precision == "bf16" and parallel.zero_stage in (1, 2):
        config.setdefault("data_types", {"grad_accum_dtype": "fp32"})
    _fit_accumulation(config, parallel.zero_stage, precision)
    for kind in ("bf16", "fp16"):
        if kind != precision:
            config[kind] = {"enabled": False}
    return config
