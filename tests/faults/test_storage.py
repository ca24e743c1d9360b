"""Disks that are full, read-only, limited or another user's: one line, the system's own reason, no traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from megabert.common.storage import (
    AGAIN,
    RESUME,
    is_storage_error,
    storage_line,
    system_error,
)
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.planted import (
    called_apart,
    command,
    fill,
    give_away,
    open_folder,
    powerless,
    read_only,
    small_disk,
)
from tests.helpers.training_runs import TINY, VOCAB, last_given, make_shards

SAMPLE = "data_tools/make_sample_wiki.py"
PRETRAIN = "launch/pretrain.py"
CONVERT = "launch/convert.py"

# ---------------------------------------------------------------- the line


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space on that disk"),
        (errno.EDQUOT, "your quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "belongs to .* runs as"),
        (errno.EPERM, "lsattr"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "dmesg"),
        (errno.ESTALE, "mount it again"),
    ],
)
def test_every_reason_has_its_own_cure(tmp_path: Path, number: int, cure: str) -> None:
    path = tmp_path / "no such folder" / "file"
    error = OSError(number, os.strerror(number), str(path))
    assert is_storage_error(error)
    line = storage_line(error)
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    what = "written" if full else "used"
    assert line.startswith(f"{path} cannot be {what}: {os.strerror(number)}; ")
    with pytest.raises(AssertionError, match=cure):
        raise AssertionError(line)
    assert ("free some space" in line) == (number == errno.ENOSPC)


@pytest.mark.parametrize(("free", "said"), [(5_000_000, " (5.0 MB are free), "), (1 << 27, ", ")])
def test_free_space_is_said_where_it_is_little(
    free: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    line = storage_line(OSError(errno.ENOSPC, "full"), tmp_path)
    assert line.endswith(f"free some space on that disk{said}then {AGAIN}")


def test_a_run_whose_folder_was_removed_is_told_so(tmp_path: Path) -> None:
    line = storage_line(OSError(errno.ENOENT, "gone"), tmp_path / "run/file", then=RESUME)
    assert "was the run's folder removed, renamed or unmounted" in line
    assert "check the name" not in line


def test_an_error_without_a_name_gets_one(tmp_path: Path) -> None:
    line = storage_line(OSError(errno.ENOSPC, "full"), tmp_path, "cannot be written")
    assert line.startswith(f"{tmp_path} cannot be written: full; ")
    assert "{" not in line


def test_errors_that_are_not_of_a_disk_stay_what_they_are() -> None:
    assert not is_storage_error(ConnectionResetError(errno.ECONNRESET, "reset"))
    assert not is_storage_error(BrokenPipeError(errno.EPIPE, "pipe"))
    assert not is_storage_error(OSError("could not get source code"))


def test_the_systems_error_in_a_librarys_text(tmp_path: Path) -> None:
    hdf5 = RuntimeError("failed (file write failed: errno = 28, error message = 'No space left')")
    found = system_error(hdf5, tmp_path)
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, str(tmp_path))
    rust = ValueError('Error while serializing: I/O error: "File too large (os error 27)"')
    assert getattr(system_error(rust, tmp_path), "errno", None) == errno.EFBIG
    assert system_error(ValueError("another"), tmp_path) is None


# ---------------------------------------------------------------- metrics


def _failing(folder: Path, plant: str) -> str:
    """What a metrics writer reports that meets a full disk after its first line."""
    from megabert.engine.metrics.writer import MetricsWriter

    writer = MetricsWriter(folder, enabled=True)
    writer.write({"step": 0, "loss": 1.0})
    assert writer.failure is None
    fill(folder / plant)
    for step in range(1, 400):
        writer.write({"step": step, **{f"value{number}": 0.5 for number in range(20)}})
    writer.close()
    assert writer.failure is not None
    return writer.failure


def test_a_full_disk_below_metrics(tmp_path: Path) -> None:
    with small_disk(tmp_path / "run", "64k") as run:
        line = _failing(run, ".")
    assert line.startswith(f"{run}/")  # metrics.jsonl or the curves: whichever needs a page first
    assert "cannot be written: No space left on device; free some space" in line
    assert "--resume auto" in line


def test_a_full_disk_below_tensorboard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with small_disk(run / "tensorboard", "64k"):
        line = _failing(run, "tensorboard")
    assert f"{run}/tensorboard/events.out.tfevents." in line
    assert "No space left on device" in line
    assert "Traceback" not in capfd.readouterr().err


def test_curves_are_what_tensorboard_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second are read in the order in which they were begun."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from megabert.engine.metrics import event_file
    from megabert.engine.metrics.writer import MetricsWriter

    moments = iter([10**18 + 98_765_432, 10**18 + 112_345_678])
    clock = SimpleNamespace(time=time.time, time_ns=lambda: next(moments))
    monkeypatch.setattr(event_file, "time", clock)
    for first, resumed in ((0, None), (3, 2)):
        writer = MetricsWriter(tmp_path, enabled=True, resumed_step=resumed)
        for step in range(first, 5):
            writer.write({"step": step, "loss": step + 0.5, "event": None, "eval_f1": 2})
        writer.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert points == [(step, step + 0.5) for step in range(5)]
    assert [point.value for point in found.Scalars("eval/eval_f1")] == [2.0] * 5


def test_deepspeeds_log_on_a_full_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from megabert.engine.library_log import _LogFile

    handler = _LogFile("/dev/full", encoding="utf-8", delay=True)
    for _ in range(3):
        handler.emit(logging.LogRecord("DeepSpeed", logging.INFO, "", 0, "text", None, None))
    handler.close()
    errors = capfd.readouterr().err
    assert errors.count("DeepSpeed's messages are lost: /dev/full cannot be written") == 1
    assert "Traceback" not in errors


# ---------------------------------------------------------------- commands without torch


def test_a_full_standard_output_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = command(SAMPLE, "--output", tmp_path / "wiki", stdout=full)
    line = ended.one_line(2)
    assert "error: standard output " in line
    assert "No space left on device" in line


def test_a_full_standard_error_ends_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = command(SAMPLE, "--output", tmp_path / "wiki", stderr=full)
        assert ended.status == 0
        assert command(SAMPLE, "--output", "/dev/full", stderr=full).status == 2


def _limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    ended = command(SAMPLE, "--output", tmp_path / "w", preexec_fn=partial(_limited, 4096))
    line = ended.one_line(2)
    assert "cannot be written: File too large; raise the limit" in line
    assert not list((tmp_path / "w").iterdir())


def test_the_folder_of_another_user() -> None:
    with open_folder() as folder:
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(VOCAB) + "\n")
        give_away(folder)
        for tool, arguments in (
            (SAMPLE, []),
            ("data_tools/shard_wiki.py", ["--input", vocabulary, "--tokenizer", vocabulary]),
        ):
            output = folder / "out"
            ended = command(tool, *arguments, "--output", output, prefix=powerless())
            line = ended.one_line(2)
            assert str(folder) in line
            assert "ermission" in line
            assert not output.exists()


def test_a_read_only_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with read_only(tmp_path / "disk"):
        ended = command(SAMPLE, "--output", tmp_path / "disk" / "w")
    assert "Read-only file system; that disk is mounted read-only" in ended.one_line(2)


# ---------------------------------------------------------------- training


def _training(folder: Path, run: Path, *more: str) -> list[str]:
    shards = folder / "shards"
    if not shards.exists():
        make_shards(folder / "first")
        info = load_tokenizer(folder / "first" / "tokenizer")
        make_shards(shards, sha256=info.sha256)  # which convert checks
    return last_given(
        [*TINY, "--data", str(shards), "--output", str(run), "--resume", "auto", *more]
    )


@pytest.mark.slow
def test_the_run_folder_of_another_user() -> None:
    with open_folder() as folder:
        run = folder / "run"
        made = command(PRETRAIN, *_training(folder, run, "--stop-after", "1"))
        assert made.status == 0, made.errors
        before = sorted(path.name for path in run.iterdir())
        give_away(run)
        line = command(PRETRAIN, *_training(folder, run), prefix=powerless()).one_line(2)
        assert "cannot be written: Permission denied" in line
        assert "belongs to nobody" in line
        assert "runs as root" in line
        with read_only(folder):
            line = command(PRETRAIN, *_training(folder, run)).one_line(2)
        assert "Read-only file system" in line
        protected = run / "metrics.jsonl"
        if subprocess.run(
            ["chattr", "+i", str(protected)], capture_output=True, check=False
        ).returncode:
            pytest.skip("chattr +i is not allowed here")
        try:
            line = command(PRETRAIN, *_training(folder, run)).one_line(2)
        finally:
            subprocess.run(["chattr", "-i", str(protected)], check=True)
        assert f"{protected} cannot be written: Operation not permitted" in line
        assert "free some space" not in line
        assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tensorboard", "checkpoints"])
def test_a_disk_that_fills_up_while_training(tmp_path: Path, where: str) -> None:
    """The curves' disk: a checkpoint is saved first. The checkpoints' disk: the last one is kept."""
    run, steps = tmp_path / "run", ["--steps", "30"]
    assert command(PRETRAIN, *_training(tmp_path, run, *steps, "--stop-after", "2")).status == 0
    kept = tmp_path / "kept"
    shutil.move(str(run / where), kept)
    size = sum(path.stat().st_size for path in kept.rglob("*"))
    with small_disk(run / where, "64k" if where == "tensorboard" else str(3 * size)) as disk:
        shutil.copytree(kept, disk, dirs_exist_ok=True, symlinks=True)
        if where == "checkpoints":
            fill(disk)
        if where == "tensorboard":
            shutil.rmtree(disk, ignore_errors=True)
            (disk / "filler").write_bytes(bytes(56 * 1024))
        line = command(PRETRAIN, *_training(tmp_path, run, *steps)).one_line(1)
        assert "cannot be written: No space left on device; free some space" in line
        assert f"{run}/{where}/" in line
        assert "--resume auto" in line
        saved = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
        if where == "checkpoints":
            assert "checkpoint step-0000002 is kept" in line
            assert saved == ["step-0000002"]
            (disk / "filler").unlink()
        else:
            assert "stopped after step" in line
            assert len(saved) == 2
    if where == "tensorboard":
        shutil.rmtree(run / where)
        again = command(PRETRAIN, *_training(tmp_path, run, *steps))
        assert again.status == 0, again.errors
        assert json.loads((run / "results.json").read_text())["finished"]


@pytest.mark.slow
def test_converts_output(tmp_path: Path) -> None:
    with open_folder() as folder:
        run = folder / "run"
        assert command(PRETRAIN, *_training(folder, run, "--stop-after", "1")).status == 0
        wanted = ["--from", "megabert", "--input", run, "--to", "google-tf", "--output"]
        (folder / "theirs").mkdir()
        give_away(folder / "theirs")
        line = command(CONVERT, *wanted, folder / "theirs" / "out", prefix=powerless()).one_line(2)
        assert "Permission denied" in line
        with small_disk(folder / "small", "64k") as disk:
            line = command(CONVERT, *wanted, disk / "out").one_line(2)
            assert "No space left on device" in line
            assert not list(disk.iterdir())


def test_linked_checkpoints_lose_only_checkpoints(tmp_path: Path) -> None:
    """Those of the run beyond ``--keep-last``; and of a checkpoint that is a link, the link."""
    from megabert.common.files import remove_folder

    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    more = ["--steps", "3", "--save-interval", "1", "--keep-last", "1"]
    ended = command(PRETRAIN, *_training(tmp_path, run, *more, "--stop-after", "1"))
    assert ended.status == 0, ended.errors
    (run / "checkpoints").rename(elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    (elsewhere / "step-old").mkdir()
    (elsewhere / "step-old" / "notes.txt").write_text("mine")
    ended = command(PRETRAIN, *_training(tmp_path, run, *more))
    assert ended.status == 0, ended.errors
    assert sorted(p.name for p in elsewhere.iterdir()) == ["latest", "step-0000003", "step-old"]
    assert (elsewhere / "step-old" / "notes.txt").read_text() == "mine"
    link = tmp_path / "step-0000001"
    link.symlink_to(elsewhere / "step-old")
    remove_folder(link)
    assert not link.is_symlink()
    assert (elsewhere / "step-old" / "notes.txt").read_text() == "mine"


def test_curves_go_where_a_link_points(tmp_path: Path) -> None:
    """A link to nothing, or to a file, is refused before anything is written."""
    run, elsewhere, file = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "file"
    resumed = _training(tmp_path, run)
    (first,) = called_apart((PRETRAIN, [*resumed, "--stop-after", "2"]))
    assert first.status == 0, first.errors
    (run / "tensorboard").rename(elsewhere)
    file.write_text("mine")
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    for target, words in (
        (tmp_path / "gone", f"a link to {tmp_path / 'gone'}, which is not there: is its disk"),
        (run / "tensorboard", "which is not there: is its disk mounted? Bring it back, or remove"),
        (file, "a file, and a run's curves are in a folder of that name"),
    ):
        (run / "tensorboard").symlink_to(target)
        (refused,) = called_apart((PRETRAIN, resumed))
        (run / "tensorboard").unlink()
        line = refused.one_line(2)
        assert f"error: {run}/tensorboard is a " in line
        assert words in line
        assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    assert file.read_text() == "mine"
    (run / "tensorboard").symlink_to(elsewhere)
    (again,) = called_apart((PRETRAIN, resumed))
    assert again.status == 0, again.errors
    assert (run / "tensorboard").is_symlink()
    assert len(list(elsewhere.glob("events.out.tfevents.*"))) == 2
