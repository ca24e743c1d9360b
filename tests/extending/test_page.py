"""The worked examples of docs/extending.md: each diff applies to the package, and its commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.convert_folders import make
from tests.helpers.training_runs import make_shards

FILES = {"encoder": 2, "optimizer": 2, "format": 2, "task": 1}
"""Example -> files that its diff touches, the line of a registry included."""


@pytest.fixture(scope="module")
def extended(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all four diffs applied."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("megabert", "launch"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        patch = root / "docs" / "extending" / f"{name}.diff"
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: object) -> str:
    """What a command of the copy prints; its failure fails the test."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_files_touched(root: Path, name: str) -> None:
    text = (root / "docs" / "extending" / f"{name}.diff").read_text(encoding="utf-8")
    touched = re.findall(r"^\+\+\+ b/(.*)$", text, flags=re.MULTILINE)
    assert len(touched) == FILES[name]
    changed = [line for line in text.splitlines() if re.match(r"-[^-]", line)]
    assert not changed  # an example only adds


def test_an_encoder_and_an_optimizer_are_trained(extended: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_shards(tmp_path / "first") / "tokenizer").info()
    shards, output = make_shards(tmp_path / "shards", sha256=tokenizer.sha256), tmp_path / "run"
    run(
        extended, "launch/pretrain.py", "--model", "rope-geglu-tiny", "--hidden-size", "32",
        "--intermediate-size", "64", "--optimizer", "sign-momentum", "--lr", "1e-3", "--steps", "3",
        "--seq-length", "32", "--max-position-embeddings", "64", "--global-batch-size", "8",
        "--micro-batch-size", "2", "--log-interval", "1", "--eval-interval", "0", "--data", shards,
        "--output", output,
    )  # fmt: skip
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3
    record = json.loads((output / "checkpoints" / "step-0000003" / "megabert.json").read_text())
    assert record["model"]["encoder"] == "rope-geglu"
    # a task with its own head starts from it
    text = tmp_path / "numbers.tsv"
    text.write_text("".join(f"{n}\t{'ab ' * n}\n" for n in range(1, 9)))
    tuned = tmp_path / "tuned"
    run(
        extended, "launch/finetune.py", "--task", "numbers", "--checkpoint", output, "--train", text,
        "--eval", text, "--steps", "2", "--batch-size", "4", "--scale", "4", "--output", tuned,
    )  # fmt: skip
    assert "within_one" in json.loads((tuned / "results.json").read_text())


def test_a_format_is_converted(extended: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source = make(tmp_path / "hf")
    run(
        extended, "launch/convert.py", "--from", "huggingface", "--input", source, "--to", "numpy",
        "--output", tmp_path / "numpy",
    )  # fmt: skip
    assert (tmp_path / "numpy" / "model.npz").is_file()
