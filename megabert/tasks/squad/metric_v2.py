"""Scores of SQuAD v2.0, as its evaluation script defines them.

Source: Rajpurkar et al. 2018, "Know What You Don't Know: Unanswerable Questions for SQuAD", and the
official evaluation script for version 2.0. Exact match and F1 are those of v1.1 with two additions:
ground truths that normalise to nothing are dropped, and a question left without any is answered
rightly by an answer that normalises to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from megabert.tasks.squad.metric import ENGLISH, Metric


class Prediction(NamedTuple):
    """The best answer to a question if it has one, and the odds that it has none (a difference of
    scores): the answer is "" where the odds exceed the threshold.
    """

    text: str
    odds: float

    def at(self, threshold: float) -> str:
        """The answer at a threshold."""
        return "" if self.odds > threshold else self.text


def answer_values(
    truths: Mapping[str, Sequence[str]], texts: Mapping[str, str], metric: Metric = ENGLISH
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1, 0-1, of each question's text, float64 [Q], in the order of ``truths``."""
    exact, overlap = [], []
    for question, answers in truths.items():
        text = texts[question]
        sound = [answer for answer in answers if metric.normalize(answer)]
        if sound:
            exact.append(max(metric.exact_match(text, answer) for answer in sound))
            overlap.append(max(metric.f1(text, answer) for answer in sound))
        else:
            nothing = float(not metric.normalize(text))
            exact.append(nothing)
            overlap.append(nothing)
    return np.asarray(exact, np.float64), np.asarray(overlap, np.float64)


def best_threshold(
    odds: np.ndarray, answered: np.ndarray, unanswered: np.ndarray
) -> tuple[float, float]:
    """The threshold with the greatest sum of values, and that sum; the smallest of equally good ones.

    Args:
        odds: float64 [Q], Q > 0; a question is left unanswered where they exceed the threshold.
        answered, unanswered: float64 [Q], the value of each question either way.

    The threshold is one of the odds (the last of the questions to be answered), or just below all of
    them where it is best to answer none.
    """
    order = np.argsort(odds, kind="stable")
    rising = odds[order]
    sums = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])]) + unanswered.sum()
    cuts = np.concatenate([[True], rising[1:] != rising[:-1], [True]])  # equal odds go together
    places = np.flatnonzero(cuts)
    best = int(places[np.argmax(sums[places])])
    threshold = np.nextafter(rising[0], -np.inf) if best == 0 else rising[best - 1]
    return float(threshold), float(sums[best])


def squad2_score(
    truths: Mapping[str, Sequence[str]],
    predictions: Mapping[str, Prediction],
    threshold: float | None,
    metric: Metric = ENGLISH,
) -> dict[str, float]:
    """Scores in per cent at a threshold, and the best threshold on these questions.

    Args:
        truths: question id -> ground truths, none for a question that cannot be answered.
        predictions: of every one of these questions.
        threshold: None takes the one with the best F1.
        metric: how texts are compared.

    Returns:
        ``exact_match``, ``f1``, ``total``; the same of the questions with (``HasAns_exact``,
        ``HasAns_f1``, ``HasAns_total``) and without an answer (``NoAns_...``), where there are any;
        ``best_exact``, ``best_exact_thresh``, ``best_f1``, ``best_f1_thresh``: the greatest scores
        that any threshold gives, and ``null_threshold``, the one used.
    """
    odds = np.asarray([predictions[question].odds for question in truths], np.float64)
    answered = answer_values(truths, {q: predictions[q].text for q in truths}, metric)
    unanswered = answer_values(truths, dict.fromkeys(truths, ""), metric)
    best = [best_threshold(odds, *values) for values in zip(answered, unanswered)]
    if threshold is None:
        threshold = best[1][0]
    exact, overlap = (
        np.where(odds > threshold, without, given) for given, without in zip(answered, unanswered)
    )
    has_answer = np.asarray([bool(answers) for answers in truths.values()])
    scores = {
        "exact_match": 100 * float(exact.mean()),
        "f1": 100 * float(overlap.mean()),
        "total": len(truths),
    }
    for name, part in (("HasAns", has_answer), ("NoAns", ~has_answer)):
        if part.any():
            scores |= {
                f"{name}_exact": 100 * float(exact[part].mean()),
                f"{name}_f1": 100 * float(overlap[part].mean()),
                f"{name}_total": int(part.sum()),
            }
    for name, (value, total) in zip(("best_exact", "best_f1"), best):
        scores |= {name: 100 * total / len(truths), f"{name}_thresh": value}
    return {**scores, "null_threshold": threshold}
