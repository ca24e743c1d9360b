"""What a rule that acts on whole tensors finds in the table: shapes, sums over ranks, values per part."""

from __future__ import annotations

import torch
from torch import Tensor

from megabert.optim.flat_segments import LocalTensor, Partition, PartitionTable

MATRIX, VECTOR = LocalTensor("up.weight", (3, 4)), LocalTensor("up.bias", (3,))


def _partition(rank: int) -> Partition:
    """Two ranks of 8 elements each: the matrix is cut after 8 of its 12; one element is padding."""
    return Partition.of_group([MATRIX, VECTOR], [0, 12], first=8 * rank, numel=8)


def test_slices_know_the_shape_of_their_tensor() -> None:
    found = [
        (s.name, s.shape, s.tensor_start, s.numel) for r in (0, 1) for s in _partition(r).segments
    ]
    assert found == [
        ("up.weight", (3, 4), 0, 8),
        ("up.weight", (3, 4), 8, 4),
        ("up.bias", (3,), 0, 3),
    ]
    assert [t.numel for t in _partition(0).tensors] == [12, 3]


def test_sums_over_whole_tensors_and_back() -> None:
    """Each rank adds the squares of its parts; all get the sums of both; parts get their tensor's."""
    group = torch.arange(16.0)
    added: list[Tensor] = []
    tables = []
    for rank in (0, 1):
        flat = group[8 * rank : 8 * rank + 8].clone()
        table = PartitionTable([(flat, _partition(rank))], added.append, flat=True)
        squares = [view.square().sum() for view in table.partition(flat).views(flat)]
        table.whole_sums([flat], {id(flat): torch.stack(squares)[:, None].double()}, 1)
        tables.append((table, flat))
    total = added[0] + added[1]
    wanted = [group[:12].square().sum(), group[12:15].square().sum()]
    assert total[:, 0].tolist() == [float(value) for value in wanted]
    (first, a), (second, b) = tables
    assert first.segment_values([a], [a], total)[0].tolist() == [[wanted[0]]]
    assert second.segment_values([b], [b], total)[0].tolist() == [[wanted[0]], [wanted[1]]]


def test_copies_are_added_by_one_rank() -> None:
    """A split tensor counts on every tensor-parallel rank, a copy only where ``counts_copies``."""
    whole = [LocalTensor("split", (2,), split=True), LocalTensor("copy", (2,))]
    flat = torch.ones(4)
    partition = Partition.of_group(whole, [0, 2], 0, 4)
    table = PartitionTable([(flat, partition)], None, counts_copies=False)
    sums = table.whole_sums([flat], {id(flat): torch.full((2, 1), 2.0).double()}, 1)
    assert sums[:, 0].tolist() == [2.0, 0.0]
