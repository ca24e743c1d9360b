"""Twenty kills of a training run, many of them while it saves: nothing is lost, nothing differs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.helpers.kill_and_resume import kill_and_resume


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    report = kill_and_resume(tmp_path, kills=20, steps=200, seed=seed)
    print(report.lines())
    assert report.faults == []
    assert len(report.kills) == 20
    assert report.while_saving >= 3
