"""Which part of which tensor lies where in a flat slice.

ZeRO hands an optimizer flat slices: several tensors end to end, cut at places that have nothing to
do with their borders. A *partition* is one such slice on one rank, a *segment* the part of one
tensor in it. A partition names every tensor of the slices it belongs to, in the same order on all
ranks, also those that have no segment here: their order is the row order of the vector of squared
norms that the ranks add up (see :mod:`megabert.optim.lamb`).

Nothing here knows DeepSpeed or a process group; the ranks' sum comes as a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

AllReduce = Callable[[Tensor], None]
"""Adds a tensor up over ranks, in place; every one of those ranks must call it."""


@dataclass(frozen=True)
class ParameterSlice:
    """One tensor's part of one flat slice; starts and lengths count elements.

    Attributes:
        row: number of the tensor in ``Partition.names``.
        name: the tensor's parameter name.
        slice_start: where the segment begins in the flat slice.
        tensor_start: where it begins in the (tensor-parallel rank's, flattened) tensor.
        numel: its length.
        split: the tensor is split over the tensor-parallel ranks, so that each holds another part;
            otherwise they all hold the same values.
    """

    row: int
    name: str
    slice_start: int
    tensor_start: int
    numel: int
    split: bool


@dataclass(frozen=True)
class Partition:
    """A flat slice's tensors and segments, segments in the order of the slice.

    Attributes:
        names: every tensor of the slices of this kind, the same on every rank.
        segments: the parts that lie in this rank's slice; none where it is all padding.
        slice_numel: elements of the slice, padding included.

    Raises:
        ValueError: segments that overlap, leave the slice, or name no tensor.
    """

    names: tuple[str, ...]
    segments: tuple[ParameterSlice, ...]
    slice_numel: int

    def __post_init__(self) -> None:
        end = 0
        for segment in self.segments:
            if segment.slice_start < end or segment.numel < 1:
                raise ValueError(f"segment of {segment.name} overlaps its neighbour or is empty")
            if not 0 <= segment.row < len(self.names):
                raise ValueError(f"segment of {segment.name} has row {segment.row} of none")
            end = segment.slice_start + segment.numel
        if end > self.slice_numel:
            raise ValueError(f"segments end at {end}, the slice at {self.slice_numel}")

    @classmethod
    def whole(cls, name: str, numel: int, split: bool = False) -> Partition:
        """The partition of a parameter that is a tensor of its own, not a slice."""
        segment = ParameterSlice(0, name, 0, 0, numel, split)
        return cls((name,), (segment,) if numel else (), numel)

    @cached_property
    def is_whole(self) -> bool:
        """One tensor fills the slice to the last element."""
        return len(self.segments) == 1 and self.segments[0].numel == self.slice_numel

    @cached_property
    def _cuts(self) -> tuple[list[int], list[int]]:
        """Sizes that cut the slice into segments and gaps, and which of the pieces are segments."""
        sizes: list[int] = []
        wanted: list[int] = []
        end = 0
        for segment in self.segments:
            if segment.slice_start > end:
                sizes.append(segment.slice_start - end)
            wanted.append(len(sizes))
            sizes.append(segment.numel)
            end = segment.slice_start + segment.numel
        if end < self.slice_numel:
            sizes.append(self.slice_numel - end)
        return sizes, wanted

    def views(self, flat: Tensor) -> list[Tensor]:
        """The segments' views of ``flat`` [slice_numel] (or of a whole tensor of any shape)."""
        if self.is_whole:
            return [flat]
        sizes, wanted = self._cuts
        pieces = flat.split(sizes)
        return [pieces[number] for number in wanted]


def cut(
    names: Sequence[str],
    starts: Sequence[int],
    numels: Sequence[int],
    splits: Sequence[bool],
    slice_start: int,
    slice_numel: int,
) -> Partition:
    """The partition of the slice [slice_start, slice_start + slice_numel) of a flat group.

    Args:
        names, starts, numels, splits: each tensor's name, place in the flat group, length and
            whether it is split over tensor-parallel ranks, in row order. Between and behind
            the tensors there may be padding.
    """
    slice_end = slice_start + slice_numel
    segments = []
    for row, (name, start, numel, split) in enumerate(zip(names, starts, numels, splits)):
        first, last = max(start, slice_start), min(start + numel, slice_end)
        if first < last:
            segments.append(
                ParameterSlice(row, name, first - slice_start, first - start, last - first, split)
            )
    segments.sort(key=lambda segment: segment.slice_start)
    return Partition(tuple(names), tuple(segments), slice_numel)


class SliceTable:
    """The partitions behind an optimizer's parameters, and the sum over the ranks that share them.

    Args:
        partitions: each flat slice (the very tensor that the optimizer updates) with its partition.
        all_reduce: sums over all ranks that hold parts of the same tensors; None where one rank
            holds them whole.
        counts_replicated: this rank adds the tensors that are not split into the sum. True on
            exactly one of the tensor-parallel ranks of each data-parallel rank.
    """

    def __init__(
        self,
        partitions: Iterable[tuple[Tensor, Partition]],
        all_reduce: AllReduce | None,
        counts_replicated: bool = True,
    ) -> None:
        # The tensors are kept beside their ids: an id stays unique only while its object lives.
        self._partitions = {id(flat): (flat, partition) for flat, partition in partitions}
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self.all_reduce = all_reduce
        self.counts_replicated = counts_replicated

    def partition(self, parameter: Tensor) -> Partition:
        """The partition of ``parameter``; one that the table does not list is a whole tensor."""
        if id(parameter) not in self._partitions:
            whole = Partition.whole("", parameter.numel())
            self._partitions[id(parameter)] = (parameter, whole)
        return self._partitions[id(parameter)][1]

    def rows(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the parameter's segments, int64 [segments], and what each counts, 0 or 1,
        float64 [segments]; both on the parameter's device, made once."""
        found = self._rows.get(id(parameter))
        if found is None or found[0].device != parameter.device:
            segments = self.partition(parameter).segments
            device = parameter.device
            counts = [float(self.counts_replicated or segment.split) for segment in segments]
            found = (
                torch.tensor([segment.row for segment in segments], device=device).long(),
                torch.tensor(counts, dtype=torch.float64, device=device),
            )
            self._rows[id(parameter)] = found
        return found
