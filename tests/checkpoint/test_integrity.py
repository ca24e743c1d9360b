"""Checkpoints that are not whole are found, reported and skipped."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megabert.checkpoint import record as checkpoint_record
from megabert.checkpoint.record import (
    PARTIAL,
    damaged_file,
    read_checkpoint_record,
    whole_checkpoints,
    write_checkpoint_record,
)
from megabert.checkpoint.save_load import abandon_later, newest_checkpoint
from megabert.common.errors import UserError
from megabert.common.files import remove_folder
from megabert.pretrain.run_folder import nothing_left_behind
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import (
    TINY,
    import_once,
    losses,
    make_shards,
    metrics,
    settings_of,
    train,
)

RANKS = 2
NEWEST, BEFORE, OLDEST = "step-0000006", "step-0000004", "step-0000002"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def original(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six updates of two ranks, with three checkpoints."""
    run = tmp_path_factory.mktemp("original") / "run"
    train(
        shards, run, "--steps", "6", "--save-interval", "2", "--keep-last", "9", "--dropout", "0",
        ranks=RANKS,
    )  # fmt: skip
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def _find(rank: int, world_size: int, run: Path, wanted: str) -> tuple[Any, str]:
    """The checkpoint that a run resumes from, and the messages about it."""
    import logging

    from megabert.checkpoint.save_load import find_checkpoint
    from megabert.common.log import get_logger

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: said.append(entry.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(handler)
    world: Any = SimpleNamespace(
        topology=SimpleNamespace(rank=rank, world_size=world_size),
        is_main=rank == 0,
        device=torch.device("cpu"),
    )
    found = find_checkpoint(run, wanted, world)
    return found and found.folder.name, "\n".join(said)


def find(run: Path, wanted: str = "auto") -> tuple[Any, str]:
    import_once()
    found = run_ranks(_find, RANKS, run, wanted)
    assert found[0][0] == found[1][0]
    assert not found[1][1], "only rank 0 prints messages"
    return found[0]


def _find_source(rank: int, world_size: int, views: list[Path]) -> tuple[str, int]:
    """What ``--init-from`` takes where each rank sees its own state of the file system."""
    from megabert.checkpoint.resume import find_source

    world: Any = SimpleNamespace(
        topology=SimpleNamespace(rank=rank, world_size=world_size),
        is_main=rank == 0,
        device=torch.device("cpu"),
    )
    found = find_source(views[rank], lambda checkpoint: None, world)
    return found.folder.name, found.step


def test_all_ranks_begin_from_the_same_checkpoint(run: Path, tmp_path: Path) -> None:
    """A rank that sees an older ``latest`` takes what the main rank has chosen."""
    lagging = Path(shutil.copytree(run, tmp_path / "lagging"))
    shutil.rmtree(lagging / "checkpoints" / NEWEST)
    (lagging / "checkpoints" / "latest").write_text(BEFORE + "\n")
    assert newest_checkpoint(lagging).folder.name == BEFORE
    import_once()
    assert run_ranks(_find_source, RANKS, [run, lagging]) == [(NEWEST, 6)] * 2


# ---------------------------------------------------------------- every kind of damage


def _flip(path: Path, place: float = 0.5, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _rank_file(folder: Path) -> Path:
    return next(folder.glob("*zero_pp_rank_1_*_optim_states.pt"))


def _model_file(folder: Path) -> Path:
    return next(folder.glob("*_model_states.pt"))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flip in a rank's file": (lambda f: _flip(_rank_file(f)), r"zero_pp_rank_1\S* has changed"),
    "flip in the first byte": (
        lambda f: _flip(_model_file(f), 0.0, 7),
        r"model_states\S* has chan",
    ),
    "flip in the last byte": (lambda f: _flip(_model_file(f), 1.0, 3), r"model_states\S* has chan"),
    "truncated": (lambda f: _cut(_rank_file(f), 0.7), r"rank_1\S* has \d+ bytes instead of \d+"),
    "empty": (lambda f: _cut(_rank_file(f), 0.0), r"rank_1\S* has 0 bytes instead of \d+"),
    "missing rank file": (lambda f: _rank_file(f).unlink(), r"zero_pp_rank_1\S* is missing"),
    "missing model file": (lambda f: _model_file(f).unlink(), r"model_states\S* is missing"),
    "no record": (lambda f: (f / "megabert.json").unlink(), r"not a complete.* no megabert\.json"),
    "empty record": (lambda f: _cut(f / "megabert.json", 0.0), r"json is not a checkpoint record"),
    "half a record": (lambda f: _cut(f / "megabert.json", 0.5), r"json is not a checkpoint record"),
    "number in the record": (
        lambda f: _replace(f / "megabert.json", '"consumed_samples": 48', '"consumed_samples": 40'),
        r"megabert\.json has changed since it was written",
    ),
    "sum of the record gone": (
        lambda f: _replace(f / "megabert.json", '"record_sha256"', '"record_sha257"'),
        r"megabert\.json is not a checkpoint record",
    ),
}


def _replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_skipped(name: str, run: Path) -> None:
    damage, message = DAMAGES[name]
    damage(run / "checkpoints" / NEWEST)
    found, said = find(run)
    assert found == BEFORE
    assert len(said.splitlines()) == 1
    with pytest.raises(UserError, match=message) as raised:
        find(run, NEWEST)
    assert NEWEST in said
    assert str(raised.value).split(": ", 1)[-1][:40] in said or "record" in said
    assert find(run, OLDEST)[0] == OLDEST


def test_two_damaged_ones(run: Path) -> None:
    _flip(_rank_file(run / "checkpoints" / NEWEST))
    (run / "checkpoints" / BEFORE / "megabert.json").unlink()
    found, said = find(run)
    assert found == OLDEST
    assert [line.count("skipped") for line in said.splitlines()] == [1, 1]


def test_all_damaged(run: Path) -> None:
    """A run never silently starts again where a checkpoint exists."""
    for tag in (NEWEST, BEFORE, OLDEST):
        _flip(_rank_file(run / "checkpoints" / tag))
    with pytest.raises(UserError, match=r"no checkpoint in \S+ is complete .*zero_pp_rank_1"):
        find(run)


def test_half_written_folders(run: Path) -> None:
    """What a kill leaves while a checkpoint is written, or removed, is not a checkpoint."""
    base = run / "checkpoints"
    (base / NEWEST).rename(base / (NEWEST + PARTIAL))
    (base / BEFORE).rename(base / f"{BEFORE}.removed{PARTIAL}")
    found, said = find(run)
    assert found == OLDEST
    assert f"{NEWEST}{PARTIAL} was not written completely" in said
    shutil.rmtree(base / OLDEST)
    assert find(run)[0] is None, "nothing was ever written whole: begin at step 0"
    with pytest.raises(UserError, match="no such checkpoint"):
        find(run, NEWEST + PARTIAL)


def test_copies_are_left_alone(run: Path) -> None:
    base = run / "checkpoints"
    shutil.copytree(base / NEWEST, base / f"{NEWEST}-mine")
    assert [c.folder.name for c in whole_checkpoints(base)] == [NEWEST, BEFORE, OLDEST]
    assert find(run, f"{NEWEST}-mine")[0] == f"{NEWEST}-mine"


def test_continues_from_the_previous_one(
    run: Path, original: Path, shards: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A damaged checkpoint is skipped, trained again, and replaced by a sound one."""
    _flip(_rank_file(run / "checkpoints" / NEWEST))
    arguments = ["--steps", "6", "--dropout", "0", "--keep-last", "9", "--resume", "auto"]
    lines = train(shards, run, *arguments, ranks=RANKS)
    said = capfd.readouterr().err
    assert f"checkpoint {NEWEST} is damaged and is skipped: {run}" in said
    assert f"resumed from {BEFORE} (" in said
    assert losses(lines) == losses(metrics(original))
    assert damaged_file(read_checkpoint_record(run / "checkpoints" / NEWEST)) is None


def test_exit_status(run: Path, shards: Path, root: Path) -> None:
    """A damaged checkpoint asked for by tag: one line, status 2, nothing touched."""
    path = _model_file(run / "checkpoints" / NEWEST)
    _cut(path, 0.9)
    config = (run / "config.yaml").read_bytes()
    command = [
        sys.executable, str(root / "launch" / "pretrain.py"), "--config", str(run / "config.yaml"),
        "--output", str(run), "--resume", NEWEST,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert f"error: --resume {NEWEST}: {path} has" in errors[0]
    assert (run / "config.yaml").read_bytes() == config


# ---------------------------------------------------------------- the record


def test_flipped_bits_of_a_record(original: Path, tmp_path: Path) -> None:
    """Found, or without meaning (E for e in a number)."""
    folder = Path(shutil.copytree(original / "checkpoints" / NEWEST, tmp_path / NEWEST))
    path = folder / "megabert.json"
    content, expected = path.read_bytes(), read_checkpoint_record(folder).record
    rng = random.Random(0)
    found = 0
    places = range(0, len(content), 3)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(flipped))
        try:
            assert read_checkpoint_record(folder).record == expected, f"byte {place}"
        except UserError:
            found += 1
    assert found > 0.99 * len(places)


def test_versions_of_the_record(original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original / "checkpoints" / NEWEST, tmp_path / NEWEST))
    record = dict(read_checkpoint_record(folder).record)
    assert record["version"] == checkpoint_record.RECORD_VERSION == 2
    for name in ("record_sha256", "optimizer", "wrapper", "slices", "skipped_steps"):
        del record[name]
    (folder / "megabert.json").write_text(json.dumps({**record, "version": 1}))
    assert read_checkpoint_record(folder).step == 6
    assert damaged_file(read_checkpoint_record(folder)) is None
    (folder / "megabert.json").write_text(json.dumps({**record, "version": 3}))
    with pytest.raises(UserError, match="version 3 is newer than this program"):
        read_checkpoint_record(folder)


def test_run_of_an_older_version_resumes(run: Path, original: Path, shards: Path) -> None:
    """Records of version 1 said less; natively, and on another topology."""
    base = run / "checkpoints"
    for tag in (NEWEST, BEFORE):
        shutil.rmtree(base / tag)
    record = dict(read_checkpoint_record(base / OLDEST).record)
    for name in ("record_sha256", "optimizer", "wrapper", "slices", "skipped_steps"):
        del record[name]
    (base / OLDEST / "megabert.json").write_text(json.dumps({**record, "version": 1}))
    arguments = ["--steps", "6", "--dropout", "0", "--resume", "auto"]
    other = Path(shutil.copytree(run, run.parent / "other"))
    lines = train(shards, run, *arguments, ranks=RANKS)
    assert losses(lines) == losses(metrics(original))
    lines = train(shards, other, *arguments, "--zero-stage", "0")
    assert losses(lines) == pytest.approx(losses(metrics(original)), rel=1e-5)


@pytest.mark.parametrize("content", [None, "", "step-0000099\n", f"{NEWEST}\n", b"\xff\xfe"])
def test_latest_that_points_nowhere(
    content: str | bytes | None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megabert.checkpoint import save_load

    said: list[str] = []
    logger = SimpleNamespace(info=lambda text, *values: said.append(text % values))
    monkeypatch.setattr(save_load, "get_logger", lambda: logger)
    assert save_load.newest_checkpoint(run).folder.name == NEWEST
    assert not said
    pointer = run / "checkpoints" / "latest"
    pointer.unlink()
    if content is not None:
        pointer.write_bytes(content if isinstance(content, bytes) else content.encode())
    (run / "checkpoints" / NEWEST / "megabert.json").unlink()
    assert save_load.newest_checkpoint(run).folder.name == BEFORE
    assert len(said) == 1
    assert str(pointer) in said[0]
    assert f"{BEFORE} is used" in said[0]
    for tag in (BEFORE, OLDEST):
        (run / "checkpoints" / tag / "megabert.json").unlink()
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        save_load.newest_checkpoint(run)


# ---------------------------------------------------------------- writing


def test_order_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is on disk before the next step relies on it."""
    from megabert.checkpoint.save_load import _finish

    base = tmp_path / "checkpoints"
    partial, final = base / (NEWEST + PARTIAL), base / NEWEST
    partial.mkdir(parents=True)
    events: list[tuple[str, str]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        events.append(("sync", str(name).replace(PARTIAL, "~")))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(("rename to", str(target.relative_to(tmp_path)).replace(PARTIAL, "~")))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    record = {"step": 6, "consumed_samples": 48, "files": {}, "model": {}}
    _finish(partial, final, record)
    assert events == [
        ("sync", f"checkpoints/{NEWEST}~/megabert.json.tmp"),
        ("rename to", f"checkpoints/{NEWEST}~/megabert.json"),
        ("sync", f"checkpoints/{NEWEST}~"),
        ("rename to", f"checkpoints/{NEWEST}"),
        ("sync", "checkpoints"),
        ("sync", "checkpoints/latest.tmp"),
        ("rename to", "checkpoints/latest"),
        ("sync", "checkpoints"),
    ]
    assert read_checkpoint_record(final).step == 6


def test_removal_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is half removed is not found any more."""
    folder = tmp_path / NEWEST
    folder.mkdir()
    write_checkpoint_record(folder, {"step": 6, "consumed_samples": 48, "files": {}, "model": {}})
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    remove_folder(folder)
    assert whole_checkpoints(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [f"{NEWEST}.removed{PARTIAL}"]


def test_course_that_was_left(run: Path, shards: Path) -> None:
    """A run resumed from an older checkpoint removes the later ones once it has one of its own."""
    base = run / "checkpoints"
    (base / ("step-0000009" + PARTIAL)).mkdir()
    arguments = ["--steps", "6", "--dropout", "0", "--keep-last", "9"]
    train(shards, run, *arguments, "--resume", OLDEST, "--stop-after", "3", ranks=RANKS)
    assert sorted(path.name for path in base.iterdir()) == ["latest", OLDEST, "step-0000003"]
    assert find(run)[0] == "step-0000003"


def test_a_course_that_is_left_before_its_first_save(run: Path) -> None:
    """Without its own checkpoint yet it still begins where it was told, unless it is told otherwise."""
    base = run / "checkpoints"
    abandon_later(base, BEFORE)
    found, said = find(run)
    assert found == BEFORE
    assert f"ignored: {NEWEST}, because the run was resumed from an earlier step" in said
    assert find(run, NEWEST)[0] == NEWEST
    abandon_later(base, NEWEST)
    assert find(run)[0] == NEWEST
    abandon_later(base, OLDEST)
    shutil.rmtree(base / OLDEST)
    assert find(run)[0] == NEWEST, "what it named is gone"


def test_start_that_was_killed(shards: Path, tmp_path: Path) -> None:
    """Before the settings are written there is nothing to resume, and nothing in the way."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml.tmp").write_text("model:")
    assert len(losses(train(shards, run, "--steps", "1", "--resume", "auto"))) == 1
    (tmp_path / "other" / "checkpoints" / "precious").mkdir(parents=True)
    with pytest.raises(UserError, match="is not a run folder"):
        train(shards, tmp_path / "other", "--resume", "auto")


def test_links_of_a_prepared_folder_stay(tmp_path: Path) -> None:
    """A run that ends before its first checkpoint removes what it made, and not what its user did."""
    run, world = tmp_path / "run", SimpleNamespace(is_main=True)
    run.mkdir()
    for name in ("checkpoints", "tensorboard"):
        (tmp_path / "big" / name).mkdir(parents=True)
        (run / name).symlink_to(tmp_path / "big" / name)

    def wrong() -> None:
        with nothing_left_behind(run, world):  # type: ignore[arg-type]
            (run / "config.yaml").touch()
            (run / "checkpoints" / "half").mkdir()
            raise UserError("a wrong input")

    with pytest.raises(UserError, match="a wrong input"):
        wrong()
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "tensorboard"]
    assert not list((tmp_path / "big" / "checkpoints").iterdir())


def test_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megabert.checkpoint import save_load

    said: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *values: said.append(text % values))
    monkeypatch.setattr(save_load, "get_logger", lambda: logger)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3e9))
    save_load.check_space(tmp_path / "not" / "there", 2.9e9, "a checkpoint")
    assert not said
    save_load.check_space(tmp_path, 4e9, "a checkpoint")
    assert said == [f"{tmp_path} has 3.0 GB free, but a checkpoint needs about 4.0 GB"]


def _estimate(rank: int, world_size: int, argv: list[str]) -> int:
    from megabert.checkpoint.layout import checkpoint_bytes
    from megabert.engine.launch import start
    from megabert.pretrain.command import prepare
    from megabert.pretrain.inputs import open_inputs

    settings = settings_of(argv)
    world = start(settings.parallel.tensor_parallel)
    estimate = checkpoint_bytes(prepare(settings, open_inputs(settings), world).engine)
    world.close()
    return estimate


def test_size_is_foreseen(original: Path, shards: Path, tmp_path: Path) -> None:
    import_once()
    argv = [
        *TINY, "--data", str(shards), "--output", str(tmp_path / "run"), "--hidden-size", "256",
        "--tensor-parallel", "2",
    ]  # fmt: skip
    estimate = run_ranks(_estimate, RANKS, argv, initialize=False)[0]
    train(shards, tmp_path / "same", "--hidden-size", "256", "--steps", "1")
    record = read_checkpoint_record(tmp_path / "same" / "checkpoints" / "step-0000001").record
    size = sum(facts["bytes"] for facts in record["files"].values())
    assert 0.8 * size < estimate < 1.5 * size


def test_a_megabert_folder_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "megabert.json").write_text('{"format": "megabert-weights", "version": 1}')
    with pytest.raises(UserError, match=r"is a megabert folder: .* name a run or one of its check"):
        newest_checkpoint(tmp_path)
