"""Scores of several fine-tuning runs together: mean, deviation, the best rate, a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def summary(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """For each score that all runs have: ``mean``, ``std``, ``min`` and ``max``.

    ``std`` is the sample's standard deviation (n - 1); None for a single run.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name in scores[0] if scores else ():
        values = [one[name] for one in scores if name in one]
        if len(values) == len(scores):
            found[name] = {
                "mean": statistics.fmean(values),
                "std": _deviation(values) if len(values) > 1 else None,
                "min": min(values),
                "max": max(values),
            }
    return found


def _deviation(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def collect(metric: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of all runs: ``runs``, ``by_lr``, ``best_lr``, ``best_run``, ``scores``.

    Args:
        metric: the score that decides; a rate is as good as its mean over the seeds. Rates with a
            failed run come after all others.
        runs: ``{"run", "lr", "seed"}`` with ``"scores"`` or ``"failed"``.
    """
    by_lr = []
    for lr in dict.fromkeys(run["lr"] for run in runs):
        own = [run for run in runs if run["lr"] == lr]
        scores = [run["scores"] for run in own if "scores" in run]
        by_lr.append(
            {
                "lr": lr,
                "runs": len(own),
                "failed": len(own) - len(scores),
                "scores": summary(scores),
            }
        )
    together: dict[str, Any] = {"metric": metric, "runs": list(runs), "by_lr": by_lr}
    scored = [run for run in runs if metric in run.get("scores", {})]
    if scored:
        rated = [rate for rate in by_lr if metric in rate["scores"]]
        best = max(rated, key=lambda r: (not r["failed"], _rank(r["scores"][metric]["mean"])))
        run = max(scored, key=lambda one: _rank(one["scores"][metric]))
        together |= {"best_lr": best["lr"], "best_run": run["run"], "scores": best["scores"]}
    return together


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def table(results: Mapping[str, Any]) -> str:
    """The runs, and mean and deviation of each rate, as a Markdown table."""
    names = list(dict.fromkeys(n for run in results["runs"] for n in run.get("scores", {})))
    rows = [["run", "lr", "seed", *names]]
    for rate in results["by_lr"]:
        for run in results["runs"]:
            if run["lr"] == rate["lr"]:
                scores = run.get("scores")
                cells = ["failed"] * len(names)
                if scores is not None:
                    cells = [f"{scores[n]:.2f}" if n in scores else "" for n in names]
                rows.append([run["run"], f"{run['lr']:g}", str(run["seed"]), *cells])
        means = [_mean_text(rate["scores"].get(name)) for name in names]
        best = " (best)" if rate["lr"] == results.get("best_lr") else ""
        rows.append([f"mean ± std{best}", f"{rate['lr']:g}", "", *means])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _mean_text(score: Mapping[str, float | None] | None) -> str:
    if score is None:
        return ""
    deviation = score["std"]
    return f"{score['mean']:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")
