"""A run that is asked to stop while it evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import StoppedOnRequest
from megabert.common.processes.stopping import StopWatch
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, make_inputs, run, values
from tests.helpers.training_runs import import_once


def _asked_in_an_evaluation(
    rank: int, world_size: int, given: dict[str, Any], last_batch: int
) -> tuple[str, int]:
    """The line of a run whose last rank is asked in a batch, and batches evaluated."""
    from megabert.tasks.squad.task import Squad

    batches = 0
    with pytest.MonkeyPatch.context() as patched, StopWatch() as watch:
        predict = Squad.predict

        def counted(*arguments: Any) -> Any:
            nonlocal batches
            batches += 1
            if batches == last_batch and rank == world_size - 1:
                watch.ask("SIGTERM")
            return predict(*arguments)

        patched.setattr(Squad, "predict", counted)
        try:
            run(rank, world_size, [given])
        except StoppedOnRequest as stopped:
            return str(stopped), batches
    return "", batches


@pytest.mark.parametrize(
    ("ranks", "batch", "step", "kept"), [(2, 2, 2, 2), (2, 4, 4, 2), (1, 2, 2, 2)]
)
def test_an_evaluation_stops_after_the_present_batch(
    tmp_path: Path, ranks: int, batch: int, step: int, kept: int
) -> None:
    """Nothing of it is written; the model is that of the last evaluation, or the present one."""
    run_ranks(make_inputs, 1, tmp_path, initialize=False)
    given = values(tmp_path, "run", selection={"eval_interval": "2", "resume": "auto"})
    import_once()
    found = run_ranks(_asked_in_an_evaluation, ranks, given, batch, initialize=False, timeout=240.0)
    output = tmp_path / "run"
    who = "SIGTERM" if ranks == 1 else f"SIGTERM (rank {ranks - 1})"
    line = (
        f"{who}: stopped after step {step} of 4; {output}/final has the model of step {kept}; "
        "--resume auto trains this run again from its start"
    )
    assert found == [(line, batch)] * ranks
    assert not (output / "results.json").exists()
    assert not (output / "scoring.tmp").exists()
    text = (output / "metrics.jsonl").read_text()
    assert text.count("eval_") == 2 * (step // 2 - 1)
    assert in_world(ranks, given)[0]["steps"] == 4
