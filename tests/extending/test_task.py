"""A task from outside the package: it fine-tunes, is scored, saved, continued and answers inputs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.convert.run import ConversionRequest, convert
from megabert.finetune.settings import finetune_settings
from megabert.predict.command import Request, predict
from megabert.predict.predictor import AnswerOptions
from megabert.tasks.registry import task_names
from tests.extending.own_task import NumberSettings
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, losses, make_inputs, values
from tests.helpers.training_runs import import_once

TEXTS = ("text", "text_b", "question", "context")
ENTRY_POINTS = """\
[megabert.tasks]
numbers = tests.extending.own_task:Numbers
[megabert.heads]
number of a text = tests.extending.own_task:NUMBER
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained checkpoint ``start``, and texts with their numbers of words."""
    import_once()
    folder = tmp_path_factory.mktemp("numbers")
    run_ranks(make_inputs, 1, folder, initialize=False)
    rng = random.Random(0)
    counts = [rng.randrange(1, 9) for _ in range(64)]
    lines = [f"{count}\t{' '.join(['ab'] * count)}" for count in counts]
    (folder / "numbers.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def wanted(place: Path, output: str, **more: Any) -> dict[str, Any]:
    """Settings of a run."""
    file = str(place / "numbers.tsv")
    task = {"task": "numbers", "train": file, "eval": file, "max_length": None}
    sections = {"optimizer": {"lr": 2e-3, "steps": 12}, "numbers": {"scale": 4.0}, **more}
    given = values(place, output, task=task, **sections)
    del given["squad"]
    return given


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A finished run."""
    result = in_world(1, wanted(place, "run"))[0]
    assert isinstance(result, dict), result
    return place / "run"


def test_settings_have_flags_and_a_section() -> None:
    assert task_names()[-1] == "numbers"
    tree = finetune_settings()
    given = flags.parse(tree, ["--task", "numbers", "--scale", "4"], "finetune.py", "")
    settings = flags.build(tree, given.flags)
    assert settings.of_task("numbers") == NumberSettings(scale=4.0)
    assert list(flags.to_values(settings))[:5] == [
        *("task", "squad", "classification", "tagging", "numbers"),
    ]


def test_it_learns_and_is_scored(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert losses(run)[-1] < 0.5 * losses(run)[0]
    assert results["within_one"] == results["best"]["within_one"] > 0.0
    assert results["eval"] == {"texts": 64}
    assert results["settings"]["numbers"] == {"scale": 4.0}
    assert len(json.loads((run / "numbers.json").read_text())) == 64
    record = json.loads((run / "final" / "megabert.json").read_text())
    assert (record["task"], record["task_record"]) == ("numbers", {"max_length": 32, "scale": 4.0})


def test_it_answers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The saved model's answers are those that its own run wrote."""
    texts = [line.split("\t")[1] for line in (run.parent / "numbers.tsv").read_text().splitlines()]
    inputs = run.parent / "inputs.txt"
    inputs.write_text("\n".join(texts) + "\n", encoding="utf-8")
    predict(Request(run, AnswerOptions(), dict.fromkeys(TEXTS), inputs))
    answers = [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()]
    assert answers == pytest.approx(json.loads((run / "numbers.json").read_text()), rel=1e-4)


def test_its_head_is_reused_or_initialized_again(place: Path, run: Path) -> None:
    task = {"checkpoint": str(run), "task": "numbers", "eval": str(place / "numbers.tsv")}
    again = wanted(place, "again")
    again["task"] |= {"checkpoint": str(run), "train": None}
    squad = values(
        place, "squad", task={**task, "task": "squad", "eval": str(place / "train.json")}
    )
    scored, trained = in_world(1, again, squad)
    assert scored["within_one"] == json.loads((run / "results.json").read_text())["within_one"]
    assert "f1" in trained  # number is not used, qa is new


def test_other_programs_do_not_know_its_head(run: Path, tmp_path: Path) -> None:
    assert convert(ConversionRequest("megabert", run, "megabert", tmp_path / "own")).model.head.name
    with pytest.raises(UserError, match="transformers has no class with a head for number of a"):
        convert(ConversionRequest("megabert", run, "huggingface", tmp_path / "hf"))


def test_an_installed_package_brings_it(root: Path, tmp_path: Path) -> None:
    package = tmp_path / "own_task-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own-task\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(tmp_path), str(root), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, root / "launch" / "finetune.py", "--help"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "numbers (default: squad)" in " ".join(told.split())
    assert "Numbers of texts:" in told
    assert "--scale" in told
