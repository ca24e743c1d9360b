"""Signals and killed launchers: nothing is lost, nothing is left, and the status and the last line say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megabert.checkpoint.record import whole_checkpoints
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import make_inputs
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.launched_runs import ROOT, LaunchedRun, launched, pretraining, trained_steps
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


def continues_bit_for_bit(
    folder: Path, shards: Path, run: Path, stopped_at: int, *flags: str
) -> None:
    """The run, resumed, makes the losses and the checkpoint of one that nobody stopped."""
    end = stopped_at + 3
    wanted = folder / "undisturbed"
    for output, more in ((run, ["--resume", "auto"]), (wanted, [])):
        arguments = pretraining(shards, output, STEPS, "--stop-after", str(end), *flags, *more)
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


def test_one_rank_is_asked_before_the_first_update(tmp_path: Path, shards: Path) -> None:
    """Outside the loop: the others hear of it, and nothing blocks the next run."""
    run = tmp_path / "run"
    with launched(tmp_path, "bare", pretraining(shards, run, STEPS)) as job:
        job.wait_for(run.exists)
        send(job, rank(1), signal.SIGUSR1)
        job.wait_until_gone(SECONDS)
        assert job.statuses() == [3, 3], job.output[-3000:]
        assert stopped_line(job).startswith("stopped: SIGUSR1 (rank 1) before its first update; ")
        assert "Traceback" not in job.output
    left = {path.name for path in run.glob("*")}
    # of a collective that failed, or did not return, at that moment; the next run takes the lock over
    assert left <= {"faults", "in-use.json"}


LAUNCHERS: list[tuple[str, Target, signal.Signals, list[int]]] = [
    # launcher, who gets the signal, which, exit statuses of what the user started (None: any)
    ("deepspeed", launcher, signal.SIGTERM, [-15]),
    ("deepspeed", launcher, signal.SIGKILL, [-9]),
    ("deepspeed", inner, signal.SIGTERM, [1, 3]),
    ("deepspeed", inner, signal.SIGKILL, [0]),
    ("deepspeed", everybody, signal.SIGINT, [1, -2]),
    ("deepspeed", rank(1), signal.SIGUSR1, [3]),
    ("torchrun", launcher, signal.SIGTERM, [1, 143]),
    ("torchrun", launcher, signal.SIGKILL, [-9]),
    ("torchrun", everybody, signal.SIGINT, [1, 130]),
    ("torchrun", all_ranks, signal.SIGTERM, [1]),
    ("bare", all_ranks, signal.SIGINT, [3]),
    ("bare", rank(0), signal.SIGUSR1, [3]),
    ("run.py deepspeed", launcher, signal.SIGTERM, [3]),
    ("run.py deepspeed", inner, signal.SIGKILL, [3]),
    ("run.py deepspeed", launcher, signal.SIGKILL, [-9]),
    ("run.py torchrun", launcher, signal.SIGUSR1, [3]),
    ("run.py torchrun", all_ranks, signal.SIGTERM, [3]),
]


TENSOR_PARALLEL: list[tuple[str, Target, signal.Signals, list[int]]] = [
    ("bare", rank(1), signal.SIGUSR1, [3]),
    ("bare", rank(0), signal.SIGTERM, [3]),
    ("bare", all_ranks, signal.SIGTERM, [3]),
    ("deepspeed", launcher, signal.SIGTERM, [-15]),
    ("deepspeed", inner, signal.SIGKILL, [0]),
    ("run.py torchrun", launcher, signal.SIGUSR1, [3]),
]
SHARED_MODEL = ("--tensor-parallel", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "flags"),
    [
        pytest.param(case, flags, id="-".join([case[0], case[1].__name__, case[2].name, *flags]))
        for cases, flags in ((LAUNCHERS, ()), (TENSOR_PARALLEL, SHARED_MODEL))
        for case in cases
    ],
)
def test_every_launcher(
    tmp_path: Path,
    shards: Path,
    case: tuple[str, Target, signal.Signals, list[int]],
    flags: tuple[str, ...],
) -> None:
    """Nothing is left, nothing is lost, one line says so, and the run continues bit for bit."""
    name, target, number, statuses = case
    run = tmp_path / "run"
    arguments = pretraining(shards, run, STEPS, "--log-interval", "1", *flags)
    with launched(tmp_path, name, arguments) as job:
        job.wait_for_step(run, 4)
        send(job, target, number)
        seconds = job.wait_until_gone(SECONDS)
        assert set(job.statuses()) <= set(statuses), job.output[-3000:]
        said = [line for line in job.output.splitlines() if line.startswith("stopped: ")]
        assert len(said) == (2 if name.startswith("run.py") and target is not launcher else 1) or (
            name.startswith("run.py") and len(set(said)) == 1
        )
        step = saved_step(run)
        assert f"step-{step:07d} of {STEPS} steps; continue with --resume auto" in said[-1]
        if name.startswith("run.py") and number is not signal.SIGKILL:
            assert job.output.splitlines()[-1] == said[-1]
        own = "torchrun" in name or (name, number) == ("deepspeed", signal.SIGINT)
        assert "Traceback" not in job.output or own  # the launcher's
        print(f"{name} {flags} | {number.name} | {job.statuses()} | {seconds:.1f} s")
    continues_bit_for_bit(tmp_path, shards, run, step, *flags)


@pytest.mark.slow
def test_a_killed_rank_of_a_shared_model(tmp_path: Path, shards: Path) -> None:
    run = tmp_path / "run"
    arguments = pretraining(
        shards, run, STEPS, "--log-interval", "1", "--save-interval", "3", *SHARED_MODEL
    )
    with launched(tmp_path, "bare", arguments) as job:
        job.wait_for_step(run, 4)
        send(job, rank(1), signal.SIGKILL)
        seconds = job.wait_until_gone(SECONDS)
        assert sorted(job.statuses()) == [-9, 1]
        assert "Traceback" not in job.output
        print(f"bare, TP 2 | kill -9 of a rank | {job.statuses()} | {seconds:.1f} s")
    (newest, *_) = whole_checkpoints(run / "checkpoints")
    continues_bit_for_bit(tmp_path, shards, run, newest.step, *SHARED_MODEL)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(tmp_path: Path, shards: Path) -> None:
    """While the save takes for ever: rank 1 is stopped, so rank 0 waits in a collective."""
    run = tmp_path / "run"
    arguments = pretraining(shards, run, STEPS, "--log-interval", "1", "--save-interval", "3")
    with launched(tmp_path, "bare", arguments) as job:
        job.wait_for_step(run, 4)
        first, second = job.ranks()
        os.kill(second, signal.SIGSTOP)
        os.kill(first, signal.SIGTERM)
        time.sleep(2.5)
        os.kill(first, signal.SIGTERM)
        assert job.processes[0].wait(5) == 143
        assert "error: SIGTERM after SIGTERM: stopped at once; the last checkpoint is" in job.output
        os.kill(second, signal.SIGCONT)
        job.wait_until_gone(SECONDS)


@pytest.mark.slow
def test_a_save_that_cannot_succeed_ends_after_the_grace_period(
    tmp_path: Path, shards: Path
) -> None:
    """A rank stands still and the launcher is killed: the other one does not wait for ever."""
    run = tmp_path / "run"
    arguments = pretraining(
        shards, run, STEPS, "--log-interval", "1", "--save-interval", "3", "--stop-grace", "4"
    )
    with launched(tmp_path, "torchrun", arguments) as job:
        job.wait_for_step(run, 4)
        first, second = job.ranks()
        os.kill(second, signal.SIGSTOP)
        send(job, launcher, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while first in job.ranks():
            assert time.monotonic() < deadline, job.output[-2000:]
            time.sleep(0.1)
        assert "no checkpoint could be saved within 4 s; the last checkpoint is step-" in job.output
        os.kill(second, signal.SIGCONT)
        job.wait_until_gone(SECONDS)


@pytest.mark.slow
def test_a_signal_during_a_save(tmp_path: Path, shards: Path) -> None:
    """Saves follow each other; the signal falls into one of them."""
    run = tmp_path / "run"
    arguments = pretraining(shards, run, STEPS, "--log-interval", "1", "--save-interval", "1")
    with launched(tmp_path, "bare", arguments) as job:
        job.wait_for_step(run, 3)
        job.wait_for(lambda: list((run / "checkpoints").glob("*.partial")))
        send(job, all_ranks, signal.SIGTERM)
        job.wait_until_gone(SECONDS)
        assert job.statuses() == [3, 3]
        step = saved_step(run)
        stopped_line(job)
    assert not list((run / "checkpoints").glob("*.partial"))
    continues_bit_for_bit(tmp_path, shards, run, step)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepspeed", "torchrun", "bare"])
def test_a_killed_rank_leaves_nothing_behind(tmp_path: Path, shards: Path, name: str) -> None:
    run = tmp_path / "run"
    arguments = pretraining(
        shards, run, STEPS, "--log-interval", "1", "--save-interval", "3", "--loader-workers", "1"
    )
    with launched(tmp_path, name, arguments) as job:
        job.wait_for_step(run, 4)
        send(job, rank(1), signal.SIGKILL)
        seconds = job.wait_until_gone(SECONDS)
        assert 3 not in job.statuses()
        assert 0 not in job.statuses()
        print(f"{name} | kill -9 of a rank | {job.statuses()} | {seconds:.1f} s")


@pytest.mark.slow
def test_the_launcher_is_killed_before_its_ranks_start(tmp_path: Path, shards: Path) -> None:
    """deepspeed imports for seconds; its inner process then starts ranks that nobody watches."""
    run = tmp_path / "run"
    with launched(tmp_path, "deepspeed", pretraining(shards, run, STEPS)) as job:
        job.wait_for(lambda: [one for one in job.left() if "launcher.launch" in one.text])
        send(job, launcher, signal.SIGKILL)
        job.wait_until_gone(90.0)
        assert "the launcher deepspeed is gone before its first update" in job.output
    assert not run.exists()


@pytest.mark.slow
def test_the_shell_that_started_a_run_may_end(tmp_path: Path, shards: Path) -> None:
    """``launch/pretrain.py &`` in a script that ends: the run trains on."""
    run = tmp_path / "run"
    words = pretraining(shards, run, STEPS, "--log-interval", "1", "--stop-after", "12")
    script = tmp_path / "job.sh"
    python = f"{sys.executable} launch/pretrain.py {' '.join(words)}"
    script.write_text(f"{python} &\n")
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": ".",
    }
    subprocess.run(["bash", str(script)], check=True, env=environment, cwd=ROOT, timeout=60)
    deadline = time.monotonic() + 120
    while not (run / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert trained_steps(run)[-1] == 12


@pytest.fixture(scope="module")
def finetuning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    run_ranks(make_inputs, 1, folder, initialize=False)
    return folder


@pytest.mark.slow
def test_fine_tuning_stops_with_a_model(tmp_path: Path, finetuning: Path) -> None:
    run = tmp_path / "run"
    train = str(finetuning / "train.json")
    arguments = [
        "--task", "squad", "--checkpoint", str(finetuning / "start"), "--train", train,
        "--eval", train, "--output", str(run), "--steps", "100000", "--max-length", "40",
        "--max-query-length", "8", "--doc-stride", "12", "--batch-size", "8",
        "--micro-batch-size", "2", "--log-interval", "1", "--eval-interval", "end",
    ]  # fmt: skip
    with launched(tmp_path, "bare", arguments, "launch/finetune.py") as job:
        job.wait_for_step(run, 3)
        send(job, rank(1), signal.SIGUSR1)
        job.wait_until_gone(SECONDS)
        assert job.statuses() == [3, 3], job.output[-3000:]
        said = stopped_line(job)
        step = trained_steps(run)[-1]
        assert said.startswith(f"stopped: SIGUSR1 (rank 1): stopped after step {step} of 100000")
        assert said.endswith("--resume auto trains this run again from its start")
        assert job.output.splitlines()[-1] == said
    assert (run / "final" / "model.safetensors").is_file()
    assert not (run / "results.json").exists()
