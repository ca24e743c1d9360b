"""Where duplicates come from: the same document twice in an input, or in two inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from megabert.data.prepare.batch_files import unit_of
from megabert.data.prepare.encode import DUPLICATE, NEAR_COPY, SAME_TEXT
from megabert.data.prepare.plan import Copies

MANY = 0.01
"""Fraction of duplicates among the documents that is worth a warning."""
WHAT = {
    DUPLICATE: "have the same tokens as an earlier one",
    SAME_TEXT: "have the same letters and digits as an earlier one",
    NEAR_COPY: "are nearly the same as an earlier one",
}
"""What is said of copies, by the reason for which they are left out."""
_SHOWN = 3  # pairs of inputs that are named

Causes = Mapping[tuple[str, str], int]
"""Documents left out, by the input of the first equal document and their own input."""


def duplicate_causes(
    copies: Copies, batches: Sequence[Path], inputs: Sequence[tuple[str, range]]
) -> Causes:
    """Count copies by the inputs in which both documents are.

    Args:
        copies: those of one reason.
        batches: the batch files, in the order of the input.
        inputs: each input's name and its units; empty if the inputs were read as one.
    """
    named = [input_of(unit_of(path), inputs) for path in batches]
    pairs = Counter((named[first], named[own]) for first, own in copies.batches.tolist())
    return dict(pairs.most_common())


def input_of(unit: int, inputs: Sequence[tuple[str, range]]) -> str:
    """Name of the input that a unit belongs to; "" if the inputs were read as one."""
    return next((name for name, units in inputs if unit in units), "")


def duplicates_line(causes: Causes, kept: int, reason: str = DUPLICATE) -> str | None:
    """One line that says how many documents were left out and why; None if there are few.

    Args:
        causes: of :func:`duplicate_causes`.
        kept: documents that were not left out for this reason.
        reason: why they were left out.
    """
    total = sum(causes.values())
    if not total or total <= MANY * (total + kept):
        return None
    parts = [_cause(*pair, count) for pair, count in list(causes.items())[:_SHOWN]]
    if len(causes) > _SHOWN:
        parts.append(f"{sum(list(causes.values())[_SHOWN:])} in other pairs of inputs")
    return (
        f"{total} documents ({total / (total + kept):.1%}) {WHAT[reason]} and "
        f"were left out: {', '.join(parts)}"
    )


def _cause(first: str, own: str, count: int) -> str:
    if not own:
        return f"{count} within the inputs"
    if first == own:
        return f"{count} within {own}"
    return f"{count} of {own} that are in {first} too"
