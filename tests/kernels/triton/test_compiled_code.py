"""The Triton operators' code for GPUs that need not be there: what is compiled, and how often."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megabert.kernels.dropout import Dropout
from tests.helpers.triton_processes import Run, bound, compiled, launches, process

triton = pytest.importorskip("triton", reason="Triton is not installed")

from megabert.kernels.triton import dropout as dropout_triton  # noqa: E402
from megabert.kernels.triton import fused, gelu, loss, norm  # noqa: E402

MODULES = (dropout_triton, gelu, loss, norm)
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def step(rows: int, columns: int, dtype: torch.dtype, drop: bool, seed: int, chance: float) -> None:
    """Each operator once, as a step of training would."""
    x, vector = torch.zeros(rows, columns, dtype=dtype), torch.zeros(columns, dtype=dtype)
    numbers = torch.zeros(rows)
    dropout = Dropout(chance, seed, torch.arange(rows + 1)[1:]) if drop else None
    if dropout is not None:
        fused.dropped(x, dropout)
    fused.bias_gelu_forward(x, vector)
    fused.bias_gelu_backward(x, x, vector)
    fused.add_norm_forward(x, vector, x, vector, vector, 1e-5, dropout)
    fused.add_norm_backward(x, x, x, numbers, numbers, vector, dropout, True)
    labels = torch.arange(rows + 1)[1:]
    fused.cross_entropy_rows(x, labels, seed % 1000, columns - seed % 7)
    fused.cross_entropy_gradient_(x, labels, numbers, seed % 1000, columns - seed % 7)


def keys_of(rows: int, seed: int, chance: float) -> list[str]:
    found = launches(MODULES, step, rows, 128, BF16, True, seed, chance)
    return [f"{launch[0].__name__} {bound(launch, 90)[3:]}" for launch in found]


def ptx_of(columns: int, dtype: torch.dtype, drop: bool, arch: int) -> dict[str, str]:
    """PTX of each kernel as the launcher would have it made; ptxas has accepted it."""
    texts = {}
    for launch in launches(MODULES, step, 64, columns, dtype, drop, 5, 0.1):
        made = compiled(launch, arch)
        assert made.asm["cubin"]
        texts[f"{launch[0].__module__}.{launch[0].__name__}"] = made.asm["ptx"]
    return texts


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    cache: Path = tmp_path_factory.mktemp("triton")
    with process(TRITON_CACHE_DIR=str(cache)) as call:
        yield call


def test_steps_share_compiled_kernels(compiler: Run) -> None:
    """Rows, seeds, probabilities and parts of the vocabulary that change do not cause recompilation."""
    first = compiler(keys_of, 16, 2**62, 0.1)
    assert len(first) == 7
    for rows, seed, chance in itertools.product((1, 17, 64), (0, 1, 2**33 + 1), (0.5, 1e-9)):
        assert compiler(keys_of, rows, seed, chance) == first


@pytest.mark.parametrize(
    ("columns", "dtype", "drop", "arch"),
    [
        (1024, BF16, True, 90),
        (1000, FP16, False, 80),
        pytest.param(512, FP32, True, 80, marks=pytest.mark.slow),
    ],
)
def test_code_for_gpus(
    compiler: Run, columns: int, dtype: torch.dtype, drop: bool, arch: int
) -> None:
    """Matrices move in vectors of 16 bytes, and nothing is atomic."""
    texts = compiler(ptx_of, columns, dtype, drop, arch)
    assert len(texts) == (7 if drop else 6)
    for name, ptx in texts.items():
        assert f"sm_{arch}" in ptx
        assert not re.search(r"\b(atom|red)\.", ptx), name
        if columns % 16 == 0:
            assert re.search(r"ld\.global\.v4\.b32", ptx), name
            assert "rows_kernel" in name or re.search(r"st\.global\.v4\.b32", ptx), name
