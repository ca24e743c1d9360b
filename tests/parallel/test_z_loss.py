"""The z-loss inside the cross entropy over a split vocabulary, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megabert.kernels import cpu
from megabert.parallel import cross_entropy
from megabert.parallel.cross_entropy import SplitVocabulary, vocabulary_loss
from megabert.parallel.topology import ProcessGroups, TensorParallel, Topology
from tests.helpers.distributed import run_ranks

TOKENS, WIDTH, WORDS, COLUMNS, Z = 9, 6, 13, 16, 0.01


def _case(dtype: torch.dtype = torch.float64, shift: float = 0.0) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias and labels; columns of padding hold large values."""
    generator = torch.Generator().manual_seed(3)
    shapes = (TOKENS, WIDTH), (COLUMNS, WIDTH), (COLUMNS,)
    leaves = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    leaves = [leaf.to(dtype) for leaf in leaves]
    leaves[2] += shift
    leaves[2][WORDS:] = 1000.0
    return leaves, torch.randint(0, WORDS, (TOKENS,), generator=generator)


def _reference(leaves: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(*leaves)[:, :WORDS]
    added = Z * logits.logsumexp(1).square().sum()
    return F.cross_entropy(logits, labels, reduction="sum") + added, added


def _gradients(dtype: torch.dtype, tp: TensorParallel, shift: float = 0.0) -> list[Tensor]:
    """Loss, z-loss, and this rank's gradients."""
    (x, weight, bias), labels = _case(dtype, shift)
    parts = [t.clone().requires_grad_() for t in (x, tp.cut(weight, 0), tp.cut(bias, 0))]
    sums = vocabulary_loss(*parts, labels, SplitVocabulary(WORDS, tp, Z))
    sums.loss.backward()
    return [sums.loss.detach(), sums.added, *(part.grad for part in parts)]  # type: ignore[list-item]


def _wanted(dtype: torch.dtype, shift: float = 0.0) -> list[Tensor]:
    leaves, labels = _case(dtype, shift)
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    loss, added = _reference(leaves, labels)
    loss.backward()
    return [loss.detach(), added.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("shift", [0.0, -40.0])
def test_equals_the_definition(
    dtype: torch.dtype, tolerance: float, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in chunks, and where log-sum-exp is negative, so that the factor of the softmax is below 1."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * COLUMNS * 4)
    for found, wanted in zip(_gradients(dtype, TensorParallel(), shift), _wanted(dtype, shift)):
        bound = tolerance * float(wanted.abs().max())
        torch.testing.assert_close(found.double(), wanted, atol=bound, rtol=0.0)


def test_the_reference_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    native = _gradients(torch.float32, TensorParallel())
    monkeypatch.setattr(cpu, "available", lambda: False)
    for found, wanted in zip(_gradients(torch.float32, TensorParallel()), native):
        torch.testing.assert_close(found, wanted)


def test_gradient_is_that_of_differences() -> None:
    """In place of gradcheck, which takes the gradients of one loss several times."""
    leaves, labels = _case()
    leaves[2][WORDS:] = 0.0
    over = SplitVocabulary(WORDS, TensorParallel(), Z)
    inputs = [leaf.requires_grad_() for leaf in leaves]
    vocabulary_loss(*inputs, labels, over).loss.backward()
    for leaf in inputs:
        assert leaf.grad is not None
        values, found = leaf.detach().view(-1), leaf.grad.view(-1)
        for place in range(0, len(values), 5):
            kept, losses = float(values[place]), []
            for step in (1e-5, -1e-5):
                values[place] = kept + step
                with torch.no_grad():
                    losses.append(float(vocabulary_loss(*inputs, labels, over).loss))
            values[place] = kept
            slope = (losses[0] - losses[1]) / 2e-5
            assert float(found[place]) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_off_is_the_plain_loss_bit_for_bit() -> None:
    leaves, labels = _case(torch.float32)
    plain = vocabulary_loss(*leaves, labels, SplitVocabulary(WORDS, TensorParallel()))
    with_z = vocabulary_loss(*leaves, labels, SplitVocabulary(WORDS, TensorParallel(), Z))
    assert not plain.added
    assert torch.equal(with_z.loss, plain.loss + with_z.added)


def _split(rank: int, world_size: int) -> list[Tensor]:
    return _gradients(
        torch.float64, ProcessGroups.create(Topology(world_size, rank, world_size)).tensor_parallel
    )


def test_split_vocabulary() -> None:
    """Loss and gradients over two ranks are those of one, and padding has no gradient."""
    first, second = run_ranks(_split, 2)
    loss, added, *grads = _wanted(torch.float64)
    for rank in (first, second):
        torch.testing.assert_close(rank[0], loss)
        torch.testing.assert_close(rank[1], added)
    found = [
        first[2] + second[2],
        torch.cat([first[3], second[3]]),
        torch.cat([first[4], second[4]]),
    ]
    for value, wanted in zip(found, grads):
        torch.testing.assert_close(value, wanted)
    assert not found[2][WORDS:].any()
