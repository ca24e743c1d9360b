"""A run whose newest checkpoint is damaged: the error names the newest one that is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.convert import own_weights


def _damage(folder: Path) -> None:
    path = folder / "mp_rank_00_model_states.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_older_checkpoints_are_named(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(root / "tests" / "fixtures" / "run_zero1_dp2", run)
    first = run / "checkpoints" / "step-0000004"
    for step in (6, 8):
        shutil.copytree(first, run / "checkpoints" / f"step-{step:07d}")
    (run / "checkpoints" / "latest").write_text("step-0000008\n")
    newest, older = (run / "checkpoints" / f"step-{step:07d}" for step in (8, 6))
    _damage(newest)
    for given in (run, newest):
        with pytest.raises(UserError, match="the checkpoint is damaged: ") as caught:
            own_weights.read(given)
        assert f"the newest undamaged one is {older}: name that folder" in str(caught.value)
    _damage(older)
    with pytest.raises(UserError, match=f"the newest undamaged one is {first}"):
        own_weights.read(run)
    _damage(first)
    with pytest.raises(UserError, match="no other checkpoint of its run is undamaged"):
        own_weights.read(run)
    shutil.rmtree(older)
    shutil.rmtree(first)
    with pytest.raises(UserError, match="no other checkpoint of its run is undamaged"):
        own_weights.read(run)
