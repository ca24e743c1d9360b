"""The only reader of DeepSpeed's partition tables: whole tensors <-> ZeRO's flat fp32 slices.

Every ZeRO stage keeps its fp32 weights and moments in another shape and under other private names:

    stage 0, fp32            the model's own parameters; no wrapper around the optimizer
    stage 0, half precision  FP16_UnfusedOptimizer: one fp32 master a parameter
    stages 1, 2              DeepSpeedZeroOptimizer: one slice a parameter group, 1/DP of all its
                             tensors end to end
    stage 1, bf16 summed up  BF16_Optimizer: the same, other names
      in fp32
    stage 3                  DeepSpeedZeroOptimizer_Stage3: one slice a sub-group, in it 1/DP of each
                             tensor, each with padding of its own

:func:`slices_of` turns all of them into one form, a list of flat tensors and the
:class:`~megabert.optim.segments.Partition` of each; the rest of the file knows no stages. Private
names are read through :func:`_private`, so that a DeepSpeed release that renames one is named in
one line, and places are compared with the addresses of the model's tensors, so that one that
orders them otherwise is found at start.

Communication of LAMB's norms: one all-reduce over all ranks of the run (stages 1 to 3: data and
tensor parallel together are everybody) or over the tensor-parallel group (stage 0, where every
data-parallel rank has everything; none if there is one rank). Copies that tensor-parallel ranks hold
of one tensor are added by tensor-parallel rank 0 only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabert.engine.launch import check_versions
from megabert.log import UserError
from megabert.optim.lamb import Lamb
from megabert.optim.norms import squared_norms
from megabert.optim.segments import AllReduce, Partition, Segment, SegmentTable, cut
from megabert.parallel.topology import TensorParallel

_UNSCALED_STAGE_0 = "0.19.8"
"""The DeepSpeed whose fp16 stage 0 is known, and mended in :func:`_scale_loss_once`."""

# Settings of zero_optimization under which ratios, norms or checkpoints are not exact, or could not be
# checked: the values that are harmless, and why others are refused.
_INEXACT: dict[str, tuple[tuple[Any, ...], str]] = {
    "round_robin_gradients": ((False,), "DeepSpeed's checkpoints then name the wrong tensors"),
    "mics_shard_size": (
        (-1, 0),
        "MiCS keeps several copies of each slice, which norms would count",
    ),
    "mics_hierarchical_params_gather": ((False,), "it belongs to MiCS"),
    "zero_hpz_partition_size": ((0, 1), "hpZ has a second partition that was never checked"),
    "zero_quantized_weights": ((False,), "the weights would be rounded to 8 bits on their way"),
    "zero_quantized_nontrainable_weights": ((False,), "weights would be rounded to 8 bits"),
    "zero_quantized_gradients": ((False,), "the gradients would be rounded to 4 bits"),
    "zenflow": (
        (None,),
        "ZenFlow updates parts of a tensor at different steps, so it has no ratio",
    ),
    "compute_grad_norm": ((True,), "gradients would not be clipped, and no norm reported"),
    "legacy_stage1": ((False,), "DeepSpeed has retired it"),
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
            "the device between uses were never checked; remove it, or use more ranks"
        )
    states = zero.get("offload_optimizer") or {}
    device = states.get("device", "none")
    if device == "nvme":
        raise UserError(
            "zero_optimization.offload_optimizer on nvme is not supported: masters that are on disk "
            'have no address to check; use "device": "cpu"'
        )
    if device != "none" and zero.get("stage", 0) == 0:
        raise UserError(
            "zero_optimization.offload_optimizer needs ZeRO: set --zero-stage 1, 2 or 3"
        )
    if states.get("super_offload") or states.get("ratio", 1.0) != 1.0:
        raise UserError(
            "zero_optimization.offload_optimizer: super_offload and ratio are not supported: they "
            "update parts of the state elsewhere, by another optimizer; remove them"
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


# ---------------------------------------------------------------- one form for all stages


@dataclass(frozen=True)
class Slice:
    """A flat fp32 tensor that the optimizer updates, and what lies in it.

    ``low`` is this rank's slice of the weights that the model computes with where the model's
    parameters are not whole tensors (stage 3), else None.
    """

    flat: Tensor
    partition: Partition
    parameters: tuple[nn.Parameter, ...]
    low: Tensor | None = None


def _private(owner: Any, name: str) -> Any:
    """An attribute that DeepSpeed does not promise to keep."""
    try:
        return getattr(owner, name)
    except AttributeError:
        raise UserError(
            f"DeepSpeed {version('deepspeed')} has no {type(owner).__name__}.{name}, which megabert "
            "reads; install the tested release: pip install deepspeed==0.19.8"
        ) from None


def is_split(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "tensor_model_parallel", False))


def local_shape(parameter: nn.Parameter) -> torch.Size:
    """This tensor-parallel rank's shape, also of a parameter that stage 3 has taken away."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def slices_of(engine: Any) -> list[Slice]:
    """This rank's slices, in the same order on every rank."""
    optimizer = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    readers: dict[str, Callable[[Any, dict[int, str]], list[Slice]]] = {
        "DeepSpeedZeroOptimizer": _slices_of_stage_1_and_2,
        "BF16_Optimizer": _slices_of_bf16,
        "DeepSpeedZeroOptimizer_Stage3": _slices_of_stage_3,
        "FP16_UnfusedOptimizer": _slices_of_masters,
    }
    if optimizer is engine.basic_optimizer:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return [_whole(p, p, names) for p in parameters]
    kind = type(optimizer).__name__
    if kind not in readers:
        raise UserError(
            f"DeepSpeed wrapped the optimizer in {kind}, whose slices megabert cannot read: use "
            "ZeRO stage 0, 1, 2 or 3 without further options"
        )
    return readers[kind](optimizer, names)


def _whole(flat: Tensor, parameter: nn.Parameter, names: dict[int, str]) -> Slice:
    name = names[id(parameter)]
    partition = Partition.whole(name, flat.numel(), is_split(parameter))
    return Slice(flat, partition, (parameter,))


def _slices_of_masters(optimizer: Any, names: dict[int, str]) -> list[Slice]:
    groups = zip(_private(optimizer, "fp32_groups"), _private(optimizer, "fp16_groups"))
    return [_whole(m, p, names) for masters, group in groups for m, p in zip(masters, group)]


def _slices_of_stage_1_and_2(optimizer: Any, names: dict[int, str]) -> list[Slice]:
    # round_robin_*: the order in the flat buffer, which bit16_groups need not have
    groups = _private(optimizer, "round_robin_bit16_groups")
    starts = _private(optimizer, "round_robin_bit16_offsets")
    buffers = _private(optimizer, "bit16_groups_flat")
    flats = _private(optimizer, "single_partition_of_fp32_groups")
    ranks = [dist.get_rank(group) for group in _private(optimizer, "real_dp_process_group")]
    return [_part_of_group(*values, names) for values in zip(groups, starts, buffers, flats, ranks)]


def _slices_of_bf16(optimizer: Any, names: dict[int, str]) -> list[Slice]:
    groups = _private(optimizer, "bf16_groups")
    buffers = _private(optimizer, "bf16_groups_flat")
    flats = _private(optimizer, "fp32_groups_flat_partition")
    ranks = [dist.get_rank(group) for group in _private(optimizer, "real_dp_process_group")]
    slices = []
    for group, buffer, flat, rank in zip(groups, buffers, flats, ranks):
        starts = [sum(p.numel() for p in group[:number]) for number in range(len(group))]
        slices.append(_part_of_group(group, starts, buffer, flat, rank, names))
    return slices


def _part_of_group(
    group: Sequence[nn.Parameter],
    starts: Sequence[int],
    buffer: Tensor,
    flat: Tensor,
    rank: int,
    names: dict[int, str],
) -> Slice:
    """The slice of data-parallel rank ``rank`` of a group that lies end to end in ``buffer``."""
    for parameter, start in zip(group, starts):
        if parameter.data_ptr() != buffer.data_ptr() + start * buffer.element_size():
            raise UserError(
                f"DeepSpeed {version('deepspeed')} keeps {names[id(parameter)]} elsewhere than its "
                "table says; install the tested release: pip install deepspeed==0.19.8"
            )
    partition = cut(
        [names[id(parameter)] for parameter in group],
        starts,
        [parameter.numel() for parameter in group],
        [is_split(parameter) for parameter in group],
        rank * flat.numel(),
        flat.numel(),
    )
    return Slice(flat, partition, tuple(group))


def _slices_of_stage_3(optimizer: Any, names: dict[int, str]) -> list[Slice]:
    flats = _private(optimizer, "fp32_partitioned_groups_flat")
    lows = _private(optimizer, "fp16_partitioned_groups_flat")
    process_groups = _private(optimizer, "sub_group_process_groups")
    slices = []
    for number, group in enumerate(_private(optimizer, "fp16_groups")):
        rank = dist.get_rank(process_groups[number])
        segments, offset = [], 0
        for row, parameter in enumerate(group):
            share = _private(parameter, "ds_tensor").ds_numel
            first = rank * share
            numel = min(share, parameter.ds_numel - first)
            name, split = names[id(parameter)], is_split(parameter)
            if numel > 0:
                segments.append(Segment(row, name, offset, first, numel, split))
            offset += share
        flat = flats[number]
        partition = Partition(tuple(names[id(p)] for p in group), tuple(segments), flat.numel())
        slices.append(Slice(flat, partition, tuple(group), lows[number]))
    return slices


# ---------------------------------------------------------------- LAMB and the gradient norm


def attach_lamb(engine: Any, tp: TensorParallel) -> torch.device:
    """Make a fresh engine's optimizer exact: call once, between initialize and anything else.

    Returns where the optimizer's state is.

    Gives a :class:`~megabert.optim.lamb.Lamb` its segment table and collective; undoes the update
    that DeepSpeed makes while it sets up stage 0 in half precision (weights back, no state); has
    stage 0 measure its gradient norm rightly, and in fp32 skip an update whose gradient is not finite,
    as all other modes do. All but the first serve other optimizers as well.

    Raises:
        UserError: a DeepSpeed too old or changed; a topology under which it would not be exact.
    """
    check_versions()
    optimizer, base = engine.optimizer, engine.basic_optimizer
    world_size = dist.get_world_size()
    if engine.dp_world_size * tp.size != world_size:
        raise UserError(
            f"{engine.dp_world_size} data-parallel x {tp.size} tensor-parallel ranks are not the "
            f"{world_size} ranks of the run: was the mpu given to DeepSpeed?"
        )
    slices = slices_of(engine)
    for item in slices:
        if item.flat.dtype != torch.float32:
            raise UserError(
                f"the weights that the optimizer updates are {item.flat.dtype}, not fp32: remove the "
                "setting of half-precision masters from the DeepSpeed configuration"
            )
    if isinstance(base, Lamb):
        # DeepSpeed drops the gradients as soon as the step is done
        base.overwrite_gradients = True
        table = [(item.flat, item.partition) for item in slices]
        listed = {id(flat) for flat, _ in table}
        if not all(id(p) in listed for group in base.param_groups for p in group["params"]):
            raise UserError(
                f"DeepSpeed {version('deepspeed')} updates tensors that its partition tables do "
                "not list; install the tested release: pip install deepspeed==0.19.8"
            )
        base.attach(SegmentTable(table, sum_over_holders(engine, tp), tp.rank == 0))
    if type(optimizer).__name__ == "FP16_UnfusedOptimizer" and engine.global_steps == 0:
        base.state.clear()
        for item in slices:
            item.flat.data.copy_(item.parameters[0].data)
    if engine.zero_optimization_stage() == 0:
        _record_norm(engine, tp, slices)
    elif getattr(optimizer, "cpu_offload", False):
        _forget_overflow(optimizer)
    return slices[0].flat.device


def _forget_overflow(optimizer: Any) -> None:
    """Stages 1 and 2 with ZeRO-Offload: drop the summed gradients of a skipped update.

    DeepSpeed 0.19.8 keeps those that are summed in fp32, so that one NaN makes every later update
    overflow. The method wrapped here ends each update, skipped or not.
    """
    reset, sums = (
        _private(optimizer, "reset_cpu_buffers"),
        _private(optimizer, "averaged_gradients"),
    )

    def reset_all() -> None:
        reset()
        for group in sums:
            sums[group] = None

    optimizer.reset_cpu_buffers = reset_all


def sum_over_holders(engine: Any, tp: TensorParallel) -> AllReduce | None:
    """Sum over the ranks that hold different parts of the same tensors; None if it is one rank."""
    partitioned = engine.zero_optimization_stage() > 0
    group = None if partitioned else tp.group
    if (dist.get_world_size() if partitioned else tp.size) == 1:
        return None

    device = engine.device

    def all_reduce(tensor: Tensor) -> None:
        if tensor.device.type == device.type:
            dist.all_reduce(tensor, group=group)
        else:  # ZeRO-Offload: the state is in host memory, the ranks meet on their devices
            moved = tensor.to(device)
            dist.all_reduce(moved, group=group)
            tensor.copy_(moved)

    return all_reduce


def _record_norm(engine: Any, tp: TensorParallel, slices: Sequence[Slice]) -> None:
    """Stage 0: have the norm measured here, before clipping, and clip by it.

    DeepSpeed 0.19.8 keeps no norm in fp32, and applies a gradient that is not finite there
    (``overflow`` is what its engine asks an optimizer for). In half precision it leaves out the split
    tensors of all tensor-parallel ranks but the first (it looks for their mark on the gradients), and
    reports the fp16 norm times the loss scale.
    """
    all_reduce = sum_over_holders(engine, tp)
    optimizer = engine.optimizer
    max_norm = float(engine.gradient_clipping())

    def norm() -> Tensor:
        counted = [
            item.flat.grad
            for item in slices
            if item.flat.grad is not None and (is_split(item.parameters[0]) or tp.rank == 0)
        ]
        square = torch.zeros((), dtype=torch.float64, device=engine.device)
        if counted:
            square += squared_norms(counted).sum()
        if all_reduce is not None:
            all_reduce(square)
        return square.sqrt()

    def measure_and_clip_fp32(*_: Any) -> None:
        engine._global_grad_norm = norm()
        optimizer.overflow = not bool(torch.isfinite(engine._global_grad_norm))
        if optimizer.overflow:
            engine._global_grad_norm = math.inf
            return
        gradients = [item.flat.grad for item in slices if item.flat.grad is not None]
        if max_norm > 0.0 and gradients:
            scale = (max_norm / (engine._global_grad_norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))

    if optimizer is not engine.basic_optimizer:
        _scale_loss_once(engine, norm)
        return
    step = optimizer.step

    def step_unless_overflow(closure: Any = None) -> Any:
        if max_norm <= 0.0:
            measure_and_clip_fp32()
        return None if optimizer.overflow else step(closure)

    _private(engine, "clip_fp32_gradients")
    engine.clip_fp32_gradients = measure_and_clip_fp32
    optimizer.step = step_unless_overflow


def _scale_loss_once(engine: Any, norm: Callable[[], Tensor]) -> None:
    """Stage 0 in half precision: have each gradient carry the loss scale that it is divided by.

    DeepSpeed 0.19.8 divides the gradients by fp16's loss scale here, but its ``backward`` multiplies
    the loss by it under ZeRO only; and it divides by the scale of the *next* update where that grows.

    Raises:
        UserError: fp16 with another DeepSpeed, which may have been mended.
    """
    optimizer = engine.optimizer
    scales = _private(optimizer, "loss_scale_config")
    clip = _private(optimizer, "unscale_and_clip_grads")
    used = [float(scales.cur_scale)]
    if scales.use_grad_scaling:
        if version("deepspeed") != _UNSCALED_STAGE_0:
            raise UserError(
                f"fp16 at ZeRO stage 0 was checked with DeepSpeed {_UNSCALED_STAGE_0} only, this is "
                f"{version('deepspeed')}: use --zero-stage 1, or bf16"
            )
        backward = engine.backward

        def backward_scaled(loss: Tensor, **named: Any) -> Any:
            used[0] = float(scales.cur_scale)
            return backward(loss.float() * used[0], **named)

        engine.backward = backward_scaled

    def measure_and_clip(_: Any, apply_scale: bool = True) -> Any:
        scaled = norm()
        optimizer._global_grad_norm = scaled / used[0]
        following, scales.cur_scale = scales.cur_scale, used[0]
        try:
            return clip(scaled, apply_scale)
        finally:
            scales.cur_scale = following

    optimizer.unscale_and_clip_grads = measure_and_clip


def grad_norm(engine: Any) -> float:
    """Global norm of the last step's gradients before clipping, at every stage.

    Split tensors count whole, copies once. inf after a skipped step; nan before the first one.
    Waits for the device: call it on logging steps only.
    """
    norm = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)
