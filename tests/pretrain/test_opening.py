"""What a run prints first, and where DeepSpeed's messages go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    topics = [line.split()[0] for line in lines[:7]]
    assert topics == ["model", "data", "samples", "batch", "ranks", "training", "results"]
    text = "\n".join(lines[:7])
    assert re.search(r"layers, hidden_size \d+, \d+ heads, vocabulary [\d,]+; [\d.]+ million", text)
    assert re.search(r"[\d,]+ documents, [\d,]+ tokens", text)
    assert re.search(
        r"[\d,]+ per epoch; this job trains on [\d,]+ of \d+ tokens = [\d.]+ epochs", text
    )
    assert "4 updates" in text
    assert "stops after update 2" in text
    assert str(run) in lines[6]
    assert "tensorboard --logdir" in lines[6]
    assert "untested optimizer" not in printed.out + printed.err
    assert "untested optimizer" in (run / "deepspeed.log").read_text()
