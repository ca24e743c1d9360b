"""A linear-chain conditional random field over a tagger's scores (Lafferty et al. 2001; on a neural
encoder: Lample et al. 2016, section 2).

A sequence of tags y has the score

    s(y) = start[y_0] + sum_t emissions[t, y_t] + sum_t transitions[y_(t-1), y_t] + end[y_last]

and the probability exp(s(y)) / Z, where Z is the sum over all sequences of tags. The forward algorithm
gives Z, Viterbi's the most probable tags, forward-backward the probability of one tag at one place.
All of it is in log space, in float32 or the emissions' wider type, over all sequences at once.

Shapes: P = sequences, U = tags of the longest, L = labels. A sequence that is part of a longer one has
no ``start`` where it continues another part, and no ``end`` where another part follows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

FORBIDDEN = -1e4
"""Score of a forbidden step. It is finite, so a sequence in which every path has one still has a best."""

Constraints = Literal["none", "decode", "always"]


class Allowed(NamedTuple):
    """Which tags a scheme allows: bool ``start`` [L], ``end`` [L], ``transitions`` [L, L] (from, to)."""

    start: Tensor
    end: Tensor
    transitions: Tensor


class Potentials(NamedTuple):
    """Scores of the steps of each sequence: ``start`` and ``end`` [P, L], ``transitions`` [L, L]."""

    start: Tensor
    end: Tensor
    transitions: Tensor


class Crf(nn.Module):
    """Parameters ``start`` [L], ``end`` [L], ``transitions`` [L, L] (from, to).

    Args:
        labels: L.
        allowed: what the tagging scheme allows; None: everything.
        constraints: where forbidden steps get the score ``FORBIDDEN``: "none" nowhere, "decode" in
            predictions, "always" in the loss too.
    """

    def __init__(
        self, labels: int, allowed: Allowed | None = None, constraints: Constraints = "decode"
    ) -> None:
        super().__init__()
        self.labels, self.constraints = labels, constraints
        self.start = nn.Parameter(torch.zeros(labels))
        self.end = nn.Parameter(torch.zeros(labels))
        self.transitions = nn.Parameter(torch.zeros(labels, labels))
        if allowed is None:
            one = torch.ones(labels, dtype=torch.bool)
            allowed = Allowed(one, one, torch.ones(labels, labels, dtype=torch.bool))
        for name, mask in allowed._asdict().items():
            self.register_buffer(f"forbidden_{name}", ~mask, persistent=False)

    def forward(
        self,
        emissions: Tensor,
        counts: Tensor,
        begins: Tensor | None = None,
        ends: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-likelihoods of ``labels``; without labels, the best tags and their probabilities.

        Args:
            emissions: ``[P, U, L]``, any float type; U > 0.
            counts: int64 [P], real tags of each sequence, from 0 to U.
            begins, ends: bool [P], whether ``start`` and ``end`` count; None: for all.
            labels: int64 [P, U]; values after a sequence's end are not read.

        Returns:
            with ``labels``: float [P], 0 for a sequence without tags. Without: tags int64 [P, U] and
            the marginal probability of each, float [P, U]; both are 0 after the end.
        """
        emissions = emissions.to(torch.promote_types(emissions.dtype, torch.float32))
        masked = self.constraints == "always" or (labels is None and self.constraints == "decode")
        steps = self._potentials(emissions, begins, ends, masked)
        if labels is not None:
            total = forward_scores(emissions, counts, steps)[-1]
            score = path_scores(emissions, counts, steps, labels.clamp(min=0))
            likelihood = score - torch.logsumexp(total + steps.end, dim=-1)
            return likelihood.masked_fill(counts == 0, 0.0)
        tags = best_tags(emissions, counts, steps)
        chosen = marginals(emissions, counts, steps).gather(2, tags[..., None]).squeeze(2)
        real = torch.arange(emissions.size(1), device=counts.device) < counts[:, None]
        return tags.masked_fill(~real, 0), chosen.masked_fill(~real, 0.0)

    def _potentials(
        self, emissions: Tensor, begins: Tensor | None, ends: Tensor | None, masked: bool
    ) -> Potentials:
        """The parameters in the emissions' type; if ``masked``, forbidden steps have ``FORBIDDEN``."""
        dtype, sides = emissions.dtype, []
        for name, wanted in (("start", begins), ("end", ends)):
            side = self._masked(name, masked, dtype).expand(emissions.size(0), -1)
            sides.append(side if wanted is None else side.masked_fill(~wanted[:, None], 0.0))
        return Potentials(sides[0], sides[1], self._masked("transitions", masked, dtype))

    def _masked(self, name: str, masked: bool, dtype: torch.dtype) -> Tensor:
        value = getattr(self, name).to(dtype)
        return value.masked_fill(getattr(self, f"forbidden_{name}"), FORBIDDEN) if masked else value


def path_scores(emissions: Tensor, counts: Tensor, steps: Potentials, tags: Tensor) -> Tensor:
    """s(y) of the tags [P, U] of each sequence, [P]; undefined for a sequence without tags."""
    real = torch.arange(emissions.size(1), device=counts.device) < counts[:, None]
    emitted = emissions.gather(2, tags[..., None]).squeeze(2)
    moved = steps.transitions[tags[:, :-1], tags[:, 1:]].masked_fill(~real[:, 1:], 0.0)
    last = tags.gather(1, (counts - 1).clamp(min=0)[:, None])
    ends = steps.start.gather(1, tags[:, :1]) + steps.end.gather(1, last)
    return emitted.masked_fill(~real, 0.0).sum(1) + moved.sum(1) + ends.squeeze(1)


def forward_scores(emissions: Tensor, counts: Tensor, steps: Potentials) -> list[Tensor]:
    """Log of the sum of exp(score) over all tags up to place t, by the tag at t.

    U tensors [P, L], without ``end``. After a sequence's end, the values of its last tag are repeated.
    """
    scores = [steps.start + emissions[:, 0]]
    for place in range(1, emissions.size(1)):
        moved = torch.logsumexp(scores[-1][:, :, None] + steps.transitions, dim=1)
        going = (place < counts)[:, None]
        scores.append(torch.where(going, moved + emissions[:, place], scores[-1]))
    return scores


def backward_scores(emissions: Tensor, counts: Tensor, steps: Potentials) -> list[Tensor]:
    """The same over all tags after place t, by the tag at t, with ``end`` but without the tag at t."""
    scores = [steps.end]
    for place in range(emissions.size(1) - 1, 0, -1):
        following = (emissions[:, place] + scores[-1])[:, None, :]
        moved = torch.logsumexp(steps.transitions + following, dim=2)
        scores.append(torch.where((place < counts)[:, None], moved, steps.end))
    return scores[::-1]


def marginals(emissions: Tensor, counts: Tensor, steps: Potentials) -> Tensor:
    """Probability of each tag at each place, [P, U, L]; undefined after a sequence's end."""
    before = torch.stack(forward_scores(emissions, counts, steps), dim=1)
    after = torch.stack(backward_scores(emissions, counts, steps), dim=1)
    return torch.softmax(before + after, dim=-1)


def best_tags(emissions: Tensor, counts: Tensor, steps: Potentials) -> Tensor:
    """The tags with the highest score (Viterbi), int64 [P, U]; undefined after the end."""
    score = steps.start + emissions[:, 0]
    stay = torch.arange(score.size(1), device=score.device).expand_as(score)
    origins: list[Tensor] = []
    for place in range(1, emissions.size(1)):
        best, origin = (score[:, :, None] + steps.transitions).max(dim=1)
        going = (place < counts)[:, None]
        score = torch.where(going, best + emissions[:, place], score)
        origins.append(torch.where(going, origin, stay))
    tag = (score + steps.end).argmax(dim=1, keepdim=True)
    tags = [tag]
    for origin in reversed(origins):
        tag = origin.gather(1, tag)
        tags.append(tag)
    return torch.cat(tags[::-1], dim=1)
