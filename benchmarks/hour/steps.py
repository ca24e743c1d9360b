"""One question of the hour: its command, how it is run within a time limit, and how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.steps.runs import ROOT

LAST_LINES = 12
"""Lines of standard error that the report shows of a step that failed."""


@dataclass(frozen=True)
class Step:
    """One question.

    Args:
        name: of its files and of its entry in the report.
        question: what it answers.
        command: without interpreter; ``--json FILE`` is appended.
        limit: seconds it may take.
        answer: the answer in a line or two, from the JSON that the command wrote.
    """

    name: str
    question: str
    command: list[str]
    limit: float
    answer: Callable[[Any], str]


@dataclass(frozen=True)
class Outcome:
    """How a step ended: "done", "failed (status N)", "too long (over N s)" or "no time left"."""

    status: str
    seconds: float
    printed: str
    said: str
    result: Any

    @property
    def good(self) -> bool:
        """Whether it ended well."""
        return self.status == "done"


NO_TIME = Outcome("no time left", 0.0, "", "", None)


def run_step(step: Step, output: Path, limit: float) -> Outcome:
    """Run it and wait, at most ``limit`` seconds; NAME.log, NAME.err and NAME.json go to ``output``.

    What a command wrote before it failed or was stopped is kept.
    """
    figures = output / f"{step.name}.json"
    figures.unlink(missing_ok=True)
    command = [sys.executable, *step.command, "--json", str(figures)]
    log, err = output / f"{step.name}.log", output / f"{step.name}.err"
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as printed, err.open("w", encoding="utf-8") as said:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=printed, stderr=said, start_new_session=True
        )
        try:
            code = child.wait(timeout=limit)
            status = "done" if code == 0 else f"failed (status {code})"
        except subprocess.TimeoutExpired:
            status = f"too long (over {limit:.0f} s)"
        finally:
            _end_group(child)
    try:
        result = json.loads(figures.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or half of one
        result = None
    return Outcome(
        status,
        time.monotonic() - began,
        log.read_text(encoding="utf-8", errors="replace").strip(),
        _last_lines(err.read_text(encoding="utf-8", errors="replace")),
        result,
    )


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End whatever still runs of a step's processes."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def run_steps(
    todo: Sequence[Step], output: Path, seconds: float, done: Callable[[Step, Outcome], None]
) -> bool:
    """Every step within its limit and all within ``seconds``; ``done`` is called after each.

    Returns:
        Whether all ended well.
    """
    deadline = time.monotonic() + seconds
    good = True
    for step in todo:
        left = deadline - time.monotonic()
        print(f"{step.name}: {step.question}", flush=True)
        outcome = run_step(step, output, min(step.limit, left)) if left > 1 else NO_TIME
        print(f"{step.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
        done(step, outcome)
        good = good and outcome.good
    return good
