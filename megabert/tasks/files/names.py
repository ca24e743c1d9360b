"""Names of columns, and of labels and examples that are found in a file itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megabert.tasks.files.problems import Problems

_MISSING = frozenset(["", "none", "null", "nan", "n/a", "<na>", "undefined", "-", "?"])


@dataclass(frozen=True)
class NamedColumns:
    """Columns of a task's files, or keys of their JSON objects; None: found by their usual names.

    Attributes:
        text: the text, or the first one of a pair.
        pair: the second one.
        label: the labels.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def is_no_name(text: str) -> bool:
    """Whether a label is empty, a negative number, or what programs write for a missing value."""
    plain = text.strip().lower()
    negative = plain[:1] == "-" and plain[1:].replace(".", "", 1).isdecimal()
    return plain in _MISSING or negative


def example_ids(given: Sequence[Any], lines: Sequence[int], problems: Problems) -> list[Any]:
    """What names each example in a prediction file: its own id, or its number from 0.

    Args:
        given: id of each example, None for one without; they are used if all have one.
        lines: line of each example.
        problems: gets the examples without an id, if others have one.
    """
    missing = [line for one, line in zip(given, lines) if one is None]
    if not missing:
        return list(given)
    if len(missing) < len(given):
        for line in missing:
            problems.add("line without an id, so predictions are named by number", f"line {line}")
    return list(range(len(given)))
