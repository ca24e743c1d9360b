"""The Triton operators' code for GPUs that need not be there: what is compiled, and how often."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megabert.kernels.dropout import Dropout
from tests.helpers.triton_processes import Code, Run, bound, compiled, launches, process

triton = pytest.importorskip("triton", reason="Triton is not installed")

from megabert.kernels.triton import attention, fused, gelu, loss, norm  # noqa: E402
from megabert.kernels.triton import dropout as dropout_triton  # noqa: E402

MODULES = (dropout_triton, gelu, loss, norm)
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that a program may have."""
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


def attend(
    rows: int, size: int, dtype: torch.dtype, drop: bool, relative: bool, seed: int, chance: float
) -> None:
    """Attention of two sequences, forward and backward."""
    query, key, value = torch.zeros(rows, 3, 4, size, dtype=dtype).unbind(1)
    dropout = Dropout(chance, seed, torch.arange(rows + 1)[1:]) if drop else None
    bounds = torch.zeros(3, dtype=torch.int32)
    place = bounds, rows, seed % 8, 0.1, dropout, torch.zeros(129, size) if relative else None
    context, lse = attention.attention_forward(query, key, value, *place)
    attention.attention_backward(context, query, key, value, context, lse, *place)


def keys_of(rows: int, seed: int, chance: float) -> list[str]:
    found = launches(MODULES, step, rows, 128, BF16, True, seed, chance)
    for relative in (False, True):
        found += launches((attention,), attend, rows, 64, BF16, True, relative, seed, chance)
    return [f"{launch[0].__name__} {bound(launch, 90)[3:]}" for launch in found]


def ptx_of(columns: int, dtype: torch.dtype, drop: bool, arch: int) -> dict[str, str]:
    """PTX of each kernel as the launcher would have it made; ptxas has accepted it."""
    texts = {}
    for launch in launches(MODULES, step, 64, columns, dtype, drop, 5, 0.1):
        made = compiled(launch, arch)
        assert made.asm["cubin"]
        texts[f"{launch[0].__module__}.{launch[0].__name__}"] = made.asm["ptx"]
    return texts


def attention_code(
    size: int, dtype: torch.dtype, drop: bool, relative: bool, arch: int | str
) -> dict[str, Code]:
    """Each kernel's code."""
    found = launches((attention,), attend, 64, size, dtype, drop, relative, 5, 0.1)
    return {launch[0].__name__: Code.of(compiled(launch, arch)) for launch in found}


def all_code(arch: str) -> list[str]:
    """Names of the fused operators' kernels, compiled for an AMD GPU."""
    found = launches(MODULES, step, 64, 1024, BF16, True, 5, 0.1)
    return [launch[0].__name__ for launch in found if compiled(launch, arch).asm["hsaco"]]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    cache: Path = tmp_path_factory.mktemp("triton")
    with process(TRITON_CACHE_DIR=str(cache)) as call:
        yield call


def test_steps_share_compiled_kernels(compiler: Run) -> None:
    """Rows, seeds, probabilities and parts of the vocabulary that change do not cause recompilation."""
    first = compiler(keys_of, 16, 2**62, 0.1)
    assert len(first) == 7 + 4
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


@pytest.mark.parametrize(
    ("drop", "relative", "arch"),
    [
        (True, False, 90),
        *(
            pytest.param(drop, relative, arch, marks=pytest.mark.slow)
            for drop, relative, arch in itertools.product((False, True), (False, True), (80, 90))
            if (drop, relative, arch) != (True, False, 90)
        ),
    ],
)
def test_attention_keeps_to_registers(compiler: Run, drop: bool, relative: bool, arch: int) -> None:
    """In bf16 with heads 64 wide nothing is spilled, and nothing is atomic; products use tensor cores."""
    for name, code in compiler(attention_code, 64, BF16, drop, relative, arch).items():
        assert code.spilled == 0, name
        assert code.shared <= SHARED_MEMORY[arch], name
        assert not re.search(r"\b(atom|red)\.", code.text), name
        assert re.search(r"\b(mma\.sync|wgmma\.mma_async)", code.text), name


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dtype"), [(128, BF16), (256, FP16), (64, FP32), (256, FP32)])
def test_attention_of_wide_heads_fits(compiler: Run, size: int, dtype: torch.dtype) -> None:
    for arch, limit in SHARED_MEMORY.items():
        for name, code in compiler(attention_code, size, dtype, True, True, arch).items():
            assert code.shared <= limit, name


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["gfx90a", "gfx942"])
def test_code_for_amd(compiler: Run, arch: str) -> None:
    """Everything compiles; it has not run there."""
    assert len(compiler(all_code, arch)) == 7
    for relative in (False, True):
        for name, code in compiler(attention_code, 64, BF16, True, relative, arch).items():
            assert code.shared <= 64 * 1024, name
