"""Refuses DeepSpeed settings under which LAMB or a checkpoint would not be exact, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megabert.common.errors import UserError

# Settings of zero_optimization under which ratios, norms or checkpoints are not exact, or were not
# tested: the values that are harmless, and why others are refused.
_INEXACT: dict[str, tuple[tuple[Any, ...], str]] = {
    "round_robin_gradients": ((False,), "DeepSpeed's checkpoints then name the wrong tensors"),
    "mics_shard_size": (
        (-1, 0),
        "MiCS keeps several copies of each partition, which norms would count",
    ),
    "mics_hierarchical_params_gather": ((False,), "it belongs to MiCS"),
    "zero_hpz_partition_size": ((0, 1), "hpZ has a second partition, which is not tested"),
    "zero_quantized_weights": (
        (False,),
        "the weights would be rounded to 8 bits when they are gathered",
    ),
    "zero_quantized_nontrainable_weights": ((False,), "weights would be rounded to 8 bits"),
    "zero_quantized_gradients": ((False,), "the gradients would be rounded to 4 bits"),
    "zenflow": (
        (None,),
        "ZenFlow updates parts of a tensor at different steps, so no ratio is exact",
    ),
    "compute_grad_norm": ((True,), "gradients would not be clipped, and no norm would be reported"),
    "legacy_stage1": ((False,), "DeepSpeed has removed it"),
    "elastic_checkpoint": ((False,), "no checkpoint of this kind can be read again"),
    "load_from_fp32_weights": (
        (True,),
        "a resumed run would not have the fp32 weights of its checkpoint",
    ),
}


def check_zero_config(config: Mapping[str, Any]) -> None:
    """Refuse settings under which LAMB or a checkpoint could not be exact.

    Args:
        config: the DeepSpeed configuration, before ``deepspeed.initialize``.

    Raises:
        UserError: which setting, why, and what to do.
    """
    zero = config.get("zero_optimization") or {}
    for key, (harmless, reason) in _INEXACT.items():
        if key in zero and zero[key] not in harmless:
            raise UserError(f"zero_optimization.{key} is not supported: {reason}; remove it")
    if (config.get("checkpoint") or {}).get("load_universal"):
        raise UserError(
            "checkpoint.load_universal is not supported: runs resume from their own checkpoints, on any number of "
            "ranks; remove it"
        )
    for key in ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"):
        if zero.get(key):
            raise UserError(
                f"zero_optimization.{key} is an old name: write "
                '"offload_optimizer": {"device": "cpu"}'
            )
    parameters = (zero.get("offload_param") or {}).get("device", "none")
    if parameters != "none":
        raise UserError(
            f"zero_optimization.offload_param on {parameters} is not supported: weights that leave "
            "the device between uses are not tested; remove it, and divide the weights among more "
            "ranks (--zero-stage 3 or --tensor-parallel)"
        )
    states = zero.get("offload_optimizer") or {}
    device = states.get("device", "none")
    if device == "nvme":
        raise UserError(
            "zero_optimization.offload_optimizer on nvme is not supported: the place of "
            'masters on disk cannot be checked; use "device": "cpu"'
        )
    if device != "none" and zero.get("stage", 0) == 0:
        raise UserError(
            "zero_optimization.offload_optimizer needs ZeRO: set --zero-stage 1, 2 or 3"
        )
    if states.get("super_offload") or states.get("ratio", 1.0) != 1.0:
        raise UserError(
            "zero_optimization.offload_optimizer: super_offload and ratio are not supported, because "
            "another optimizer then updates parts of the state; remove them"
        )
    for section, key in (
        ("fp16", "fp16_master_weights_and_grads"),
        ("bf16", "bf16_master_weights_and_grads"),
        ("bf16", "bf16_optimizer_states"),
    ):
        if (config.get(section) or {}).get(key):
            raise UserError(
                f"{section}.{key} is not supported: trust ratios of half-precision masters would not "
                "be exact; remove it"
            )
