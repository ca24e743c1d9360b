"""What a run prints first, and where DeepSpeed's messages go."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megabert.pretrain.opening import _no_evaluation
from tests.helpers.training_runs import make_shards, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("opening") / "shards")


def test_the_first_lines_of_a_run(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(shards, run, "--steps", "4", "--stop-after", "2")
    printed = capfd.readouterr()
    lines = re.findall(r"^\d\d:\d\d:\d\d (.*)$", printed.err, flags=re.MULTILINE)
    topics = {line.split()[0]: line for line in lines[:10]}
    assert list(topics) == [
        *("model", "shape", "data", "samples", "batch", "ranks", "engine", "training", "results"),
        "watch",
    ]
    assert re.search(r": [\d.]+ million parameters$", topics["model"])
    assert re.search(r"\d+ layers, hidden_size \d+, \d+ heads, vocabulary [\d,]+$", topics["shape"])
    assert re.search(r"[\d,]+ documents, [\d,]+ tokens$", topics["data"])
    assert re.search(
        r"per epoch; this job: 16 samples of 32 tokens \(0\.\d\d epochs\)$", topics["samples"]
    )
    assert topics["batch"].endswith("8 = micro batch 2 x accumulation 4 x data parallel 1")
    assert topics["training"].endswith("; stops after update 2")
    assert topics["results"].endswith(str(run))
    assert "tensorboard --logdir" in topics["watch"]
    assert "untested optimizer" not in printed.out + printed.err
    assert "untested optimizer" in (run / "deepspeed.log").read_text()


def test_a_run_that_evaluates_nothing_says_so() -> None:
    inputs: Any = SimpleNamespace(evaluated=())
    assert "no evaluation split" in dict(_no_evaluation(inputs))["evaluation"]
    inputs.evaluated = ("a corpus",)
    assert not dict(_no_evaluation(inputs))
