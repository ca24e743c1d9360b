"""The only reader of DeepSpeed's partition tables: whole tensors <-> ZeRO's flat fp32 partitions.

Each ZeRO stage stores its fp32 weights and moments in another form, under other private names:

    stage 0, fp32            the model's own parameters; no wrapper around the optimizer
    stage 0, half precision  FP16_UnfusedOptimizer: one fp32 master per parameter
    stages 1, 2              DeepSpeedZeroOptimizer: one partition per parameter group, 1/DP of all its
                             tensors end to end
    stage 1, bf16 summed     BF16_Optimizer: the same, other names
      in fp32
    stage 3                  DeepSpeedZeroOptimizer_Stage3: one partition per sub-group, with 1/DP of
                             each of its tensors, each padded

:func:`partitions_of` turns all of them into one form, a list of flat tensors and the
:class:`~megabert.optim.flat_segments.Partition` of each; the rest of the file does not depend on the
stage. Private names are read through :func:`private`, so that a DeepSpeed release that renames one is
reported in one line. Places are compared with the addresses of the model's tensors, so that a release
that orders them differently is found at start.

Communication of norms: one all-reduce over all ranks of the run (stages 1 to 3: data and tensor
parallel together are all ranks) or over the tensor-parallel group (stage 0, where every data-parallel
rank has everything; none if there is one rank). Where tensor-parallel ranks hold copies of one tensor,
only tensor-parallel rank 0 adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.optim.flat_segments import AllReduce, LocalTensor, ParameterSlice, Partition
from megabert.parallel.layers import split_dim
from megabert.parallel.topology import TensorParallel


@dataclass(frozen=True)
class FlatPartition:
    """A flat fp32 tensor that the optimizer updates, and what lies in it.

    Attributes:
        flat: fp32 [partition.numel].
        partition: the tensors and segments in it.
        parameters: the model's parameters, in the order of ``partition.tensors``.
        group: number of their group in the optimizer's ``param_groups``.
        compute_weights: this rank's part of the weights that the model computes with, where the
            model's parameters are not whole tensors (stage 3); else None.
    """

    flat: Tensor
    partition: Partition
    parameters: tuple[nn.Parameter, ...]
    group: int
    compute_weights: Tensor | None = None


def private(owner: Any, name: str) -> Any:
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
    """This tensor-parallel rank's shape, also of a parameter that stage 3 has released."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def partitions_of(engine: Any) -> list[FlatPartition]:
    """This rank's partitions, in the same order on every rank."""
    optimizer = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    readers: dict[str, Callable[[Any, dict[int, str]], list[FlatPartition]]] = {
        "DeepSpeedZeroOptimizer": _partitions_of_stage_1_and_2,
        "BF16_Optimizer": _partitions_of_bf16,
        "DeepSpeedZeroOptimizer_Stage3": _partitions_of_stage_3,
        "FP16_UnfusedOptimizer": _partitions_of_masters,
    }
    if optimizer is engine.basic_optimizer:
        groups = [group["params"] for group in optimizer.param_groups]
        return [_whole(p, p, n, names) for n, group in enumerate(groups) for p in group]
    kind = type(optimizer).__name__
    if kind not in readers:
        raise UserError(
            f"DeepSpeed wrapped the optimizer in {kind}, whose partitions megabert cannot read: use "
            "ZeRO stage 0, 1, 2 or 3 without further options"
        )
    return readers[kind](optimizer, names)


def _local_tensor(parameter: nn.Parameter, names: dict[int, str]) -> LocalTensor:
    dim = split_dim(parameter)
    shape = tuple(local_shape(parameter))
    return LocalTensor(names[id(parameter)], shape, dim is not None, dim or 0)


def _whole(
    flat: Tensor, parameter: nn.Parameter, group: int, names: dict[int, str]
) -> FlatPartition:
    partition = Partition.whole(_local_tensor(parameter, names))
    return FlatPartition(flat, partition, (parameter,), group)


def _partitions_of_masters(optimizer: Any, names: dict[int, str]) -> list[FlatPartition]:
    groups = zip(private(optimizer, "fp32_groups"), private(optimizer, "fp16_groups"))
    return [
        _whole(m, p, number, names)
        for number, (masters, group) in enumerate(groups)
        for m, p in zip(masters, group)
    ]


def _partitions_of_stage_1_and_2(optimizer: Any, names: dict[int, str]) -> list[FlatPartition]:
    # round_robin_*: the order in the flat buffer, which bit16_groups need not have
    groups = private(optimizer, "round_robin_bit16_groups")
    starts = private(optimizer, "round_robin_bit16_offsets")
    buffers = private(optimizer, "bit16_groups_flat")
    flats = private(optimizer, "single_partition_of_fp32_groups")
    ranks = [dist.get_rank(group) for group in private(optimizer, "real_dp_process_group")]
    found = zip(groups, starts, buffers, flats, ranks)
    return [_part_of_group(*values, n, names) for n, values in enumerate(found)]


def _partitions_of_bf16(optimizer: Any, names: dict[int, str]) -> list[FlatPartition]:
    groups = private(optimizer, "bf16_groups")
    buffers = private(optimizer, "bf16_groups_flat")
    flats = private(optimizer, "fp32_groups_flat_partition")
    ranks = [dist.get_rank(group) for group in private(optimizer, "real_dp_process_group")]
    found = []
    for number, (group, buffer, flat, rank) in enumerate(zip(groups, buffers, flats, ranks)):
        starts = [sum(p.numel() for p in group[:n]) for n in range(len(group))]
        found.append(_part_of_group(group, starts, buffer, flat, rank, number, names))
    return found


def _part_of_group(
    group: Sequence[nn.Parameter],
    starts: Sequence[int],
    buffer: Tensor,
    flat: Tensor,
    rank: int,
    number: int,
    names: dict[int, str],
) -> FlatPartition:
    """The partition of data-parallel rank ``rank``, of the group of this number, which lies end to end in ``buffer``."""
    for parameter, start in zip(group, starts):
        if parameter.data_ptr() != buffer.data_ptr() + start * buffer.element_size():
            raise UserError(
                f"DeepSpeed {version('deepspeed')} stores {names[id(parameter)]} elsewhere than its "
                "table says; install the tested release: pip install deepspeed==0.19.8"
            )
    tensors = [_local_tensor(parameter, names) for parameter in group]
    partition = Partition.of_group(tensors, starts, rank * flat.numel(), flat.numel())
    return FlatPartition(flat, partition, tuple(group), number)


def _partitions_of_stage_3(optimizer: Any, names: dict[int, str]) -> list[FlatPartition]:
    flats = private(optimizer, "fp32_partitioned_groups_flat")
    compute_weights = private(optimizer, "fp16_partitioned_groups_flat")
    process_groups = private(optimizer, "sub_group_process_groups")
    group_of = private(optimizer, "sub_group_to_group_id")
    found = []
    for number, group in enumerate(private(optimizer, "fp16_groups")):
        rank = dist.get_rank(process_groups[number])
        tensors = tuple(_local_tensor(parameter, names) for parameter in group)
        segments, offset = [], 0
        for row, parameter in enumerate(group):
            padded = private(parameter, "ds_tensor").ds_numel  # each rank's part, with its padding
            first = rank * padded
            numel = min(padded, parameter.ds_numel - first)
            if numel > 0:
                segments.append(ParameterSlice(row, tensors[row], offset, first, numel))
            offset += padded
        flat = flats[number]
        partition = Partition(tensors, tuple(segments), flat.numel())
        computed = compute_weights[number]
        found.append(FlatPartition(flat, partition, tuple(group), group_of[number], computed))
    return found


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
        else:  # ZeRO-Offload: the state is in host memory, the collective runs on the devices
            moved = tensor.to(device)
            dist.all_reduce(moved, group=group)
            tensor.copy_(moved)

    return all_reduce
