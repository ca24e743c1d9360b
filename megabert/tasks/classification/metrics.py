"""Scores of classifications and regressions, in per cent, as GLUE defines them (Wang et al. 2019).

    accuracy                fraction of correct answers
    f1                      F1 of class 1 of two (MRPC, QQP)
    matthews_correlation    Matthews 1975; of more classes Gorodkin 2004, R_K (CoLA, diagnostics)
    pearson, spearmanr      correlation of scores, of their ranks (STS-B)
    score                   mean of the other scores of a task that has two

A correlation that is not defined, because one side is constant, is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

SCORE = "score"


def accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Fraction of equal elements of two int [N]."""
    return float((truth == found).mean())


def binary_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """F1 of class 1: 2 TP / (2 TP + FP + FN); 0 where class 1 is neither there nor found."""
    hits = int(((truth == 1) & (found == 1)).sum())
    total = int((truth == 1).sum() + (found == 1).sum())
    return 2 * hits / total if total else 0.0


def matthews_correlation(truth: np.ndarray, found: np.ndarray) -> float:
    """Correlation of two int [N] of any number of classes: covariance of their indicators.

    With counts t_k and p_k of class k on either side, c right ones and N in all (Gorodkin 2004, eq. 8):
    (c N - sum t_k p_k) / sqrt((N^2 - sum p_k^2) (N^2 - sum t_k^2)).
    """
    classes = int(max(truth.max(), found.max())) + 1
    t = np.bincount(truth, minlength=classes).astype(float)
    p = np.bincount(found, minlength=classes).astype(float)
    total = float(len(truth))
    denominator = (total**2 - p @ p) * (total**2 - t @ t)
    right = float((truth == found).sum())
    return float((right * total - t @ p) / np.sqrt(denominator)) if denominator > 0 else 0.0


def pearson(truth: np.ndarray, found: np.ndarray) -> float:
    """Linear correlation of two float [N]."""
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(found) == 0:
        return 0.0
    a, b = (side.astype(float) - side.astype(float).mean() for side in (truth, found))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each of float [N], from 1; equal values share the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[group]


def spearmanr(truth: np.ndarray, found: np.ndarray) -> float:
    """Correlation of the ranks of two float [N]."""
    return pearson(ranks(truth), ranks(found))


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": binary_f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}


def metric_scores(metrics: Sequence[str], truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The named scores in per cent; ``"score"`` is the mean of the others.

    ``truth``, ``found``: class numbers int64 [N], or scores float [N].
    """
    scores = {name: 100.0 * _METRICS[name](truth, found) for name in metrics if name != SCORE}
    if SCORE in metrics:
        scores[SCORE] = float(np.mean(list(scores.values())))
    return scores
