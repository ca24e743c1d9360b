"""Cells in quotation marks, as CSV writers make them (RFC 4180).

A quoted cell is ``"..."``, a quotation mark in it is doubled, and it may hold delimiters and line feeds. A
quotation mark inside a cell that does not begin with one is a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

QuotedRow = tuple[int, list[str] | None]
"""Number of a row's first line, and its cells; None: a quoted cell that does not end at a delimiter."""
_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')


def quoted_rows(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[QuotedRow]:
    """The rows of numbered lines; a quoted cell may extend over several of them. Blank lines are skipped."""
    cells: list[str] = []
    open_cell: list[str] | None = None  # its lines
    first = 0
    for number, line in lines:
        if open_cell is None:
            if not line.strip():
                continue
            first, cells = number, []
            if '"' not in line:
                yield number, line.split(delimiter)
                continue
        good, open_cell = _scan(line, delimiter, cells, open_cell)
        if not good:
            yield first, None
        elif open_cell is None:
            yield first, cells
    if open_cell is not None:
        yield first, None


def _scan(
    line: str, delimiter: str, cells: list[str], open_cell: list[str] | None
) -> tuple[bool, list[str] | None]:
    """Add a line's cells to ``cells``; whether they are sound, and the cell that is open at its end."""
    place = 0
    while True:
        if open_cell is not None or line.startswith('"', place):
            place += open_cell is None
            inside = _INSIDE.match(line, place)
            assert inside is not None
            open_cell = [] if open_cell is None else open_cell
            open_cell.append(inside[0])
            place = inside.end()
            if place == len(line):
                return True, open_cell
            cells.append("\n".join(open_cell).replace('""', '"'))
            open_cell = None
            place += 1  # behind the closing mark
            if place < len(line) and not line.startswith(delimiter, place):
                return False, None
        else:
            end = line.find(delimiter, place)
            end = len(line) if end < 0 else end
            cells.append(line[place:end])
            place = end
        if place == len(line):
            return True, None
        place += len(delimiter)


def begins_quoted(cell: str) -> bool:
    """Whether a cell of plain text looks like the whole of a quoted cell."""
    return len(cell) > 1 and cell[0] == '"' and cell[-1] == '"'
