"""Where a decay branch begins, as a text: ``RUN@STEP``, or ``RUN`` for its newest checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_POINT = re.compile(r"(.+)@(\d{1,12})", re.DOTALL)


class BranchPoint(NamedTuple):
    """A checkpoint of a run; ``step`` None: the newest one."""

    run: Path
    step: int | None

    def __str__(self) -> str:
        return str(self.run) if self.step is None else f"{self.run}@{self.step}"


def read_branch_point(path: Path) -> BranchPoint:
    """The run's folder and the step."""
    match = _POINT.fullmatch(str(path))
    return BranchPoint(Path(match[1]), int(match[2])) if match else BranchPoint(path, None)
