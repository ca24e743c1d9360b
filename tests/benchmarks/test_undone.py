"""Undoing an optimisation changes how long a step takes, not what it computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.training_runs import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("undone") / "shards")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_stay_the_same(precision: str, root: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "undone.json"
    command = [
        sys.executable, str(root / "benchmarks/archive_2026_11/undone.py"), str(shards), "--model", "bert-tiny",
        "--length", "32", "--micro-batch-size", "4", "--rounds", "1", "--precision", precision,
        "--json", str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    losses = json.loads(out.read_text(encoding="utf-8"))["losses"]
    assert len(losses) == (7 if precision == "fp32" else 8)
    expected = losses["all of it"]
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert all(value == pytest.approx(expected, rel=tolerance) for value in losses.values())
