"""Names of what is probed: runs of one name in two folders stay apart, a copy is one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megabert.checkpoint.record import Checkpoint
from megabert.config.sections.initial_weights import InitialWeightSettings
from megabert.probe.models import _of_checkpoint, find_models


def folder(path: Path, size: int) -> Path:
    path.mkdir(parents=True)
    names = (
        "hidden_size",
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    )
    values = {"model_type": "bert", **dict.fromkeys(names, size)}
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return path


def test_names_and_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [folder(tmp_path / "a" / "mini", 8), folder(tmp_path / "b" / "mini", 16)]
    other = folder(tmp_path / "other", 24)
    copy = Path(shutil.copytree(other, tmp_path / "copy"))
    with caplog.at_level("INFO", "megabert"):
        found = find_models([*paths, other, copy])
    assert [model.name for model in found.models] == ["a/mini", "b/mini", "other"]
    assert [model.run for model in found.models] == ["a/mini", "b/mini", "other"]
    assert "copy is the same model as" in caplog.text


def test_how_the_initial_weights_of_a_run_were_drawn(tmp_path: Path) -> None:
    older_record: dict[str, Any] = {"files": {}, "model": {}, "step": 5}
    record = older_record | {"init_scheme": "normal", "init_local_heads": 0.0}
    plain, local, older = (
        _of_checkpoint(Checkpoint(tmp_path, one), "run")
        for one in (record, record | {"init_local_heads": 0.5}, older_record)
    )
    assert plain.initial == older.initial == InitialWeightSettings()
    assert local.initial == InitialWeightSettings(init_local_heads=0.5)
    assert plain.identity == older.identity != local.identity
