"""Tab-separated files as GLUE distributes them: no quoting, a header or none.

A cell is the text between two tabs; quotation marks are ordinary characters (Google BERT's public
``run_classifier.py`` reads them with a quote character, which joins lines at an unbalanced one). Blank
lines are skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems
from megabert.tasks.files.text_lines import read_lines

BadLines = Literal["error", "skip"]
Cells = list[str]


class Faults:
    """What happens to a line that cannot be used: an error, or it is counted and left out."""

    def __init__(self, path: Path, policy: BadLines) -> None:
        self.path, self.policy = path, policy
        self.problems = Problems()

    def add(self, line: int, kind: str, detail: str) -> None:
        """Raise UserError, or count one ``kind``."""
        if self.policy == "error":
            raise UserError(
                f"{self.path} line {line}: {kind}: {detail}; correct it, or leave such lines out with "
                "--bad-lines skip"
            )
        self.problems.add(kind, f"line {line}")


@dataclass(frozen=True)
class Table:
    """Lines with the same number of cells.

    Attributes:
        header: names of the columns, None where the file has no header.
        width: columns.
        cells: of each line.
        lines: number of each line in the file, from 1.
    """

    header: Cells | None
    width: int
    cells: list[Cells]
    lines: list[int]


def read_table(
    path: Path,
    is_header: Callable[[Cells], bool],
    widths: Collection[int],
    faults: Faults,
) -> Table:
    """Read a file.

    Args:
        path: plain, or packed with xz, gzip or bzip2.
        is_header: whether the first line's cells are names of columns.
        widths: the numbers of columns that a file without a header may have; the most frequent one
            of its lines is used, of equally frequent ones the first.
        faults: gets lines of another width.

    Raises:
        UserError: unreadable, no line except the header, or a line of another width.
    """
    read = [(number, line.split("\t")) for number, line in read_lines(path) if line.strip()]
    header = read[0][1] if read and is_header(read[0][1]) else None
    body = read[1:] if header is not None else read
    if not body:
        raise UserError(f"{path} has no line{' after its header' if read else ''}")
    width = len(header) if header is not None else _width(widths, [cells for _, cells in body])
    usable = []
    for number, cells in body:
        if len(cells) == width:
            usable.append((number, cells))
        else:
            faults.add(number, "wrong number of columns", f"{len(cells)}, not {width}")
    if not usable:
        raise UserError(f"{path}: none of its {len(body)} lines has {width} columns")
    return Table(header, width, [cells for _, cells in usable], [number for number, _ in usable])


def _width(widths: Collection[int], body: list[Cells]) -> int:
    counts = Counter(len(cells) for cells in body)
    return max(widths, key=lambda width: counts[width])
