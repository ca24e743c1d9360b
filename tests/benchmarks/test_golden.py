"""A run's losses are those that benchmarks/golden/cpu.json records.

If they differ on purpose (another recipe, other dropout masks, another order of samples), renew the file
with ``python benchmarks/hour/golden.py --write-golden``, and say in the commit what changed them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.hour import golden
from benchmarks.steps.runs import read_metrics, training_losses
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import import_once, settings_of

RENEW = "python benchmarks/hour/golden.py --write-golden"


def _train(rank: int, world_size: int, argv: list[str]) -> None:
    from megabert.pretrain.command import pretrain

    pretrain(settings_of(argv))


@pytest.mark.parametrize("case", golden.case_names(["fp32", "bf16"])[::2])
def test_losses_are_the_recorded_ones(case: str, tmp_path: Path) -> None:
    recorded = golden.read_golden(golden.FOLDER / "cpu.json")[case]
    place = ["--data", str(golden.SHARDS), "--output", str(tmp_path)]
    import_once()
    run_ranks(_train, 1, [*place, *golden.case_flags(case)], initialize=False)
    found = training_losses(read_metrics(tmp_path))
    difference = golden.largest_difference(found, recorded)
    limit = golden.GOLDEN_TOLERANCE[case]
    assert difference <= limit, (
        f"losses of {case} changed by {difference:.1e}; if on purpose: {RENEW}"
    )


def test_recorded_losses_fall_and_agree_between_precisions() -> None:
    content = json.loads((golden.FOLDER / "cpu.json").read_text())
    assert content["flags"] == list(golden.FLAGS), f"other flags than recorded: {RENEW}"
    recorded = content["losses"]
    assert set(recorded) == set(golden.case_names(["fp32", "bf16"]))
    for case, values in recorded.items():
        assert len(values) == golden.UPDATES
        assert values[-1] < values[0] - 0.2
        plain = recorded[case.replace("bf16", "fp32")]
        assert golden.largest_difference(values, plain) < golden.DEVICE_TOLERANCE["bf16"]


def test_comparisons() -> None:
    cpu = {"fp32": [2.0, 1.0], "fp32, no dropout": [2.0, 1.0]}
    found = {
        "fp32": [2.0, 1.1],
        "fp32, no dropout": [2.0, 1.00001],
        "bf16, no dropout": [math.nan, 1],
    }
    compared = golden.compare(found, {"fp32": [2.0, 1.1]}, cpu, same_masks=False)
    assert [(one.case, one.against, one.good, one.judged) for one in compared] == [
        ("fp32", "recorded", True, True),
        ("fp32", "CPU, fp32", False, False),
        ("fp32, no dropout", "CPU, fp32", True, True),
        ("bf16, no dropout", "CPU, fp32", False, True),
    ]
    assert all(one.judged for one in golden.compare(found, {}, cpu))
    assert golden.compare(found, {}, {}) == []
