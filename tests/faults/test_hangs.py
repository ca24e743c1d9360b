"""A rank that hangs, is stopped or is killed: noticed, named once, status 1, nothing lost but updates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.distributed import _free_port
from tests.helpers.faulty_ranks import ROOT, Ranks, rank_environment
from tests.helpers.training_runs import TINY, last_given, make_shards

LIMIT = 10.0
LIBRARIES = re.compile(r"gloo|nccl|c10d|Traceback|pair\.cc|\[W|\[E", re.IGNORECASE)


@dataclass
class Ended:
    """A run that ended by a fault."""

    statuses: list[int]
    output: str
    line: str
    seconds: float
    run: Path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards for all runs of this file."""
    return make_shards(tmp_path_factory.mktemp("shards") / "shards")


def _arguments(shards: Path, run: Path, *more: str) -> list[str]:
    return ["pretrain", *last_given([
        *TINY, "--data", str(shards), "--output", str(run), "--steps", "8", "--save-interval", "2",
        "--hang-timeout", str(LIMIT), *more,
    ])]  # fmt: skip


def _run(shards: Path, folder: Path, fault: str, *more: str, rank: int = 1) -> Ended:
    """Run two ranks with a fault in one of them; the seconds count from the fault."""
    moment, run = folder / "moment", folder / "run"
    ranks = Ranks(
        folder / "output",
        _arguments(shards, run, *more),
        MEGABERT_FAULT=fault,
        MEGABERT_FAULT_RANK=str(rank),
        MEGABERT_FAULT_MOMENT=str(moment),
    )
    statuses = ranks.wait()
    seconds = time.time() - float(moment.read_text())
    lines = [line for line in ranks.output().splitlines() if "error:" in line]
    assert len(lines) == 1, ranks.output()
    return Ended(statuses, ranks.output(), lines[0], seconds, run)


def _judge(ended: Ended, patterns: Sequence[str], kept: str) -> None:
    """One line of ours, nothing of the libraries, the checkpoint and the cure."""
    for pattern in patterns:
        assert re.search(pattern, ended.line), ended.line
    assert f"checkpoint {kept} is kept: continue with --resume auto" in ended.line
    assert not LIBRARIES.search(ended.output), ended.output
    (said,) = ended.run.glob("faults/*/line.txt")
    assert said.read_text().strip() == ended.line


def _resume(shards: Path, run: Path, folder: Path, *more: str, count: int = 2) -> None:
    """The run continues to its end."""
    ranks = Ranks(folder, _arguments(shards, run, "--resume", "auto", *more), count=count)
    assert ranks.wait() == [0] * count, ranks.output()
    assert json.loads((run / "results.json").read_text())["finished"]


def test_killed_in_an_update(shards: Path, tmp_path: Path) -> None:
    ended = _run(shards, tmp_path, "kill:4")
    _judge(ended, ["^error: rank 1 on .* ended without a word"], "step-0000002")
    assert ended.statuses == [1, -9]
    assert ended.seconds < 10.0


@pytest.mark.slow
def test_stopped(shards: Path, tmp_path: Path) -> None:
    ended = _run(shards, tmp_path, "stop:4")
    expected = ["nothing was heard of rank 1 on", "stopped by a signal", "cannot write its stack"]
    _judge(ended, expected, "step-0000002")
    assert ended.statuses == [1, -9]  # the other rank ends the stopped one: no process stays
    assert LIMIT < ended.seconds < LIMIT + 8.0
    _resume(shards, ended.run, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stop:4", "kill:4"])
def test_rank_0_is_lost(shards: Path, tmp_path: Path, fault: str) -> None:
    ended = _run(shards, tmp_path, fault, rank=0)
    _judge(ended, ["rank 0 on"], "step-0000002")
    assert ended.statuses == [-9, 1]
    assert ended.seconds < LIMIT + 8.0


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "call"), [("read:4", "os.read"), ("loop:4", "while True")])
def test_hangs(shards: Path, tmp_path: Path, fault: str, call: str) -> None:
    ended = _run(shards, tmp_path, fault)
    _judge(
        ended,
        ["rank 1 on .* hangs: no progress for", r"step 4 \(reading samples\)"],
        "step-0000002",
    )
    assert ended.statuses == [1, 1]
    assert LIMIT < ended.seconds < LIMIT + 8.0
    named = re.search(r"its stack is in (\S+);", ended.line)
    assert named
    assert call in Path(named[1]).read_text() or "in _act" in Path(named[1]).read_text()


@pytest.mark.slow
def test_no_thread_can_run(shards: Path, tmp_path: Path) -> None:
    ended = _run(shards, tmp_path, "hold:4")
    _judge(ended, ["nothing was heard of rank 1", "it computes, and lets no"], "step-0000002")
    assert ended.statuses == [1, -9]
    (stack,) = ended.run.glob("faults/*/rank-1.log")
    assert "in _act" in stack.read_text()


@pytest.mark.slow
def test_killed_in_a_save(shards: Path, tmp_path: Path) -> None:
    ended = _run(shards, tmp_path, "kill-saving:4")
    _judge(ended, ["rank 1 on .* ended without a word"], "step-0000002")
    assert ended.statuses == [1, -9]
    assert ended.seconds < 10.0
    _resume(shards, ended.run, tmp_path / "again")


@pytest.mark.slow
def test_one_rank_alone_hangs(shards: Path, tmp_path: Path) -> None:
    moment, run = tmp_path / "moment", tmp_path / "run"
    fault = {"MEGABERT_FAULT": "read:4", "MEGABERT_FAULT_RANK": "0"}
    ranks = Ranks(
        tmp_path / "output", _arguments(shards, run), 1, MEGABERT_FAULT_MOMENT=str(moment), **fault
    )
    assert ranks.wait() == [1]
    assert re.search("^error: rank 0 on .* hangs", ranks.output().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["save", "evaluate"])
def test_long_saves_and_evaluations_are_no_hang(shards: Path, tmp_path: Path, fault: str) -> None:
    """Each takes 25 s, more than twice the limit."""
    more = ["--save-interval", "4", "--eval-interval", "4"]
    arguments = _arguments(shards, tmp_path / "run", *more)
    ranks = Ranks(tmp_path / "output", arguments, MEGABERT_FAULT=fault)
    assert ranks.wait() == [0, 0], ranks.output()
    assert not (tmp_path / "run" / "faults").exists()


# ---------------------------------------------------------------- before all have joined


@pytest.mark.parametrize("there", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_never_starts(shards: Path, tmp_path: Path, there: int) -> None:
    """It is named after the time limit; the other one ends, and leaves nothing that blocks the next run."""
    run = tmp_path / "run"
    arguments = _arguments(shards, run, "--hang-timeout", "2")
    began = time.monotonic()
    ended = _alone(there, arguments)
    assert time.monotonic() - began < 60.0
    errors = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, ended.stderr
    assert not LIBRARIES.search(ended.stderr), ended.stderr
    assert ended.returncode == 1
    if there == 0:
        assert errors[0].startswith(
            "error: rank 1 did not join within 2 s: not started, ended before, "
        )
        assert "start again with --resume auto" in errors[0]
    else:
        assert "error: rank 0 was not found within 2 s at 127.0.0.1 port " in errors[0]
    assert {path.name for path in run.glob("*")} <= {"faults"}


def _alone(rank: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """One of two ranks, without the other."""
    environment = rank_environment(rank, 2, str(_free_port()))
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "faulty_ranks.py"), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
