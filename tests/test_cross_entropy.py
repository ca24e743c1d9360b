"""Vocabulary-parallel cross-entropy against torch's own over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.parallel.cross_entropy import vocab_parallel_cross_entropy
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.distributed import run_ranks

TOKENS = 9


def case(vocab_size: int, dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """(true logits [M, V], labels [M], gradient of the loss [M])."""
    generator = torch.Generator().manual_seed(vocab_size)
    logits = scale * torch.randn(TOKENS, vocab_size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, vocab_size, (TOKENS,), generator=generator)
    labels[:3] = logits[:3].argmax(1)
    grad = torch.rand(TOKENS, generator=generator, dtype=torch.float64)
    return logits.to(dtype), labels, grad


def expected(vocab_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels, grad = case(vocab_size, dtype)
    exact = logits.double().requires_grad_()
    loss = F.cross_entropy(exact, labels, reduction="none")
    loss.backward(grad)
    assert exact.grad is not None
    return loss.detach(), exact.argmax(1) == labels, exact.grad


def pad(logits: Tensor, columns: int) -> Tensor:
    """Padded columns hold large values: they may not count."""
    return F.pad(logits, (0, columns - logits.size(1)), value=1000.0)


def compute(
    vocab_size: int, columns: int, dtype: torch.dtype, tp: TensorParallel
) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels, grad = case(vocab_size, dtype)
    local = tp.cut(pad(logits, columns), 1).clone().requires_grad_()
    loss, correct = vocab_parallel_cross_entropy(local, labels, vocab_size, tp)
    loss.backward(grad.to(loss.dtype))
    assert local.grad is not None
    return loss.detach(), correct, local.grad


def check(
    results: list[tuple[Tensor, Tensor, Tensor]], vocab_size: int, dtype: torch.dtype
) -> None:
    loss, correct, grad = expected(vocab_size, dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6}[dtype]
    for result in results:
        assert result[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(result[0].double(), loss, atol=tolerance, rtol=tolerance)
        assert torch.equal(result[1], correct)
        assert torch.equal(result[0], results[0][0])
    whole = torch.cat([result[2] for result in results], dim=1)
    assert not whole[:, vocab_size:].any()
    rounding = 4e-3 if dtype == torch.bfloat16 else tolerance
    torch.testing.assert_close(whole[:, :vocab_size].double(), grad, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab_size", "columns"), [(101, 101), (101, 128), (30522, 30592)])
def test_one_rank(vocab_size: int, columns: int, dtype: torch.dtype) -> None:
    check([compute(vocab_size, columns, dtype, TensorParallel())], vocab_size, dtype)


def _split(rank: int, world_size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    tp = ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    results = [compute(vocab, columns, dtype, tp) for vocab, columns, dtype in SPLIT_CASES]
    empty = torch.zeros(0, 8, requires_grad=True)
    loss, correct = vocab_parallel_cross_entropy(empty, torch.zeros(0).long(), 20, tp)
    assert loss.shape == correct.shape == (0,)
    loss.sum().backward()
    return results


SPLIT_CASES = [
    (101, 104, torch.float64),
    (101, 128, torch.float32),  # 4 ranks of 32: the last holds 5 words
    (90, 128, torch.float64),  # 4 ranks of 32: the last holds none
    (30522, 30592, torch.bfloat16),
]


@pytest.mark.parametrize("world_size", [2, 4])
def test_split_vocabulary(world_size: int) -> None:
    ranks = run_ranks(_split, world_size)
    for number, (vocab_size, _, dtype) in enumerate(SPLIT_CASES):
        check([results[number] for results in ranks], vocab_size, dtype)


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss, correct = vocab_parallel_cross_entropy(logits, torch.tensor([2]), 3, TensorParallel())
    loss.sum().backward()
    assert loss.item() == 2e4
    assert not correct.item()
    assert torch.equal(logits.grad, torch.tensor([[1.0, 0.0, -1.0]]))


def test_gradcheck() -> None:
    logits = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 5])
    assert torch.autograd.gradcheck(
        lambda x: vocab_parallel_cross_entropy(x, labels, 6, TensorParallel())[0], (logits,)
    )
