"""Product with a split vocabulary and cross-entropy, against torch's own over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.parallel import cross_entropy
from megabert.parallel.cross_entropy import linear_cross_entropy
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.helpers.distributed import run_ranks

TOKENS, WIDTH = 9, 6
Result = tuple[Tensor, Tensor, list[Tensor]]


def case(vocab_size: int, columns: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """x [M, H], weight [columns, H], bias [columns]; labels [M]. Padded columns hold large values."""
    generator = torch.Generator().manual_seed(vocab_size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).double()

    x, weight, bias = draw(TOKENS, WIDTH), draw(columns, WIDTH), draw(columns)
    bias[vocab_size:] = 1000.0
    labels = torch.randint(0, vocab_size, (TOKENS,), generator=generator)
    labels[:3] = F.linear(x, weight, bias)[:3, :vocab_size].argmax(1)
    return [x, weight, bias], labels


def expected(vocab_size: int, columns: int, dtype: torch.dtype) -> Result:
    inputs, labels = case(vocab_size, columns, dtype)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    logits = F.linear(*leaves)[:, :vocab_size]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    (3 * loss).backward()
    return loss.detach(), (logits.argmax(1) == labels).sum(), [x.grad for x in leaves]  # type: ignore[misc]


def compute(vocab_size: int, columns: int, dtype: torch.dtype, tp: TensorParallel) -> Result:
    inputs, labels = case(vocab_size, columns, dtype)
    x, weight, bias = (tensor.to(dtype) for tensor in inputs)
    leaves = [part.clone().requires_grad_() for part in (x, tp.cut(weight, 0), tp.cut(bias, 0))]
    loss, correct = linear_cross_entropy(*leaves, labels, vocab_size, tp)
    with torch.no_grad():
        again = linear_cross_entropy(*leaves, labels, vocab_size, tp)
    assert (loss.detach(), correct) == again
    (3 * loss).backward()
    with pytest.raises(RuntimeError):  # the gradients are scaled in place, once
        (3 * loss).backward()
    return loss.detach(), correct, [leaf.grad for leaf in leaves]  # type: ignore[misc]


def check(results: list[Result], vocab_size: int, columns: int, dtype: torch.dtype) -> None:
    loss, correct, grads = expected(vocab_size, columns, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 3e-2}[dtype]
    for result in results:
        assert result[0].dtype == wide
        torch.testing.assert_close(result[0].double(), loss, atol=0.0, rtol=tolerance)
        assert float(result[1]) == float(correct)
        assert all(grad.dtype == dtype for grad in result[2])
    whole = [
        sum(result[2][0].double() for result in results),  # each rank has its part of the sum
        torch.cat([result[2][1] for result in results]),
        torch.cat([result[2][2] for result in results]),
    ]
    for found, wanted in zip(whole, grads):
        assert isinstance(found, Tensor)
        bound = tolerance * float(wanted.abs().max())
        torch.testing.assert_close(found.double(), wanted, atol=bound, rtol=0.0)
        if len(found) == columns:
            assert not found[vocab_size:].any(), "padding has a gradient"


DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab_size", "columns"), [(13, 13), (13, 16), (1, 8)])
def test_one_rank(vocab_size: int, columns: int, dtype: torch.dtype) -> None:
    result = compute(vocab_size, columns, dtype, TensorParallel())
    check([result], vocab_size, columns, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_chunks_give_the_same(
    dtype: torch.dtype, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 8 if dtype == torch.float64 else 4
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", tokens * 16 * size)
    result = compute(13, 16, dtype, TensorParallel())
    check([result], 13, 16, dtype)


def _split(rank: int, world_size: int, cases: list[tuple[int, int, torch.dtype]]) -> list[Result]:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    return [compute(*one, tp) for one in cases]


@pytest.mark.parametrize("ranks", [2, 4])
def test_split(ranks: int) -> None:
    # the last ranks of (13, 32) and (3, 16) have padding only
    cases = [(v, c, dtype) for v, c in ((16, 16), (13, 32), (3, 16)) for dtype in DTYPES]
    for number, one in enumerate(cases):
        if number == 0:
            results = run_ranks(_split, ranks, cases)
        check([result[number] for result in results], *one)


def test_large_logits() -> None:
    x, labels = torch.eye(3) * 1e4, torch.tensor([0, 1, 1])
    loss, correct = linear_cross_entropy(
        x, torch.eye(3), torch.zeros(3), labels, 3, TensorParallel()
    )
    assert float(loss) == pytest.approx(1e4)
    assert int(correct) == 2


def test_nothing_to_predict() -> None:
    leaves = [torch.zeros(0, 4), torch.ones(8, 4), torch.ones(8)]
    for leaf in leaves:
        leaf.requires_grad_()
    loss, correct = linear_cross_entropy(*leaves, torch.zeros(0).long(), 7, TensorParallel())
    loss.backward()
    assert loss.item() == correct.item() == 0.0
    assert not any(leaf.grad is None or leaf.grad.any() for leaf in leaves)


def test_nan_is_seen() -> None:
    x = torch.zeros(2, 4)
    x[1, 2] = float("nan")
    loss, _ = linear_cross_entropy(
        x, torch.ones(8, 4), torch.zeros(8), torch.tensor([1, 1]), 8, TensorParallel()
    )
    assert torch.isnan(loss)
