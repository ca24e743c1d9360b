"""The shapes of the sections of a DeepSpeed file, checked before megabert or DeepSpeed reads them.

A closed section names all its keys, because DeepSpeed 0.19.8 refuses others there; in open ones it
ignores them. ``"auto"`` was removed before: it sets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ConfigDict, PlainValidator, with_config
from typing_extensions import TypedDict

from megabert.common.schema import shape_fault

_closed = with_config(ConfigDict(extra="forbid"))
_MOST = 1e18
_CHOSEN = "bf16.enabled, fp16.enabled or --precision chooses it"


def _bool(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError('expected true, false or "auto"')
    return value


def _number(low: float, high: float = _MOST) -> Callable[[Any], Any]:
    limits = f"{low:g} to {high:g}" if high < _MOST else f"{low:g} or more"

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError('expected a number or "auto"')
        if not low <= value <= high:
            raise ValueError(f"expected a number of {limits}")
        return value

    return check


def _whole(low: float, high: float = _MOST) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            raise ValueError("expected a whole number")
        return _number(low, high)(value)

    return check


def _integer(value: Any) -> Any:
    """Of a setting of ours, which has its own limits."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 62:
        raise ValueError("expected a whole number")
    return value


def _word(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _words(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of texts")
    return value


def _one_of(*possible: object) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or value not in possible:
            *first, last = map(str, possible)
            raise ValueError(f"expected {', '.join(first)} or {last}")
        return value

    return check


def _in_any_case(*possible: str) -> Callable[[Any], Any]:
    known = _one_of(*possible)

    def check(value: Any) -> Any:
        known(value.lower() if isinstance(value, str) else value)
        return value

    return check


def _two_numbers(value: Any) -> Any:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError('expected a list of two numbers, or "auto"')
    return [_number(0.0)(item) for item in value]


def _parameter(value: Any) -> Any:
    return value if isinstance(value, bool) else _number(-_MOST)(value)


def _absent(reason: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        raise ValueError(f"expected nothing ({reason})")

    return check


_Bool = Annotated[Any, PlainValidator(_bool)]
_Number = Annotated[Any, PlainValidator(_number(0.0))]
_Fraction = Annotated[Any, PlainValidator(_number(0.0, 1.0))]
_Count = Annotated[Any, PlainValidator(_whole(0))]
_Positive = Annotated[Any, PlainValidator(_whole(1))]
_Whole = Annotated[Any, PlainValidator(_whole(-_MOST))]
_Integer = Annotated[Any, PlainValidator(_integer)]
_Word = Annotated[Any, PlainValidator(_word)]
_Words = Annotated[Any, PlainValidator(_words)]
_Type = Annotated[Any, PlainValidator(_one_of("fp32", "bf16", "fp16"))]
_Device = Annotated[Any, PlainValidator(_one_of("none", "cpu", "nvme"))]
_OldOffload = Annotated[
    Any, PlainValidator(_absent('an old name: write "offload_optimizer": {"device": "cpu"}'))
]
_Parameter = Annotated[Any, PlainValidator(_parameter)]


@_closed
class _Bf16(TypedDict, total=False):
    enabled: _Bool
    immediate_grad_update: _Bool
    check_grad_overflow: _Bool
    bf16_master_weights_and_grads: _Bool
    bf16_optimizer_states: _Bool


@_closed
class _Fp16(TypedDict, total=False):
    enabled: _Bool
    auto_cast: _Bool
    loss_scale: _Number
    initial_scale_power: Annotated[Any, PlainValidator(_whole(0, 127))]
    loss_scale_window: _Positive
    hysteresis: _Count
    consecutive_hysteresis: _Bool
    min_loss_scale: _Positive
    fp16_master_weights_and_grads: _Bool


@_closed
class _OffloadParam(TypedDict, total=False):
    device: _Device
    nvme_path: _Word | None
    buffer_count: _Count
    buffer_size: _Count
    max_in_cpu: _Count
    pin_memory: _Bool


@_closed
class _OffloadOptimizer(TypedDict, total=False):
    device: _Device
    nvme_path: _Word | None
    buffer_count: _Count
    pin_memory: _Bool
    pipeline_read: _Bool
    pipeline_write: _Bool
    fast_init: _Bool
    ratio: _Fraction
    super_offload: _Bool
    cpuadam_cores_perc: _Fraction


@_closed
class _LeafModule(TypedDict, total=False):
    classes: _Words
    names: _Words
    name_suffixes: _Words


@_closed
class _Zero(TypedDict, total=False):
    stage: Annotated[Any, PlainValidator(_one_of(0, 1, 2, 3))]
    contiguous_gradients: _Bool
    reduce_scatter: _Bool
    reduce_bucket_size: _Positive
    use_multi_rank_bucket_allreduce: _Bool
    allgather_partitions: _Bool
    allgather_bucket_size: _Count
    overlap_comm: _Bool
    compute_grad_norm: _Bool
    load_from_fp32_weights: _Bool
    elastic_checkpoint: _Bool
    offload_param: _OffloadParam | None
    offload_optimizer: _OffloadOptimizer | None
    zenflow: Annotated[Any, PlainValidator(_absent("ZenFlow is not supported"))] | None
    sub_group_size: _Count
    cpu_offload_param: _OldOffload
    cpu_offload_use_pin_memory: _OldOffload
    cpu_offload: _OldOffload
    stage3_prefetch_bucket_size: _Count
    stage3_param_persistence_threshold: _Count
    stage3_model_persistence_threshold: Annotated[Any, PlainValidator(_whole(0, 2**63 - 1))]
    stage3_max_live_parameters: _Count
    stage3_max_reuse_distance: _Count
    stage3_gather_16bit_weights_on_model_save: _Bool
    stage3_module_granularity_threshold: _Whole
    stage3_use_all_reduce_for_fetch_params: _Bool
    stage3_allgather_sequential: _Bool
    ignore_unused_parameters: _Bool
    legacy_stage1: _Bool
    round_robin_gradients: _Bool
    parameter_alignment: _Bool
    zero_hpz_partition_size: _Count
    zero_quantized_weights: _Bool
    zero_quantized_nontrainable_weights: _Bool
    zero_quantized_gradients: _Bool
    memory_efficient_linear: _Bool
    pipeline_loading_checkpoint: _Bool
    override_module_apply: _Bool
    log_trace_cache_warnings: _Bool
    enable_sanity_checks: _Bool
    save_muon_momentum_buffer_in_memory: _Bool
    leaf_module: _LeafModule


class _DataTypes(TypedDict, total=False):
    grad_accum_dtype: _Type | None
    param_dtype: Annotated[Any, PlainValidator(_absent(_CHOSEN))]
    buffer_dtype: _Type | None
    keep_in_fp32_modules: _Words


class _Autocast(TypedDict, total=False):
    enabled: _Bool
    dtype: _Type
    lower_precision_safe_modules: _Words


class _Parameters(TypedDict, total=False):
    lr: _Parameter
    eps: _Parameter
    weight_decay: _Parameter
    bias_correction: _Bool
    max_coeff: _Parameter
    min_coeff: _Parameter
    betas: Annotated[Any, PlainValidator(_two_numbers)]


class _Optimizer(TypedDict, total=False):
    type: str
    params: _Parameters


class _FlopsProfiler(TypedDict, total=False):
    enabled: _Bool
    recompute_fwd_factor: _Number
    profile_step: _Count
    module_depth: _Whole
    top_modules: _Count
    detailed: _Bool
    output_file: _Word | None


@_closed
class _CommsLogger(TypedDict, total=False):
    enabled: _Bool
    prof_all: _Bool
    prof_ops: _Words
    verbose: _Bool
    debug: _Bool


class _ActivationCheckpointing(TypedDict, total=False):
    partition_activations: _Bool
    number_checkpoints: _Positive | None
    contiguous_memory_optimization: _Bool
    synchronize_checkpoint_boundary: _Bool
    profile: _Bool
    cpu_checkpointing: _Bool


class _ParallelWrite(TypedDict, total=False):
    pipeline_stage: _Bool


class _Writer(TypedDict, total=False):
    type: Annotated[Any, PlainValidator(_in_any_case("mock", "python", "fast"))]
    data_parallel: (
        Annotated[Any, PlainValidator(_in_any_case("replica", "socket", "machine"))] | None
    )
    decoupled: _Bool
    io_buffer_size: _Positive
    io_buffer_double: _Bool
    io_multiplier: _Positive
    show_statistics: _Bool


class _Checkpoint(TypedDict, total=False):
    tag_validation: Annotated[Any, PlainValidator(_in_any_case("ignore", "warn", "fail"))]
    load_universal: _Bool
    use_node_local_storage: _Bool
    parallel_write: _ParallelWrite
    writer: _Writer | None


class _Aio(TypedDict, total=False):
    block_size: _Positive
    queue_depth: _Positive
    intra_op_parallelism: _Positive
    single_submit: _Bool
    overlap_events: _Bool
    use_gds: _Bool


@_closed
class _Monitor(TypedDict, total=False):
    enabled: _Bool
    output_path: _Word
    job_name: _Word


@_closed
class _Wandb(TypedDict, total=False):
    enabled: _Bool
    group: _Word | None
    team: _Word | None
    project: _Word


@_closed
class _Comet(TypedDict, total=False):
    enabled: _Bool
    samples_log_interval: _Positive
    project: _Word | None
    workspace: _Word | None
    api_key: _Word | None
    experiment_name: _Word | None
    experiment_key: _Word | None
    online: _Bool | None
    mode: _Word | None


@_closed
class _Compile(TypedDict, total=False):
    deepcompile: _Bool
    autoep_non_moe: _Bool
    free_activation: _Bool
    free_activation_threshold: _Count
    offload_activation: _Bool
    offload_activation_pin_memory: _Bool
    offload_opt_states: _Bool
    double_buffer: _Bool
    symmetric_memory: _Bool
    debug_log: _Bool
    offload_parameters: _Bool
    sync_before_reduce: _Bool
    sync_after_reduce: _Bool
    sync_before_allgather: _Bool
    sync_after_allgather: _Bool
    keep_int_input_tensors: _Bool
    keep_all_input_tensors: _Bool
    passes: list[Annotated[Any, PlainValidator(_one_of("z1", "z3", "autosp", "autotp"))]] | None


@_closed
class _Throughput(TypedDict, total=False):
    enabled: _Bool
    synchronized: _Bool


class _Timers(TypedDict, total=False):
    throughput: _Throughput


class _File(TypedDict, total=False):
    train_batch_size: _Integer | None
    train_micro_batch_size_per_gpu: _Integer | None
    gradient_accumulation_steps: _Integer | None
    gradient_clipping: _Number
    optimizer: _Optimizer | None
    zero_optimization: _Zero
    fp16: _Fp16
    bf16: _Bf16
    data_types: _DataTypes
    zero_allow_untested_optimizer: _Bool
    zero_force_ds_cpu_optimizer: _Bool
    communication_data_type: (
        Annotated[Any, PlainValidator(_in_any_case("fp32", "bf16", "fp16"))] | None
    )
    prescale_gradients: _Bool
    gradient_predivide_factor: Annotated[Any, PlainValidator(_number(1e-6))]
    steps_per_print: _Positive | None
    seed: _Integer
    wall_clock_breakdown: _Bool
    memory_breakdown: _Bool
    dump_state: _Bool
    use_node_local_storage: _Bool
    disable_allgather: _Bool
    use_data_before_expert_parallelism: _Bool
    flops_profiler: _FlopsProfiler
    comms_logger: _CommsLogger
    activation_checkpointing: _ActivationCheckpointing
    checkpoint: _Checkpoint
    aio: _Aio
    tensorboard: _Monitor
    csv_monitor: _Monitor
    wandb: _Wandb
    comet: _Comet
    compile: _Compile
    timers: _Timers
    torch_autocast: _Autocast


def deepspeed_fault(content: dict[str, Any]) -> str | None:
    """The first value that has another type than expected, or unknown key; None if there is none.

    Args:
        content: a DeepSpeed file without ``"auto"``.
    """
    return shape_fault(_File, content)
