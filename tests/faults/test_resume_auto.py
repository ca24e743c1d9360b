"""``--resume auto`` never begins again silently: what it cannot read or find is an error that says so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megabert.checkpoint.record import write_checkpoint_record
from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.training import PretrainSettings
from tests.helpers.distributed import run_ranks
from tests.helpers.planted import NOBODY, command, open_folder
from tests.helpers.training_runs import TINY, last_given, make_shards

CONFIG = "run:\n  save_interval: 5\n"


def _run(folder: Path, *, checkpoints: int = 1) -> Path:
    """A run folder as a run leaves it: settings, metrics, and checkpoints of steps 5, 10, ..."""
    base = folder / "checkpoints"
    base.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.jsonl").write_text('{"step": 5}\n{"step": 6}\n{"st')
    for number in range(1, checkpoints + 1):
        checkpoint = base / f"step-{5 * number:07d}"
        checkpoint.mkdir()
        record = {"step": 5 * number, "consumed_samples": 0, "model": {}, "files": {}}
        write_checkpoint_record(checkpoint, record)
        (base / "latest").write_text(checkpoint.name)
    return folder


@contextlib.contextmanager
def _another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _open(rank: int, world_size: int, run: Path, another_user: bool) -> str:
    """What a resumed run does there: the name of its checkpoint, or the error."""
    from megabert.checkpoint.save_load import find_checkpoint
    from megabert.engine.launch import start
    from megabert.pretrain.run_folder import open_run

    world = start()
    with _another_user() if another_user else contextlib.nullcontext():
        try:
            found = open_run(run, "auto", world, find_checkpoint)
        except UserError as error:
            return f"error: {error}"
        finally:
            world.close()
    return "step 0" if found is None else found.folder.name


def opened(run: Path, *, another_user: bool = False) -> str:
    if another_user and os.geteuid() != 0:
        pytest.skip("only root can look at a folder as another user")
    [answer] = run_ranks(_open, 1, run, another_user, initialize=False)
    assert "\n" not in answer
    assert "remove" not in answer
    return str(answer)


def _unreadable_checkpoints(run: Path) -> None:
    (run / "checkpoints").chmod(0o700)


def _unreadable_newest(run: Path) -> None:
    (run / "checkpoints" / "step-0000010").chmod(0o700)


def _unreadable_record(run: Path) -> None:
    (run / "checkpoints" / "step-0000010" / "megabert.json").chmod(0o600)


def _unreadable_run(run: Path) -> None:
    run.chmod(0o711)


@pytest.mark.parametrize(
    "plant", [_unreadable_checkpoints, _unreadable_newest, _unreadable_record, _unreadable_run]
)
def test_another_user(plant: Callable[[Path], None]) -> None:
    with open_folder() as folder:
        run = _run(folder / "run", checkpoints=2)
        plant(run)
        answer = opened(run, another_user=True)
        assert answer.startswith("error: ")
        assert "Permission denied" in answer
        assert "belongs to root" in answer
        assert len(list((run / "checkpoints").glob("step-*"))) == 2


def test_a_newer_version_is_not_passed_by_for_an_earlier_checkpoint(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", checkpoints=2)
    (run / "checkpoints" / "step-0000010" / "megabert.json").write_text('{"version": 99}')
    answer = opened(run)
    assert "version 99 is newer than this program" in answer
    assert "may be whole" in answer


def test_a_damaged_record_is_passed_by(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", checkpoints=2)
    (run / "checkpoints" / "step-0000010" / "megabert.json").write_text("{")
    assert opened(run) == "step-0000005"


@pytest.mark.parametrize("name", ["checkpoints/step-0000005/megabert.json", "deepspeed.log"])
def test_a_pipe_in_place_of_a_file(name: str, tmp_path: Path) -> None:
    pipe = _run(tmp_path / "run") / name
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    assert f"{pipe} is a pipe, it is not a regular file" in opened(tmp_path / "run")


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    (run / "checkpoints" / "step-0000005" / "megabert.json").unlink()
    assert "is complete (" in opened(run)


def _a_file(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")


def _a_link_to_nothing(run: Path) -> None:
    (run / "checkpoints").rename(run.parent / "elsewhere")
    (run / "checkpoints").symlink_to(run.parent / "not mounted")


def _moved_away(run: Path) -> None:
    (run / "checkpoints").rename(run.parent / "elsewhere")


def _emptied(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-0000005")


def _finished(run: Path) -> None:
    _emptied(run)
    (run / "metrics.jsonl").unlink()
    (run / "results.json").write_text("{}")


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (_a_file, "checkpoints is a file"),
        (_a_link_to_nothing, "is a link to .*not mounted, which is not there"),
        (_moved_away, r"metrics.jsonl reaches step 6, and one was due every 5 steps"),
        (_emptied, r"metrics.jsonl reaches step 6, and one was due every 5 steps"),
        (_finished, r"results.json says that some were written"),
    ],
)
def test_checkpoints_that_are_not_there(
    tmp_path: Path, plant: Callable[[Path], None], line: str
) -> None:
    run = _run(tmp_path / "run")
    plant(run)
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(AssertionError, match=line):
        raise AssertionError(opened(run))
    assert (run / "config.yaml").read_bytes() == before


def test_a_new_run_says_why_it_starts_at_step_0(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert opened(tmp_path / "new") == "step 0"
    assert "finds nothing to resume: there is no run in" in capfd.readouterr().err
    run = _run(tmp_path / "early", checkpoints=0)
    (run / "metrics.jsonl").write_text('{"step": 4}\n')
    assert opened(run) == "step 0"
    assert "ended before its first checkpoint" in capfd.readouterr().err
    (run / "metrics.jsonl").write_text('{"step": 5}\n')  # saving the first one failed
    (run / "checkpoints" / "step-0000005.partial").mkdir()
    assert opened(run) == "step 0"
    assert "was not written completely" in capfd.readouterr().err


# ---------------------------------------------------------------- a run's own config.yaml


def _resolved(*argv: object) -> Path:
    from megabert.pretrain.settings import resolve_pretraining

    given = flags.parse(PretrainSettings, [str(word) for word in argv], "pretrain.py", "")
    return resolve_pretraining(given).run.output


def test_the_config_of_a_moved_run_means_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "moved"
    run.mkdir()
    (run / "config.yaml").write_text("run:\n  output: runs/old\ndata:\n  data: shards\n")
    monkeypatch.chdir(tmp_path)
    assert _resolved("--config", run / "config.yaml") == Path("runs/old")  # not a run's folder
    (run / "ds_config.json").write_text("{}")
    assert _resolved("--config", run / "config.yaml") == run
    assert _resolved("--config", "moved/config.yaml", "--resume", "auto") == Path("moved")
    assert _resolved("--config", run / "config.yaml", "--output", "other") == Path("other")
    monkeypatch.chdir(run)
    assert _resolved("--config", "config.yaml").absolute() == run
    (run / "config.yaml").rename(run / "mine.yaml")
    assert _resolved("--config", run / "mine.yaml") == Path("runs/old")


def test_the_config_of_a_moved_fine_tuning(tmp_path: Path) -> None:
    from megabert.finetune.settings import finetune_settings, resolve_finetuning

    one = tmp_path / "moved" / "2e-5-seed-42"
    one.mkdir(parents=True)
    text = "task:\n  task: rte\n  checkpoint: m\n  train: t\n  output: runs/old\n"
    for folder in (one, one.parent):
        (folder / "config.yaml").write_text(text)
    argv = ["--config", str(one.parent / "config.yaml")]
    given = flags.parse(finetune_settings(), argv, "finetune.py", "")
    assert resolve_finetuning(given).task.output == one.parent


@pytest.mark.slow
def test_a_run_that_was_moved_resumes_from_another_folder(tmp_path: Path) -> None:
    """Relative paths when it was started; then the folder is moved, and so is the user."""
    make_shards(tmp_path / "shards")
    relative = ["--data", "shards", "--output", "runs/a"]
    first = last_given([*TINY, *relative, "--stop-after", "2"])
    assert command("launch/pretrain.py", *first, cwd=tmp_path).status == 0
    moved, elsewhere = tmp_path / "moved", tmp_path / "elsewhere"
    (tmp_path / "runs" / "a").rename(moved)
    elsewhere.mkdir()
    again = ["--config", moved / "config.yaml", "--resume", "auto"]
    second = command("launch/pretrain.py", *again, cwd=elsewhere)
    assert second.status == 0, second.errors
    assert "resumed from step-0000002" in second.errors
    assert json.loads((moved / "results.json").read_text())["finished"]
    assert list(elsewhere.iterdir()) == []
    assert list((tmp_path / "runs").iterdir()) == []
