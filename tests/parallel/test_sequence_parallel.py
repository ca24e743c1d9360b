"""Operators of sequence parallelism and split products against plain autograd on one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.training import ParallelSettings
from megabert.parallel import mappings, products
from megabert.parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megabert.parallel.linear import column_linear, row_linear
from megabert.parallel.mappings import (
    gather_from_sequence_parallel_region,
    parameters_in_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megabert.parallel.products import NativeProducts, WidenedProducts, products_for
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.helpers.distributed import run_ranks

TOKENS, WIDTH, INNER = 8, 6, 12


def everyone(rank: int, world_size: int, *, sequence: bool = True) -> TensorParallel:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return replace(tp, sequence_parallel=sequence)


gathered_alike = partial(gather_from_sequence_parallel_region, tensor_parallel_output_grad=False)
OPERATORS = (
    gather_from_sequence_parallel_region,
    gathered_alike,
    reduce_scatter_to_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def check_operators(rank: int, world_size: int) -> None:
    tp = everyone(rank, world_size)
    ranks = range(world_size)
    part = TOKENS // world_size
    # what every rank can compute: all ranks' inputs and the weights of all ranks' losses
    partials = [leaf(random(TOKENS, 3, seed=r)) for r in ranks]
    own = [leaf(random(part, 3, seed=10 + r)) for r in ranks]
    whole_weight = [random(TOKENS, 3, seed=20 + r) for r in ranks]
    own_weight = [random(part, 3, seed=30 + r) for r in ranks]
    mine = slice(rank * part, (rank + 1) * part)

    def check(out: Tensor, weight: Tensor, x: Tensor, expected: Tensor, total: Tensor) -> None:
        """``total``: sum of all ranks' losses; ``x`` here stands for the expected gradient's leaf."""
        torch.testing.assert_close(out, expected)
        (gradient,) = torch.autograd.grad((out * weight).sum(), here)
        (wanted,) = torch.autograd.grad(total, x)
        torch.testing.assert_close(gradient, wanted)

    here = leaf(own[rank].detach())
    whole = torch.cat(own)
    total = sum((whole * weight).sum() for weight in whole_weight)
    check(
        gather_from_sequence_parallel_region(here, tp), whole_weight[rank], own[rank], whole, total
    )

    whole = torch.cat(own)  # computed alike on all ranks: one loss
    total = (whole * whole_weight[0]).sum()
    check(gathered_alike(here, tp), whole_weight[0], own[rank], whole, total)

    here = leaf(partials[rank].detach())
    summed = torch.stack(partials).sum(0)
    total = (summed * torch.cat(own_weight)).sum()
    check(
        reduce_scatter_to_sequence_parallel_region(here * 1.0, tp),
        own_weight[rank],
        partials[rank],
        summed[mine],
        total,
    )

    here = leaf(partials[0].detach())
    total = (partials[0] * torch.cat(own_weight)).sum()
    check(
        scatter_to_sequence_parallel_region(here, tp),
        own_weight[rank],
        partials[0],
        partials[0][mine],
        total,
    )

    numbers = torch.arange(TOKENS)
    assert torch.equal(scatter_to_sequence_parallel_region(numbers, tp), numbers[mine])
    with pytest.raises(ValueError, match="7 tokens cannot be divided evenly"):
        scatter_to_sequence_parallel_region(numbers[:7], tp)
    with pytest.raises(ValueError, match="7 tokens cannot be divided evenly"):
        reduce_scatter_to_sequence_parallel_region(here[:7] * 1.0, tp)
    for operator in OPERATORS:
        nothing = torch.zeros(0, 3, requires_grad=True)
        operator(nothing * 1.0, tp).sum().backward()
        assert nothing.grad.shape == (0, 3)


def check_shared(rank: int, world_size: int) -> None:
    tp = everyone(rank, world_size)
    parameters = [leaf(random(3, seed=1)), leaf(random(2, 2, seed=2))]
    calls: list[int] = []
    original = dist.all_reduce

    def counted(tensor: Tensor, **kwargs: Any) -> Any:
        calls.append(tensor.numel())
        return original(tensor, **kwargs)

    dist.all_reduce = counted  # type: ignore[assignment]
    weight, bias = parameters_in_sequence_parallel_region(parameters, tp)
    ((rank + 1.0) * weight.square().sum() + rank * bias.sum()).backward()
    dist.all_reduce = original
    assert calls == [7]  # one collective for both
    factor = world_size * (world_size + 1) / 2
    torch.testing.assert_close(parameters[0].grad, 2 * factor * parameters[0].detach())
    torch.testing.assert_close(parameters[1].grad, torch.full_like(bias, factor - world_size))
    assert parameters_in_sequence_parallel_region([], tp) == ()


def test_operators_without_sequence_parallelism_do_nothing() -> None:
    x = torch.ones(3, requires_grad=True)
    for operator in OPERATORS:
        assert operator(x, TensorParallel()) is x
    assert parameters_in_sequence_parallel_region([x], TensorParallel())[0] is x
    with pytest.raises(ValueError, match="tensor parallel degree above 1"):
        TensorParallel(sequence_parallel=True)


def block(x: Tensor, row_bias: Tensor, product: Any, row: Any) -> Tensor:
    """Three products of one input, joined by a function that is linear in none, and a row product."""
    query, key, value = product(x)
    return row(query.tanh() * key.sigmoid() + value) + row_bias


def make_weights() -> dict[str, Tensor]:
    names = {"query": (INNER, WIDTH), "key": (INNER, WIDTH), "value": (INNER, WIDTH)}
    weights = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(names.items())}
    weights |= {f"{name}_bias": random(INNER, seed=5 + i) for i, name in enumerate(names)}
    return weights | {"row": random(WIDTH, INNER, seed=8), "row_bias": random(WIDTH, seed=9)}


SPLIT = {
    "query": 0,
    "key": 0,
    "value": 0,
    "query_bias": 0,
    "key_bias": 0,
    "value_bias": 0,
    "row": 1,
}


def plain_block(x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, input gradient and parameter gradients of the block on one process."""
    x, weights = leaf(x), {name: leaf(weight) for name, weight in make_weights().items()}
    out = block(
        x,
        weights["row_bias"],
        lambda x: [
            F.linear(x, weights[n], weights[f"{n}_bias"]) for n in ("query", "key", "value")
        ],
        lambda z: F.linear(z, weights["row"]),
    )
    (out * out.detach().cos()).sum().backward()
    return out.detach(), x.grad, {name: weight.grad for name, weight in weights.items()}


def check_block(rank: int, world_size: int, sequence: bool, shape: tuple[int, ...]) -> None:
    tp = everyone(rank, world_size, sequence=sequence)
    whole = random(*shape, WIDTH, seed=3)
    expected, grad_x, gradients = plain_block(whole)
    own = scatter_to_sequence_parallel_region(whole, tp)
    x = leaf(own)
    weights = {
        name: leaf(tp.cut(weight, SPLIT.get(name))) for name, weight in make_weights().items()
    }
    names = ("query", "key", "value")
    out = block(
        x,
        parameters_in_sequence_parallel_region([weights["row_bias"]], tp)[0],
        lambda x: column_linear(
            x, [weights[n] for n in names], [weights[f"{n}_bias"] for n in names], tp
        ),
        lambda z: row_linear(z, weights["row"], tp),
    )
    torch.testing.assert_close(out, scatter_to_sequence_parallel_region(expected, tp))
    (out * out.detach().cos()).sum().backward()
    torch.testing.assert_close(x.grad, scatter_to_sequence_parallel_region(grad_x, tp))
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, tp.cut(gradients[name], SPLIT.get(name)), msg=name)


def check_layers(rank: int, world_size: int) -> None:
    tp = everyone(rank, world_size)
    weights = make_weights()
    column = ColumnParallelLinear(WIDTH, INNER, tp, what="inner").double()
    row = RowParallelLinear(INNER, WIDTH, tp, what="inner").double()
    words = VocabParallelEmbedding(12, WIDTH, tp, what="words").double()
    table = random(12, WIDTH, seed=4)
    with torch.no_grad():
        column.weight.copy_(tp.cut(weights["query"], 0))
        row.weight.copy_(tp.cut(weights["row"], 1))
        row.bias.copy_(weights["row_bias"])
        words.weight.copy_(tp.cut(table, 0))
    ids = torch.arange(TOKENS) % 12
    embedded = words(ids)
    assert torch.equal(embedded, scatter_to_sequence_parallel_region(table[ids], tp))
    row(column.product(embedded).tanh()).square().sum().backward()
    plain = {name: leaf(weights[name]) for name in ("query", "row", "row_bias")}
    table = leaf(table)
    inner = F.linear(F.embedding(ids, table), plain["query"]).tanh()
    F.linear(inner, plain["row"], plain["row_bias"]).square().sum().backward()
    torch.testing.assert_close(column.weight.grad, tp.cut(plain["query"].grad, 0))
    torch.testing.assert_close(row.weight.grad, tp.cut(plain["row"].grad, 1))
    torch.testing.assert_close(row.bias.grad, plain["row_bias"].grad)
    torch.testing.assert_close(words.weight.grad, tp.cut(table.grad, 0))


def _on_ranks(rank: int, world_size: int) -> None:
    check_operators(rank, world_size)
    check_shared(rank, world_size)
    check_layers(rank, world_size)
    for sequence, shape in ((False, (TOKENS,)), (False, (2, 3)), (True, (TOKENS,)), (True, (0,))):
        check_block(rank, world_size, sequence, shape)


@pytest.mark.parametrize("world_size", [2, 4])
def test_split_equals_whole(world_size: int) -> None:
    run_ranks(_on_ranks, world_size)


class _Noted(NativeProducts):
    """Native products that write down what they do and when."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def grad_x(self, grads: Sequence[Tensor], *rest: Any) -> Tensor:
        self.notes.append(f"grad_x of {len(grads)}")
        return super().grad_x(grads, *rest)

    def grad_weight(self, *operands: Any) -> Tensor:
        self.notes.append("grad_weight")
        return super().grad_weight(*operands)


class _NotedWork:
    def __init__(self, work: Any, name: str, notes: list[str]) -> None:
        self.work, self.name, self.notes = work, name, notes

    def wait(self) -> None:
        self.notes.append(f"wait {self.name}")
        self.work.wait()


def _order(rank: int, world_size: int, sequence: bool) -> list[str]:
    """What backward of three products does, with every collective written down, async or not."""
    tp = everyone(rank, world_size, sequence=sequence)
    notes: list[str] = []

    def noted(name: str, collective: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert kwargs["async_op"]
            notes.append(f"start {name}")
            return _NotedWork(collective(*args, **kwargs), name, notes)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mappings, "_all_gather", noted("all_gather", mappings._all_gather))
        patch.setattr(
            mappings, "_reduce_scatter", noted("reduce_scatter", mappings._reduce_scatter)
        )
        patch.setattr(dist, "all_reduce", noted("all_reduce", dist.all_reduce))
        weights = [leaf(random(INNER, WIDTH, seed=i)) for i in range(3)]
        x = leaf(random(4, WIDTH, seed=9))
        first, _, third = column_linear(x, weights, [None] * 3, tp, _Noted(notes))
        notes.clear()
        (first.sum() + third.sum()).backward()  # nothing reads the second
    assert weights[1].grad is None
    return notes


def _orders(rank: int, world_size: int) -> tuple[list[str], list[str]]:
    return _order(rank, world_size, False), _order(rank, world_size, True)


def test_collectives_overlap_with_products() -> None:
    for tensor_only, sequence in run_ranks(_orders, 2):
        assert tensor_only == [
            "grad_x of 2", "start all_reduce", "grad_weight", "grad_weight", "wait all_reduce",
        ]  # fmt: skip
        assert sequence == [
            "start all_gather", "grad_x of 2", "start reduce_scatter", "wait all_gather",
            "grad_weight", "grad_weight", "wait reduce_scatter",
        ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=3),
    st.booleans(),
)
def test_one_rank_is_plain_linear(
    shape: list[int], outputs: list[tuple[int, bool]], frozen: bool
) -> None:
    x = random(*shape, WIDTH, seed=0).requires_grad_(not frozen)
    weights = [leaf(random(n, WIDTH, seed=i)) for i, (n, _) in enumerate(outputs)]
    biases = [leaf(random(n, seed=10 + i)) if bias else None for i, (n, bias) in enumerate(outputs)]
    leaves = [t for t in (x, *weights, *biases) if t is not None and t.requires_grad]
    results = column_linear(x, weights, biases, TensorParallel())
    plain = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases)]
    torch.testing.assert_close(list(results), plain)
    got = torch.autograd.grad(sum(y.square().sum() for y in results), leaves)
    wanted = torch.autograd.grad(sum(y.square().sum() for y in plain), leaves)
    torch.testing.assert_close(got, wanted)


def test_widened_bf16_is_rounded_once() -> None:
    x, grads = random(40, 64, seed=0), [random(40, 32, seed=1 + i) for i in range(3)]
    weights = [random(32, 64, seed=5 + i) for i in range(3)]
    bf16 = torch.bfloat16
    x, grads, weights = x.to(bf16), [g.to(bf16) for g in grads], [w.to(bf16) for w in weights]
    wide = WidenedProducts()
    wide_x, wide_grads, wide_weights = (
        wide.operand(x), [wide.operand(g) for g in grads], [wide.operand(w) for w in weights],
    )  # fmt: skip
    exact = sum(g.double() @ w.double() for g, w in zip(grads, weights))
    total = wide.grad_x(wide_grads, wide_weights, bf16)
    assert total.dtype == bf16
    half_ulp = exact.abs() * 2.0**-8 + 1e-4
    assert ((total.double() - exact).abs() <= half_ulp).all()
    out = wide.forward(wide_x, wide_weights[0], torch.ones(32, dtype=bf16), bf16)
    torch.testing.assert_close(
        out.double(), x.double() @ weights[0].double().t() + 1, rtol=2.0**-8, atol=1e-4
    )
    gradient = wide.grad_weight(wide_grads[0], wide_x, bf16)
    torch.testing.assert_close(
        gradient.double(), grads[0].double().t() @ x.double(), rtol=2.0**-8, atol=1e-4
    )


@pytest.mark.parametrize("instructions", [True, False])
def test_choice_of_products(instructions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "cpu_has_bf16_instructions", lambda: instructions)
    widened = isinstance(products_for(torch.zeros(1, dtype=torch.bfloat16)), WidenedProducts)
    assert widened == (not instructions)
    for dtype in (torch.float32, torch.float64):
        assert not isinstance(products_for(torch.zeros(1, dtype=dtype)), WidenedProducts)
    on_device = torch.zeros(1, dtype=torch.bfloat16, device="meta")
    assert not isinstance(products_for(on_device), WidenedProducts)


def test_setting() -> None:
    assert ParallelSettings(tensor_parallel=2, sequence_parallel=True).sequence_parallel
    assert not ParallelSettings(tensor_parallel=2).sequence_parallel
    with pytest.raises(UserError, match="--tensor-parallel is 1: set it to 2 or more"):
        ParallelSettings(sequence_parallel=True)
