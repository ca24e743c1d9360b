"""From start and end logits to answer texts.

A span's score is start logit + end logit (Devlin et al. 2019, section 4.2). ``best_spans`` searches
all spans of at most ``max_answer_length`` tokens of each row exactly; ``ranked_spans`` joins the rows
of a question. The score of having no answer is computed as well: start + end logit of [CLS], the minimum over
its rows (public run_squad of Google BERT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.common.files import write_json
from megabert.tasks.squad.features import SquadFeatures

Candidates = dict[str, np.ndarray]
NBest = dict[str, list[dict[str, Any]]]


def best_spans(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    answer_starts: torch.Tensor,
    answer_ends: torch.Tensor,
    *,
    max_answer_length: int,
    n_best: int,
) -> dict[str, torch.Tensor]:
    """The ``n_best`` highest-scoring allowed spans of each row.

    Args:
        start_logits, end_logits: [B, S], any float type.
        answer_starts, answer_ends: bool [B, S], where a span may start and end.

    Returns:
        ``start_logit``, ``end_logit`` float32 [B, n_best] and ``start``, ``end`` int32 [B, n_best]
        (token positions in the row), best first; where a row has fewer spans, logits of -inf.
    """
    starts = start_logits.float().masked_fill(~answer_starts, -torch.inf)
    ends = end_logits.float().masked_fill(~answer_ends, -torch.inf)
    reachable = F.pad(ends, (0, max_answer_length - 1), value=-torch.inf)
    reachable = reachable.unfold(
        1, max_answer_length, 1
    )  # [B, S, A]: ends reachable from each start
    scores = (starts[:, :, None] + reachable).flatten(1)  # [B, S*A]
    if scores.shape[1] < n_best:
        scores = F.pad(scores, (0, n_best - scores.shape[1]), value=-torch.inf)
    values, flat = scores.topk(n_best, dim=1)  # [B, n]
    valid = values > -torch.inf
    flat = flat.where(valid, 0)
    start = flat // max_answer_length
    end = (start + flat % max_answer_length).clamp(max=starts.shape[1] - 1)
    return {
        "start_logit": starts.gather(1, start).masked_fill(~valid, -torch.inf),
        "end_logit": ends.gather(1, end).masked_fill(~valid, -torch.inf),
        "start": start.to(torch.int32),
        "end": end.to(torch.int32),
    }


@dataclass(frozen=True)
class AnswerSpan:
    """A candidate: its text, its place in the context (end exclusive), its two logits."""

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """Start logit + end logit."""
        return self.start_logit + self.end_logit


NO_SPAN = AnswerSpan("", 0, 0, 0.0, 0.0)
"""The answer to a question whose context has no token."""


def ranked_spans(
    features: SquadFeatures, outputs: Candidates, n_best: int
) -> list[list[AnswerSpan]]:
    """The ``n_best`` best spans with different texts of every question, best first.

    ``outputs``: what ``best_spans`` gave for all rows, in the order of the rows. Of a text found twice the
    better score counts; a span of white space is not an answer. The list of a question whose context
    has no token is empty.
    """
    candidates: list[list[tuple[float, int, int]]] = [[] for _ in features.questions]
    scores = outputs["start_logit"].astype(np.float64) + outputs["end_logit"]
    for row, places in enumerate(scores):
        finite = np.flatnonzero(np.isfinite(places)).tolist()
        found = candidates[features.question_of(row)]
        found.extend((-float(places[place]), row, place) for place in finite)
    ranked = []
    for found in candidates:
        spans: dict[str, AnswerSpan] = {}
        for _, row, place in sorted(found):
            if len(spans) == n_best:
                break
            first, last = int(outputs["start"][row, place]), int(outputs["end"][row, place])
            text = features.text(row, first, last)
            if text and text not in spans:
                spans[text] = AnswerSpan(
                    text,
                    *features.characters(row, first, last),
                    float(outputs["start_logit"][row, place]),
                    float(outputs["end_logit"][row, place]),
                )
        ranked.append(list(spans.values()))
    return ranked


def lowest_nulls(features: SquadFeatures, outputs: Candidates) -> list[AnswerSpan]:
    """The empty answer of every question: the logits of [CLS] in the row where their sum is smallest.

    ``outputs``: ``null_start`` and ``null_end`` float32 [F], the logits of each row's [CLS].
    """
    nulls: list[AnswerSpan | None] = [None] * len(features.questions)
    for row, sides in enumerate(zip(outputs["null_start"], outputs["null_end"])):
        number = features.question_of(row)
        span, before = AnswerSpan("", 0, 0, *map(float, sides)), nulls[number]
        if before is None or span.score < before.score:
            nulls[number] = span
    return [null or NO_SPAN for null in nulls]


def with_null(spans: list[AnswerSpan], null: AnswerSpan, n_best: int) -> list[AnswerSpan]:
    """``n_best`` spans with the empty answer in its rank among them, or after all of them."""
    listed = sorted([*spans, null], key=lambda span: -span.score)[:n_best]
    return listed if null in listed else [*listed, null]


def probabilities(spans: list[AnswerSpan]) -> list[float]:
    """Softmax of the scores over the spans listed."""
    scores = np.asarray([span.score for span in spans])
    weights = np.exp(scores - scores.max())
    return [float(share) for share in weights / weights.sum()]


def n_best_entries(spans: list[AnswerSpan]) -> list[dict[str, Any]]:
    """The entries of a question in nbest_predictions.json; one empty answer where there is no span."""
    spans = spans or [NO_SPAN]
    return [
        {
            "text": span.text,
            "start_logit": span.start_logit,
            "end_logit": span.end_logit,
            "probability": share,
        }
        for span, share in zip(spans, probabilities(spans))
    ]


def rank_answers(features: SquadFeatures, outputs: Candidates, n_best: int) -> NBest:
    """nbest_predictions.json: the ``n_best`` different answer texts of every question, best first."""
    ranked = ranked_spans(features, outputs, n_best)
    return {
        features.question(number).id: n_best_entries(spans) for number, spans in enumerate(ranked)
    }


def placed(spans: list[AnswerSpan]) -> list[dict[str, Any]]:
    """Spans as answers with their places: ``answer``, ``score`` (the probability), ``start``, ``end``.

    The empty answer has no place: ``start`` and ``end`` are None.
    """
    spans = spans or [NO_SPAN]
    return [
        {
            "answer": span.text,
            "score": share,
            "start": span.start if span.text else None,
            "end": span.end if span.text else None,
        }
        for span, share in zip(spans, probabilities(spans))
    ]


def write_answers(path: Path, content: Mapping[str, Any]) -> None:
    """Write answers by question id as indented JSON; the file appears whole or not at all."""
    write_json(path, content, indent=1, ensure_ascii=False)
