"""Start and end of a rank; its cores and threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import RankError
from megabert.common.processes.launchers import ranks_of_host
from megabert.engine.launch import World, fill_environment, start
from megabert.engine.machine.cores import own_cores
from megabert.parallel.topology import Topology
from tests.helpers import planted
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import import_once


@given(st.integers(1, 40), st.integers(1, 40))
def test_ranks_share_the_cores(count: int, ranks: int) -> None:
    cores = list(range(3, 3 + count))
    shares = [own_cores(cores, rank, ranks) for rank in range(ranks)]
    if ranks > count:
        assert all(share == cores for share in shares)
        return
    together = [core for share in shares for core in share]
    assert together == cores[: len(together)]
    assert {len(share) for share in shares} == {count // ranks}


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({"WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4),
        ({"LOCAL_SIZE": "2"}, 2),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 3),
        ({"MPI_LOCALNRANKS": "2"}, 2),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "1"}, 0),
    ],
)
def test_launchers_say_how_many_ranks_share_a_host(environment: dict[str, str], ranks: int) -> None:
    assert ranks_of_host(environment) == ranks


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 in the environment is not a number of at least 0, at most 1"),
        ({"RANK": "abc"}, "RANK=abc in"),
        ({"RANK": "0", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 in"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment is not a number of at least 1:"),
        ({"MASTER_PORT": "99999999"}, "MASTER_PORT=99999999 in"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set, but RANK is not"),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "2"}, "RANK=3 in"),
    ],
)  # fmt: skip
def test_a_launcher_that_cannot_be_right(environment: dict[str, str], words: str) -> None:
    with pytest.raises(RankError) as caught:
        fill_environment(environment)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("chosen", "place", "shared"),
    [
        (False, {"LOCAL_SIZE": "2"}, True),
        (True, {"LOCAL_SIZE": "2"}, False),
        (False, {"WORLD_SIZE": "2"}, False),  # no launcher says how many are here
        (False, {"LOCAL_SIZE": "1"}, False),  # of which this rank is none
    ],
)
def test_a_rank_keeps_to_its_cores(chosen: bool, place: dict[str, str], shared: bool) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    code = (
        "import os, torch; from megabert.engine.machine.cores import prepare_cpu; prepare_cpu(os.environ); "
        "print(sorted(os.sched_getaffinity(0)), torch.get_num_threads())"
    )
    environment = planted.environment(LOCAL_RANK="1", **place)
    del environment["OMP_NUM_THREADS"]
    if chosen:
        environment["OMP_NUM_THREADS"] = "1"
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    expected = own_cores(cores, 1, 2) if shared else cores
    shown, _, threads = output.strip().rpartition(" ")
    assert shown == str(expected)
    if chosen or shared:
        assert int(threads) == (1 if chosen else len(expected))


def test_a_rank_that_fails_leaves_the_group_to_the_end_of_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(World, "close", lambda world: closed.append(world.topology.world_size))
    groups: Any = None
    for ranks in (1, 2):
        world = World(Topology(ranks), groups, groups, groups, torch.device("cpu"))
        with world.closed_at_the_end():
            pass
        with pytest.raises(ValueError), world.closed_at_the_end():
            raise ValueError
    assert closed == [1, 1, 2]


def _start_once(rank: int, world_size: int) -> bool:
    start().close()
    return True


def _start_and_fork(rank: int, world_size: int) -> list[bool]:
    _start_once(rank, world_size)
    multiprocessing.current_process().daemon = False  # it has a process of its own
    return run_ranks(_start_once, 1, initialize=False, timeout=30.0)


def test_a_process_that_is_forked_after_a_run_can_start_one() -> None:
    """The earlier run's process group is gone with its threads, which the fork does not have."""
    import_once()
    assert run_ranks(_start_and_fork, 1, initialize=False) == [[True]]


def test_an_unexpected_error_of_a_rank_is_shown_before_its_process_tears_down() -> None:
    """What ends after ``main`` (NCCL's threads, for example) may wait for other ranks."""
    code = (
        "import atexit, time; from megabert.common.log import run_command; "
        "atexit.register(time.sleep, 60); run_command(lambda _: 1 // 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=planted.environment() | {"RANK": "1", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("ZeroDivisionError: integer division or modulo by zero")
