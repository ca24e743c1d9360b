"""Attention's Triton kernels against :mod:`megabert.kernels.reference`, and their code for GPUs.

Every check is a plain function that runs in Triton's interpreter on CPU tensors, and on CUDA where there
is a device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.kernels import reference
from megabert.kernels.attention import dispatch
from megabert.kernels.dropout import Dropout, head_seed, keep_mask, token_keys
from tests.helpers.triton_processes import Run

triton = pytest.importorskip("triton", reason="Triton is not installed")

from megabert.kernels.triton import attention, fused  # noqa: E402

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
ROUNDING = {FP32: 2e-6, BF16: 0.012, FP16: 0.002}
"""Largest error, relative to the largest number of the result. In 16 bits probabilities are rounded."""
FIRST_HEAD = 3


class Case(NamedTuple):
    """Sequences of these lengths, ``reach`` (0: absolute positions), room in ``max_length``."""

    lengths: tuple[int, ...]
    heads: int = 2
    size: int = 16
    dtype: torch.dtype = FP32
    drop: float = 0.3
    reach: int = 0
    room: int = 0
    blocks_of: int = 2
    """fp32 too is computed in the blocks for numbers of so many bytes (16 bits: those of training)."""

    @property
    def bounds(self) -> list[int]:
        return [0, *itertools.accumulate(self.lengths)]


class Inputs:
    """Random tensors of a case: views of one tensor [T, 3, N, D], whose parts lie apart."""

    def __init__(self, case: Case, device: str) -> None:
        generator = torch.Generator().manual_seed(sum(case.lengths))
        tokens = case.bounds[-1]
        shape = tokens, 3, case.heads, case.size
        whole = torch.randn(*shape, generator=generator).to(device, case.dtype)
        self.query, self.key, self.value = whole.unbind(1)
        grad = torch.randn(tokens, case.heads, case.size, generator=generator)
        self.grad = grad.to(device, case.dtype)
        self.cu_seqlens = torch.tensor(case.bounds, dtype=torch.int32, device=device)
        pairs = [pair for pair in itertools.pairwise(case.bounds) if pair[0] < pair[1]]
        self.spans = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
        self.scale = case.size**-0.5
        self.dropout = self.table = None
        if case.drop:
            places = torch.cat([torch.arange(length) for length in (0, *case.lengths)])
            samples = torch.repeat_interleave(
                torch.arange(len(case.lengths)) * 977,
                torch.tensor(case.lengths, dtype=torch.int64),
            )
            self.dropout = Dropout(case.drop, 2**62 + 7, token_keys(samples, places).to(device))
        if case.reach:
            table = torch.randn(2 * case.reach + 1, case.size, generator=generator)
            self.table = table.to(case.dtype).float().to(device)
        self.longest = max(case.lengths, default=0) + case.room
        self.blocks_of = case.blocks_of

    def found(self, context: Tensor, lse: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Context and lse, and gradients from the given ones, by the kernels."""
        parts = self.query, self.key, self.value
        place = self.cu_seqlens, self.longest, FIRST_HEAD, self.scale, self.dropout, self.table
        with pytest.MonkeyPatch.context() as patch:
            if self.query.dtype == FP32 and self.blocks_of == 2:
                for name in ("forward_blocks", "backward_blocks"):
                    blocks = getattr(attention, name)
                    patch.setattr(
                        attention, name, lambda row, _, rel, of=blocks: of(row // 2, 2, rel)
                    )
            forward = attention.attention_forward(*parts, *place)
            grads = attention.attention_backward(self.grad, *parts, context, lse, *place)
        return [*forward], grads

    def wanted(self, dtype: torch.dtype) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The same by the reference, computed in ``dtype``."""
        parts = [part.to(dtype) for part in (self.query, self.key, self.value)]
        table = None if self.table is None else self.table.to(dtype)
        place = self.spans, FIRST_HEAD, self.scale, self.dropout, table
        context, lse = reference.attention_forward(*parts, *place)
        grad, rounded = self.grad.to(dtype), context.to(self.query.dtype).to(dtype)
        return [context, lse], reference.attention_backward(grad, *parts, rounded, lse, *place)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest error over the largest number, or over that of the terms that cancel, a few units."""
    if not wanted.numel():
        return 0.0
    errors = (found.double() - wanted.double()).abs().max()
    least = 1.0 if found.dtype == FP32 else 4.0
    return float(errors / wanted.double().abs().max().clamp(min=least))


def equals_the_reference(device: str, case: Case) -> None:
    inputs = Inputs(case, device)
    forward, grads = inputs.wanted(torch.float64)
    context, lse = forward[0].to(case.dtype), forward[1].float()
    made, slopes = inputs.found(context, lse)
    assert made[1].dtype == FP32
    for name, one, other in zip(
        ("context", "lse", "query", "key", "value"), (*made, *slopes), (*forward, *grads)
    ):
        assert one.shape == other.shape
        assert name == "lse" or one.dtype == case.dtype
        assert distance(one, other) <= ROUNDING[case.dtype], (name, distance(one, other))


def same_masks(device: str, length: int, probability: float, seed: int) -> None:
    """Zero queries and one-hot values show each probability: uniform, or dropped. Bits as on a CPU."""
    heads = 2
    flat = torch.zeros(length, heads, length, device=device)
    value = torch.eye(length, device=device)[:, None].expand(-1, heads, -1)
    keys = token_keys(torch.tensor(10**9), torch.arange(length)) - 5
    dropout = Dropout(probability, seed, keys.to(device))
    bounds = torch.tensor([0, length], dtype=torch.int32, device=device)
    place = bounds, length, FIRST_HEAD, 1.0, dropout
    context, lse = attention.attention_forward(flat, flat, value, *place)
    backward = attention.attention_backward(value, flat, flat, value, context, lse, *place)
    for head in range(heads):
        mask = keep_mask(keys, head_seed(seed, FIRST_HEAD + head), length, dropout.threshold)
        assert torch.equal(context[:, head].cpu() != 0.0, mask)
        assert torch.equal(backward[2][:, head].cpu() != 0.0, mask.t())  # P^T times one-hot rows


def repeats(device: str) -> None:
    """The same bits twice; and alone, with more room, or among others."""
    case = Case((33, 70), dtype=BF16, reach=5)
    inputs = Inputs(case, device)
    wanted = inputs.wanted(FP32)[0]
    context = wanted[0].to(BF16)
    first, again = (inputs.found(context, wanted[1]) for _ in range(2))
    for one, other in zip([*first[0], *first[1]], [*again[0], *again[1]]):
        assert torch.equal(one, other)
    alone = Inputs(case, device)
    assert alone.dropout is not None
    for name in ("query", "key", "value", "grad"):
        setattr(alone, name, getattr(alone, name)[33:])
    alone.dropout = alone.dropout._replace(rows=alone.dropout.rows[33:])
    alone.cu_seqlens = torch.tensor([0, 70], dtype=torch.int32, device=device)
    alone.longest = 140
    made, slopes = alone.found(context[33:], wanted[1][:, 33:])
    assert torch.equal(made[0], first[0][0][33:])
    for one, other in zip(slopes, first[1]):
        assert torch.equal(one, other[33:])


def other_layouts(device: str) -> None:
    """Gradients that are expanded, heads that lie first."""
    inputs = Inputs(Case((20,)), device)
    inputs.grad = torch.ones((), device=device).expand(inputs.grad.shape)
    for name in ("query", "key", "value"):
        part = getattr(inputs, name)
        setattr(inputs, name, part.transpose(0, 1).contiguous().transpose(0, 1))
    inputs.key = inputs.key.transpose(1, 2).contiguous().transpose(1, 2)  # D apart
    forward, grads = inputs.wanted(FP32)
    made, slopes = inputs.found(*forward)
    for one, other in zip((*made, *slopes), (*forward, *grads)):
        assert distance(one, other) <= ROUNDING[FP32]


def through_autograd(device: str) -> None:
    """From ``attention``, which takes Triton's kernel for packed sequences, to the gradients."""
    inputs = Inputs(Case((9, 20), drop=0.2, reach=4), device)
    leaves = [part.clone().requires_grad_() for part in (inputs.query, inputs.key, inputs.value)]
    sequences = dispatch.Sequences(2, 20, cu_seqlens=inputs.cu_seqlens)
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            patch.setattr(dispatch, "_chosen", lambda *kind: True)
            patch.setattr(dispatch, "implementation", lambda tensor: fused)
        place = sequences, FIRST_HEAD, inputs.scale, inputs.dropout, inputs.table
        context = dispatch.attention(*leaves, *place)
        found = torch.autograd.grad(context, leaves, inputs.grad)
    forward, grads = inputs.wanted(FP32)
    for one, other in zip((context, *found), (forward[0], *grads)):
        assert distance(one, other) <= ROUNDING[FP32]


def padded_rows(device: str) -> None:
    """A mask of the keys, with holes and a row of nothing: as the real tokens alone."""
    case = Case((40, 40, 40), drop=0.0)
    inputs = Inputs(case, device)
    real = torch.zeros(3, 40, dtype=torch.bool)
    real[0, :33] = real[1, 1::3] = True
    place = inputs.cu_seqlens, 40, FIRST_HEAD, inputs.scale, None, None, real.flatten().to(device)
    parts = inputs.query, inputs.key, inputs.value
    context, lse = attention.attention_forward(*parts, *place)
    grad = inputs.grad * real.flatten()[:, None, None].to(device)
    grads = attention.attention_backward(grad, *parts, context, lse, *place)
    rows = real.flatten().nonzero().flatten().to(device)
    spans = torch.tensor([[0, 33], [33, 46]])
    alone = [part[rows] for part in parts]
    rest = spans, FIRST_HEAD, inputs.scale, None
    wanted = reference.attention_forward(*alone, *rest)
    slopes = reference.attention_backward(grad[rows], *alone, *wanted, *rest)
    for one, other in zip((context, *grads), (wanted[0], *slopes)):
        assert distance(one[rows], other) <= ROUNDING[FP32]
    assert bool((context[80:] == 0.0).all())
    assert bool((torch.stack(grads)[:, 80:] == 0.0).all())


def refusals(device: str) -> None:
    inputs = Inputs(Case((3,)), device)
    bounds = inputs.cu_seqlens
    double = inputs.query.double()
    with pytest.raises(TypeError, match="float64"):
        attention.attention_forward(double, double, double, bounds, 3, 0, 1.0, None)
    with pytest.raises(ValueError, match="too long"):
        attention.attention_forward(
            inputs.query, inputs.key, inputs.value, bounds, 2**27, 0, 1.0, None
        )
    with pytest.raises(ValueError, match="one shape"):
        attention.attention_forward(
            inputs.query, inputs.key[:2], inputs.value, bounds, 3, 0, 1.0, None
        )


CASES = [
    Case((1, 15, 0, 16, 17, 63, 64, 65, 127, 128, 129), heads=1),
    Case((1, 0, 33, 65), heads=1, reach=7, room=40),
    Case((511, 512), heads=1, drop=0.1),
    Case((161,), heads=1, reach=64),
    Case((40, 9), size=1),
    Case((40, 9), size=20, drop=0.0, reach=3),
    Case((17, 30), size=33, reach=1, blocks_of=4),
    Case((17, 40), size=5, blocks_of=4),
    Case((70, 9), size=64, dtype=BF16, reach=64),
    Case((70, 33), size=80, dtype=FP16),
    Case((35,), heads=1, size=256, dtype=BF16, reach=2),
    Case((0, 0), reach=2),
    Case(()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(on_device: Run, case: Case) -> None:
    on_device(equals_the_reference, case)


@settings(deadline=None, max_examples=8)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    size=st.integers(1, 40),
    dtype=st.sampled_from([FP32, BF16, FP16]),
    drop=st.sampled_from([0.0, 0.1, 0.75]),
    reach=st.sampled_from([0, 1, 5, 64]),
    room=st.integers(0, 70),
)
def test_random_packings(
    on_device: Run,
    lengths: list[int],
    size: int,
    dtype: torch.dtype,
    drop: float,
    reach: int,
    room: int,
) -> None:
    on_device(equals_the_reference, Case(tuple(lengths), 1, size, dtype, drop, reach, room))


@pytest.mark.slow
@pytest.mark.parametrize("reach", [0, 64])
@pytest.mark.parametrize("first", range(1, 513, 16))
def test_every_length(on_device: Run, first: int, reach: int) -> None:
    case = Case(tuple(range(first, first + 16)), heads=1, drop=0.1, reach=reach)
    on_device(equals_the_reference, case)


@pytest.mark.parametrize(("probability", "seed"), [(0.1, 0), (0.75, 2**63 - 1), (1e-9, 2**40 + 1)])
def test_same_masks(on_device: Run, probability: float, seed: int) -> None:
    on_device(same_masks, 90, probability, seed)


@pytest.mark.parametrize("check", [repeats, other_layouts, through_autograd, padded_rows, refusals])
def test_checks(on_device: Run, check: Callable[[str], None]) -> None:
    on_device(check)
