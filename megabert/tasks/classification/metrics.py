"""Scores of classifications and regressions, in per cent, errors aside: GLUE's (Wang et al. 2019) and common ones.

    accuracy                fraction of correct answers
    f1                      F1 of class 1 of two (MRPC, QQP)
    matthews_correlation    Matthews 1975; of more classes Gorodkin 2004, R_K (CoLA, diagnostics)
    macro_f1                mean F1 of the classes that are there or found (of several labels per row: of all)
    micro_f1                F1 of all pairs of row and label together; of one label per row, the accuracy
    subset_accuracy         fraction of rows all of whose labels are right
    mse, mae                mean squared and mean absolute error, in the labels' own units
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


def f1_of_classes(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """F1 of each class of two int [N] that either has, or of each label of two bool [N, L]; 0 where undefined."""
    if truth.ndim == 1:
        classes = np.union1d(truth, found)
        truth, found = (side[:, None] == classes for side in (truth, found))
    hits = (truth & found).sum(axis=0)
    total = truth.sum(axis=0) + found.sum(axis=0)
    return np.asarray(2 * hits / np.maximum(total, 1))


def macro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean of :func:`f1_of_classes`."""
    return float(f1_of_classes(truth, found).mean())


def micro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """F1 over all rows and labels of two bool [N, L]; of two int [N] the accuracy."""
    if truth.ndim == 1:
        return accuracy(truth, found)
    total = int(truth.sum() + found.sum())
    return 2 * int((truth & found).sum()) / total if total else 0.0


def subset_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Fraction of equal rows of two bool [N, L]."""
    return float((truth == found).all(axis=1).mean())


def mean_squared_error(truth: np.ndarray, found: np.ndarray) -> float:
    """Of two float [N]."""
    return float(((truth - found.astype(float)) ** 2).mean())


def mean_absolute_error(truth: np.ndarray, found: np.ndarray) -> float:
    """Of two float [N]."""
    return float(np.abs(truth - found.astype(float)).mean())


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
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "subset_accuracy": subset_accuracy,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
}
_ERRORS = frozenset({"mse", "mae"})
"""Scores in the labels' units, not in per cent."""


def metric_scores(metrics: Sequence[str], truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The named scores in per cent, errors as they are; ``"score"`` is the mean of the others.

    ``truth``, ``found``: class numbers int64 [N], scores float [N], or which labels bool [N, L].
    """
    scores = {
        name: (1.0 if name in _ERRORS else 100.0) * _METRICS[name](truth, found)
        for name in metrics
        if name != SCORE
    }
    if SCORE in metrics:
        scores[SCORE] = float(np.mean(list(scores.values())))
    return scores
