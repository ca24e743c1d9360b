"""The fused operators: compiled ones against the plain ones, and both against autograd in float64."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.kernels import cpu, ops, reference
from megabert.kernels.attention.dispatch import Sequences, attention
from megabert.kernels.dropout import Dropout, head_seed, keep_mask, mix64, row_keys, token_keys

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.6e-2, torch.float64: 1e-12}


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def some_dropout(rows: int, probability: float = 0.3, seed: int = 2**62 + 12345) -> Dropout:
    return Dropout(
        probability, seed, token_keys(torch.arange(rows) // 7 + 3, torch.arange(rows) % 7)
    )


def close(found: Any, expected: Any, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Relative to the largest value; sums over many rows get a larger `scale`."""
    if expected is None:
        assert found is None
        return
    assert found.shape == expected.shape
    bound = TOLERANCE[dtype] * scale * max(1.0, float(expected.double().abs().max()))
    torch.testing.assert_close(found.double(), expected.double(), atol=bound, rtol=0.0)


# ---- dropout masks


def test_the_mixers_known_values() -> None:
    # the first outputs of the SplitMix64 generator started at 0
    state, outputs = 0, []
    for _ in range(3):
        outputs.append(mix64(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1))
def test_row_keys_are_the_mixer(row: int, seed: int) -> None:
    low, high = row_keys(torch.tensor([row]), seed)
    expected = mix64((row % 2**64) ^ seed)
    assert (int(high) << 32) + int(low) == expected


@given(st.integers(0, 2**63 - 1), st.integers(1, 9), st.integers(1, 70), st.floats(1e-9, 0.999999))
@settings(max_examples=30)
def test_compiled_masks_are_the_plain_ones(
    seed: int, rows: int, columns: int, probability: float
) -> None:
    dropout = Dropout(probability, seed, values(rows, 1).mul(1e9).long().flatten())
    ones = torch.ones(rows, columns)
    assert torch.equal(cpu.dropped(ones, dropout), reference.dropped(ones, dropout))


def test_masks_look_random() -> None:
    rows, columns, probability = 400, 500, 0.1
    threshold = Dropout(probability, 0, torch.zeros(1)).threshold
    masks = [
        keep_mask(
            token_keys(torch.tensor(9), torch.arange(rows)), seed, columns, threshold
        ).double()
        for seed in (1, 2, mix64(1) >> 1)
    ]
    for mask in masks:
        deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
        assert abs(mask.mean() - (1 - probability)) < 4 * deviation
        # neighbours in a row, in a column, and equal columns of far rows are independent
        for one, other in (
            (mask[:, :-1], mask[:, 1:]),
            (mask[:-1], mask[1:]),
            (mask[:200], mask[200:]),
        ):
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.01
        by_row = mask.sum(dim=1)
        assert 0.8 < by_row.var() / (columns * probability * (1 - probability)) < 1.25
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = torch.stack([masks[one].flatten(), masks[other].flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 0.01


# ---- compiled against plain


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if not cpu.available():
        pytest.skip("no C++ compiler here")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (130, 64), (200, 33)])
def test_dropout_gelu_and_embedding(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, grad, bias = (
        values(*shape, dtype=dtype),
        values(*shape, dtype=dtype, seed=1),
        values(shape[1]),
    )
    x[0, 0] = 30.0
    x[-1, -1] = -30.0
    dropout = some_dropout(shape[0])
    assert torch.equal(cpu.dropped(x, dropout), reference.dropped(x, dropout))
    close(cpu.bias_gelu_forward(x, bias), reference.bias_gelu_forward(x, bias), dtype)
    for found, expected in zip(
        cpu.bias_gelu_backward(grad, x, bias), reference.bias_gelu_backward(grad, x, bias)
    ):
        close(found, expected, dtype if found.dim() == 2 else torch.float32, scale=4)
    ids = torch.arange(shape[0]) % 11 + 90
    for rows, first in ((8, 92), (5, 0), (30, 85)):
        close(
            cpu.embedding_backward(grad, ids, rows, first),
            reference.embedding_backward(grad, ids, rows, first),
            torch.float32,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (65, 96), (140, 33)])
@pytest.mark.parametrize("drops", [True, False])
def test_add_norm(dtype: torch.dtype, shape: tuple[int, int], drops: bool) -> None:
    x, residual, grad, grad_total = (values(*shape, dtype=dtype, seed=seed) for seed in range(4))
    bias, weight, norm_bias = (values(shape[1], seed=seed) for seed in range(3))
    dropout = some_dropout(shape[0]) if drops else None
    for with_bias in (bias, None):
        arguments = x, with_bias, residual, weight, norm_bias, 1e-5, dropout
        made = reference.add_norm_forward(*arguments)
        for found, expected in zip(cpu.add_norm_forward(*arguments), made):
            close(found, expected, dtype, scale=2)
        for given_grad, given_total in ((grad, grad_total), (grad, None), (None, grad_total)):
            backward = (
                given_grad, given_total, made.total, made.mean, made.rstd, weight, dropout,
                with_bias is not None,
            )  # fmt: skip
            for found, expected in zip(
                cpu.add_norm_backward(*backward), reference.add_norm_backward(*backward)
            ):
                close(found, expected, dtype, scale=4)


def spans_of(*lengths: int, gap: int = 0) -> Tensor:
    begins = [sum(lengths[:i]) + i * gap for i in range(len(lengths))]
    return torch.tensor([[begin, begin + length] for begin, length in zip(begins, lengths)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize(
    "spans", [spans_of(140, 20, 1, 39), spans_of(150, 30, gap=10), spans_of(200)]
)
def test_attention(dtype: torch.dtype, drops: bool, spans: Tensor) -> None:
    query, key, value, grad = (values(200, 3, 8, dtype=dtype, seed=seed) for seed in range(4))
    place = spans, 5, 0.35, some_dropout(200) if drops else None
    context, lse = reference.attention_forward(query, key, value, *place)
    found, found_lse = cpu.attention_forward(query, key, value, *place)
    close(found, context, dtype)
    close(found_lse, lse, torch.float32)
    backward = grad, query, key, value, context, lse, *place
    for found, expected in zip(
        cpu.attention_backward(*backward), reference.attention_backward(*backward)
    ):
        close(found, expected, dtype, scale=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("first", "real"), [(0, 100), (100, 100), (40, 97)])
def test_rows_of_the_loss(dtype: torch.dtype, first: int, real: int) -> None:
    logits, labels = values(23, 100, dtype=dtype) * 4, torch.arange(23) * 9
    logits[3, real - 1] = logits[3, 2] = 99.0  # the first of equals counts
    found = cpu.cross_entropy_rows(logits, labels, first, real)
    expected = reference.cross_entropy_rows(logits, labels, first, real)
    close(found, expected, torch.float32)
    assert torch.equal(found[:, 3], expected[:, 3])
    lse = expected[:, 0] + 0.1
    close(
        cpu.cross_entropy_gradient_(logits.clone(), labels, lse, first, real),
        reference.cross_entropy_gradient_(logits.clone(), labels, lse, first, real),
        dtype,
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_do_not_depend_on_threads(threads: int) -> None:
    x, grad, bias = values(300, 48), values(300, 48, seed=1), values(48)
    before = torch.get_num_threads()
    expected = cpu.bias_gelu_backward(grad, x, bias)
    try:
        torch.set_num_threads(threads)
        found = cpu.bias_gelu_backward(grad, x, bias)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """Guards look at losses and norms: no operator may hide a NaN."""
    x, bias, spans = values(6, 16), torch.zeros(16), spans_of(6)
    x[2, 3] = bad
    rows = x.view(6, 2, 8)
    for found in (
        cpu.bias_gelu_forward(x, bias),
        cpu.add_norm_forward(x, bias, torch.zeros_like(x), bias + 1, bias, 1e-5, None).normed,
        cpu.attention_forward(rows, rows, rows, spans, 0, 1.0, None)[0],
        cpu.cross_entropy_rows(x, torch.zeros(6, dtype=torch.long), 0, 16),
        cpu.cross_entropy_gradient_(
            x.clone(), torch.zeros(6, dtype=torch.long), torch.zeros(6), 0, 16
        ),
    ):
        assert not torch.isfinite(found[2]).all()


# ---- both against autograd


@pytest.fixture(params=[torch.float64, torch.float32], ids=["plain", "compiled"])
def kind(request: pytest.FixtureRequest) -> torch.dtype:
    """Dtype that goes to one implementation: float64 to the plain, float32 to the compiled one."""
    dtype: torch.dtype = request.param
    return dtype


def compare(
    fused: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: list[Tensor],
    kind: torch.dtype,
) -> None:
    """Results and all gradients of `fused` in `kind` and of `plain` in float64."""
    module: ModuleType = ops.implementation(torch.zeros(1, dtype=kind))
    assert module is (reference if kind == torch.float64 else cpu)
    results = []
    for function, dtype in ((fused, kind), (plain, torch.float64)):
        leaves = [x.clone().to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves)
        out.backward(values(*out.shape, seed=77).to(dtype))
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results):
        close(found, expected, kind, scale=10)


@pytest.mark.parametrize("drops", [True, False])
def test_gradients_of_add_norm(kind: torch.dtype, drops: bool) -> None:
    dropout = some_dropout(9) if drops else None
    mask = reference.dropped(torch.ones(9, 12, dtype=torch.float64), dropout)

    def plain(x: Tensor, b: Tensor, r: Tensor, w: Tensor, nb: Tensor) -> Tensor:
        total = r + (x + b) * mask
        return 2 * total + F.layer_norm(total, (12,), w, nb, 1e-5)

    def fused(x: Tensor, b: Tensor, r: Tensor, w: Tensor, nb: Tensor) -> Tensor:
        total, normed = ops.add_norm(x, b, r, w, nb, 1e-5, dropout)
        return 2 * total + normed

    inputs = [
        values(9, 12),
        values(12),
        values(9, 12, seed=1),
        values(12, seed=2),
        values(12, seed=3),
    ]
    compare(fused, plain, inputs, kind)


def test_gradients_of_gelu_dropout_and_embedding(kind: torch.dtype) -> None:
    compare(ops.bias_gelu, lambda x, b: F.gelu(x + b), [values(7, 5), values(5)], kind)
    dropout = some_dropout(7)
    mask = reference.dropped(torch.ones(7, 5, dtype=torch.float64), dropout)
    compare(lambda x: ops.dropped(x, dropout), lambda x: x * mask, [values(7, 5)], kind)
    ids = torch.tensor([12, 3, 10, 12, 15, 10])
    compare(
        lambda table: ops.embedding(ids, table, 10),
        lambda table: (
            F.embedding(ids.clamp(10, 14) - 10, table)
            * ((ids >= 10) & (ids < 15)).double()[:, None]
        ),
        [values(5, 4)],
        kind,
    )


@pytest.mark.parametrize("drops", [True, False])
def test_gradients_of_attention(kind: torch.dtype, drops: bool) -> None:
    lengths, dropout = (5, 3), some_dropout(8) if drops else None
    cu_seqlens = torch.tensor([0, 5, 8], dtype=torch.int32)
    masks = torch.ones(2, 2, 5, 5, dtype=torch.float64)  # sequence, head, query, key
    if dropout is not None:
        for head in range(2):
            whole = keep_mask(dropout.rows, head_seed(dropout.seed, 4 + head), 5, dropout.threshold)
            masks[0, head], masks[1, head, :3] = whole[:5], whole[5:]
        masks *= dropout.scale

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts, begin = [], 0
        for number, n in enumerate(lengths):
            one = [x[begin : begin + n].transpose(0, 1) for x in (q, k, v)]
            weights = torch.softmax(0.5 * one[0] @ one[1].transpose(1, 2), dim=2)
            parts.append((weights * masks[number, :, :n, :n] @ one[2]).transpose(0, 1))
            begin += n
        return torch.cat(parts)

    sequences = Sequences.packed(cu_seqlens, 5)
    compare(
        lambda q, k, v: attention(q, k, v, sequences, 4, 0.5, dropout),
        plain,
        [values(8, 2, 4, seed=seed) for seed in range(3)],
        kind,
    )


def test_padded_rows_with_holes_in_their_mask() -> None:
    query, key, value = (values(12, 2, 8, seed=seed) for seed in range(3))
    mask = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0]])
    holes = Sequences.padded(2, 6, torch.device("cpu"), mask)
    assert holes.spans is None
    shifted = Sequences.padded(1, 6, torch.device("cpu"), mask[1:])
    assert shifted.spans is not None
    assert shifted.spans.tolist() == [[1, 4]]
    found = attention(query, key, value, holes, 0, 0.3, None)
    alone = attention(query[6:], key[6:], value[6:], shifted, 0, 0.3, None)
    torch.testing.assert_close(found[7:10], alone[1:4])
    real = mask[0].nonzero().flatten()
    row = attention(query[real], key[real], value[real], Sequences.padded(1, 3, torch.device("cpu"), None), 0, 0.3, None)  # fmt: skip
    torch.testing.assert_close(found[real], row)


# ---- building


def test_a_build_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cpu.build_library("g++", tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    assert cpu.build_library("g++", tmp_path) == path
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(cpu, "_FLAGS", ("-no-such-flag",))
    with pytest.raises(subprocess.CalledProcessError):
        cpu.build_library("g++", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_compiler_with_arguments(tmp_path: Path) -> None:
    compiler = tmp_path / "my compiler"
    compiler.write_text(
        '#!/bin/sh\nfor last; do :; done\n[ "$last" = --version ] || echo "$@" > "$last"\n'
    )
    compiler.chmod(0o755)
    built = cpu.build_library(f"'{compiler}' --quiet g++", tmp_path / "cache")
    assert built.read_text().startswith("--quiet g++ -O3")


def test_without_a_compiler_the_plain_operators_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpu._library.cache_clear()
    try:
        assert ops.implementation(torch.zeros(1)) is reference
    finally:
        cpu._library.cache_clear()
