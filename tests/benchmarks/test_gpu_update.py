"""The branches for GPUs, run whole on fake CUDA tensors: BERT and NEZHA, bf16 and fp8."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("models", "precisions"),
    [
        ("nezha-tiny", "fp8"),
        pytest.param("bert-tiny,nezha-tiny", "bf16,fp16,fp32,fp8", marks=pytest.mark.slow),
    ],
)
def test_an_update_on_a_gpu_waits_at_its_end_only(
    tmp_path: Path, models: str, precisions: str
) -> None:
    """Every operator of an update has shapes and dtypes that a GPU takes, and none of a micro step's waits."""
    file = tmp_path / "counts.json"
    command = [
        sys.executable, str(ROOT / "benchmarks" / "gpu_update.py"), "--models", models,
        "--precisions", precisions, "--micro-batch-size", "8", "--json", str(file),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads(file.read_text())["cases"]
    assert [(case["model"], case["precision"]) for case in cases] == list(
        itertools.product(models.split(","), precisions.split(","))
    )
    for case in cases:
        reads = {part: reads for part, _, _, reads, _, _ in case["parts"]}
        assert reads["forward"] == reads["backward"] == 0
        # of the norm; in bf16: is it finite, is it above the limit
        assert reads["update"] <= (2 if case["precision"] in ("bf16", "fp8") else 4)
        launched = {(part, kind) for part, kind, *_ in case["kernels"]}
        assert {("forward", "fused"), ("backward", "fused"), ("update", "optimizer")} <= launched
