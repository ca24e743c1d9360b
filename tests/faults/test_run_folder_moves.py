"""A run's folder or metrics that are moved, removed or replaced while it trains: it says so, and ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabert.checkpoint.record import whole_checkpoints
from megabert.engine.metrics.writer import MetricsWriter
from tests.helpers.launched_runs import pretraining
from tests.helpers.planted import called_apart


def _move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def _replace(run: Path) -> None:
    _move(run)
    run.mkdir()


def _without(name: str) -> Callable[[Path], None]:
    def remove(run: Path) -> None:
        (run / name).rename(run / "old")
        shutil.rmtree(run / "old", ignore_errors=True)

    return remove


def _new_metrics(run: Path) -> None:
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").unlink()
    (run / "new").write_bytes(b"")
    (run / "metrics.jsonl").write_bytes(content)


@pytest.mark.parametrize(
    ("fault", "saved", "line"),
    [
        (_move, 2, "stopped after step 3: RUN was moved, removed or replaced while this job wrote there"),
        (_replace, 2, "stopped after step 3: RUN was moved, removed or replaced while this job wrote"),
        (_new_metrics, 3, "stopped after step 3 (step-0000003 is kept): RUN/metrics.jsonl was moved"),
        (_without("metrics.jsonl"), 3, "after step 3 (step-0000003 is kept): RUN/metrics.jsonl was moved"),
        (_without("tensorboard"), 3, "after step 3 (step-0000003 is kept): RUN/tensorboard/events."),
    ],
)  # fmt: skip
def test_a_run_that_loses_its_place(
    fault: Callable[[Path], None], saved: int, line: str, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run, write = tmp_path / "run", MetricsWriter.write

    def write_after(self: MetricsWriter, record: dict[str, Any]) -> None:
        if record["step"] == 3:
            fault(run)
        write(self, record)

    monkeypatch.setattr(MetricsWriter, "write", write_after)
    more = ("--log-interval", "1", "--save-interval", "2", "--eval-interval", "0")
    (ended,) = called_apart(
        ("launch/pretrain.py", [*pretraining(folder / "shards", run, 6, *more)])
    )
    assert line.replace("RUN", str(run)) in ended.one_line(1)
    moved = run.with_name("moved")
    place = moved if moved.exists() else run
    assert whole_checkpoints(place / "checkpoints")[0].step == saved
    if place is moved:
        assert not run.exists() or not list(run.rglob("*.pt"))
        steps = [json.loads(text)["step"] for text in (moved / "metrics.jsonl").open()]
        assert steps == [1, 2, 3]
