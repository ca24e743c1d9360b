"""Weights and optimizer state as whole tensors, from and to an engine of any ZeRO stage and topology.

A whole tensor is the logical one: fp32, all tensor-parallel parts joined, not partitioned, without
ZeRO's padding. State moves from one topology to another in this form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.engine.zero.partitions import (
    FlatPartition,
    is_split,
    local_shape,
    partitions_of,
    sum_over_holders,
)
from megabert.optim.base import EMA, ShardedOptimizer
from megabert.optim.flat_segments import AllReduce, ParameterSlice
from megabert.parallel.layers import split_dim
from megabert.parallel.topology import TensorParallel

_TORCH_ADAM_STATES = ("exp_avg", "exp_avg_sq")


def state_names(optimizer: torch.optim.Optimizer, item: FlatPartition) -> tuple[str, ...]:
    """Names of a partition's state tensors; those of torch's Adam for an optimizer that declares none."""
    if isinstance(optimizer, ShardedOptimizer):
        return optimizer.all_states(optimizer.param_groups[item.group])
    return _TORCH_ADAM_STATES


def _new_state(optimizer: torch.optim.Optimizer, name: str, weight: Tensor) -> Tensor:
    if name == EMA:
        return weight.detach().clone()
    if isinstance(optimizer, ShardedOptimizer):
        return optimizer.new_state(name, weight)
    return torch.zeros_like(weight)


def optimizer_step(engine: Any) -> int:
    """Updates that the optimizer's state has received (0 if there is no state)."""
    for state in engine.basic_optimizer.state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def iterate_state(
    engine: Any, tp: TensorParallel, keys: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every trained tensor whole, one at a time: name, {key: fp32 tensor of the full shape}.

    A collective: every rank iterates to the end, and every rank gets every tensor (one all-reduce
    each, on the device; at most one tensor's values are held). ``keys``: which of ``weight`` (the fp32
    master) and the tensor's own state, by default all of them; state that does not exist yet is what it
    is before the first update.
    """
    base = engine.basic_optimizer
    all_reduce = sum_over_holders(engine, tp)
    for item in partitions_of(engine):
        state = base.state.get(item.flat, {})
        names = ("weight", *state_names(base, item))
        flats = {key: state.get(key) for key in names if keys is None or key in keys}
        for key in flats:
            if key == "weight":
                flats[key] = item.flat
            elif flats[key] is None:
                flats[key] = _new_state(base, key, item.flat)
        segments = {segment.row: segment for segment in item.partition.segments}
        for row, (name, parameter) in enumerate(zip(item.partition.names, item.parameters)):
            segment = segments.get(row)
            yield (
                name,
                {k: _gather(flat, segment, parameter, tp, all_reduce) for k, flat in flats.items()},
            )


def _gather(
    flat: Tensor | None,
    segment: ParameterSlice | None,
    parameter: nn.Parameter,
    tp: TensorParallel,
    all_reduce: AllReduce | None,
) -> Tensor:
    own_shape, dim = local_shape(parameter), split_dim(parameter)
    shape = list(own_shape)
    if dim is not None:
        shape[dim] *= tp.size
    device = parameter.device if flat is None else flat.device
    full = torch.zeros(shape, dtype=torch.float32, device=device)
    if flat is not None and segment is not None and (dim is not None or tp.rank == 0):
        local = torch.zeros(own_shape.numel(), dtype=torch.float32, device=device)
        first, last = segment.tensor_start, segment.tensor_start + segment.numel
        start = segment.partition_start
        local[first:last] = flat.detach().reshape(-1)[start : start + segment.numel]
        tp.cut(full, dim).copy_(local.view(own_shape))
    if all_reduce is not None:
        all_reduce(full)
    return full


def read_state(
    engine: Any, tp: TensorParallel, keys: Sequence[str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """:func:`iterate_state` as one dictionary in host memory, on every rank."""
    return {
        name: {key: value.cpu() for key, value in values.items()}
        for name, values in iterate_state(engine, tp, keys)
    }


@torch.no_grad()
def write_state(
    engine: Any,
    tp: TensorParallel,
    full: Mapping[str, Mapping[str, Tensor]],
    step: int,
) -> None:
    """Load whole tensors into this engine: fp32 masters, optimizer state, and the model's own weights.

    Every rank passes the same tensors and takes its parts; nothing is communicated. A mapping that
    loads each tensor on access saves memory.

    Args:
        full: by parameter name ``weight`` and the optimizer's state tensors, of the full shape (padded
            vocabulary). State that is missing becomes what it is before the first update; further names
            are ignored.
        step: the optimizer's step count from here on, from which bias correction continues.

    Raises:
        UserError: a parameter that ``full`` lacks, or one of another shape.
    """
    base = engine.basic_optimizer
    partitions = partitions_of(engine)
    for item in partitions:
        for name in item.partition.names:
            if name not in full:
                raise UserError(f"the checkpoint has no tensor {name}, which this model needs")
    for item in partitions:
        state = base.state[item.flat]
        if isinstance(base, ShardedOptimizer):
            base.set_step(item.flat, step)
        else:
            state["step"] = torch.tensor(float(step))
        states = state_names(base, item)
        for key in states:
            state.setdefault(key, torch.zeros_like(item.flat))
        segments = {segment.row: segment for segment in item.partition.segments}
        for row, (name, parameter) in enumerate(zip(item.partition.names, item.parameters)):
            segment = segments.get(row)
            tensors = full[name]
            local = _own_part(name, tensors["weight"], parameter, tp)
            _fill(item.flat, segment, local)
            if parameter.numel() == local.numel():  # at stage 3 only small ones are present
                parameter.data.copy_(local.view(parameter.shape))
            for key in states:
                value = tensors.get(key)
                part = (
                    _new_state(base, key, local)
                    if value is None
                    else _own_part(name, value, parameter, tp)
                )
                _fill(state[key], segment, part)
        if item.compute_weights is not None:
            item.compute_weights.copy_(item.flat)


def _own_part(name: str, whole: Tensor, parameter: nn.Parameter, tp: TensorParallel) -> Tensor:
    """This tensor-parallel rank's part of a whole tensor, flat."""
    shape = local_shape(parameter)
    part = whole
    if whole.dim() == len(shape):
        part = tp.cut(whole, split_dim(parameter))
    if part.shape != shape:
        raise UserError(
            f"tensor {name} of the checkpoint has shape {tuple(whole.shape)}; split over {tp.size} "
            f"tensor-parallel ranks this model needs parts of shape {tuple(shape)}"
        )
    return part.reshape(-1)


def _fill(flat: Tensor, segment: ParameterSlice | None, local: Tensor) -> None:
    """Copy the segment's range of ``local`` to its place in ``flat``."""
    if segment is None:
        return
    place = flat.view(-1)[segment.partition_start : segment.partition_start + segment.numel]
    first = segment.tensor_start
    place.copy_(local[first : first + segment.numel])


# ---------------------------------------------------------------- copies on tensor-parallel ranks


@dataclass(frozen=True)
class CopyDifference:
    """How far apart copies of one tensor were: absolute, and the tensor's largest number."""

    name: str
    key: str
    difference: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.key}) by up to {self.difference:.2g}, where its largest number is "
            f"{self.largest:.2g}"
        )


@torch.no_grad()
def average_copies(engine: Any, tp: TensorParallel) -> CopyDifference | None:
    """Replace copies of a tensor that differ between tensor-parallel ranks by their mean (all ranks call).

    Norms, positions and the biases after a split region are whole on each tensor-parallel rank, which
    updates them by itself: other orders of sums can move them apart. Weights, optimizer state and what
    the model computes with are equal afterwards; copies that were equal keep their bits.

    Returns:
        The largest relative difference of all ranks, the same everywhere; None: there was none.
    """
    if tp.size == 1:
        return None
    base = engine.basic_optimizer
    names = (name for item in partitions_of(engine) for name in state_names(base, item))
    keys = tuple(dict.fromkeys(("weight", *names)))
    tensors = list(_replicated(engine))
    measured = torch.zeros(len(tensors), len(keys), 2, dtype=torch.float64, device=engine.device)
    for column, key in enumerate(keys):
        places = []
        for number, (item, _, segment) in enumerate(tensors):
            flat = item.flat if key == "weight" else base.state.get(item.flat, {}).get(key)
            if flat is not None and segment is not None:
                start = segment.partition_start
                places.append((number, flat.view(-1)[start : start + segment.numel]))
        if places:
            _average(places, measured[:, column], tp)
    dist.all_reduce(measured, op=dist.ReduceOp.MAX)
    difference, largest = measured.cpu().unbind(-1)
    if not difference.any():
        return None
    all_reduce = sum_over_holders(engine, tp)
    for (item, row, segment), differs in zip(tensors, difference[:, 0].gt(0).tolist()):
        if differs:  # round the masters again to what the model computes with
            parameter = item.parameters[row]
            whole = _gather(item.flat, segment, parameter, tp, all_reduce)
            if parameter.numel() == whole.numel():  # at stage 3 only small ones are present
                parameter.data.copy_(whole.view(parameter.shape))
            if item.compute_weights is not None:
                item.compute_weights.copy_(item.flat)
    worst = int((difference / largest.clamp(min=1e-300)).argmax())
    item, row, _ = tensors[worst // len(keys)]
    return CopyDifference(
        item.partition.names[row],
        keys[worst % len(keys)],
        float(difference.flatten()[worst]),
        float(largest.flatten()[worst]),
    )


def _replicated(engine: Any) -> Iterator[tuple[FlatPartition, int, ParameterSlice | None]]:
    """The tensors that are not split: partition, row, and this rank's segment."""
    for item in partitions_of(engine):
        segments = {segment.row: segment for segment in item.partition.segments}
        for row, parameter in enumerate(item.parameters):
            if not is_split(parameter):
                yield item, row, segments.get(row)


def _average(places: Sequence[tuple[int, Tensor]], measured: Tensor, tp: TensorParallel) -> None:
    """Average what differs (one all-gather); ``measured`` [tensors, 2]: difference and largest number."""
    own = torch.cat([place for _, place in places]).to(measured.device)
    gathered = [torch.empty_like(own) for _ in range(tp.size)]
    dist.all_gather(gathered, own, group=tp.group)
    copies = torch.stack(gathered)
    differing = (copies != copies[0]).any(0)
    if not differing.any():
        return
    mean = torch.where(differing, copies.double().mean(0).to(own.dtype), own)
    apart, size = copies.amax(0) - copies.amin(0), copies.abs().amax(0)
    start = 0
    for number, place in places:
        inside = slice(start, start + place.numel())
        place.copy_(mean[inside])
        measured[number] = torch.stack([apart[inside].max(), size[inside].max()])
        start = inside.stop
