"""Signals and killed launchers: nothing is lost, nothing is left, and the status and the last line say so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from megabert.checkpoint.record import whole_checkpoints
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.launched_runs import LaunchedRun, launched, pretraining, trained_steps
from tests.helpers.training_runs import losses, make_shards, metrics

STEPS = 600
"""Far more updates than a run makes until it gets its signal."""
SECONDS = 30.0
"""In which no process may be left; deepspeed and torchrun kill after this time."""

Target = Callable[[LaunchedRun], list[int]]


def rank(number: int) -> Target:
    return lambda run: [run.ranks()[number]]


def all_ranks(run: LaunchedRun) -> list[int]:
    return run.ranks()


def launcher(run: LaunchedRun) -> list[int]:
    return [run.processes[0].pid]


def inner(run: LaunchedRun) -> list[int]:
    return [run.named("deepspeed.launcher.launch")]


def everybody(run: LaunchedRun) -> list[int]:
    """As Ctrl-C at a terminal does."""
    return [one.pid for one in run.left()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def send(run: LaunchedRun, target: Target, number: signal.Signals) -> None:
    for process in target(run):
        os.kill(process, number)


def stopped_line(run: LaunchedRun) -> str:
    """The one line of the run about its end."""
    lines = [line for line in run.output.splitlines() if line.startswith("stopped: ")]
    assert len(lines) == 1, run.output[-3000:]
    return lines[0]


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint, which is the last one that was trained."""
    (newest, *_) = whole_checkpoints(run / "checkpoints")
    steps = trained_steps(run)
    assert newest.step == steps[-1]
    assert newest.step < STEPS
    return newest.step


def continues_bit_for_bit(folder: Path, shards: Path, run: Path, stopped_at: int) -> None:
    """The run, resumed, makes the losses and the checkpoint of one that nobody stopped."""
    end = stopped_at + 3
    wanted = folder / "undisturbed"
    for output, more in ((run, ["--resume", "auto"]), (wanted, [])):
        arguments = pretraining(shards, output, STEPS, "--stop-after", str(end), *more)
        with launched(folder / "again", "bare", arguments) as again:
            assert again.statuses() == [0, 0], again.output[-3000:]
    assert losses(metrics(run)) == losses(metrics(wanted))
    (mine, *_), (theirs, *_) = (whole_checkpoints(one / "checkpoints") for one in (run, wanted))
    assert mine.step == theirs.step == end
    assert checkpoint_differences(mine.folder, theirs.folder) == []


def test_one_rank_is_asked_and_both_save(tmp_path: Path, shards: Path) -> None:
    run = tmp_path / "run"
    with launched(tmp_path, "bare", pretraining(shards, run, STEPS, "--log-interval", "1")) as job:
        job.wait_for_step(run, 2)
        send(job, rank(1), signal.SIGTERM)
        job.wait_until_gone(SECONDS)
        assert job.statuses() == [3, 3]
        step = saved_step(run)
        said = stopped_line(job)
        assert said.startswith("stopped: SIGTERM (rank 1): saved ")
        assert said.endswith(f"step-{step:07d} of {STEPS} steps; continue with --resume auto")
        assert job.output.splitlines()[-1] == said
        assert "Traceback" not in job.output
