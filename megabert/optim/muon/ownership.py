"""Which rank orthogonalizes which matrix, and who sends which part of it to whom: pure arithmetic.

A *holder* of a matrix is a rank with a part of it; its *owner* is one of them, which gets all parts,
orthogonalizes the matrix, and sends each holder its part of the result. Every rank computes the same
:class:`Ownership` from the same table of parts, so nothing is agreed on during training.

Owners are chosen so that the floating-point operations are balanced: matrices with the fewest holders
first (under ZeRO 1 and 2 most lie on one data-parallel rank), then the largest, each for its least
loaded holder. Parts of a matrix that tensor-parallel ranks hold copies of are taken from the owner's
own column of the grid; without ZeRO, where every row of the grid has everything, from its own row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from megabert.optim.flat_segments import LocalTensor
from megabert.optim.muon.newton_schulz import iteration_flops

BUCKET = 1 << 22
"""Elements that an owner receives in one exchange, about."""


@dataclass(frozen=True)
class Matrix:
    """A whole matrix: ``tensor`` on each of ``parts`` tensor-parallel ranks, joined."""

    tensor: LocalTensor
    parts: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the whole."""
        rows, columns = self.tensor.shape
        if self.tensor.split_dim == 0:
            return rows * self.parts, columns
        return rows, columns * self.parts


@dataclass(frozen=True)
class Part:
    """A piece of a matrix on one rank.

    Attributes:
        matrix: number of the matrix.
        start, numel: place in the flattened local tensor.
        place: number of the piece on its rank.
    """

    matrix: int
    start: int
    numel: int
    place: int


@dataclass(frozen=True)
class Grid:
    """The ranks: ``tensor_parallel`` neighbours per row; ``copies``: all rows hold the same."""

    ranks: int = 1
    tensor_parallel: int = 1
    copies: bool = False


@dataclass
class Ownership:
    """Owners, and the parts of each rank.

    Attributes:
        matrices: all of the call.
        held: of each rank, its parts in the order of matrices and places.
        owners: rank of each matrix.
        buckets: numbers of the matrices that are exchanged together, in the order of exchange.
        alone: matrices whose every part lies with the owner, so that nothing is sent.
    """

    grid: Grid
    matrices: list[Matrix]
    held: list[list[Part]]
    owners: list[int] = field(default_factory=list)
    buckets: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        grid: Grid,
        matrices: Sequence[Matrix],
        held: Sequence[Sequence[Part]],
        bucket: int = BUCKET,
    ) -> Ownership:
        """Choose owners and buckets; ``bucket``: see :data:`BUCKET`."""
        made = cls(grid, list(matrices), [sorted(parts, key=_order) for parts in held])
        made._choose_owners()
        made._fill_buckets(bucket)
        return made

    def _choose_owners(self) -> None:
        elements: list[dict[int, int]] = [{} for _ in self.matrices]
        for rank, parts in enumerate(self.held):
            for part in parts:
                of_matrix = elements[part.matrix]
                of_matrix[rank] = of_matrix.get(rank, 0) + part.numel
        flops = [iteration_flops(*matrix.shape, 1) for matrix in self.matrices]
        order = sorted(range(len(flops)), key=lambda n: (len(elements[n]), -flops[n], n))
        loads = [0] * self.grid.ranks
        self.owners = [0] * len(flops)
        for number in order:
            holders = elements[number]
            owner = min(holders, key=lambda r: (loads[r], -holders[r], r))
            self.owners[number] = owner
            loads[owner] += flops[number]

    def _fill_buckets(self, limit: int) -> None:
        holders: list[set[int]] = [set() for _ in self.matrices]
        for rank, parts in enumerate(self.held):
            for part in parts:
                holders[part.matrix].add(rank)
        filled = [0] * self.grid.ranks
        for number, matrix in enumerate(self.matrices):
            owner = self.owners[number]
            if holders[number] == {owner}:
                self.alone.append(number)
                continue
            bucket = filled[owner] // limit
            filled[owner] += matrix.tensor.numel * matrix.parts
            while len(self.buckets) <= bucket:
                self.buckets.append([])
            self.buckets[bucket].append(number)

    # ---------------------------------------------------------------- who sends what

    def to_owner(self, sender: int, owner: int, bucket: Sequence[int]) -> Iterator[Part]:
        """Parts of the bucket's matrices that ``sender`` sends to ``owner`` (or has, if it is it)."""
        width = self.grid.tensor_parallel
        if self.grid.copies and sender // width != owner // width:
            return
        same_column = sender % width == owner % width
        for part in self._parts(sender, owner, bucket):
            if same_column or self.matrices[part.matrix].parts > 1:
                yield part

    def to_holder(self, owner: int, holder: int, bucket: Sequence[int]) -> Iterator[Part]:
        """Parts of the results that ``owner`` sends back to ``holder``."""
        return self._parts(holder, owner, bucket)

    def _parts(self, holder: int, owner: int, bucket: Sequence[int]) -> Iterator[Part]:
        wanted = {number for number in bucket if self.owners[number] == owner}
        return (part for part in self.held[holder] if part.matrix in wanted)

    def column(self, rank: int, matrix: int) -> int:
        """Which of the matrix's tensor-parallel parts ``rank`` holds a piece of."""
        return rank % self.grid.tensor_parallel if self.matrices[matrix].parts > 1 else 0

    def flops_of(self, rank: int, steps: int) -> int:
        """Floating-point operations of one update's iterations on ``rank``."""
        return sum(
            iteration_flops(*matrix.shape, steps)
            for matrix, owner in zip(self.matrices, self.owners)
            if owner == rank
        )


def _order(part: Part) -> tuple[int, int]:
    return part.matrix, part.start
