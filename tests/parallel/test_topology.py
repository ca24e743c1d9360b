"""Rank arithmetic, the groups made from it, and DeepSpeed's view of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.parallel.mpu import Mpu
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology, cut
from tests.helpers.distributed import run_ranks

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(sizes)
def test_groups_partition_the_world(size: tuple[int, int]) -> None:
    data, tensor = size
    world = data * tensor
    topologies = [Topology(world, rank, tensor) for rank in range(world)]
    for groups, length in (
        (topologies[0].tensor_groups(), tensor),
        (topologies[0].data_groups(), data),
    ):
        assert sorted(rank for group in groups for rank in group) == list(range(world))
        assert {len(group) for group in groups} == {length}
    for tensor_group in topologies[0].tensor_groups():
        assert tensor_group == list(range(tensor_group[0], tensor_group[0] + tensor))
        for data_group in topologies[0].data_groups():
            assert len(set(tensor_group) & set(data_group)) == 1


@given(sizes, st.data())
def test_rank_has_one_place(size: tuple[int, int], data: st.DataObject) -> None:
    world = size[0] * size[1]
    rank = data.draw(st.integers(0, world - 1))
    topology = Topology(world, rank, size[1])
    assert topology.data_parallel == size[0]
    assert topology.rank_of(topology.data_parallel_rank, topology.tensor_parallel_rank) == rank
    assert topology.tensor_group_ranks[topology.tensor_parallel_rank] == rank
    assert topology.data_group_ranks[topology.data_parallel_rank] == rank


@given(st.integers(1, 64), st.integers(2, 64))
def test_sizes_that_do_not_multiply_out(world: int, tensor: int) -> None:
    if world % tensor == 0:
        assert Topology(world, 0, tensor).data_parallel * tensor == world
        return
    with pytest.raises(UserError) as caught:
        Topology(world, 0, tensor)
    assert f"{world} = {world // tensor} x {tensor} + {world % tensor}" in str(caught.value)


@pytest.mark.parametrize(("world", "rank", "tensor"), [(0, 0, 1), (2, 2, 1), (2, -1, 1), (2, 0, 0)])
def test_impossible_places(world: int, rank: int, tensor: int) -> None:
    with pytest.raises(UserError):
        Topology(world, rank, tensor)


@given(st.integers(1, 6), st.integers(1, 5))
def test_cut_gives_all_parts_in_order(parts: int, width: int) -> None:
    full = torch.arange(3 * parts * width).view(3, parts * width)
    pieces = [cut(full, 1, index, parts) for index in range(parts)]
    assert torch.equal(torch.cat(pieces, dim=1), full)
    assert cut(full, None, 0, parts) is full


def test_cut_and_divide_name_the_numbers() -> None:
    with pytest.raises(UserError, match=r"5 is not divisible by 2"):
        cut(torch.zeros(4, 5), 1, 0, 2)
    tp = TensorParallel(1, 3, object())  # type: ignore[arg-type]
    assert tp.bounds(12, "rows") == (4, 8)
    with pytest.raises(UserError, match=r"hidden_size 10 .* 3"):
        tp.divide(10, "hidden_size")
    with pytest.raises(ValueError, match="process group"):
        TensorParallel(0, 2)


def _groups(rank: int, world_size: int) -> tuple[list[float], list[int], list[int]]:
    groups = ProcessGroups.create(Topology(world_size, rank, 2))
    mpu = Mpu(groups)
    sums = []
    for group in (mpu.get_tensor_model_parallel_group(), mpu.get_data_parallel_group()):
        value = torch.tensor(float(10**rank))
        dist.all_reduce(value, group=group)
        sums.append(value.item())
    assert mpu.get_model_parallel_group() is groups.tensor
    assert dist.get_rank(groups.tensor) == mpu.get_model_parallel_rank()
    assert dist.get_rank(groups.data) == mpu.get_data_parallel_rank()
    assert groups.tensor_parallel == TensorParallel(rank % 2, 2, groups.tensor)
    assert mpu.get_tensor_model_parallel_src_rank() == rank - rank % 2
    places = [
        mpu.get_model_parallel_rank(),
        mpu.get_model_parallel_world_size(),
        mpu.get_tensor_model_parallel_rank(),
        mpu.get_tensor_model_parallel_world_size(),
        mpu.get_data_parallel_rank(),
        mpu.get_data_parallel_world_size(),
        mpu.get_pipe_parallel_rank(),
        mpu.get_pipe_parallel_world_size(),
    ]
    return sums, places, mpu.get_data_parallel_group_ranks()


def test_process_groups_and_mpu() -> None:
    first, second, third, fourth = run_ranks(_groups, 4)
    assert first == ([11.0, 101.0], [0, 2, 0, 2, 0, 2, 0, 1], [0, 2])
    assert second == ([11.0, 1010.0], [1, 2, 1, 2, 0, 2, 0, 1], [1, 3])
    assert third == ([1100.0, 101.0], [0, 2, 0, 2, 1, 2, 0, 1], [0, 2])
    assert fourth == ([1100.0, 1010.0], [1, 2, 1, 2, 1, 2, 0, 1], [1, 3])
    assert not hasattr(Mpu, "initialize_sequence_parallel")


Made = tuple[int, int, list[int]]
"""Calls that made groups; groups that this rank is in then, without the world; its data-parallel ranks."""


def _made(rank: int, world_size: int) -> list[Made]:
    """By tensor parallel degree, on gloo."""
    world, new_group, calls = dist.group.WORLD, dist.new_group, []

    def counted(ranks: list[int], **named: Any) -> Any:
        calls.append(named)
        return new_group(ranks, **named)

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "new_group", counted)
        for degree in (1, 2, 4):
            before = len(dist.distributed_c10d._world.pg_map)
            groups = ProcessGroups.create(Topology(world_size, rank, degree), timedelta(hours=1))
            made = len(dist.distributed_c10d._world.pg_map) - before
            assert (groups.tensor is None, groups.tensor is world) == (degree == 1, degree == 4)
            assert (groups.data is world) == (degree == 1)
            for group in {groups.tensor, groups.data} - {None, world}:
                backend = group._get_backend(torch.device("cpu"))
                assert backend.options._timeout == timedelta(hours=1)
            found.append((len(calls), made, dist.get_process_group_ranks(groups.data)))
            calls.clear()
    return found


def test_each_rank_makes_its_own_groups_alone() -> None:
    """None without tensor parallelism, else one per dimension that does not hold all ranks."""
    for rank, found in enumerate(run_ranks(_made, 4)):
        assert found == [(0, 0, [0, 1, 2, 3]), (2, 2, [rank % 2, rank % 2 + 2]), (1, 1, [rank])]


def _split_from_world(rank: int, world_size: int) -> list[Any]:
    """What is asked of NCCL, whose world is bound to a device."""
    asked: list[Any] = []

    def split_group(**named: Any) -> Any:
        asked.append(named)
        return object()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist.ProcessGroup, "bound_device_id", torch.device("cuda", 0))
        patch.setattr(dist, "split_group", split_group)
        for degree in (1, 2, 4):
            ProcessGroups.create(Topology(world_size, rank, degree), timedelta(hours=1))
    return asked


def test_with_nccl_all_ranks_ask_for_the_same_splits() -> None:
    splits = [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]]
    expected = [{"split_ranks": ranks, "timeout": timedelta(hours=1)} for ranks in splits]
    assert run_ranks(_split_from_world, 4) == [expected] * 4


def test_deepspeed_has_no_mpu_without_tensor_parallelism() -> None:
    with pytest.raises(ValueError, match="no mpu"):
        Mpu(ProcessGroups(Topology(), None, object()))  # type: ignore[arg-type]


def _wrong_world(rank: int, world_size: int) -> None:
    ProcessGroups.create(Topology(4, rank, 2))


def test_topology_of_another_world() -> None:
    with pytest.raises(ValueError, match=r"rank [01] of 2"):
        run_ranks(_wrong_world, 2)
