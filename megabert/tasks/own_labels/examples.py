"""Examples whose labels are sets of names, or numbers of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megabert.common.errors import UserError
from megabert.tasks.classification.data import Examples, not_among


@dataclass(frozen=True)
class MultiLabelExamples(Examples):
    """Examples with any number of labels each, ``names``; ``labels`` is not used."""

    names: Sequence[tuple[str, ...]] = ()

    def targets(self, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """The examples all of whose labels are known, and float32 [K, L], 1 for each of theirs."""
        place = {label: number for number, label in enumerate(labels)}
        found = np.zeros((len(self.names), len(labels)), np.float32)
        usable = np.ones(len(self.names), np.bool_)
        for row, (names, line) in enumerate(zip(self.names, self.lines)):
            for name in names:
                if name in place:
                    found[row, place[name]] = 1
                else:
                    self.faults.add(line, "unknown label", not_among(name, labels))
                    usable[row] = False
        if not usable.any():
            raise UserError(f"{self.faults.path} has no usable example ({self.faults.problems})")
        order = np.flatnonzero(usable).astype(np.int64)
        return order, found[order]


@dataclass(frozen=True)
class NumberExamples(Examples):
    """Examples with a number each."""

    def targets(self, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """All examples, and their numbers, float64 [N]; None without labels."""
        order, numbers = np.arange(len(self.lines), dtype=np.int64), self.labels
        return order, None if numbers is None else np.array(numbers, np.float64)
