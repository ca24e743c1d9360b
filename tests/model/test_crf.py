"""The conditional random field against the enumeration of all sequences of tags, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.model.crf import Allowed, Constraints, Crf
from megabert.tasks.tagging.entity_spans import allowed_steps, labels_of


def random_field(
    labels: int, seed: int, constraints: Constraints = "none", allowed: Allowed | None = None
) -> Crf:
    """A field with drawn float64 parameters."""
    torch.manual_seed(seed)
    crf = Crf(labels, allowed, constraints).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    return crf


def enumerate_tags(
    crf: Crf, emissions: np.ndarray, begins: bool, ends: bool, forbid: bool
) -> dict[tuple[int, ...], float]:
    """Every sequence of tags [U] of one text that is not forbidden, with its score."""
    values = {name: p.detach().numpy() for name, p in crf.named_parameters()}
    banned = {name: buffer.numpy() for name, buffer in crf.named_buffers()}
    count, labels = emissions.shape
    found = {}
    for tags in itertools.product(range(labels), repeat=count):
        steps = list(itertools.pairwise(tags))
        wrong = any(banned["forbidden_transitions"][step] for step in steps)
        wrong |= begins and bool(banned["forbidden_start"][tags[0]])
        wrong |= ends and bool(banned["forbidden_end"][tags[-1]])
        if forbid and wrong:
            continue
        score = sum(emissions[place, tag] for place, tag in enumerate(tags))
        score += sum(values["transitions"][step] for step in steps)
        score += values["start"][tags[0]] if begins else 0.0
        score += values["end"][tags[-1]] if ends else 0.0
        found[tags] = float(score)
    return found


def log_sum(scores: list[float]) -> float:
    """Logarithm of the sum of the exponentials."""
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    labels=st.integers(1, 4),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    data=st.data(),
)
def test_likelihood_best_tags_and_marginals_equal_enumeration(
    seed: int, labels: int, counts: list[int], data: st.DataObject
) -> None:
    crf = random_field(labels, seed)
    width = max(1, *counts) + data.draw(st.integers(0, 2))
    emissions = torch.randn(len(counts), width, labels, dtype=torch.float64)
    tags = torch.randint(labels, (len(counts), width))
    begins, ends = torch.rand(2, len(counts)) > 0.3
    sizes = torch.tensor(counts)
    padded = tags.masked_fill(torch.arange(width) >= sizes[:, None], -100)
    likelihood = crf(emissions, sizes, begins, ends, padded)
    best, probability = crf(emissions, sizes, begins, ends)
    for row, count in enumerate(counts):
        if count == 0:
            assert likelihood[row] == 0.0
            assert not best[row].any()
            assert not probability[row].any()
            continue
        part = emissions[row, :count].numpy()
        scores = enumerate_tags(crf, part, bool(begins[row]), bool(ends[row]), False)
        total = log_sum(list(scores.values()))
        gold = tuple(tags[row, :count].tolist())
        assert likelihood[row].item() == pytest.approx(scores[gold] - total, abs=1e-10)
        chosen = tuple(best[row, :count].tolist())
        assert scores[chosen] == pytest.approx(max(scores.values()), abs=1e-10)
        for place, tag in enumerate(chosen):
            those = [score for path, score in scores.items() if path[place] == tag]
            expected = math.exp(log_sum(those) - total)
            assert probability[row, place].item() == pytest.approx(expected, abs=1e-10)
        assert not best[row, count:].any()
        assert not probability[row, count:].any()


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
@pytest.mark.parametrize("constraints", ["none", "decode", "always"])
@pytest.mark.parametrize("cut", [False, True])
def test_constraints_rule_out_what_the_scheme_does(
    scheme: str, constraints: Constraints, cut: bool
) -> None:
    labels = labels_of(["A"], scheme)
    allowed = Allowed(*map(torch.from_numpy, allowed_steps(labels, scheme)))
    crf = random_field(len(labels), 3, constraints, allowed)
    with torch.no_grad():
        crf.transitions += 2.0 * ~allowed.transitions  # what is forbidden is tempting
    emissions = 3 * torch.randn(12, 4, len(labels), dtype=torch.float64)
    sizes, whole = torch.full((12,), 4), torch.full((12,), not cut)
    tags = torch.zeros(12, 4, dtype=torch.int64)
    likelihood = crf(emissions, sizes, whole, whole, tags)
    best, _ = crf(emissions, sizes, whole, whole)
    differs = False
    for row in range(12):
        part = emissions[row].numpy()
        everything = enumerate_tags(crf, part, not cut, not cut, False)
        lawful = enumerate_tags(crf, part, not cut, not cut, True)
        assert len(lawful) < len(everything)
        trained = lawful if constraints == "always" else everything
        expected = trained[(0, 0, 0, 0)] - log_sum(list(trained.values()))
        assert likelihood[row].item() == pytest.approx(expected, abs=1e-9)
        decoded = everything if constraints == "none" else lawful
        assert tuple(best[row].tolist()) == max(decoded, key=decoded.__getitem__)
        differs |= max(lawful.values()) < max(everything.values())
    assert differs, "the constraints were never needed: the test says nothing"


def test_gradients() -> None:
    crf = random_field(3, 5)
    sizes = torch.tensor([4, 2, 1])
    begins, ends = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    tags = torch.randint(3, (3, 4))
    emissions = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    values = (emissions, *(p.detach().clone().requires_grad_() for p in crf.parameters()))

    def likelihood(emissions: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip((name for name, _ in crf.named_parameters()), parameters))
        arguments = (emissions, sizes, begins, ends, tags)
        return torch.func.functional_call(crf, named, arguments)

    assert torch.autograd.gradcheck(likelihood, values)


def test_the_emissions_gradient_is_the_tag_less_its_probability() -> None:
    crf = random_field(4, 6)
    emissions = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([5, 3])
    tags, probability = crf(emissions, sizes)
    (gradient,) = torch.autograd.grad(crf(emissions, sizes, labels=tags).sum(), emissions)
    at_tags = gradient.gather(2, tags[..., None]).squeeze(2)
    real = torch.arange(5) < sizes[:, None]
    torch.testing.assert_close(at_tags[real], (1 - probability.detach())[real])
    assert not gradient[1, 3:].any()


def test_half_precision_scores_are_summed_in_float32() -> None:
    crf = Crf(5)
    torch.nn.init.normal_(crf.transitions)
    emissions = torch.randn(2, 40, 5)
    sizes, tags = torch.tensor([40, 17]), torch.randint(5, (2, 40))
    exact = crf.double()(emissions.bfloat16().double(), sizes, labels=tags)
    half = crf.float()(emissions.bfloat16(), sizes, labels=tags)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_sequence_with_no_lawful_tags_still_has_finite_ones() -> None:
    never = torch.zeros(2, dtype=torch.bool)
    crf = Crf(2, Allowed(never, never, torch.zeros(2, 2, dtype=torch.bool)), "always")
    likelihood = crf(torch.zeros(1, 3, 2), torch.tensor([3]), labels=torch.zeros(1, 3).long())
    assert likelihood[0].item() == pytest.approx(-3 * math.log(2), abs=1e-2)
