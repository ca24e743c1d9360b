"""A run that is asked to stop while it evaluates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from megabert.common.errors import StoppedOnRequest
from megabert.common.processes.stopping import StopWatch
from tests.helpers.distributed import run_ranks
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.training_runs import (
    TINY,
    import_once,
    losses,
    make_shards,
    metrics,
    settings_of,
    train,
)


def _asked_in_an_evaluation(
    rank: int, world_size: int, argv: Sequence[str], last_batch: int
) -> tuple[str, int]:
    """The line of a run whose last rank is asked after its first batch, and batches evaluated."""
    from megabert.engine.training_engine import TrainingEngine
    from megabert.pretrain.command import pretrain

    batches = 0
    with pytest.MonkeyPatch.context() as patched, StopWatch() as watch:
        forward = TrainingEngine.__call__

        def counted(engine: TrainingEngine, batch: object) -> object:
            nonlocal batches
            if not engine.module.training:
                batches += 1
                if batches == last_batch and rank == world_size - 1:
                    watch.ask("SIGTERM")
            return forward(engine, batch)  # type: ignore[arg-type]

        patched.setattr(TrainingEngine, "__call__", counted)
        try:
            pretrain(settings_of(argv))
        except StoppedOnRequest as stopped:
            return str(stopped), batches
    return "", batches


@pytest.mark.parametrize(
    ("ranks", "step", "flags"),
    [
        (2, 2, ["--zero-stage", "2"]),
        (2, 2, ["--tensor-parallel", "2"]),
        (1, 4, ["--zero-stage", "1"]),
    ],
)
def test_an_evaluation_stops_after_the_present_batch(
    tmp_path: Path, ranks: int, step: int, flags: list[str]
) -> None:
    """The update before it is saved, and the run continues bit for bit."""
    shards = make_shards(tmp_path / "shards")
    interval = "2" if step == 2 else "0"
    flags = [*flags, "--eval-interval", interval, "--eval-samples", "32"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(shards, whole, *flags, ranks=ranks)
    argv = [*TINY, "--data", str(shards), "--output", str(run), *flags]
    import_once()
    found = run_ranks(_asked_in_an_evaluation, ranks, argv, 3, initialize=False, timeout=240.0)
    who = "SIGTERM" if ranks == 1 else f"SIGTERM (rank {ranks - 1})"
    tag = run / "checkpoints" / f"step-{step:07}"
    line = f"{who}: saved {tag} of 4 steps; continue with --resume auto"
    assert found == [(line, 3)] * ranks
    lines = metrics(run)
    assert lines[-1]["step"] == step
    assert not [line for line in lines if "eval_mlm_loss" in line]
    assert not json.loads((run / "results.json").read_text())["finished"]
    train(shards, run, *flags, "--resume", "auto", ranks=ranks)
    assert losses(metrics(run)) == losses(metrics(whole))
    assert metrics(run)[-1] == metrics(whole)[-1]
    assert json.loads((run / "results.json").read_text())["finished"]
    before = metrics(run), json.loads((run / "results.json").read_text())
    train(shards, run, *flags, "--resume", "auto", ranks=ranks)  # there is nothing left to do
    after = metrics(run), json.loads((run / "results.json").read_text())
    assert after[0] == before[0]
    changing = ("elapsed_seconds", "whole_run")
    for results in (before[1], after[1]):
        assert {"loss", "lr", "tokens", "eval_mlm_loss"} <= results.keys()
        for name in changing:
            results.pop(name)
    assert after[1] == before[1]
    ends = [folder / "checkpoints" / "step-0000004" for folder in (run, whole)]
    assert list(ends[0].glob("*.pt"))
    assert checkpoint_differences(*ends) == []


def _asked_in_an_update(
    rank: int, world_size: int, argv: Sequence[str], step: int, later: bool
) -> str:
    """The line of a run whose last rank is asked in this update's first micro step."""
    from megabert.engine import agreement
    from megabert.engine.training_engine import TrainingEngine
    from megabert.pretrain import batches
    from megabert.pretrain.command import pretrain

    for module in (agreement, batches):
        module.read_later = lambda world: later  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched, StopWatch() as watch:
        forward = TrainingEngine.__call__

        def asked(engine: TrainingEngine, batch: object) -> object:
            if engine.steps_done == step - 1 and rank == world_size - 1:
                watch.ask("SIGTERM")
            return forward(engine, batch)  # type: ignore[arg-type]

        patched.setattr(TrainingEngine, "__call__", asked)
        try:
            pretrain(settings_of(argv))
        except StoppedOnRequest as stopped:
            return str(stopped)
    return ""


@pytest.mark.parametrize(("later", "last"), [(False, 3), (True, 4)])
def test_every_update_looks_whether_it_was_asked(tmp_path: Path, later: bool, last: int) -> None:
    """Not only where something is logged: at the next update; on GPUs at the one after it."""
    argv = [
        *TINY, "--data", str(make_shards(tmp_path / "shards")), "--output", str(tmp_path / "run"),
        "--steps", "9", "--log-interval", "100",
    ]  # fmt: skip
    import_once()
    found = run_ranks(_asked_in_an_update, 2, argv, 2, later, initialize=False, timeout=240.0)
    assert len(set(found)) == 1
    assert f"step-{last:07} of 9 steps" in found[0]
