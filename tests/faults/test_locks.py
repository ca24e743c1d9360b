"""One run, one folder: a second job is refused, and what a dead job left is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.common.processes import locks
from megabert.common.processes.kernel import process_stat
from megabert.common.processes.locks import FolderLock, lock_beside, lock_inside
from megabert.common.storage import StorageFault
from tests.helpers.interrupts import interrupted_at_each_line
from tests.helpers.planted import command, start
from tests.helpers.training_runs import TINY, last_given, make_shards


def _lock(folder: Path) -> FolderLock:
    return FolderLock(lock_inside(folder), folder)


def _leave(folder: Path, age: float = 0.0, **changed: Any) -> Path:
    """A lock file as another process would have left it."""
    folder.mkdir(exist_ok=True)
    file = lock_inside(folder)
    holder = replace(locks._this_process(), **changed)
    file.write_text(json.dumps(asdict(holder)))
    moment = time.time() - age
    os.utime(file, (moment, moment))
    return file


def _dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


# ---------------------------------------------------------------- the lock


def test_an_interruption_at_any_line_leaves_no_lock(tmp_path: Path) -> None:
    def hold() -> None:
        with _lock(tmp_path / "runs" / "a"):
            pass

    count = 0
    for _ in interrupted_at_each_line(hold):
        locks.release_all()
        assert list(tmp_path.iterdir()) == []
        count += 1
    assert count > 100


def test_the_second_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with _lock(folder):
        content = lock_inside(folder).read_bytes()
        with pytest.raises(UserError, match=rf"in use.*process {os.getpid()} on ") as caught:
            _lock(folder).take()
        assert "remove" not in str(caught.value)
        assert lock_inside(folder).read_bytes() == content
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["gone", "number used again"])
def test_a_dead_process_of_this_machine(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {"pid": _dead()} if what == "gone" else {"pid": os.getppid(), "started": 1}
    _leave(tmp_path / "a", **changed)
    began = time.monotonic()
    with _lock(tmp_path / "a"):
        assert time.monotonic() - began < 2
        assert f"taking over the lock of {locks._this_process().command}" in capsys.readouterr().err


def test_a_process_that_was_killed_and_not_waited_for(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    while not ((stat := process_stat(process.pid)) and stat.ended):
        time.sleep(0.01)
    _leave(tmp_path / "a", pid=process.pid)
    with _lock(tmp_path / "a"):
        pass
    process.wait()


@pytest.mark.parametrize("where", ["host", "kernel", "namespace"])
def test_another_machine_that_is_silent(tmp_path: Path, where: str) -> None:
    _leave(tmp_path / "a", age=locks.STALE + 1, **{where: "elsewhere"})
    with _lock(tmp_path / "a"):
        pass


def test_another_machine_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_WATCH", 0.05)
    file = _leave(tmp_path / "a", age=20.0, host="elsewhere")
    threading.Timer(0.3, file.touch).start()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"in use.* on elsewhere"):
        _lock(tmp_path / "a").take()
    assert time.monotonic() - began < 5
    assert json.loads(file.read_bytes())["host"] == "elsewhere"


def test_another_machine_that_was_killed_a_moment_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "_WATCH", 0.05)
    monkeypatch.setattr(locks, "STALE", 1.0)
    _leave(tmp_path / "a", host="elsewhere")
    with _lock(tmp_path / "a"):
        errors = capsys.readouterr().err
    assert "waiting up to 1 s for a sign of life" in errors
    assert "taking over the lock" in errors


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"[" * 10_000, b"\xff"])
def test_a_file_that_names_nobody(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a job that was killed between making the file and writing it."""
    monkeypatch.setattr(locks, "_WATCH", 0.01)
    file = _leave(tmp_path / "a")
    file.write_bytes(content)
    moment = time.time() - locks.STALE - 1
    os.utime(file, (moment, moment))
    with _lock(tmp_path / "a"):
        pass


def test_the_holder_touches_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.05)
    with _lock(tmp_path / "a"):
        file = lock_inside(tmp_path / "a")
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_job_whose_folder_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    lock = _lock(tmp_path / "a")
    with lock:
        lock.require()
        lock_inside(tmp_path / "a").unlink()
        lock.require()  # somebody removed the file: it is made again
        file = _leave(tmp_path / "a", token="another", command="another job")
        with pytest.raises(
            StorageFault, match="another job has taken this folder over: another job"
        ):
            lock.require()
    assert file.exists()  # it is not this job's to remove


def _compete(folder: Path, start_at: float, answers: Any, over: Any) -> None:
    while time.time() < start_at:
        pass
    try:
        _lock(folder).take()
    except UserError:
        answers.put(0)
    else:
        answers.put(1)
        over.wait(60)
    answers.close()
    answers.join_thread()
    os._exit(0)


@pytest.mark.parametrize("left", [True, False])
def test_of_many_at_once_one_gets_it(tmp_path: Path, left: bool) -> None:
    for attempt in range(2):
        folder = tmp_path / f"run{attempt}"
        if left:
            _leave(folder, pid=_dead())
        context = multiprocessing.get_context("fork")
        answers: Any = context.Queue()
        over, moment = context.Event(), time.time() + 0.2
        arguments = (folder, moment, answers, over)
        jobs = [context.Process(target=_compete, args=arguments) for _ in range(6)]
        for job in jobs:
            job.start()
        assert sum(answers.get(timeout=60) for _ in jobs) == 1
        over.set()
        for job in jobs:
            job.join()


# ---------------------------------------------------------------- commands


def test_convert_is_refused_before_it_reads(tmp_path: Path) -> None:
    from megabert.convert.run import ConversionRequest, convert

    output = tmp_path / "out"
    with (
        FolderLock(lock_beside(output), output),
        pytest.raises(UserError, match="out is in use: another job"),
    ):
        convert(ConversionRequest("megabert", tmp_path / "missing", "huggingface", output))


@pytest.mark.slow
def test_finetune_is_refused(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    model.mkdir()
    (tmp_path / "train.tsv").touch()
    arguments = ["--task", "rte", "--checkpoint", model, "--train", tmp_path / "train.tsv"]
    with _lock(run):
        before = sorted(path.name for path in run.iterdir())
        ended = command("launch/finetune.py", *arguments, "--output", run, "--resume", "auto")
        assert f"error: {run} is in use" in ended.one_line(2)
        assert sorted(path.name for path in run.iterdir()) == before


def _training(tmp_path: Path, *more: str) -> list[str]:
    shards = tmp_path / "shards"
    if not shards.exists():
        make_shards(shards)
    run = ["--data", str(shards), "--output", str(tmp_path / "run"), "--resume", "auto"]
    return last_given([*TINY, *run, *more])


@pytest.mark.slow
def test_two_trainings_and_a_kill(tmp_path: Path) -> None:
    """The second is refused and changes nothing; after kill -9 the next one takes the folder over."""
    run = tmp_path / "run"
    endless = _training(tmp_path, "--steps", "100000", "--save-interval", "5")
    first = start("launch/pretrain.py", *endless, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while not (run / "checkpoints" / "latest").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.05)
        second = command("launch/pretrain.py", *_training(tmp_path, "--seed", "7"))
        line = second.one_line(2)
        assert f"{run} is in use: another job" in line
        assert f"(process {first.pid} on " in line
        assert first.poll() is None
        assert "seed: 42" in (run / "config.yaml").read_text()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1].strip() or "{}")["step"]
    steps = str(max(10, step) + 6)
    third = command(
        "launch/pretrain.py", *_training(tmp_path, "--steps", "100000", "--stop-after", steps)
    )
    assert third.status == 0, third.errors
    assert f"{run}: taking over the lock of pretrain.py" in third.errors
    assert "resumed from step-" in third.errors
    assert not lock_inside(run).exists()
