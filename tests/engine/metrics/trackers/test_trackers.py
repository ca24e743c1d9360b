"""Each tracker, fed by the writer of a run's metrics: what it has, after errors, returns and a new start."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import StoppedOnRequest, UserError
from megabert.config.trackers import TRACKERS, TrackerSettings
from megabert.engine.metrics.trackers import sending
from megabert.engine.metrics.trackers.base import RunEnding, TrackedRun, Tracker
from megabert.engine.metrics.trackers.sending import Tracking
from megabert.engine.metrics.writer import MetricsWriter
from megabert.optim.base import TensorNorms
from tests.helpers.tracker_runs import children_named, mlflow_run, wandb_files, wandb_run

CONFIG = {"optimizer": {"lr": 0.01, "schedule": "poly"}, "run": {"resume": "never"}}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path / 'store'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def _tracking(*names: str, config: Mapping[str, Any] = CONFIG) -> Tracking:
    named = ("project", "name") if {"wandb", "mlflow"} & {*names} else ()
    return Tracking(TrackerSettings(names, *named), config)


def _lines(first: int, last: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(first, last + 1):
        lines.append({"step": step, "loss": step + 0.5, "tokens": 10 * step})
        if step % 2 == 0:
            lines.append({"step": step, "eval_mlm_loss": step + 0.25, "eval_mlm_loss/a b": 1.0})
    return lines


def _steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def _train(tracking: Tracking, run: Path) -> None:
    """Six updates; a return from 5 to the checkpoint of 3."""
    rows = [TensorNorms("a.weight", 1.0, 2.0, 0.5, False), TensorNorms("b", 2.0, 3.0, 1.5, True)]
    with tracking.ended():
        writer = MetricsWriter(run, enabled=True, tracking=tracking)
        for line in _lines(1, 5):
            writer.write(line)
        writer.write_tensors(5, rows)
        writer.close()
        writer = MetricsWriter(run, enabled=True, resumed_step=3, tracking=tracking)
        writer.write({"step": 3, "event": "rollback", "from_step": 6, "reason": "a spike"})
        for line in _lines(4, 6):
            writer.write(line)
        writer.write_tensors(6, rows)
        writer.close()
        (run / "results.json").write_text("{}", encoding="utf-8")
        tracking.results({"loss": 6.5, "whole_run": {"mfu": 0.5}, "finished": True})


def _continue(tracking: Tracking, run: Path) -> None:
    """Two more updates from the checkpoint of 6; the run is stopped."""
    with contextlib.suppress(StoppedOnRequest), tracking.ended():
        writer = MetricsWriter(run, enabled=True, resumed_step=6, tracking=tracking)
        for line in _lines(7, 8):
            writer.write(line)
        writer.close()
        raise StoppedOnRequest("SIGTERM")


def test_csv(tmp_path: Path) -> None:
    """Rows of a return are taken back; a run that gets the tracker later has all rows."""
    _train(_tracking("csv"), tmp_path)
    _continue(_tracking("csv"), tmp_path)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tensors = (tmp_path / "tensors.csv").read_text(encoding="utf-8").splitlines()
    assert tensors == ["step,tensor,trust_ratio,weight_norm,update_norm", *(
        "6,a.weight,0.5,1.0,2.0", "6,b,1.5,2.0,3.0",
    )]  # fmt: skip
    assert list(rows[0]) == [
        "step", "loss", "tokens", "eval_mlm_loss", "eval_mlm_loss/a b", "event", "clamped",
    ]  # fmt: skip
    wanted = _steps(tmp_path)
    assert [int(row["step"]) for row in rows] == wanted
    assert [row["loss"] for row in rows if row["loss"]] == [f"{n}.5" for n in range(1, 9)]
    assert [row["event"] for row in rows if row["event"]] == ["rollback"]
    assert rows[0]["eval_mlm_loss"] == ""
    later = tmp_path / "later"
    later.mkdir()
    (later / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes())
    tracking = _tracking("csv")
    with tracking.ended():
        MetricsWriter(later, enabled=True, resumed_step=8, tracking=tracking).close()
    with (later / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == wanted


def test_wandb(tmp_path: Path) -> None:
    """One run, no step twice; the run that can be resumed is preempted; its process ends."""
    _train(_tracking("wandb"), tmp_path)
    assert not children_named("wandb-core", os.getpid())
    _continue(_tracking("wandb", config=CONFIG | {"run": {"resume": "auto"}}), tmp_path)
    first, second = (wandb_run(file) for file in wandb_files(tmp_path))
    assert (first["id"], first["project"], first["name"]) == (second["id"], "project", "name")
    assert (first["exit"], first["preempted"]) == (0, False)
    assert (second["exit"], second["preempted"]) == (3, True)
    rows = first["history"] + second["history"]
    assert [row["_step"] for row in rows] == list(range(1, 9))
    assert [row["loss"] for row in rows] == [n + 0.5 for n in range(1, 9)]
    assert [row.get("eval_mlm_loss/a b") for row in rows] == [None, 1.0] * 4
    assert first["config"]["optimizer"] == CONFIG["optimizer"]
    assert second["config"]["run"] == {"resume": "auto"}
    assert first["summary"]["whole_run"] == {"mfu": 0.5}
    assert "a spike" in first["summary"]["event/rollback/6"]
    (table,) = tmp_path.glob("wandb/*/files/media/table/tensors*.json")
    assert json.loads(table.read_text())["data"] == [
        ["a.weight", 0.5, 1.0, 2.0],
        ["b", 1.5, 2.0, 3.0],
    ]


def test_wandb_whose_process_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning; metrics.jsonl is whole."""
    caplog.set_level(logging.WARNING, "megabert")
    tracking = _tracking("wandb")
    with tracking.ended():
        writer = MetricsWriter(tmp_path, enabled=True, tracking=tracking)
        writer.write({"step": 1, "loss": 1.0})
        for process in children_named("wandb-core", os.getpid()):
            os.kill(process, signal.SIGKILL)
        for step in range(2, 100):
            writer.write({"step": step, "loss": 1.0})
        writer.close()
    (warning,) = (r.getMessage() for r in caplog.records if r.name == "megabert")
    assert warning.startswith("--tracker wandb gets no more metrics: ")
    assert _steps(tmp_path) == list(range(1, 100))


def test_mlflow(tmp_path: Path) -> None:
    """One run, no step twice; a setting that a resumed run has changed is a tag."""
    _train(_tracking("mlflow"), tmp_path)
    _continue(_tracking("mlflow", config=CONFIG | {"run": {"resume": "auto"}}), tmp_path)
    identity = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]["identity"]
    run = mlflow_run(tmp_path / "store", identity)
    assert len(list((tmp_path / "store").glob("*/*/metrics"))) == 1
    assert run["metrics"]["loss"] == [(step, step + 0.5) for step in range(1, 9)]
    assert run["metrics"]["eval_mlm_loss.a b"] == [(step, 1.0) for step in (2, 4, 6, 8)]
    assert run["metrics"]["trust_ratio/a.weight"] == [(5, 0.5), (6, 0.5)]
    assert run["params"]["optimizer.lr"] == "0.01"
    assert (run["params"]["run.resume"], run["tags"]["run.resume"]) == ("never", "auto")
    assert "a spike" in run["tags"]["event.rollback.6"]
    assert run["artifacts"] == ["results.json"]
    assert run["status"] == 5  # killed


class _Faulty(Tracker):
    """Fails or waits at step 3, as a class attribute says."""

    waits: threading.Event | None = None
    closed: list[RunEnding]

    def __init__(self, run: TrackedRun) -> None:
        self.sent: list[int] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 3 and self.waits is None:
            raise ConnectionError("the server is gone")
        if step == 3 and self.waits is not None:
            self.waits.wait()
        self.sent.append(step)

    def close(self, ending: RunEnding) -> None:
        self.closed.append(ending)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Faulty]]:
    class Own(_Faulty):
        closed: list[RunEnding] = []  # noqa: RUF012

    monkeypatch.setitem(TRACKERS._registered, "own", Own)
    yield Own
    if Own.waits is not None:
        Own.waits.set()


def test_a_tracker_that_fails(
    faulty: type[_Faulty], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; metrics.jsonl is whole, and the other tracker has everything."""
    tracking = _tracking("own", "csv")
    with caplog.at_level(logging.WARNING, "megabert"):
        _train(tracking, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "--tracker own gets no more metrics: the server is gone; the training continues, and "
        "metrics.jsonl is whole"
    ]
    assert faulty.closed == [RunEnding.FAILED]
    assert [step for step in _steps(tmp_path) if step > 4] == [5, 6, 6, 6]
    assert "\n6,6.5," in (tmp_path / "metrics.csv").read_text()


def test_a_tracker_that_waits(
    faulty: type[_Faulty],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the run nor its end waits for it; what was dropped is counted."""
    monkeypatch.setattr(sending, "QUEUE", 2)
    monkeypatch.setattr(sending, "CLOSE_SECONDS", dict.fromkeys(RunEnding, 0.1))
    faulty.waits = threading.Event()
    tracking = _tracking("own")
    began = time.monotonic()
    caplog.set_level(logging.WARNING, "megabert")
    with contextlib.suppress(OSError), tracking.ended():
        writer = MetricsWriter(tmp_path, enabled=True, tracking=tracking)
        for step in range(1, 9):
            writer.write({"step": step, "loss": 1.0})
            time.sleep(0.02)  # the tracker takes the first ones
        raise OSError
    assert time.monotonic() - began < 5
    late, dropped = (record.getMessage() for record in caplog.records)
    assert "has not taken everything within 0 s after the end of the run" in late
    assert "3 lines of metrics were not sent" in dropped
    assert _steps(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"--tracker {name}: .*pip install 'megabert\[trackers\]'"):
        _tracking(name).require()


def test_a_missing_login(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    try:
        with pytest.raises(UserError, match="no login is configured; run `wandb login`"):
            _tracking("wandb").require()
    finally:
        wandb.teardown()


def test_a_folder_of_wandb_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"WANDB_DIR .*file: cannot be written .*; name another"):
        _tracking("wandb").require()


def test_a_store_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    tracking = _tracking("mlflow")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to a server") as error:
        MetricsWriter(tmp_path, enabled=True, tracking=tracking)
    assert "\n" not in str(error.value)


def test_what_is_not_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS._registered, "own", dict)
    with pytest.raises(UserError, match="must name a subclass of"):
        _tracking("own").require()


@pytest.mark.parametrize("trackers", [("tensorboard",), ("csv",), ("csv", "tensorboard")])
def test_names_need_a_tracker_that_has_them(trackers: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="--tracker-name is for wandb and mlflow"):
        TrackerSettings(tracker=trackers, tracker_name="mine")
    assert TrackerSettings(tracker=(*trackers, "mlflow"), tracker_name="mine").tracker_name
