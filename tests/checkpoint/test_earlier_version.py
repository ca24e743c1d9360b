"""Shards and runs that an earlier version wrote (tests/fixtures): read, resumed and converted as then."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from megabert.convert.run import ConversionRequest, convert
from megabert.data.inspect.verify import verify_folder
from megabert.data.shards.corpus import Corpus
from tests.helpers.resume_runs import go_on

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))
ROUNDING = 1e-5
"""Relative difference of losses on another CPU; on the machine that wrote them they are equal."""


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("run_zero0", 1),
        ("run_zero1_dp2", 2),
        pytest.param("run_zero1_dp2", 1, marks=pytest.mark.slow),
    ],
)
def test_resumes_with_the_same_losses(name: str, ranks: int, tmp_path: Path) -> None:
    run = tmp_path / name
    shutil.copytree(FIXTURES / name, run)
    lines = go_on(run, "--data", str(FIXTURES / "shards"), "--stop-after", "7", ranks=ranks)
    found = [line for line in lines if "loss" in line and line["step"] > 4]
    plural = "" if ranks == 1 else "s"
    expected: list[dict[str, Any]] = EXPECTED[name][f"resumed_on_{ranks}_rank{plural}"]
    assert [line["step"] for line in found] == [5, 6, 7]
    for line, wanted in zip(found, expected):
        assert {key: line[key] for key in wanted} == pytest.approx(wanted, rel=ROUNDING)


@pytest.mark.parametrize("name", ["run_zero0", "run_zero1_dp2"])
def test_converts_to_the_same_tensors(name: str, tmp_path: Path) -> None:
    convert(ConversionRequest("megabert", FIXTURES / name, "huggingface", tmp_path / "hf"))
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as content:
        found = {
            tensor: hashlib.sha256(content.get_tensor(tensor).numpy().tobytes()).hexdigest()
            for tensor in content.keys()  # noqa: SIM118  # not a mapping
        }
    assert found == EXPECTED[name]["huggingface_sha256"]


def test_shards_are_sound_and_read() -> None:
    assert [Corpus.open(FIXTURES / "shards", s).num_documents for s in ("train", "eval")] == [18, 2]
    verify_folder(FIXTURES / "shards")
