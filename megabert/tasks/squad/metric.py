"""Exact match and F1 of SQuAD v1.1, as its evaluation script defines them.

Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
section 6.1. Both scores compare normalised strings (lower case, no ASCII punctuation, no articles
a/an/the, single spaces); each takes the best over the ground truths of a question and is averaged
over all questions. A question without a prediction counts 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Metric(NamedTuple):
    """How an answer is compared with a ground truth.

    ``normalize``: texts that become equal match exactly; ``f1(prediction, truth)`` is 0-1.
    """

    name: str
    normalize: Callable[[str], str]
    f1: Callable[[str, str], float]

    def exact_match(self, prediction: str, truth: str) -> float:
        """1.0 when both are equal once normalised, else 0.0."""
        return float(self.normalize(prediction) == self.normalize(truth))


@dataclass(frozen=True)
class SquadScore:
    """Scores in per cent (0-100) over ``total`` questions, ``answered`` of which had a prediction."""

    exact_match: float
    f1: float
    total: int
    answered: int


def normalize_answer(text: str) -> str:
    """Lower case, then without punctuation, then without articles, then single spaces.

    The order matters: ``"the-end"`` becomes ``"theend"``, which holds no article any more.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def word_f1(prediction: str, truth: str) -> float:
    """Harmonic mean of precision and recall over the bags of normalised words, 0-1.

    Two strings without a common word score 0, and so do two empty ones.
    """
    predicted, true = normalize_answer(prediction).split(), normalize_answer(truth).split()
    return f1_from_counts(
        sum((Counter(predicted) & Counter(true)).values()), len(predicted), len(true)
    )


def f1_from_counts(common: int, predicted: int, true: int) -> float:
    """F1 of ``common`` units among ``predicted`` and ``true`` ones; 0 without a common one."""
    if common == 0:
        return 0.0
    precision, recall = common / predicted, common / true
    return 2 * precision * recall / (precision + recall)


ENGLISH = Metric("SQuAD", normalize_answer, word_f1)
exact_match = ENGLISH.exact_match


def squad_score(
    truths: Mapping[str, Sequence[str]], predictions: Mapping[str, str], metric: Metric = ENGLISH
) -> SquadScore:
    """Score ``predictions`` (question id -> text) against ``truths`` (id -> ground truths).

    Every question of ``truths`` counts, predicted or not; predictions for other ids are ignored.
    """
    matches = overlap = 0.0
    answered = 0
    for question, answers in truths.items():
        if question not in predictions:
            continue
        answered += 1
        text = predictions[question]
        matches += max((metric.exact_match(text, answer) for answer in answers), default=0.0)
        overlap += max((metric.f1(text, answer) for answer in answers), default=0.0)
    total = len(truths)
    scale = 100.0 / total if total else 0.0
    return SquadScore(scale * matches, scale * overlap, total, answered)
