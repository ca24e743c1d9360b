"""Which rank belongs to which group: pure arithmetic first, torch groups made from it second.

Ranks form a grid with one row for each data-parallel index and one column for each
tensor-parallel index.  Tensor-parallel ranks are neighbours, so that they share a host.

    world size 8, tensor parallel 2        tensor groups: the rows
        0 1                                data groups: the columns
        2 3
        4 5
        6 7
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor

from megabert.common.errors import UserError


def cut(full: Tensor, dim: int | None, index: int, parts: int) -> Tensor:
    """Part ``index`` of ``parts`` equal ones along ``dim`` (a view); all of it when dim is None."""
    if dim is None:
        return full
    if full.size(dim) % parts:
        raise UserError(
            f"a tensor of shape {tuple(full.shape)} cannot be cut into {parts} along "
            f"dimension {dim}: {full.size(dim)} is not divisible by {parts}"
        )
    size = full.size(dim) // parts
    return full.narrow(dim, index * size, size)


@dataclass(frozen=True)
class TensorParallel:
    """This rank's place among the ranks that share one model's weights.

    ``sequence_parallel``: outside the split regions each rank holds its own tokens only, the
    ``rank``-th of ``size`` equal parts (:mod:`megabert.parallel.mappings`).
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    sequence_parallel: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"tensor-parallel rank {self.rank} of {self.size}")
        if self.size > 1 and self.group is None:
            raise ValueError(f"tensor parallel degree {self.size} needs a process group")
        if self.sequence_parallel and self.size == 1:
            raise ValueError("sequence parallelism needs a tensor parallel degree above 1")

    def divide(self, number: int, what: str) -> int:
        """``number / size``; UserError naming both when it is not whole."""
        if number % self.size:
            raise UserError(
                f"{what} {number} is not divisible by the tensor parallel degree {self.size}: "
                f"choose a degree that divides {number}"
            )
        return number // self.size

    def bounds(self, number: int, what: str) -> tuple[int, int]:
        """First and one-past-last index of this rank's part of ``number``."""
        part = self.divide(number, what)
        return self.rank * part, (self.rank + 1) * part

    def cut(self, full: Tensor, dim: int | None) -> Tensor:
        """This rank's part of a whole tensor split along ``dim`` (a view); all of it for None."""
        return cut(full, dim, self.rank, self.size)


@dataclass(frozen=True)
class Topology:
    """Place of ``rank`` in a world of ``world_size`` ranks split ``tensor_parallel`` ways.

    Raises UserError, showing the arithmetic, when the degrees do not multiply out.
    """

    world_size: int = 1
    rank: int = 0
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        world, degree = self.world_size, self.tensor_parallel
        if world < 1 or degree < 1:
            raise UserError(
                f"world size {world} and tensor parallel degree {degree} must be at least 1"
            )
        if world % degree:
            raise UserError(
                f"{world} ranks cannot be split into tensor-parallel groups of {degree}: "
                f"{world} = {world // degree} x {degree} + {world % degree}; "
                f"use a number of ranks that is a multiple of {degree}"
            )
        if not 0 <= self.rank < world:
            raise UserError(
                f"rank {self.rank} is outside a world of {world} ranks (0..{world - 1})"
            )

    @property
    def data_parallel(self) -> int:
        """Number of data-parallel ranks (rows of the grid)."""
        return self.world_size // self.tensor_parallel

    @property
    def data_parallel_rank(self) -> int:
        """Row of this rank."""
        return self.rank // self.tensor_parallel

    @property
    def tensor_parallel_rank(self) -> int:
        """Column of this rank."""
        return self.rank % self.tensor_parallel

    def rank_of(self, data_parallel_rank: int, tensor_parallel_rank: int) -> int:
        """Global rank at a place of the grid."""
        return data_parallel_rank * self.tensor_parallel + tensor_parallel_rank

    def tensor_groups(self) -> list[list[int]]:
        """All tensor-parallel groups: ranks that hold the splits of one model."""
        return [
            [self.rank_of(row, column) for column in range(self.tensor_parallel)]
            for row in range(self.data_parallel)
        ]

    def data_groups(self) -> list[list[int]]:
        """All data-parallel groups: ranks that hold the same splits of the weights."""
        return [
            [self.rank_of(row, column) for row in range(self.data_parallel)]
            for column in range(self.tensor_parallel)
        ]

    @property
    def tensor_group_ranks(self) -> list[int]:
        """Ranks of this rank's tensor-parallel group."""
        return self.tensor_groups()[self.data_parallel_rank]

    @property
    def data_group_ranks(self) -> list[int]:
        """Ranks of this rank's data-parallel group."""
        return self.data_groups()[self.tensor_parallel_rank]


@dataclass(frozen=True)
class ProcessGroups:
    """This rank's torch process groups; ``tensor`` is None without tensor parallelism."""

    topology: Topology
    tensor: dist.ProcessGroup | None
    data: dist.ProcessGroup

    @classmethod
    def create(cls, topology: Topology, timeout: timedelta | None = None) -> ProcessGroups:
        """Make this rank's groups: one split of the world per dimension (all ranks call).

        A dimension that holds all ranks is the world's group, and tensor groups of one rank do not
        exist: without tensor parallelism nothing is made.

        Args:
            topology: ``torch.distributed`` must be initialized with its world size and rank.
            timeout: of collectives in the groups; None: torch's default.
        """
        if (dist.get_world_size(), dist.get_rank()) != (topology.world_size, topology.rank):
            raise ValueError(
                f"torch.distributed is rank {dist.get_rank()} of {dist.get_world_size()}, "
                f"the topology is rank {topology.rank} of {topology.world_size}"
            )
        tensor = None
        if topology.tensor_parallel > 1:
            tensor = _split(topology.tensor_groups(), topology.tensor_group_ranks, timeout)
        return cls(
            topology, tensor, _split(topology.data_groups(), topology.data_group_ranks, timeout)
        )

    @property
    def tensor_parallel(self) -> TensorParallel:
        """What the layers of :mod:`megabert.parallel.layers` take."""
        topology = self.topology
        return TensorParallel(topology.tensor_parallel_rank, topology.tensor_parallel, self.tensor)


def _split(parts: list[list[int]], mine: list[int], timeout: timedelta | None) -> dist.ProcessGroup:
    """The group of the ranks ``mine``, one of the ``parts`` of all ranks.

    Where DeepSpeed has bound NCCL to a device, groups are split from the world's communicator, in which
    all ranks take part: one ``split_group``, as torch's DeviceMesh does. Elsewhere the ranks of a
    group make it among themselves.
    """
    world = dist.group.WORLD
    assert world is not None
    if len(parts) == 1:
        return world
    if world.bound_device_id is None:
        return dist.new_group(mine, timeout=timeout, use_local_synchronization=True)
    group = dist.split_group(split_ranks=parts, timeout=timeout)
    assert group is not None  # the parts hold every rank
    return group
