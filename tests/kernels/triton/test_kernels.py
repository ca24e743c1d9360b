"""The Triton operators against those of :mod:`megabert.kernels.reference`.

Every check is a plain function that runs twice: in Triton's interpreter on CPU tensors, and on CUDA
where there is a device.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.kernels import reference
from megabert.kernels.dropout import Dropout, keep_mask, token_keys
from tests.helpers.triton_processes import Run

triton = pytest.importorskip("triton", reason="Triton is not installed")

from megabert.kernels.triton import fused  # noqa: E402
from megabert.kernels.triton import loss as loss_triton  # noqa: E402

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
EPS = 1e-5
ROUNDING = {FP32: 2e-6, BF16: 2.0**-7, FP16: 2.0**-10}
"""Relative distance of neighbours (fp32: of a few): two results that differ by less may round apart."""


# ---------------------------------------------------------------------- inputs


class Numbers:
    """Random tensors on a device, from one seed; matrices lie ``gap`` elements apart."""

    def __init__(
        self, device: str, dtype: torch.dtype, rows: int, columns: int, gap: int = 0
    ) -> None:
        self.device, self.dtype, self.rows, self.columns = device, dtype, rows, columns
        self.gap = gap
        self.generator = torch.Generator().manual_seed(rows * 1000 + columns)

    def matrix(self, dtype: torch.dtype | None = None) -> Tensor:
        width = self.columns + self.gap
        whole = torch.randn(self.rows, width, generator=self.generator)
        return whole.to(self.device, dtype or self.dtype)[:, : self.columns]

    def vector(self, size: int | None = None, dtype: torch.dtype = FP32) -> Tensor:
        size = self.columns if size is None else size
        return torch.randn(size, generator=self.generator).to(self.device, dtype)

    def dropout(self, probability: float = 0.3, seed: int = 2**62 + 12345) -> Dropout:
        samples = torch.arange(self.rows) // 3 * 977 - 1
        return Dropout(
            probability, seed, token_keys(samples, torch.arange(self.rows)).to(self.device)
        )


def agree(found: object, wanted: object, dtype: torch.dtype, sums: int = 0) -> None:
    """Equal up to one rounding of ``dtype`` (fp32: a few, and more for ``sums`` numbers added)."""
    pairs = zip(found, wanted) if isinstance(wanted, tuple) else [(found, wanted)]  # type: ignore[call-overload]
    for one, other in pairs:
        if other is None:
            assert one is None
            continue
        assert one.dtype == other.dtype
        limit = ROUNDING[one.dtype] * (1.0 + 0.1 * sums)
        torch.testing.assert_close(
            one, other, rtol=limit, atol=max(limit * 0.02, 2e-6), equal_nan=True
        )


# ---------------------------------------------------------------------- against the reference


def everything(
    device: str, dtype: torch.dtype, rows: int, columns: int, gap: int, drop: bool, bias: bool
) -> None:
    """All operators but the loss at one shape."""
    numbers = Numbers(device, dtype, rows, columns, gap)
    x, residual, grad, grad_total = (numbers.matrix() for _ in range(4))
    shift = numbers.vector() if bias else None
    weight, norm_bias = numbers.vector(), numbers.vector()
    dropout = numbers.dropout() if drop else None
    agree(fused.dropped(x, dropout), reference.dropped(x, dropout), dtype)
    forward = (x, shift, residual, weight, norm_bias, EPS, dropout)
    wanted = reference.add_norm_forward(*forward)
    found = fused.add_norm_forward(*forward)
    agree(found.total, wanted.total, dtype)
    if dtype == FP32:  # else another rounding of the sum may lie in between
        agree(found, wanted, dtype, columns)
    for pair in ((grad, grad_total), (grad, None), (None, grad_total)):
        backward = (*pair, wanted.total, wanted.mean, wanted.rstd, weight, dropout, bias)
        agree(
            fused.add_norm_backward(*backward),
            reference.add_norm_backward(*backward),
            dtype,
            columns + rows,
        )
    gelu = (x, numbers.vector(dtype=dtype))
    agree(fused.bias_gelu_forward(*gelu), reference.bias_gelu_forward(*gelu), dtype)
    agree(
        fused.bias_gelu_backward(grad, *gelu),
        reference.bias_gelu_backward(grad, *gelu),
        dtype,
        rows,
    )


def same_masks(device: str, probability: float, seed: int) -> None:
    numbers = Numbers(device, FP32, 40, 70)
    dropout = numbers.dropout(probability, seed)
    found = fused.dropped(torch.ones(40, 70, device=device), dropout)
    mask = keep_mask(dropout.rows, seed, 70, dropout.threshold)
    assert torch.equal(found != 0.0, mask)
    assert bool((found[mask] == torch.tensor(dropout.scale, dtype=FP32, device=device)).all())


def loss(device: str, dtype: torch.dtype, rows: int, columns: int, first: int, real: int) -> None:
    numbers = Numbers(device, dtype, rows, columns, 3)
    logits = numbers.matrix() * 4.0
    logits[:, real:] = 1000.0  # padding that must not be seen
    low, high = first - 5, first + columns + 5
    labels = torch.randint(low, high, (rows,), generator=numbers.generator).to(device)
    labels[::4] = -100
    if real:
        logits[1::3, real - 1] = logits[1::3, :real].amax(dim=1)  # a tie, or the largest itself
    found = fused.cross_entropy_rows(logits, labels, first, real)
    wanted = reference.cross_entropy_rows(logits, labels, first, real)
    assert torch.equal(found[:, 1:], wanted[:, 1:]), "label's logit, largest logit, its column"
    torch.testing.assert_close(found[:, 0], wanted[:, 0], rtol=1e-6, atol=2e-6)
    lse = torch.stack([wanted[:, 0] + 0.1, wanted[:, 0]], dim=1)[:, 0]  # of several ranks; strided
    gradient = reference.cross_entropy_gradient_(logits.clone(), labels, lse, first, real)
    result = fused.cross_entropy_gradient_(logits, labels, lse, first, real)
    assert result is logits
    agree(logits, gradient, dtype)


def odd_logits(device: str) -> None:
    """NaN stays NaN and infinities count; ties go to the lowest column, over blocks as well."""
    width = loss_triton.BLOCK + 10
    logits = torch.zeros(6, width, device=device)
    logits[0, 7], logits[1, width - 1] = torch.nan, torch.nan
    logits[2, 5] = torch.inf
    logits[3] = -torch.inf
    logits[4, [9, 30, width - 1]] = 2.0
    logits[5, :] = -3e38
    labels = torch.zeros(6, dtype=torch.int64, device=device)
    found = fused.cross_entropy_rows(logits, labels, 100, width)
    wanted = reference.cross_entropy_rows(logits, labels, 100, width)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert bool(found[:2, [0, 2]].isnan().all())
    assert found[4, 3] == 109
    gradient = fused.cross_entropy_gradient_(logits, labels, found[:, 0], 0, width)
    assert bool(gradient[:2].isnan().all())


def through_autograd(device: str) -> None:
    """Backward operators against autograd in float64 of the plain formula with the same mask."""
    rows, columns = 70, 50
    numbers = Numbers(device, FP32, rows, columns)
    x, residual, grad, grad_total = (numbers.matrix() for _ in range(4))
    bias, weight, norm_bias = (numbers.vector() for _ in range(3))
    dropout = numbers.dropout()
    mask = keep_mask(dropout.rows, dropout.seed, columns, dropout.threshold) * dropout.scale
    leaves = [part.double().requires_grad_() for part in (x, bias, residual, weight, norm_bias)]
    total = leaves[2] + (leaves[0] + leaves[1]) * mask
    normed = F.layer_norm(total, (columns,), leaves[3], leaves[4], EPS)
    wanted = torch.autograd.grad([normed, total], leaves, [grad.double(), grad_total.double()])
    made = fused.add_norm_forward(x, bias, residual, weight, norm_bias, EPS, dropout)
    torch.testing.assert_close(made.normed.double(), normed, rtol=1e-5, atol=1e-5)
    found = fused.add_norm_backward(
        grad, grad_total, made.total, made.mean, made.rstd, weight, dropout, True
    )
    order = (found.x, found.bias, found.residual, found.weight, found.norm_bias)
    for one, other in zip(order, wanted):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)
    leaves = [part.double().requires_grad_() for part in (3.0 * x, bias)]
    wanted = torch.autograd.grad(F.gelu(leaves[0] + leaves[1]), leaves, grad.double())
    for one, other in zip(fused.bias_gelu_backward(grad, 3.0 * x, bias), wanted):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def gelu_of_all_sizes(device: str) -> None:
    """Absolute error against float64 below 5e-7, and NaN and infinities as the formula has them."""
    x = torch.cat([torch.linspace(-12.0, 12.0, 4001), torch.tensor([-1e30, 1e30, 0.0])])
    x = x.to(device)[None]
    zero = torch.zeros(x.size(1), device=device)
    found = fused.bias_gelu_forward(x, zero).double()
    torch.testing.assert_close(found, F.gelu(x.double()), rtol=1.2e-7, atol=3e-7)
    odd = torch.tensor([[torch.nan, torch.inf]], device=device)
    made = fused.bias_gelu_forward(odd, zero[:2])
    assert bool(made[0, 0].isnan())
    assert made[0, 1] == torch.inf


def repeats(device: str) -> None:
    """The same bits twice, and rows that do not depend on those below them."""
    numbers = Numbers(device, BF16, 75, 130)
    grad, total = numbers.matrix(), numbers.matrix()
    mean, rstd = numbers.vector(75), numbers.vector(75).abs()
    weight, dropout = numbers.vector(), numbers.dropout()
    args = (grad, grad, total, mean, rstd, weight, dropout, True)
    first = fused.add_norm_backward(*args)
    for one, other in zip(first, fused.add_norm_backward(*args)):
        assert torch.equal(one, other)
    few = Dropout(dropout.probability, dropout.seed, dropout.rows[:40])
    part = fused.add_norm_backward(
        grad[:40], grad[:40], total[:40], mean[:40], rstd[:40], weight, few, True
    )
    assert torch.equal(part.x, first.x[:40])


def no_rows(device: str) -> None:
    """Nothing in, nothing out, and sums that are 0."""
    numbers = Numbers(device, BF16, 0, 20)
    x, vector, none = numbers.matrix(), numbers.vector(), numbers.vector(0)
    dropout = numbers.dropout()
    made = fused.add_norm_forward(x, vector, x, vector, vector, EPS, dropout)
    assert [part.shape for part in made] == [(0, 20), (0, 20), (0,), (0,)]
    found = fused.add_norm_backward(x, None, x, none, none, vector, dropout, True)
    gelu = fused.bias_gelu_backward(x, x, vector)
    for part in (found.bias, found.weight, found.norm_bias, gelu[1]):
        assert torch.equal(part, torch.zeros(20, device=device))
    for part in (fused.dropped(x, dropout), found.x, found.residual, gelu[0]):
        assert part.shape == (0, 20)
    assert fused.bias_gelu_forward(x, vector).shape == (0, 20)


def refusals(device: str) -> None:
    double = torch.ones(2, 3, dtype=torch.float64, device=device)
    with pytest.raises(TypeError, match="float64"):
        fused.bias_gelu_forward(double, double[0])
    x = torch.ones(2, 3, device=device)
    with pytest.raises(ValueError, match="vector of 3"):
        fused.bias_gelu_forward(x, x[0, :2])
    with pytest.raises(ValueError, match="one shape"):
        fused.bias_gelu_backward(x[:1], x, x[0])
    with pytest.raises(ValueError, match="vector of 2"):
        fused.dropped(x, Dropout(0.5, 1, torch.arange(3, device=device)))
    with pytest.raises(ValueError, match="matrices"):
        fused.dropped(x[0], Dropout(0.5, 1, torch.arange(3, device=device)))
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="contiguous"):
        fused.cross_entropy_gradient_(x.t(), labels, x.t()[:, 0], 0, 2)
    wide = torch.ones(1, 70000, device=device)
    with pytest.raises(ValueError, match="70000"):
        fused.add_norm_forward(wide, None, wide, wide[0], wide[0], EPS, None)
    expanded = torch.ones((), device=device).expand(2, 3)
    agree(fused.bias_gelu_forward(expanded, x[0]), F.gelu(x + 1.0), FP32)


SHAPES = [
    (FP32, 5, 64, 0, True, True),
    (FP32, 70, 40, 8, True, True),
    (BF16, 37, 130, 6, True, True),
    (FP16, 35, 20, 0, True, False),
    (BF16, 2, 1030, 0, False, True),
    (FP32, 1, 1, 0, True, True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(on_device: Run, shape: tuple) -> None:
    on_device(everything, *shape)


@settings(deadline=None, max_examples=6)
@given(
    dtype=st.sampled_from([FP32, BF16, FP16]),
    rows=st.integers(1, 40),
    columns=st.integers(1, 90),
    gap=st.integers(0, 5),
    drop=st.booleans(),
    bias=st.booleans(),
)
def test_any_shape(
    on_device: Run, dtype: torch.dtype, rows: int, columns: int, gap: int, drop: bool, bias: bool
) -> None:
    on_device(everything, dtype, rows, columns, gap, drop, bias)


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**40 + 1, 2**63 - 1])
@pytest.mark.parametrize("probability", [1e-9, 0.1, 0.75])
def test_same_masks(on_device: Run, seed: int, probability: float) -> None:
    on_device(same_masks, probability, seed)


@pytest.mark.parametrize(
    ("dtype", "rows", "columns", "first", "real"),
    [
        (FP32, 9, 4099, 0, 4099),
        (BF16, 7, 4160, 3000, 4100),
        (FP16, 8, 64, 0, 50),
        (FP32, 5, 16, 48, 0),
        (BF16, 0, 16, 0, 16),
        (FP32, 3, 1, 0, 1),
    ],
)
def test_loss(
    on_device: Run, dtype: torch.dtype, rows: int, columns: int, first: int, real: int
) -> None:
    on_device(loss, dtype, rows, columns, first, real)


@pytest.mark.parametrize(
    "check", [odd_logits, through_autograd, gelu_of_all_sizes, repeats, no_rows, refusals]
)
def test_checks(on_device: Run, check: Callable[[str], None]) -> None:
    on_device(check)
