"""Path names that no file system takes, given to every flag of every command: one line, nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.finetune_runs import CONVERT, FINETUNE, PREDICT, REPORT, arguments
from tests.helpers.planted import Call, called, called_apart
from tests.helpers.training_runs import TINY

PRETRAIN, PLAN = "launch/pretrain.py", "launch/plan.py"
EMBED, PROBE = "launch/embed.py", "launch/probe.py"
TOOLS = "data_tools/{}.py"
FLAGS = {
    FINETUNE: "checkpoint train eval test output config deepspeed-config parameter-groups",
    PREDICT: "checkpoint input output",
    CONVERT: "input tokenizer model-config new-tokenizer output",
    REPORT: "output",
    EMBED: "checkpoint input output",
    PROBE: "tasks output",
    PRETRAIN: "data eval-data replay tokenizer output init-from decay-from config deepspeed-config parameter-groups",
    PLAN: "config recipe deepspeed-config",
    TOOLS.format("import_shards"): "input tokenizer output",
    TOOLS.format("inspect_shards"): "plot",
    TOOLS.format("make_sample_wiki"): "output",
    TOOLS.format("shard_wiki"): "input tokenizer output",
    TOOLS.format("train_tokenizer"): "input output",
}
"""The flags of each command that take a path."""
POSITIONAL = {REPORT: 0, TOOLS.format("inspect_shards"): 0}


def _usual(tool: str, folder: Path, out: Path) -> list[object]:
    """Arguments with which a command would run."""
    if tool in (FINETUNE, PREDICT, CONVERT, REPORT):
        return arguments(tool, folder, folder / "run", out)
    vocabulary = ["--tokenizer", folder / "vocab" / "vocab.txt"]
    given: dict[str, list[object]] = {
        PRETRAIN: [*TINY, "--data", folder / "shards", "--output", out],
        PLAN: ["--model", "bert-base", "--gpu", "h200"],
        EMBED: ["--checkpoint", folder / "run", "--input", folder / "text.txt", "--output", out],
        PROBE: [folder / "run", "--tasks", folder / "probes.yaml", "--output", out],
        "import_shards": ["--input", folder / "foreign.hdf5", *vocabulary, "--output", out],
        "inspect_shards": [folder / "shards"],
        "make_sample_wiki": ["--output", out],
        "shard_wiki": ["--input", folder / "text.txt", *vocabulary, "--output", out],
        "train_tokenizer": ["--input", folder / "text.txt", "--output", out],
    }
    return given[tool] if tool in given else given[Path(tool).stem]


def _with(given: list[object], flag: str, value: Path) -> list[object]:
    if flag not in given:
        return [*given, flag, value]
    place = given.index(flag) + 1
    return [*given[:place], value, *given[place + 1 :]]


def _long(tmp_path: Path) -> list[Path]:
    """A last component of 256 bytes, one of 256 bytes in 128 letters, one in the middle, a whole path."""
    return [
        tmp_path / ("n" * 252 + ".png"),
        tmp_path / ("ü" * 126 + ".png"),
        tmp_path / ("n" * 256) / "out.png",
        tmp_path.joinpath(*["a" * 99] * 41, "out.png"),
    ]


def _calls(tool: str, folder: Path, out: Path, name: Path) -> list[Call]:
    """A command with the name in each of its flags in turn."""
    usual = _usual(tool, folder, out)
    calls: list[Call] = []
    for flag in FLAGS[tool].split():
        given = _with(usual, f"--{flag}", name)
        if (tool, flag) == (PRETRAIN, "tokenizer"):
            given = _with(given, "--data", folder / "foreign.hdf5")
        if flag == "decay-from":  # the stable run gives the branch its length
            place = given.index("--steps")
            given = given[:place] + given[place + 2 :]
        if flag == "replay":
            given = [*given, "--replay-share", "0.5"]
        calls.append((tool, given))
    if tool in POSITIONAL:
        calls.append((tool, [name, *usual[1:]]))
    return calls


@pytest.mark.parametrize("tool", FLAGS)
def test_names_that_are_too_long(tool: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = _long(tmp_path)
    calls = [(name, call) for name in names for call in _calls(tool, folder, out, name)]
    for (name, call), one in zip(calls, called_apart(*(c for _, c in calls)), strict=True):
        line = one.one_line(2)
        assert str(name)[:300] in line, (call, line)  # of a long line the middle is left out
        assert "too long" in line, (call, line)
        assert list(tmp_path.iterdir()) == [], call


@pytest.mark.parametrize(
    "tool",
    [
        PREDICT,
        CONVERT,
        pytest.param(REPORT, marks=pytest.mark.slow),
        pytest.param(TOOLS.format("inspect_shards"), marks=pytest.mark.slow),
    ],
)
def test_names_whose_temporary_name_is_too_long(tool: str, folder: Path, tmp_path: Path) -> None:
    """The file would have a name, but not the one under which it is written, or its lock."""
    name = tmp_path / ("n" * 250 + ".png")
    flag = "--plot" if "inspect" in tool else "--output"
    (one,) = called_apart((tool, _with(_usual(tool, folder, name), flag, name)))
    line = one.one_line(2)
    assert name.name in line
    assert "too long" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", FLAGS)
def test_every_flag_with_a_path_is_here(tool: str) -> None:
    shown = called(tool, "--help").out
    found = re.findall(r"^ +(?:--\w+ [A-Z.png]+, )?--([a-z-]+) (?:FILE|DIR|PATH|DUMP)", shown, re.M)
    assert set(found) <= set(FLAGS[tool].split())
