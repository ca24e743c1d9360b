"""What the calls so far have found, as one JSON file and one Markdown file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hour.steps import NO_TIME, Outcome, Step
from benchmarks.steps.rounds import markdown_table, write_json

RECORD = "hour.json"
PAGE = "hour.md"


class Report:
    """The outcomes of every step of every call into one folder; written again after each step.

    Args:
        output: the folder.
        earlier: folders of earlier calls, whose outcomes are taken over.
    """

    def __init__(self, output: Path, earlier: Sequence[Path] = ()) -> None:
        self.output = output
        self.steps: dict[str, dict[str, Any]] = {}
        for folder in (*earlier, output):
            if (folder / RECORD).is_file():
                content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
                self.steps |= content["steps"]

    def ended_well(self, name: str) -> bool:
        """Whether an earlier call has answered this question."""
        return self.steps.get(name, {}).get("status") == "done"

    def add(self, part: str, step: Step, outcome: Outcome) -> None:
        """Keep the outcome of a step, in place of an earlier one unless there was no time for it."""
        if outcome is NO_TIME and step.name in self.steps:
            return
        self.steps[step.name] = {
            "part": part,
            "question": step.question,
            "command": step.command,
            "status": outcome.status,
            "seconds": outcome.seconds,
            "answer": answer_of(step, outcome),
            "printed": outcome.printed,
            "said": outcome.said,
            "result": outcome.result,
        }
        write_json(self.output / RECORD, {"steps": self.steps})
        (self.output / PAGE).write_text(self.page(), encoding="utf-8")

    def page(self) -> str:
        """The Markdown file."""
        rows = [
            (one["question"], one["answer"], one["status"], round(one["seconds"]))
            for one in self.steps.values()
        ]
        lines = [
            "# The first hour on a GPU",
            "",
            markdown_table(("question", "answer", "outcome", "s"), rows),
        ]
        for name, one in self.steps.items():
            command = shlex.join(["python", *one["command"]])
            lines += [
                "",
                f"## {name}: {one['question']}",
                "",
                f"{one['part']} Outcome: {one['status']}.",
                "",
            ]
            lines += [f"`{command}`", "", *_shown(one["printed"] or "nothing was printed")]
            if one["status"] != "done" and one["said"]:
                lines += ["", *_fenced(one["said"])]
        return "\n".join(lines) + "\n"


def answer_of(step: Step, outcome: Outcome) -> str:
    """The answer, if there are figures for one; otherwise the last line of what was said."""
    if outcome.result is not None:
        try:
            return step.answer(outcome.result)
        except (KeyError, TypeError, IndexError, ValueError):  # half of the figures
            pass
    return outcome.said.rpartition("\n")[2] if outcome.said and not outcome.good else "-"


def _fenced(text: str) -> list[str]:
    return ["```", text, "```"]


def _shown(printed: str) -> list[str]:
    """Markdown as it is, other text in a fence."""
    return [printed] if printed.startswith(("|", "- ")) or "\n|" in printed else _fenced(printed)
