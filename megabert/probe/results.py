"""Results of probes: one file per model, task and seed while they are made, then table, JSON and CSV.

    DIR/results/<key>.json    scores of one task on one model with one seed; written whole or not at all
    DIR/shapes/<key>          shape of a model that was probed
    DIR/probe.json, probe.csv the results of the models of the last command

The key is a SHA-256 of the model's content, the task's definition and files, and the seed. A result is valid for
ever: nothing else decides it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from megabert import __version__
from megabert.common.errors import UserError, printable
from megabert.common.files import sha256_of, write_json, write_text
from megabert.common.json_text import read_json_object
from megabert.common.names import LOCK_FILE
from megabert.finetune.summary import summary
from megabert.probe.models import ProbedModel
from megabert.probe.task_file import Probe

RESULTS, SHAPES, WORK = "results", "shapes", "work"
JSON, CSV, PLOT = "probe.json", "probe.csv", "probe.png"
PERPLEXITY_METRIC = "pseudo_perplexity"


@dataclass(frozen=True)
class Score:
    """What a task gives for a model.

    Attributes:
        metric: the deciding score.
        scores: of each seed that is done.
        problem: why there are none (or not all); "" if nothing is wrong.
        expected: the problem is a property of the model.
    """

    metric: str = ""
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    problem: str = ""
    expected: bool = False

    @property
    def mean(self) -> float | None:
        """Of the metric, over the seeds."""
        found = self.summary.get(self.metric)
        return None if found is None else found["mean"]

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation over the seeds; None for a single one."""
        found = self.summary.get(self.metric)
        return None if found is None else found["std"]

    @property
    def summary(self) -> dict[str, dict[str, float | None]]:
        """Mean, deviation and extremes of every score."""
        return summary(list(self.scores.values()))


@dataclass(frozen=True)
class Row:
    """A model's results; ``random``: of random weights of the model's shape instead."""

    model: ProbedModel
    scores: dict[str, Score]
    random: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        if self.random:
            return f"random weights ({self.model.run})"
        return self.model.name + (" (best)" if self.model.best else "")


class ResultStore:
    """The folder of a probe's output."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._read: dict[str, dict[str, Any]] = {}

    @staticmethod
    def key(model: str, definition: dict[str, Any], seed: int) -> str:
        """Of one result; ``model``: identity, or shape for random weights."""
        return sha256_of(json.dumps([model, definition, seed], sort_keys=True))

    def read(self, key: str) -> dict[str, Any] | None:
        """A result: ``metric`` and ``scores``, or ``problem``; None if it is not done."""
        if key not in self._read:
            try:
                file = self.output / RESULTS / f"{key}.json"
                self._read[key] = read_json_object(file, of_data=True)
            except FileNotFoundError:
                return None
        return self._read[key]

    def write(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result."""
        write_json(self.output / RESULTS / f"{key}.json", {**result, "version": __version__})

    def shape(self, identity: str) -> str | None:
        """The shape of a model that was read before."""
        path = self.output / SHAPES / identity
        return path.read_text().strip() if path.is_file() else None

    def write_shape(self, identity: str, shape: str) -> None:
        """Keep a model's shape."""
        write_text(self.output / SHAPES / identity, shape + "\n")

    def open(self) -> None:
        """Make the folders (the lock is held)."""
        for name in (RESULTS, SHAPES):
            (self.output / name).mkdir(parents=True, exist_ok=True)


def require_probe_folder(output: Path) -> None:
    """Raise ``UserError`` if the output holds something that no probe wrote."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a new folder")
    found = [p.name for p in output.iterdir() if LOCK_FILE not in p.name] if output.is_dir() else []
    if found and RESULTS not in found:
        raise UserError(f"--output {output} is not empty and not a probe's: choose another folder")


def score_text(score: Score | None) -> str:
    """A cell of the table."""
    if score is None or (score.mean is None and not score.problem):
        return ""
    if score.mean is None:
        return score.problem if score.expected else "failed"
    digits = 2 if abs(score.mean) < 100 else 1 if abs(score.mean) < 1000 else 0
    deviation = "" if score.deviation is None else f" ± {score.deviation:,.{digits}f}"
    return f"{score.mean:,.{digits}f}{deviation}"


def probe_table(rows: Sequence[Row], tasks: Sequence[Probe]) -> str:
    """The results as a Markdown table, columns aligned."""
    with_loss = any("eval_mlm_loss" in row.model.evaluation for row in rows)
    head = ["model", "updates", "tokens", *(["eval MLM loss"] if with_loss else [])]
    lines = [[*head, *(_column(task.name, rows) for task in tasks)]]
    for row in rows:
        model = row.model
        cells = [printable(row.name), *_progress(row)]
        if with_loss:
            loss = None if row.random else model.evaluation.get("eval_mlm_loss")
            cells.append("" if loss is None else f"{loss:.3f}")
        lines.append([*cells, *(score_text(row.scores.get(task.name)) for task in tasks)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = ["| " + " | ".join(_aligned(line, widths)) + " |" for line in lines]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([texts[0], "| " + " | ".join(rule) + " |", *texts[1:]])


def _column(name: str, rows: Sequence[Row]) -> str:
    """A task's name and metric."""
    metric = next((r.scores[name].metric for r in rows if r.scores[name].metric), "")
    return f"{name}: {metric.replace('_', ' ').replace('pseudo ', 'pseudo-')}" if metric else name


def _progress(row: Row) -> list[str]:
    if row.random:
        return ["0", "0"]
    step, tokens = row.model.step, row.model.tokens
    return ["" if step is None else f"{step:,}", "" if tokens is None else f"{tokens / 1e6:,.2f} M"]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = cells[0].ljust(widths[0])
    return [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]


def write_report(output: Path, rows: Sequence[Row], tasks: Sequence[Probe]) -> None:
    """Write ``probe.json`` and ``probe.csv``, each whole or not at all."""
    entries = []
    for row in rows:
        model = row.model
        entries.append(
            {
                "name": row.name,
                "random": row.random,
                "run": model.run,
                "folder": str(model.folder.absolute()),
                "identity": model.identity,
                "step": 0 if row.random else model.step,
                "tokens": 0 if row.random else model.tokens,
                "evaluation": {} if row.random else dict(model.evaluation),
                "results": {name: _entry(score) for name, score in row.scores.items()},
            }
        )
    definitions = {task.name: task.definition() | _files(task) for task in tasks}
    write_json(output / JSON, {"version": __version__, "tasks": definitions, "models": entries})
    write_text(output / CSV, _csv(rows))


def _files(task: Probe) -> dict[str, Any]:
    return {"files": {k: str(p.absolute()) for k, p in task.files.items()}, "seeds": task.seeds}


def _entry(score: Score) -> dict[str, Any]:
    entry: dict[str, Any] = {"metric": score.metric, "mean": score.mean, "std": score.deviation}
    entry["seeds"] = {str(seed): scores for seed, scores in score.scores.items()}
    entry["summary"] = score.summary
    return entry | ({"problem": score.problem} if score.problem else {})


def _csv(rows: Sequence[Row]) -> str:
    """A line per model, task and score."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["model", "run", "random", "updates", "tokens", "task", "score", "mean", "std", "seeds"]
    )
    for row in rows:
        model = row.model
        place = (0, 0) if row.random else (model.step, model.tokens)
        for task, score in row.scores.items():
            for name, values in score.summary.items():
                numbers = (values["mean"], values["std"])
                shown = ["" if v is None or math.isnan(v) else repr(v) for v in numbers]
                writer.writerow(
                    [printable(row.name), printable(model.run), int(row.random),
                     *("" if v is None else v for v in place), task, name, *shown, len(score.scores)]
                )  # fmt: skip
    return text.getvalue()
