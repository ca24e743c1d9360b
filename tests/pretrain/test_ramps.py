"""Runs whose batch size and sequence length change: topologies, resumes, and the same by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megabert.checkpoint.record import read_checkpoint_record, write_checkpoint_record
from megabert.common.errors import UserError
from megabert.common.json_text import RECORD_SUM
from megabert.common.names import checkpoint_tag
from megabert.pretrain.inputs import open_inputs
from megabert.pretrain.lengths.course import course_of
from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.resume_runs import go_on, options, stopped, train
from tests.helpers.training_runs import (
    TINY,
    losses,
    make_shards,
    metrics,
    settings_of,
    whole_weights,
)

RAMPS = ["--batch-ramp", "4 for 2", "--length-ramp", "16 for 3", "--steps", "6"]
"""Updates of 4 x 16, 4 x 16, 8 x 16, and three of 8 x 32."""
SIZES = [(4, 16)] * 2 + [(8, 16)] + [(8, 32)] * 3
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def ramped(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DP 2, ZeRO 1, with all checkpoints."""
    run = tmp_path_factory.mktemp("ramped") / "run"
    train(
        shards, run, *RAMPS, *options(1, 1), "--dropout", "0", "--save-interval", "1",
        "--keep-last", "9", ranks=2,
    )  # fmt: skip
    return run


def test_each_line_has_its_batch_and_length(ramped: Path) -> None:
    lines = [line for line in metrics(ramped) if "loss" in line]
    assert [(line["global_batch_size"], line["seq_length"]) for line in lines] == SIZES
    assert _positions(ramped) == [4, 8, 16, 24, 32, 40]
    records = sorted((ramped / "checkpoints").glob("step-*/megabert.json"))
    trained = [json.loads(path.read_text())["trained_positions"] for path in records]
    assert trained == [length for _, length in SIZES]


def _positions(run: Path) -> list[int]:
    return [line["consumed_samples"] for line in metrics(run) if "loss" in line]


def _as_if(run: Path, step: int, **changes: Any) -> None:
    """Let the record of a checkpoint say that another run made it."""
    folder = run / "checkpoints" / checkpoint_tag(step)
    record = dict(read_checkpoint_record(folder).record)
    del record[RECORD_SUM]
    write_checkpoint_record(folder, {**record, **changes})


def test_constant_runs_chained_by_hand(shards: Path, ramped: Path, tmp_path: Path) -> None:
    """Each stage as a run of one size, begun from the state of the run before: the same bits."""
    run, more = tmp_path / "run", ["--steps", "6", "--max-predictions", "3"]
    train(
        shards, run, *options(1, 1), *more, "--dropout", "0", "--seq-length", "16",
        "--global-batch-size", "4", "--stop-after", "2", ranks=2,
    )  # fmt: skip
    _as_if(run, 2, global_batch_size=8)
    go_on(run, "--global-batch-size", "8", "--micro-batch-size", "4", "--stop-after", "3", ranks=2)
    _as_if(run, 3, seq_length=32, max_predictions=5, consumed_samples=0)
    last = ["--seq-length", "32", "--max-predictions", "5", "--micro-batch-size", "2"]
    go_on(run, *last, ranks=2)
    assert losses(metrics(run)) == losses(metrics(ramped))
    mine, theirs = whole_weights(run), whole_weights(ramped)
    for name, tensors in mine.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, theirs[name][key]), f"{name} {key}"


OTHERS = [
    pytest.param(2, options(2, 0), id="TP2-ZeRO0"),
    pytest.param(2, options(1, 3), id="DP2-ZeRO3"),
    pytest.param(1, [*options(1, 2), "--packing", "off"], id="DP1-ZeRO2-padded", marks=SLOW),
    pytest.param(4, options(2, 2), id="TP2-DP2-ZeRO2", marks=SLOW),
    pytest.param(4, options(1, 1), id="DP4-ZeRO1", marks=SLOW),
]


@pytest.mark.parametrize(("ranks", "arguments"), OTHERS)
def test_resumed_in_the_ramp_on_another_topology(
    ranks: int, arguments: list[str], ramped: Path, tmp_path: Path
) -> None:
    run = stopped(ramped, tmp_path / "run", 1)
    go_on(run, *arguments, "--micro-batch-size", "1", ranks=ranks)
    assert losses(metrics(run)) == pytest.approx(losses(metrics(ramped)), rel=1e-4)
    assert _positions(run) == _positions(ramped)


def test_resume_between_two_borders_is_exact(ramped: Path, tmp_path: Path) -> None:
    run = stopped(ramped, tmp_path / "run", 1)
    go_on(run, ranks=2)
    for step in (3, 6):
        tag = f"checkpoints/{checkpoint_tag(step)}"
        assert checkpoint_differences(run / tag, ramped / tag) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "arguments"),
    [
        *((4, options(2, stage)) for stage in range(4)),
        *((2, options(1, stage)) for stage in range(4)),
        *((2, options(1, stage, "bf16")) for stage in range(4)),
        (2, options(1, 1, "fp16")),
        (2, [*options(1, 1), "--packing", "off"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_resume_with_dropout_is_exact(
    ranks: int, arguments: list[str], shards: Path, tmp_path: Path
) -> None:
    """After each update up to the last border: at borders and between them."""
    whole = tmp_path / "whole"
    more = ["--save-interval", "1", "--keep-last", "9"]
    train(shards, whole, *RAMPS, *arguments, *more, ranks=ranks)
    for step in (1, 2, 3):
        half = stopped(whole, tmp_path / f"half{step}", step)
        go_on(half, ranks=ranks)
        tag = f"checkpoints/{checkpoint_tag(6)}"
        assert checkpoint_differences(half / tag, whole / tag) == []


def test_which_samples_a_stage_gets(shards: Path, tmp_path: Path) -> None:
    """Those of a run of its length alone, from its beginning; a length that comes again continues."""
    other = make_shards(tmp_path / "other", seed=1)
    base = [*TINY, "--data", str(shards), str(other), "--weights", "1", "3", "--output", "none"]
    settings = settings_of(
        [*base, "--length-ramp", "16 for 3", "32 for 2", "16 for 1", "--batch-ramp", "4 for 2"]
    )
    inputs, course = open_inputs(settings), course_of(settings)
    assert course.first_samples() == (0, 8, 16, 32, 40)
    run = inputs.along(course)
    alone = {
        length: open_inputs(settings_of([*base, "--seq-length", str(length), *limit])).train
        for length, limit in ((16, ["--max-predictions", "3"]), (32, []))
    }
    numbers = {0: range(16), 16: range(16), 32: range(16, 24), 40: range(16, 30)}
    for first, wanted in numbers.items():
        length = course.at_sample(first).length
        mine = run.at(first).samples(np.arange(first, first + len(wanted)))
        assert mine.numbers.tolist() == list(range(first, first + len(wanted)))
        assert mine.input_ids.shape == (len(wanted), length)
        theirs = alone[length].samples(np.array(wanted))
        for corpus in range(2):
            rows, others = (
                np.flatnonzero(inputs.plan.assign(n)[0] == corpus)
                for n in (mine.numbers, np.array(wanted))
            )
            same = min(len(rows), len(others))
            assert np.array_equal(mine.input_ids[rows[:same]], theirs.input_ids[others[:same]])


def test_wrong_ramps(shards: Path, tmp_path: Path) -> None:
    base = [*TINY, "--data", str(shards), "--output", str(tmp_path / "run")]
    for text, words in (
        ("4", "expected a size and how long it holds"),
        ("4 for", "expected a size"),
        ("0 for 3", "expected a batch from 1"),
        ("4 for 0 steps", "expected a duration above 0"),
        ("4 for 120%", "at most 100 percent"),
        ("4 for 3 hours", "expected a duration"),
    ):
        with pytest.raises(UserError, match=words):
            settings_of([*base, "--batch-ramp", text])
    with pytest.raises(UserError, match="expected a length from 8"):
        settings_of([*base, "--length-ramp", "4 for 10%"])
    with pytest.raises(UserError, match="--length-ramp 128 is longer than"):
        open_inputs(settings_of([*base, "--length-ramp", "128 for 10%"]))
    with pytest.raises(UserError, match="global batch 3 cannot be divided among 2 data-parallel"):
        train(shards, tmp_path / "run", "--batch-ramp", "3 for 2", ranks=2)
    assert not (tmp_path / "run").exists()
