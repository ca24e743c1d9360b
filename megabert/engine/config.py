"""Our settings and a user's DeepSpeed JSON, joined into one DeepSpeed configuration.

A DeepSpeed file is one layer of the settings (:mod:`megabert.config.deepspeed_file`). The
configuration for DeepSpeed is then made from the settings, so that the two always agree; sections
without a setting of ours (buckets, communication, profiling...) pass through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.config.deepspeed_file import PASSED_THROUGH
from megabert.config.training import BatchSettings, OptimizerSettings, ParallelSettings
from megabert.kernels.float8 import check_device

TOKENS_ON_CPU = 8192
"""A micro batch whose size is not set holds at most this many tokens on a CPU."""
TOKENS_ON_GPU = 65536
"""The same on a GPU, where every micro step also costs the host's time and a sum of all gradients. At
BERT-large's size both are below 1 % of such a micro step, so larger ones would gain nothing."""

LOADER_WORKERS = 4
"""Data loader processes per rank on a GPU, if it has that many cores besides its own."""
BF16_CAPABILITY = (8, 0)
"""The least compute capability of GPUs with bf16 units: V100 (7.0) and T4 (7.5) have only fp16's."""


def micro_batch_limit(max_length: int, *, on_gpu: bool = False) -> int:
    """Sequences of ``max_length`` tokens in a micro batch whose size is not set, at most."""
    return max(1, (TOKENS_ON_GPU if on_gpu else TOKENS_ON_CPU) // max_length)


@dataclass(frozen=True)
class BatchSizes:
    """The batch of a run: ``global_size = micro_size * accumulation * data_parallel`` sequences."""

    global_size: int
    micro_size: int
    accumulation: int
    data_parallel: int


def resolve_batch(
    settings: BatchSettings,
    data_parallel: int,
    micro_limit: int,
    *,
    divided_before: int | None = None,
) -> BatchSizes:
    """Derive the sizes that are not given; check that their product is the global batch.

    ``divided_before``: global batch of the checkpoint that a run resumes from, or of the run whose
    ``config.yaml`` is used. It is the same on any number of ranks; a given micro batch and accumulation are
    changed where they do not fit it.

    Raises:
        UserError: the product is another; the message shows the arithmetic.
    """
    micro, accumulation = settings.micro_batch_size, settings.gradient_accumulation_steps
    total = settings.global_batch_size
    if divided_before is not None:
        total = total or divided_before
        return _redivide(total, micro, accumulation, data_parallel, micro_limit)
    if total is None:
        if micro is None:
            raise UserError("no batch size given: set --global-batch-size")
        total = micro * (accumulation or 1) * data_parallel
    if micro is None and accumulation is not None:
        micro = max(1, total // (data_parallel * accumulation))
    if micro is None:
        micro = _largest_divisor(total // data_parallel, micro_limit)
    if accumulation is None:
        accumulation = max(1, total // (micro * data_parallel))
    product = micro * accumulation * data_parallel
    if total % data_parallel:
        raise UserError(
            f"batch sizes don't multiply out: global batch {total} cannot be divided among "
            f"{data_parallel} data-parallel ranks; use a number of ranks that divides it, or change "
            "--global-batch-size"
        )
    if product != total:
        raise UserError(
            f"batch sizes don't multiply out: global batch {total} is not micro batch {micro} x "
            f"accumulation {accumulation} x data-parallel ranks {data_parallel} = {product}; "
            "change one of --global-batch-size, --micro-batch-size and --gradient-accumulation-steps, or leave one out"
        )
    return BatchSizes(total, micro, accumulation, data_parallel)


def batch_of_stage(final: BatchSizes, global_size: int, shorter: Fraction) -> BatchSizes:
    """The batch of a stage of a run that ends with ``final``, on the same ranks.

    ``shorter``: the last stage's sequence length over this one's. The micro batch is the largest that has at
    most the last one's tokens and divides a rank's part.

    Raises:
        UserError: the ranks do not divide it.
    """
    if (global_size, shorter) == (final.global_size, 1):
        return final
    per_rank, rest = divmod(global_size, final.data_parallel)
    if rest:
        raise UserError(
            f"--batch-ramp: global batch {global_size} cannot be divided among {final.data_parallel} data-parallel "
            f"ranks; give multiples of {final.data_parallel}, or use a number of ranks that divides it"
        )
    micro = _largest_divisor(per_rank, max(1, int(final.micro_size * shorter)))
    return BatchSizes(global_size, micro, per_rank // micro, final.data_parallel)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` up to ``limit``; 1 if ``number`` is 0."""
    return max((n for n in range(1, min(number, limit) + 1) if number % n == 0), default=1)


def _redivide(
    total: int, micro: int | None, accumulation: int | None, data_parallel: int, micro_limit: int
) -> BatchSizes:
    """A resumed run's batch: the micro batch given if it divides a rank's part, else a smaller one."""
    per_rank, rest = divmod(total, data_parallel)
    if rest:
        raise UserError(
            f"the run's global batch {total} cannot be divided among {data_parallel} data-parallel "
            "ranks; use a number of ranks that divides it"
        )
    most = micro or min(micro_limit, per_rank // (accumulation or 1))
    fitting = _largest_divisor(per_rank, most)
    batch = BatchSizes(total, fitting, per_rank // fitting, data_parallel)
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
    """The precision that "auto" stands for here, or the one given.

    Raises:
        UserError: fp16 without a GPU, which DeepSpeed cannot do; fp8 on a GPU without float8 units.
    """
    if precision == "auto":
        if not cuda:
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability() >= BF16_CAPABILITY else "fp16"
    if precision == "fp16" and not cuda:
        raise UserError("DeepSpeed does not support fp16 on CPUs; use --precision bf16 or fp32")
    if precision == "fp8" and cuda:
        check_device(torch.device("cuda"))
    return precision


def storage_precision(precision: str) -> str:
    """What DeepSpeed keeps weights and gradients in: bf16 for fp8, else the precision itself."""
    return "bf16" if precision == "fp8" else precision


def sums_sent_in_fp32(accumulation: int, data_parallel: int) -> bool:
    """Whether fp32 sums of an update's gradients are sent between ranks as they are, and not in bf16.

    In bf16 each rank that adds to a sum on its way rounds it: measured 0.2 % of the gradient's norm with
    2 ranks and 0.3 % with 4, next to 0.8 % of forward and backward; it grows with the root of the
    ranks. fp32 is twice the bytes, once per update, which 8 micro steps hide; one rank sends nothing.
    """
    return accumulation >= 8 or data_parallel >= 64 or data_parallel == 1


def _fit_accumulation(config: dict[str, Any], stage: int, precision: str) -> None:
    """Remove a DeepSpeed file's ``grad_accum_dtype`` where DeepSpeed does not support the combination.

    A run can then resume in another precision or stage with the same file.
    """
    types = dict(config.get("data_types") or {})
    wanted = types.get("grad_accum_dtype") or precision
    if wanted != precision and (precision == "fp32" or stage == 0):
        del types["grad_accum_dtype"]
        config["data_types"] = types
        get_logger().warning(
            "data_types.grad_accum_dtype %s has no effect: %s at ZeRO %d sums gradients in %s",
            wanted,
            precision,
            stage,
            precision,
        )


def _check_fp16_sums(config: dict[str, Any], precision: str) -> None:
    """Refuse to add or send gradients in fp16 where no loss scale keeps them in its range."""
    if precision == "fp16":
        return
    types = config.get("data_types") or {}
    for key, value in (
        ("communication_data_type", config.get("communication_data_type")),
        ("data_types.grad_accum_dtype", types.get("grad_accum_dtype")),
    ):
        if str(value).lower() == "fp16":
            raise UserError(
                f"--deepspeed_config: {key} fp16 is only for fp16 runs: this one is in {precision}, "
                "without a loss scale, so gradients would become 0 or infinite; write bf16 or fp32"
            )


def make_deepspeed_config(
    raw: dict[str, Any],
    batch: BatchSizes,
    optimizer: OptimizerSettings,
    parallel: ParallelSettings,
    precision: str,
) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``; the optimizer is ours and not in it.

    ``precision``: as :func:`resolve_precision` returns it.

    Raises:
        UserError: the file wants gradients in fp16 in a run of another precision.
    """
    precision = storage_precision(precision)
    config = {key: value for key, value in raw.items() if key in PASSED_THROUGH}
    zero = {
        # overlap_comm changed gradient norms in some releases of DeepSpeed: off unless requested
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
    # its timer waits for the device twice in each micro step
    config["timers"] = {"throughput": {"enabled": False}, **config.get("timers", {})}
    config["bf16"] = {
        "immediate_grad_update": True,
        **config.get("bf16", {}),
        "enabled": precision == "bf16",
    }
    config["fp16"] = {**config.get("fp16", {}), "enabled": precision == "fp16"}
    if precision == "bf16" and parallel.zero_stage in (1, 2):
        types = dict(config.get("data_types") or {})
        config["data_types"] = {
            **types,
            "grad_accum_dtype": types.get("grad_accum_dtype") or "fp32",
        }
    _fit_accumulation(config, parallel.zero_stage, precision)
    _check_fp16_sums(config, precision)
    sums = (config.get("data_types") or {}).get("grad_accum_dtype", precision)
    # the other stages have no such sums, or send in every micro step
    if (precision, sums, parallel.zero_stage) == ("bf16", "fp32", 1) and sums_sent_in_fp32(
        batch.accumulation, batch.data_parallel
    ):
        config["communication_data_type"] = config.get("communication_data_type") or "fp32"
    for kind in ("bf16", "fp16"):
        if kind != precision:
            config[kind] = {"enabled": False}
    return config
