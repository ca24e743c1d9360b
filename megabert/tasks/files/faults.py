"""What happens to a line that cannot be used: an error, or it is counted and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems

BadLines = Literal["error", "skip"]


class Faults:
    """The bad lines of a file, by the policy of ``--bad-lines``.

    The policy decides what happens to single lines (``unit``: what the file calls them). It never decides which columns are meant.
    """

    def __init__(self, path: Path, policy: BadLines, unit: str = "line") -> None:
        self.path, self.policy, self.unit = path, policy, unit
        self.problems = Problems()

    def add(self, line: int, kind: str, detail: str) -> None:
        """Raise UserError, or count one ``kind``."""
        if self.policy == "error":
            raise UserError(
                f"{self.path} {self.unit} {line}: {kind}: {detail}; correct it, or leave such lines out with "
                "--bad-lines skip"
            )
        self.problems.add(kind, f"{self.unit} {line}")
