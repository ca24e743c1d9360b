"""Names that are not UTF-8, empty names, and values of thousands of characters."""

import os
import sys
from pathlib import Path

import pytest

from megabert.common.processes.locks import FolderLock, lock_inside
from tests.helpers.planted import called, called_apart, command
from tests.helpers.training_runs import VOCAB

ODD = os.fsdecode(b"caf\xe9")
SHARD = "data_tools/shard_wiki.py"
INSPECT = "data_tools/inspect_shards.py"


def test_text_in_files_with_odd_names(tmp_path: Path) -> None:
    folder, output, plot = tmp_path / ODD, tmp_path / f"{ODD}-out", tmp_path / f"{ODD}.png"
    folder.mkdir()
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(VOCAB))
    documents = [f"w{number} w3 w4 w5 w6 . " * 20 for number in range(20)]
    (folder / f"{ODD}.txt").write_text("\n\n".join(documents))
    made, seen, plotted = called_apart(
        (SHARD, ["--input", folder, "--tokenizer", vocabulary, "--output", output, "--workers", 1]),
        (INSPECT, [output, "--verify"]),
        (INSPECT, [output, "--plot", plot]),
    )
    assert made.status == seen.status == plotted.status == 0, made.errors + seen.errors
    assert r"input: caf\udce9, " in seen.out
    assert plot.stat().st_size


def test_lines_with_odd_names_can_be_printed(tmp_path: Path) -> None:
    ended = command("launch/report.py", tmp_path / ODD)
    assert r"caf\udce9/metrics.jsonl does not exist" in ended.one_line(2)


def test_a_lock_of_a_command_with_an_odd_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--data", ODD])
    with FolderLock(lock_inside(tmp_path), tmp_path) as lock:
        lock.require()


@pytest.mark.parametrize(
    ("tool", "flag"),
    [
        ("launch/pretrain.py", "--output"),
        ("launch/convert.py", "--output"),
        ("launch/predict.py", "--checkpoint"),
    ],
)
def test_a_name_that_torch_cannot_open_is_refused(tool: str, flag: str) -> None:
    assert f"{flag} {ODD}: a name that is not UTF-8" in called(tool, flag, ODD).one_line(2)


@pytest.mark.parametrize(
    ("tool", "flag"),
    [
        ("launch/pretrain.py", "--tokenizer"),
        ("launch/predict.py", "--output"),
        ("data_tools/train_tokenizer.py", "--output"),
        (SHARD, "--input"),
        (SHARD, "--output"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(tool: str, flag: str) -> None:
    line = called(tool, flag, "").one_line(2)
    assert f"{flag} '': expected a path, and this one is empty" in line


def test_a_long_value_is_cut() -> None:
    line = called("launch/plan.py", "--steps", "9" * 5000).one_line(2)
    assert f"--steps {'9' * 100}... (5,000 characters): expected a whole number" in line
    line = called("data_tools/inspect_shards.py", ".", "--seed", "x" * 5000).one_line(2)
    assert len(line) < 400
