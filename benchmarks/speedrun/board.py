"""The leaderboard: docs/speedrun/leaderboard.md, made of the records alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speedrun.records import read_records
from benchmarks.speedrun.tracks import TRACKS
from benchmarks.steps.rounds import markdown_table
from benchmarks.steps.runs import ROOT
from megabert.common.files import write_text

PAGE = ROOT / "docs" / "speedrun" / "leaderboard.md"
BASELINE = "default"
"""The entry that the others are compared with."""
SEEDS = frozenset({0, 1, 2})
"""Of a result that counts."""

_INTRODUCTION = """\
# Speedrun: the leaderboard

For readers who look for the recipe that learns most within a small budget. `python -m benchmarks.speedrun board` makes
this page from the files in `benchmarks/speedrun/records/`; the [rules](rules.md) say what is measured. An entry is a
file in `benchmarks/speedrun/entries/`. What was tried without success: [what did not work](what-did-not-work.md).

Entries are sorted by nats per word, lower is better: the mean over seeds, and ± half the range of the seeds. *Tokens
to default* are those after which the entry's curve reaches the final loss of the entry `default`, and the factor by
which they are fewer than default's; in between two points of a curve the logarithm of tokens is interpolated. A curve
is measured before the learning rate has decayed, so the factor is a lower limit. Nats per token compare entries
with the same vocabulary only.
"""


def write_board(*, check: bool = False, records: Path | None = None, page: Path = PAGE) -> int:
    """Write the page; with ``check`` only compare it. 1 if it was not up to date."""
    text = board(read_records(records))
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    if check:
        print(f"{page}: {'up to date' if text == old else 'not up to date: run board'}")
        return int(text != old)
    write_text(page, text)
    print(page)
    return 0


def board(records: Sequence[dict[str, Any]]) -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for track in TRACKS.values():
        parts.append(f"## {track.name}\n\nBudget: {track.what}.\n")
        entries: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            if record["track"] == track.name:
                entries.setdefault(record["entry"], []).append(record)
        parts.append(_track(entries) if entries else "No records yet.\n")
    return "\n".join(parts)


def _track(entries: dict[str, list[dict[str, Any]]]) -> str:
    ordered = sorted(entries.values(), key=lambda runs: _mean(runs, "nats_per_word"))
    baseline = entries.get(BASELINE)
    rows = []
    for place, runs in enumerate(ordered, start=1):
        counted = len(SEEDS & {run["seed"] for run in runs})
        count = str(counted) if counted == len(SEEDS) else f"{counted} of {len(SEEDS)}"
        rows.append([
            place, f"`{runs[0]['entry']}`", _spread(runs, "nats_per_word"), _spread(runs, "nats_per_token"),
            f"{runs[0]['vocabulary']:,}", f"{runs[0]['score']['parameters'] / 1e6:.1f}", f"{statistics.mean(r['tokens'] for r in runs) / 1e6:.1f}",
            f"{statistics.mean(r['updates'] for r in runs):,.0f}", f"{100 * statistics.mean(map(_used, runs)):.0f} %",
            _reached(runs, baseline), count,
        ])  # fmt: skip
    header = (
        "", "entry", "nats per word", "nats per token", "vocabulary", "million parameters", "million tokens", "updates", "of the budget",
        "tokens to default", "seeds",
    )  # fmt: skip
    lines = [markdown_table(header, rows), ""]
    lines += [f"- `{runs[0]['entry']}`: {runs[0]['about']}" for runs in ordered]
    for runs in ordered:
        if any(run["settings"] != runs[0]["settings"] for run in runs):
            lines += [
                "",
                f"**The seeds of `{runs[0]['entry']}` ran with different settings and have no common mean.**",
            ]
    texts = {run["data"]["held_out"] for runs in ordered for run in runs}
    if len(texts) > 1:
        lines += ["", "**These runs were scored on different passages and do not compare.**"]
    lines += ["", "Machines: " + "; ".join(sorted({_machine(r) for runs in ordered for r in runs})) + "."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{device}, torch {machine['torch']}"


def _used(run: dict[str, Any]) -> float:
    """The share of the budget that a run used."""
    name = "wall_seconds" if TRACKS[run["track"]].gpu else "cpu_seconds"
    return float(run[name] / run["budget"]["seconds"])


def _mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.mean(run["score"][name] for run in runs)


def _spread(runs: Sequence[dict[str, Any]], name: str) -> str:
    values = [run["score"][name] for run in runs]
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _reached(runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]] | None) -> str:
    """Million tokens to the baseline's final loss, and how many times fewer than its own."""
    if not baseline or runs[0]["entry"] == BASELINE:
        return "-"
    goal = statistics.mean(run["curve"][-1]["nats_per_word"] for run in baseline)
    found = [tokens_to(run["curve"], goal) for run in runs]
    if any(tokens is None for tokens in found):
        return "not reached"
    tokens = statistics.mean(tokens for tokens in found if tokens is not None)
    return f"{tokens / 1e6:.1f} ({statistics.mean(run['tokens'] for run in baseline) / tokens:.1f} x fewer)"


def tokens_to(curve: Sequence[dict[str, Any]], goal: float) -> float | None:
    """Tokens at which a curve first reaches this loss; None if it does not."""
    before: dict[str, Any] | None = None
    for point in curve:
        if point["nats_per_word"] <= goal:
            if before is None:
                return float(point["tokens"])
            way = (before["nats_per_word"] - goal) / (
                before["nats_per_word"] - point["nats_per_word"]
            )
            logs = math.log(before["tokens"]), math.log(point["tokens"])
            return math.exp(logs[0] + way * (logs[1] - logs[0]))
        before = point
    return None
