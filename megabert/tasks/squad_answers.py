"""From start and end logits to answer texts.

A span's score is start logit + end logit (Devlin et al. 2019, section 4.2). ``best_spans`` searches
all spans of at most ``max_answer_length`` tokens of each row exactly; ``rank_answers`` joins the rows
of a question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from megabert.tasks.squad_features import SquadFeatures

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
    spread = F.pad(ends, (0, max_answer_length - 1), value=-torch.inf)
    spread = spread.unfold(1, max_answer_length, 1)  # [B, S, A]: ends reachable from each start
    scores = (starts[:, :, None] + spread).flatten(1)  # [B, S*A]
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


def rank_answers(features: SquadFeatures, outputs: Candidates, n_best: int) -> NBest:
    """The ``n_best`` different answer texts of every question, best first.

    ``outputs``: what ``best_spans`` gave for all rows, in the order of the rows. A text found twice
    keeps its better score; a question without a span has the one answer "". ``probability`` is the
    softmax of the scores over the answers listed.
    """
    candidates: dict[int, list[tuple[float, int, int]]] = {}
    scores = outputs["start_logit"].astype(np.float64) + outputs["end_logit"]
    for row, places in enumerate(scores):
        kept = candidates.setdefault(features.question_of(row), [])
        finite = np.flatnonzero(np.isfinite(places)).tolist()
        kept.extend((-float(places[place]), row, place) for place in finite)
    answers: NBest = {}
    for number, index in enumerate(features.questions):
        found: dict[str, dict[str, Any]] = {}
        for _, row, place in sorted(candidates.get(number, ())):
            if len(found) == n_best:
                break
            span = int(outputs["start"][row, place]), int(outputs["end"][row, place])
            text = features.text(row, *span)
            if text not in found:
                found[text] = {
                    "text": text,
                    "start_logit": float(outputs["start_logit"][row, place]),
                    "end_logit": float(outputs["end_logit"][row, place]),
                }
        listed = list(found.values()) or [{"text": "", "start_logit": 0.0, "end_logit": 0.0}]
        answers[features.data.questions[index].id] = _with_probabilities(listed)
    return answers


def _with_probabilities(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scores = np.asarray([answer["start_logit"] + answer["end_logit"] for answer in answers])
    weights = np.exp(scores - scores.max())
    for answer, share in zip(answers, weights / weights.sum()):
        answer["probability"] = float(share)
    return answers


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON; the file appears whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
