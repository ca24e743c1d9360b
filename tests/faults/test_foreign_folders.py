"""Outputs that must not be written and files that must not be read, by every command: one line, nothing left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.finetune_runs import CONVERT, FINETUNE, PREDICT, REPORT, arguments
from tests.helpers.planted import (
    NOBODY,
    Call,
    Ended,
    called,
    called_apart,
    command,
    content_of,
    give_away,
    open_folder,
    powerless,
    read_only,
)
from tests.helpers.training_runs import TINY, last_given

LAUNCHED = (FINETUNE, PREDICT, CONVERT, REPORT)
READERS = (FINETUNE, PREDICT, CONVERT)
"""Commands that read a checkpoint."""


def _close(path: Path) -> None:
    """Make it another user's, who lets nobody in."""
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o700 if path.is_dir() else 0o600)


# ---------------------------------------------------------------- outputs


def _writers(folder: Path, place: Path) -> list[Call]:
    """Every command that writes, with an output in ``place``."""
    out, vocabulary = place / "out", folder / "vocab" / "vocab.txt"
    text = ["--input", folder / "text.txt"]
    return [
        *((tool, arguments(tool, folder, folder / "run", out)) for tool in LAUNCHED),
        ("launch/pretrain.py", [*TINY, "--data", folder / "shards", "--output", out]),
        ("data_tools/make_sample_wiki.py", ["--output", out]),
        ("data_tools/train_tokenizer.py", [*text, "--vocab-size", "30", "--output", out]),
        ("data_tools/shard_wiki.py", [*text, "--tokenizer", vocabulary, "--output", out]),
        ("data_tools/inspect_shards.py", [folder / "shards", "--plot", place / "out.png"]),
    ]


def _refused(calls: list[Call], ended: list[Ended], place: Path, reason: str) -> None:
    """Each has one line, which names something in ``place``; nothing is there."""
    for (tool, _), one in zip(calls, ended, strict=True):
        line = one.one_line(2)
        assert str(place) in line, (tool, line)
        assert any(f" cannot be {what}: {reason}" in line for what in ("written", "used")), line
    assert list(place.iterdir()) == []


def test_outputs_on_a_read_only_mount(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    calls = _writers(folder, place)
    with read_only(place):
        ended = called_apart(*calls)
    _refused(calls, ended, place, "Read-only file system; that disk is mounted read-only: ")


@pytest.mark.parametrize("mode", [pytest.param(0o755, marks=pytest.mark.slow), 0o700])
def test_outputs_in_a_folder_of_another_user(folder: Path, tmp_path: Path, mode: int) -> None:
    """One that everybody may read, and a closed one."""
    place = tmp_path / "theirs"
    place.mkdir()
    give_away(place)
    place.chmod(mode)
    calls = _writers(folder, place)
    ended = called_apart(*calls, powers=False)
    reason = f"Permission denied; {place} belongs to nobody "
    _refused(calls, ended, place, reason)
    assert all("runs as root" in one.lines[0] for one in ended)


def test_unwritable_places_are_found_before_long_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is not read for hours first."""
    from data_tools import train_tokenizer

    place = tmp_path / "disk"
    place.mkdir()
    monkeypatch.setattr(train_tokenizer, "read_sentences", lambda *_, **__: 1 / 0)
    (tool, given), *_ = (call for call in _writers(folder, place) if "tokenizer.py" in call[0])
    with read_only(place):
        line = called(tool, *given).one_line(2)
    assert f"{place}/out cannot be written: Read-only file system; " in line


# ---------------------------------------------------------------- inputs


def _slow(*values: str) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def _cannot_be_read(checkpoint: Path, closed: str, tmp_path: Path, folder: Path) -> None:
    """No command reads a checkpoint of which one file or folder is another user's."""
    theirs = tmp_path / "theirs"
    shutil.copytree(checkpoint, theirs)
    before, place = content_of(theirs), theirs / closed
    _close(place)
    out = tmp_path / "out"
    calls = [(tool, arguments(tool, folder, theirs, out)) for tool in READERS]
    for one in called_apart(*calls, powers=False):
        line = one.one_line(2)
        assert str(place) in line
        assert f"Permission denied; {place} belongs to nobody " in line
        assert any(f" cannot be {what}: Permission" in line for what in ("read", "used")), line
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert content_of(theirs) == before


@pytest.mark.parametrize(
    "closed",
    [
        "final/model.safetensors",
        "final/vocab.txt",
        *_slow("", "final", "final/megabert.json"),
    ],
)
def test_a_fine_tuned_run_of_another_user(folder: Path, tmp_path: Path, closed: str) -> None:
    _cannot_be_read(folder / "run", closed, tmp_path, folder)


@pytest.mark.parametrize(
    "closed",
    [
        "checkpoints/latest",
        "checkpoints/step-0000004/mp_rank_00_model_states.pt",
        *_slow(
            "",
            "checkpoints",
            "checkpoints/step-0000004",
            "checkpoints/step-0000004/megabert.json",
            "tokenizer",
            "tokenizer/tokenizer.json",
        ),
    ],
)
def test_a_pretraining_run_of_another_user(
    root: Path, folder: Path, tmp_path: Path, closed: str
) -> None:
    _cannot_be_read(root / "tests" / "fixtures" / "run_zero1_dp2", closed, tmp_path, folder)


def test_other_files_of_another_user(folder: Path, tmp_path: Path) -> None:
    """Metrics, task files, inputs of predictions, tokenizers and text."""
    names = ("metrics.jsonl", "train.json", "questions.jsonl", "vocab.txt", "text.txt")
    sources = (folder / "run", folder, folder, folder / "vocab", folder)
    for name, source in zip(names, sources, strict=True):
        shutil.copy(source / name, tmp_path / name)
        _close(tmp_path / name)
    run, out = folder / "run", tmp_path / "out"
    vocabulary, text = folder / "vocab" / "vocab.txt", folder / "text.txt"
    theirs = {name.partition(".")[0]: tmp_path / name for name in names}
    fine_tuning = arguments(FINETUNE, folder, run, out)
    scoring = ["--task", "squad", "--checkpoint", run, "--eval", theirs["train"], "--output", out]
    calls: list[Call] = [
        (REPORT, [tmp_path, "--output", out]),
        (FINETUNE, last_given([*map(str, fine_tuning), "--train", str(theirs["train"])])),
        (FINETUNE, [*scoring, "--max-length", "40"]),
        (PREDICT, ["--checkpoint", run, "--input", theirs["questions"], "--output", out]),
        (CONVERT, [*arguments(CONVERT, folder, run, out), "--tokenizer", theirs["vocab"]]),
        *(
            (f"data_tools/{tool}.py", [*given, "--output", out])
            for tool, given in (
                ("train_tokenizer", ["--input", theirs["text"]]),
                ("shard_wiki", ["--input", theirs["text"], "--tokenizer", vocabulary]),
                ("shard_wiki", ["--input", text, "--tokenizer", theirs["vocab"]]),
                ("import_shards", ["--input", theirs["text"], "--tokenizer", vocabulary]),
            )
        ),
    ]
    for (tool, given), one in zip(calls, called_apart(*calls, powers=False), strict=True):
        line = one.one_line(2)
        assert any(str(path) in line for path in theirs.values()), (tool, line)
        assert "Permission denied" in line, (tool, given, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


# ---------------------------------------------------------------- processes of their own


@pytest.mark.slow
@pytest.mark.parametrize("tool", LAUNCHED)
def test_processes_of_their_own(folder: Path, tool: str) -> None:
    """As users start them: in a folder of another user, on a read-only mount, with closed files."""
    with open_folder() as place:
        theirs, disk, run = place / "theirs", place / "disk", place / "run"
        for made in (theirs, disk):
            made.mkdir()
        give_away(theirs)
        given = arguments(tool, folder, folder / "run", theirs / "out")
        line = command(tool, *given, prefix=powerless()).one_line(2)
        assert f"{theirs}/" in line
        assert "cannot be written: Permission denied" in line
        with read_only(disk):
            given = arguments(tool, folder, folder / "run", disk / "out")
            line = command(tool, *given).one_line(2)
        assert f"{disk}/" in line
        assert "cannot be written: Read-only file system" in line
        shutil.copytree(folder / "run", run)
        closed = run / ("metrics.jsonl" if tool == REPORT else "final/model.safetensors")
        _close(closed)
        given = arguments(tool, folder, run, place / "out")
        line = command(tool, *given, prefix=powerless()).one_line(2)
        assert f"{closed} cannot be read: Permission denied" in line
        assert sorted(path.name for path in place.iterdir()) == ["disk", "run", "theirs"]
        assert not list(theirs.iterdir())
        assert not list(disk.iterdir())
