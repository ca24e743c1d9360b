"""Cores and threads of a rank."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.engine.launch import own_cores


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


@pytest.mark.parametrize("chosen", [False, True])
def test_a_rank_keeps_to_its_cores(chosen: bool) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    code = (
        "import os, torch; from megabert.engine.launch import prepare_cpu; prepare_cpu(os.environ); "
        "print(sorted(os.sched_getaffinity(0)), torch.get_num_threads())"
    )
    place = {"LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | place
    if chosen:
        environment["OMP_NUM_THREADS"] = "1"
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    expected = cores if chosen else own_cores(cores, 1, 2)
    assert output.strip() == f"{expected} {1 if chosen else len(expected)}"
