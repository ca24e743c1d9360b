"""A run with Muon: saved, resumed, and continued on another layout, with the states of both rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.training_runs import losses, make_shards, train, whole_weights


@pytest.mark.slow
def test_saved_and_resumed(tmp_path: Path) -> None:
    """On the layout that wrote it bit for bit; on another through whole tensors, momentum included."""
    shards = make_shards(tmp_path / "shards")
    arguments = ["--optimizer", "muon", "--lr", "1e-3", "--precision", "fp32"]
    arguments += ["--trust-ratio-interval", "1"]
    straight = losses(train(shards, tmp_path / "straight", *arguments, ranks=2))
    resumed = tmp_path / "resumed"
    train(shards, resumed, *arguments, "--stop-after", "2", ranks=2)
    before = whole_weights(resumed)
    matrices = [name for name, values in before.items() if set(values) == {"weight", "momentum"}]
    assert "mlm.dense.weight" in matrices
    assert "bert.layers.0.attention.key.weight" in matrices
    assert all(bool(before[name]["momentum"].any()) for name in matrices if "pooler" not in name)
    others = [values for name, values in before.items() if name not in matrices]
    assert others
    assert all(set(values) == {"weight", "exp_avg", "exp_avg_sq"} for values in others)
    again = [*arguments, "--resume", "auto"]
    assert losses(train(shards, resumed, *again, "--stop-after", "3", ranks=2)) == straight[:3]
    other = losses(train(shards, resumed, *again, "--zero-stage", "3", ranks=1))
    assert other == pytest.approx(straight, rel=1e-3)
