"""The shapes of the sections of a DeepSpeed file, checked before megabert or DeepSpeed reads them.

Keys inside a section that are not named here are left to DeepSpeed, which knows them by version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import PlainValidator
from typing_extensions import TypedDict

from megabert.common.schema import shape_fault


def _switch(value: Any) -> Any:
    if not isinstance(value, bool) and value != "auto":
        raise ValueError('expected true, false or "auto"')
    return value


def _bool(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _number(low: float) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value == "auto" and isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError('expected a number or "auto"')
        if not (math.isfinite(value) and low <= value < 1e18):
            raise ValueError(f"expected a number of {low:g} or more")
        return value

    return check


def _whole(value: Any) -> Any:
    if value == "auto" or value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 62:
        raise ValueError("expected a whole number")
    return value


def _stage(value: Any) -> Any:
    if isinstance(value, bool) or value not in (0, 1, 2, 3):
        raise ValueError("expected 0, 1, 2 or 3")
    return value


def _section(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _word(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _two_numbers(value: Any) -> Any:
    if value == "auto" and isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError('expected a list of two numbers, or "auto"')
    return [_number(0.0)(item) for item in value]


def _parameter(value: Any) -> Any:
    return value if isinstance(value, bool) else _number(-1e18)(value)


_Switch = Annotated[Any, PlainValidator(_switch)]
_Bool = Annotated[Any, PlainValidator(_bool)]
_Number = Annotated[Any, PlainValidator(_number(0.0))]
_Whole = Annotated[Any, PlainValidator(_whole)]
_Section = Annotated[Any, PlainValidator(_section)]
_Word = Annotated[Any, PlainValidator(_word)]


class _Precision(TypedDict, total=False):
    enabled: _Switch
    auto_cast: _Bool
    loss_scale: _Number
    initial_scale_power: _Number
    loss_scale_window: _Number
    hysteresis: _Number
    min_loss_scale: _Number
    consecutive_hysteresis: _Bool
    fp16_master_weights_and_grads: _Bool
    bf16_master_weights_and_grads: _Bool
    bf16_optimizer_states: _Bool


class _Offload(TypedDict, total=False):
    device: _Word
    super_offload: _Bool
    ratio: _Number


class _Zero(TypedDict, total=False):
    stage: Annotated[Any, PlainValidator(_stage)]
    overlap_comm: _Switch
    contiguous_gradients: _Switch
    reduce_scatter: _Switch
    round_robin_gradients: _Bool
    reduce_bucket_size: _Number
    allgather_bucket_size: _Number
    stage3_prefetch_bucket_size: _Number
    stage3_max_live_parameters: _Number
    sub_group_size: _Number
    offload_param: _Offload | None
    offload_optimizer: _Offload | None


class _DataTypes(TypedDict, total=False):
    grad_accum_dtype: _Word


class _Parameters(TypedDict, total=False):
    lr: Annotated[Any, PlainValidator(_parameter)]
    eps: Annotated[Any, PlainValidator(_parameter)]
    weight_decay: Annotated[Any, PlainValidator(_parameter)]
    bias_correction: _Switch
    max_coeff: Annotated[Any, PlainValidator(_parameter)]
    min_coeff: Annotated[Any, PlainValidator(_parameter)]
    betas: Annotated[Any, PlainValidator(_two_numbers)]


class _Optimizer(TypedDict, total=False):
    type: str
    params: _Parameters


class _File(TypedDict, total=False):
    train_batch_size: _Whole
    train_micro_batch_size_per_gpu: _Whole
    gradient_accumulation_steps: _Whole
    gradient_clipping: _Number
    optimizer: _Optimizer | None
    zero_optimization: _Zero
    fp16: _Precision
    bf16: _Precision
    data_types: _DataTypes
    zero_allow_untested_optimizer: _Bool
    zero_force_ds_cpu_optimizer: _Bool
    communication_data_type: _Word
    prescale_gradients: _Bool
    gradient_predivide_factor: _Number
    sparse_gradients: _Bool
    steps_per_print: _Whole
    seed: _Whole
    wall_clock_breakdown: _Bool
    memory_breakdown: _Bool
    dump_state: _Bool
    use_node_local_storage: _Bool
    disable_allgather: _Bool
    graph_harvesting: _Bool
    use_data_before_expert_parallelism: _Bool
    flops_profiler: _Section
    comms_logger: _Section
    activation_checkpointing: _Section
    checkpoint: _Section
    aio: _Section
    tensorboard: _Section
    csv_monitor: _Section
    wandb: _Section
    comet: _Section
    compile: _Section
    timers: _Section
    nebula: _Section
    torch_autocast: _Section


def deepspeed_fault(content: dict[str, Any]) -> str | None:
    """The first value of a DeepSpeed file that has another type than expected; None if all have theirs."""
    return shape_fault(_File, content)
