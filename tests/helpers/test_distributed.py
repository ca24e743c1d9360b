"""The helper that runs a function on several ranks."""

import time

import pytest
import torch
import torch.distributed as dist

from tests.helpers.distributed import RankTimeout, run_ranks


def _sum(rank: int, world_size: int, width: int) -> torch.Tensor:
    value = torch.full((width,), float(rank + 1))
    dist.all_reduce(value)
    return value / world_size


def _fail(rank: int, world_size: int) -> None:
    if rank == 1:
        raise KeyError("broken")
    dist.barrier()


def _sleep(rank: int, world_size: int) -> None:
    time.sleep(60)


def test_results_come_back_in_rank_order() -> None:
    values = run_ranks(_sum, 3, 4)
    assert len(values) == 3
    assert all(torch.equal(value, torch.full((4,), 2.0)) for value in values)


def test_exception_is_raised_again() -> None:
    with pytest.raises(KeyError, match="broken") as caught:
        run_ranks(_fail, 2)
    assert "rank 1" in caught.value.__notes__[0]


def test_time_limit() -> None:
    start = time.monotonic()
    with pytest.raises(RankTimeout, match=r"ranks \[0, 1\]"):
        run_ranks(_sleep, 2, timeout=0.5, initialize=False)
    assert time.monotonic() - start < 20
