"""Float8 products: casts against tables of the formats, products against derived bounds, whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from megabert.common.errors import UserError
from megabert.config.deepspeed_file import deepspeed_layer
from megabert.config.training import BatchSettings, OptimizerSettings, ParallelSettings
from megabert.engine.config import (
    make_deepspeed_config,
    resolve_batch,
    resolve_precision,
)
from megabert.kernels import float8
from megabert.kernels.float8 import FORWARD, GRADIENT, Float8Products, quantize, scales
from megabert.parallel.layers import ColumnParallelLinear
from megabert.parallel.linear import column_linear
from megabert.parallel.topology import TensorParallel
from tests.helpers.training_runs import losses, make_shards, train

FORMATS = [FORWARD, GRADIENT]
ROUNDING = {FORWARD: 2.0**-4, GRADIENT: 2.0**-3}
"""Largest relative error of a cast to nearest: half a unit in the last place of 1."""
SMALLEST = {FORWARD: 2.0**-9, GRADIENT: 2.0**-16}
"""Distance of neighbours among the subnormal numbers."""
PLAIN = TensorParallel()


def matrix(rows: int, columns: int, seed: int, size: float = 1.0, spread: float = 1.0) -> Tensor:
    """Numbers of many magnitudes, bf16 ``[rows, columns]``; ``spread`` in powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    exponents = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (size * values * 10.0 ** (spread * exponents)).to(torch.bfloat16)


def format_values(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a format, float64, sorted by value."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    return values[values.isfinite()].unique()


def errors(x: Tensor, dtype: torch.dtype, inverse: Tensor) -> Tensor:
    """Bound of each element's cast error, for a scale of inverse ``inverse``."""
    x = x.double().abs()
    return torch.maximum(x * ROUNDING[dtype], 0.5 * SMALLEST[dtype] * inverse.double())


# ---------------------------------------------------------------------- casts


@settings(deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 40),
    st.integers(1, 20),
    st.floats(-25, 25),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_casts_are_to_the_nearest(
    dtype: torch.dtype, rows: int, columns: int, exponent: float, by_row: bool, seed: int
) -> None:
    x = matrix(rows, columns, seed, 10.0**exponent)
    cast = quantize(x, dtype, rows=True, columns=True, by_row=by_row)
    assert cast.rows is not None
    assert cast.columns is not None
    table = format_values(dtype)
    for values, cells, inverse in (
        (x, cast.rows, cast.row_inverse),
        (x.t(), cast.columns[:, :rows], cast.column_inverse),
    ):
        scaled = values.double() / inverse.double()
        distance = (scaled[..., None] - table).abs().amin(-1)
        assert torch.equal((scaled - cells.double()).abs(), distance)
        assert torch.equal(cells.float(), scaled.float().to(dtype).float())
    assert cast.columns.shape == (columns, -(-rows // 16) * 16)
    assert not cast.columns[:, rows:].float().any()


@pytest.mark.parametrize("by_row", [False, True])
def test_orders_are_contiguous_whatever_the_matrix_is(by_row: bool) -> None:
    whole = matrix(32, 48, 0)
    views = whole, whole.t(), whole[:, 16:32], whole[:1].expand(7, 48), whole[:, :1].expand(32, 16)
    for view in views:
        cast = quantize(view, FORWARD, rows=True, columns=True, by_row=by_row)
        same = quantize(view.clone(), FORWARD, rows=True, columns=True, by_row=by_row)
        for got, wanted in zip(cast, same):
            assert got is not None
            assert got.is_contiguous()
            assert torch.equal(got.float(), wanted.float())


@settings(deadline=None)
@given(st.sampled_from(FORMATS), st.floats(2.0**-50, 2.0**127))
def test_scale_is_the_largest_power_of_two_in_range(dtype: torch.dtype, largest: float) -> None:
    scale, inverse = (float(value) for value in scales(torch.tensor(largest), dtype))
    limit, largest = torch.finfo(dtype).max, float(torch.tensor(largest))
    assert torch.frexp(torch.tensor(scale)).mantissa == 0.5
    assert scale * inverse == 1.0
    assert scale * largest <= limit * (1 + 2**-23)
    assert scale == float8.LARGEST_SCALE or 2 * scale * largest > limit


@pytest.mark.parametrize("dtype", FORMATS)
def test_zeros_stay_zeros(dtype: torch.dtype) -> None:
    cast = quantize(torch.zeros(3, 16), dtype, rows=True, columns=True)
    assert cast.rows is not None
    assert not cast.rows.float().any()
    assert cast.row_inverse == 1 / float8.LARGEST_SCALE


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("by_row", [False, True])
def test_what_is_not_finite_reaches_all_results(bad: float, by_row: bool) -> None:
    products = Float8Products(by_row)
    clean, broken = torch.ones(32, 16), torch.ones(32, 16)
    broken[5, 7] = bad
    good, wrong = products.operand(clean), products.operand(broken)
    forward = products.forward(wrong, products.operand(clean), None, torch.float32)
    backward = products.grad_x([wrong], [products.operand(torch.ones(16, 32))], torch.float32)
    weight = products.grad_weight(good, wrong, torch.float32)
    if by_row:
        assert forward[5].isnan().all()
        assert backward[5].isnan().all()
        assert weight[:, 7].isnan().all()
        assert forward[4].isfinite().all()
        assert weight[:, 6].isfinite().all()
    else:
        assert forward.isnan().all()
        assert backward.isnan().all()
        assert weight.isnan().all()


def test_each_order_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(x: Tensor, dtype: torch.dtype, **orders: bool) -> float8.Quantized:
        asked.append((dtype, orders["rows"], orders["columns"]))
        return quantize(x, dtype, **orders)

    monkeypatch.setattr(float8, "quantize", counted)
    products = Float8Products()
    x, grad, weight = (products.operand(torch.ones(16, 16)) for _ in range(3))
    products.forward(x, weight, None, torch.bfloat16)
    products.forward(x, weight, None, torch.bfloat16)
    assert asked == [(FORWARD, True, False)] * 2
    asked.clear()
    products.grad_x([grad, grad], [weight, weight], torch.bfloat16)
    products.grad_weight(grad, x, torch.bfloat16)
    assert asked == [(GRADIENT, True, True), (FORWARD, False, True), (FORWARD, False, True)]


# ---------------------------------------------------------------------- products


def check_product(
    got: Tensor, a: Tensor, a_type: torch.dtype, b: Tensor, b_type: torch.dtype
) -> None:
    """``a @ b.T`` within the casts' errors, those of fp32 sums, and one rounding of the result."""
    a_inverse, b_inverse = (
        scales(x.abs().max().float(), kind)[1] for x, kind in ((a, a_type), (b, b_type))
    )
    a_error, b_error = errors(a, a_type, a_inverse), errors(b, b_type, b_inverse)
    a, b = a.double(), b.double()
    bound = a_error @ b.abs().t() + a.abs() @ b_error.t() + a_error @ b_error.t()
    magnitude = a.abs() @ b.abs().t() + bound
    bound += magnitude * a.size(1) * 2.0**-23
    exact = a @ b.t()
    bound += (exact.abs() + bound) * torch.finfo(got.dtype).eps
    assert ((got.double() - exact).abs() <= bound).all()
    assert (got.double() - exact).norm() <= 0.1 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"), [(1, 16, 48), (37, 64, 32), (160, 32, 16)]
)
def test_products_within_the_formats_errors(
    tokens: int, inputs: int, outputs: int, by_row: bool, dtype: torch.dtype
) -> None:
    products = Float8Products(by_row)
    x, weight = matrix(tokens, inputs, 1, spread=0.3), matrix(outputs, inputs, 2, 0.02, 0.3)
    grad = matrix(tokens, outputs, 3, 1e-7, 0.3)
    bias = matrix(1, outputs, 4)[0]
    x_operand, w_operand, g_operand = (products.operand(one) for one in (x, weight, grad))
    check_product(products.forward(x_operand, w_operand, None, dtype), x, FORWARD, weight, FORWARD)
    shifted = products.forward(x_operand, w_operand, bias, torch.float32)
    plain = products.forward(x_operand, w_operand, None, torch.float32)
    torch.testing.assert_close(shifted, plain + bias.float(), rtol=1e-5, atol=1e-6)
    check_product(
        products.grad_x([g_operand], [w_operand], dtype), grad, GRADIENT, weight.t(), FORWARD
    )
    got = products.grad_weight(g_operand, x_operand, dtype)
    check_product(got, grad.t(), GRADIENT, x.t(), FORWARD)


def test_rows_of_their_own_scale_keep_small_tokens() -> None:
    """A token 10^7 times smaller than another one vanishes with one scale, and not with its own."""
    x, weight = torch.randn(2, 32), torch.randn(16, 32)
    x[1] *= 1e-7
    exact = (x.double() @ weight.double().t())[1]
    for by_row, part in ((False, 1.0), (True, 0.1)):
        products = Float8Products(by_row)
        got = products.forward(products.operand(x), products.operand(weight), None, torch.float32)
        error = float((got[1].double() - exact).norm() / exact.norm())
        assert error == 1.0 if part == 1.0 else error < part


@pytest.mark.parametrize("by_row", [False, True])
def test_sums_over_tokens_are_padded_with_zeros(by_row: bool) -> None:
    products = Float8Products(by_row)
    grad, x = matrix(37, 32, 1), matrix(37, 16, 2)
    short = products.grad_weight(products.operand(grad), products.operand(x), torch.bfloat16)
    longer = [torch.cat([one, one.new_zeros(11, one.size(1))]) for one in (grad, x)]
    long = products.grad_weight(*(products.operand(one) for one in longer), torch.bfloat16)
    assert torch.equal(short, long)


def test_no_tokens() -> None:
    products = Float8Products()
    x, grad = products.operand(torch.ones(0, 32)), products.operand(torch.ones(0, 16))
    weight = products.operand(torch.ones(16, 32))
    assert products.forward(x, weight, None, torch.bfloat16).shape == (0, 16)
    assert products.grad_x([grad], [weight], torch.bfloat16).shape == (0, 32)
    got = products.grad_weight(grad, x, torch.float32)
    assert got.shape == (16, 32)
    assert not got.any()


def test_gradients_flow_through_layers() -> None:
    """Several weights on one input: autograd's gradients are those of the plain layer, nearly."""
    values = [matrix(40, 32, 0), matrix(16, 32, 1), matrix(48, 32, 2), matrix(1, 16, 3)[0]]
    probes = matrix(40, 16, 4), matrix(40, 48, 5)
    results = []
    for products in (None, Float8Products()):
        x, first, second, bias = (value.clone().requires_grad_() for value in values)
        outputs = column_linear(x, [first, second], [bias, None], PLAIN, products)
        sum((out * probe).sum() for out, probe in zip(outputs, probes)).backward()
        results.append([*outputs, x.grad, first.grad, second.grad, bias.grad])
    for plain, cast in zip(*results):
        assert cast.dtype == plain.dtype
        assert (cast.double() - plain.double()).norm() <= 0.1 * plain.double().norm()
    assert not torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][-1], results[1][-1])


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("tokens", [1, 16, 37, 4096])
def test_calls_are_valid_on_cuda(tokens: int, by_row: bool) -> None:
    """Orders, strides, sizes and scales as the CUDA operator checks them; nothing is computed."""
    inputs, outputs = 64, 96

    def fake(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        inverse = torch.empty((rows, 1) if by_row else (), device="cuda")
        return torch.empty(rows, columns, dtype=dtype, device="cuda"), inverse

    length = float8.padded(tokens)
    with FakeTensorMode():
        x, weight = fake(tokens, inputs, FORWARD), fake(outputs, inputs, FORWARD)
        bias = torch.empty(outputs, device="cuda")
        made = float8.product(*x, *weight, torch.bfloat16, bias=bias, fast=True)
        assert made.shape == (tokens, outputs)
        assert made.dtype == torch.bfloat16
        grad, across = fake(tokens, outputs, GRADIENT), fake(inputs, outputs, FORWARD)
        assert float8.product(*grad, *across, torch.bfloat16).shape == (tokens, inputs)
        grad, x = fake(outputs, length, GRADIENT), fake(inputs, length, FORWARD)
        assert float8.product(*grad, *x, torch.bfloat16).shape == (outputs, inputs)
        ragged = fake(outputs, length + 1, GRADIENT), fake(inputs, length + 1, FORWARD)
        with pytest.raises(RuntimeError, match="divisible by 16"):
            float8.product(*ragged[0], *ragged[1], torch.bfloat16)


# ---------------------------------------------------------------------- settings


def test_gpus_without_float8_units_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match=r"Old GPU has 8\.0; use --precision bf16"):
        resolve_precision("fp8", cuda=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert resolve_precision("fp8", cuda=True) == "fp8"
    assert resolve_precision("fp8", cuda=False) == "fp8"


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_deepspeed_sees_bf16(zero: int) -> None:
    batch = resolve_batch(BatchSettings(global_batch_size=8), 1, 8)
    made = [
        make_deepspeed_config(
            {"bf16": {"enabled": True}},
            batch,
            OptimizerSettings(),
            ParallelSettings(zero_stage=zero, precision=precision),
            precision,
        )
        for precision in ("bf16", "fp8")
    ]
    assert made[0] == made[1]
    assert made[1]["bf16"]["enabled"] is True


def test_a_deepspeed_file_of_bf16_may_be_run_in_fp8(tmp_path: Path) -> None:
    """The file's section sets bf16; the flag that names fp8 takes precedence."""
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"bf16": {"enabled": True}}), encoding="utf-8")
    values = deepspeed_layer({"bf16": {"enabled": True}}, path).values
    assert values["parallel"]["precision"] == "bf16"


def test_sizes_that_do_not_fit_are_refused() -> None:
    model = nn.ModuleDict({"up": ColumnParallelLinear(32, 40, PLAIN, what="width")})
    with pytest.raises(UserError, match=r"up is 40 x 32 on each rank, and both must be multiples"):
        float8.use_float8(model)


def test_split_layers_and_no_others_use_float8() -> None:
    split = ColumnParallelLinear(32, 48, PLAIN, what="width")
    float8.use_float8(nn.ModuleList([split, nn.Linear(5, 5)]), by_row=True)
    assert isinstance(split.products, Float8Products)
    assert split.products.by_row


# ---------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("float8") / "shards")


def test_runs_in_float8(shards: Path, tmp_path: Path) -> None:
    """Near bf16 and not the same; with TP 2 and a scale a row likewise."""
    common = ["--dropout", "0", "--steps", "2"]
    bf16 = losses(train(shards, tmp_path / "bf16", *common, "--precision", "bf16"))
    for ranks, more in ((1, []), (2, ["--tensor-parallel", "2", "--fp8-scaling", "row"])):
        folder = tmp_path / f"fp8-{ranks}"
        fp8 = losses(train(shards, folder, *common, "--precision", "fp8", *more, ranks=ranks))
        assert fp8 != bf16
        assert fp8 == pytest.approx(bf16, rel=0.01)
