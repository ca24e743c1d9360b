"""Whole commands with trackers: killed, stopped and resumed; what the trackers have afterwards."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.tracker_runs import children_named, mlflow_run, wandb_files, wandb_run
from tests.helpers.training_runs import TINY, last_given, make_shards, metrics


def _start(root: Path, shards: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    words = [*TINY, "--data", str(shards), "--output", str(run), *more]
    return subprocess.Popen(
        [sys.executable, str(root / "launch/pretrain.py"), *last_given(words)],
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def _wait_for_step(run: Path, step: int) -> None:
    for _ in range(600):
        if (run / "metrics.jsonl").exists():
            lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            if any(f'"step": {step},' in line for line in lines):
                return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.slow
def test_killed_stopped_and_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run there for one run here, without steps twice; and no process is left."""
    store = tmp_path / "store"
    for name, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"file:{store}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    shards, run = make_shards(tmp_path / "shards"), tmp_path / "run"
    more = ["--tracker", "wandb", "mlflow", "csv", "--save-interval", "20", "--steps", "100000"]
    more += ["--eval-interval", "20", "--trust-ratio-interval", "20"]
    first = _start(root, shards, run, *more)
    _wait_for_step(run, 30)
    assert children_named("wandb-core", first.pid)
    first.kill()
    first.communicate()
    before = max(line["step"] for line in metrics(run))
    second = _start(root, shards, run, *more, "--resume", "auto")
    _wait_for_step(run, before + 20)
    (service,) = children_named("wandb-core", second.pid)
    second.send_signal(signal.SIGTERM)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 3, errors
    assert not Path(f"/proc/{service}").exists()

    steps = [line["step"] for line in metrics(run) if "loss" in line]
    losses = {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}
    found = [wandb_run(file) for file in wandb_files(run)]
    assert len(found) == 2
    assert len({one["id"] for one in found}) == 1
    assert (found[1]["exit"], found[1]["preempted"]) == (3, True)
    rows = [row for one in found for row in one["history"] if "loss" in row]
    there = [row["_step"] for row in rows]
    assert sorted(set(there)) == there
    missing = set(steps) - set(
        there
    )  # what wandb's process had not written when it was killed, too
    assert missing <= set(range(21, before + 1))
    assert len(missing) < 10
    assert all(row["loss"] == losses[row["_step"]] for row in rows)
    identity = json.loads((run / "trackers.json").read_text(encoding="utf-8"))["mlflow"]["identity"]
    other = mlflow_run(store, identity)
    assert other["metrics"]["loss"] == [(step, losses[step]) for step in steps]
    assert other["status"] == 5  # killed
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["loss"]]
    assert [(int(row["step"]), float(row["loss"])) for row in table] == list(losses.items())
