"""The Triton casts to float8 against :func:`megabert.kernels.float8.quantize` in torch.

The interpreter must be chosen before Triton is imported: it lives in a process of its own. Its cast
to float8 is replaced by torch's (see :func:`start`); on a GPU the cast is one instruction, which is
looked for in the compiled code.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.kernels.float8 import FORWARD, GRADIENT, padded, quantize
from tests.helpers.triton_processes import assembly, target_of

triton = pytest.importorskip("triton", reason="Triton is not installed")

Run = Callable[..., Any]
SHAPES = [(1, 128), (37, 64), (16, 16), (300, 80)]
NAMES = {FORWARD: "fp8e4nv", GRADIENT: "fp8e5"}


def start() -> None:
    """Set a worker up. Triton 3.7's interpreter drops the carry of a mantissa that is rounded up."""
    from triton.runtime import interpreter

    torch.set_num_threads(1)
    convert = interpreter._convert_float

    def rounding(data: Any, source: Any, target: Any, mode: Any) -> Any:
        for dtype, name in NAMES.items():
            if source.name == "fp32" and target.name == name:
                return torch.from_numpy(data.copy()).to(dtype).view(torch.uint8).numpy()
        return convert(data, source, target, mode)

    interpreter._convert_float = rounding


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        made = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        made.submit(start).result()
    with made:
        yield lambda check, *args: made.submit(check, *args).result()


def check_casts(dtype: torch.dtype, rows: int, columns: int, device: str) -> None:
    """Rows, columns, zeros behind them, and the scale, for a matrix cut out of a wider one."""
    from megabert.kernels.triton import float8

    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 3.0
    wide = torch.full((rows, columns + 16), torch.nan, dtype=torch.bfloat16)
    wide[:, :columns] = x * 2.0**-20
    part = wide.to(device)[:, :columns]
    expected = quantize(wide[:, :columns], dtype, rows=True, columns=True)
    both = float8.quantize(part, dtype, padded(rows), rows=True, columns=True)
    for got, wanted in zip(both, (expected.rows, expected.columns)):
        assert torch.equal(got.cpu().view(torch.uint8), wanted.view(torch.uint8))
    assert torch.equal(both[2].cpu(), expected.row_inverse)
    only_rows = float8.quantize(part, dtype, padded(rows), rows=True, columns=False)
    only_columns = float8.quantize(part, dtype, padded(rows), rows=False, columns=True)
    assert only_rows[1] is None
    assert only_columns[0] is None
    assert torch.equal(only_rows[0].view(torch.uint8), both[0].view(torch.uint8))
    assert torch.equal(only_columns[1].view(torch.uint8), both[1].view(torch.uint8))


def check_scales(device: str) -> None:
    """Nothing but zeros, tiny, huge and broken matrices: torch's scale."""
    from megabert.kernels.triton import float8

    for number in (0.0, 1e-30, 1e-3, 3e38, torch.inf, -torch.inf, torch.nan):
        x = torch.zeros(40, 80, dtype=torch.bfloat16)
        x[33, 70] = number
        expected = quantize(x, GRADIENT, rows=True, columns=False).row_inverse
        got = float8.quantize(x.to(device), GRADIENT, 48, rows=True, columns=False)[2]
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [FORWARD, GRADIENT])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_casts(interpreter: Run, dtype: torch.dtype, rows: int, columns: int) -> None:
    interpreter(check_casts, dtype, rows, columns, "cpu")


def test_scales(interpreter: Run) -> None:
    interpreter(check_scales, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [FORWARD, GRADIENT])
@pytest.mark.parametrize(("rows", "columns"), [*SHAPES, (4099, 1024)])
def test_casts_on_cuda(dtype: torch.dtype, rows: int, columns: int) -> None:
    check_casts(dtype, rows, columns, "cuda")
    check_scales("cuda")


def compiled(kernel: str, types: dict[str, str], constants: dict[str, Any], arch: int | str) -> str:
    """Assembly of a kernel for a GPU that need not be there."""
    from triton.compiler import ASTSource

    from megabert.kernels.triton import float8

    function = getattr(float8, kernel)
    names = function.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name].startswith("*") or name in ("columns", "stride", "padded")
    }
    source = ASTSource(function, signature, constants, aligned)
    options = {"num_warps": float8.WARPS}
    made = triton.compile(source, target=target_of(arch), options=options)
    return assembly(made)


@pytest.mark.parametrize("arch", [89, 90])
@pytest.mark.parametrize("dtype", [FORWARD, GRADIENT])
def test_kernels_compile(
    dtype: torch.dtype, arch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles move in vectors of 16 bytes both ways; casts are the GPU's own, to nearest."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from megabert.kernels.triton import float8

    tile = {"ROWS": float8.TILE_ROWS, "COLUMNS": float8.TILE_COLUMNS}
    ptx = compiled("largest_kernel", {"x": "*bf16", "partials": "*i32"}, tile, arch)
    assert re.search(r"ld\.global\.v4\.b32", ptx)
    cell = f"*{NAMES[dtype]}"
    types = {"x": "*bf16", "partials": "*i32", "inverse": "*fp32"}
    constants = {"FORMAT_LARGEST": torch.finfo(dtype).max, "PARTS": float8.PROGRAMS, **tile}
    ptx = compiled("cast_kernel", {**types, "by_rows": cell, "by_columns": cell}, constants, arch)
    kind = {FORWARD: "e4m3", GRADIENT: "e5m2"}[dtype]
    assert len(re.findall(rf"cvt\.rn\.satfinite\.{kind}x2", ptx)) >= 2
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) >= 2
    assert "atom" not in ptx


@pytest.mark.slow
def test_kernels_compile_for_amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have not run there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from megabert.kernels.triton import float8

    tile = {"ROWS": float8.TILE_ROWS, "COLUMNS": float8.TILE_COLUMNS}
    for arch in ("gfx90a", "gfx942"):
        found = compiled("largest_kernel", {"x": "*bf16", "partials": "*i32"}, tile, arch)
        assert arch in found
        cell = f"*{NAMES[FORWARD]}"
        types = {"x": "*bf16", "partials": "*i32", "inverse": "*fp32"}
        constants = {"FORMAT_LARGEST": 448.0, "PARTS": float8.PROGRAMS, **tile}
        types |= {"by_rows": cell, "by_columns": cell}
        assert arch in compiled("cast_kernel", types, constants, arch)


def test_nothing_is_compiled_again_for_another_number_of_tokens() -> None:
    from megabert.kernels.triton import float8

    for kernel, names in (
        ("largest_kernel", {"rows", "tiles"}),
        ("cast_kernel", {"rows", "parts"}),
    ):
        function = getattr(float8, kernel)
        assert {one.name for one in function.params if one.do_not_specialize} == names
