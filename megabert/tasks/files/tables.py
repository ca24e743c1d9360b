"""Files of cells in lines: separated by tabs, or by commas or semicolons under a header, quoted or not.

Lines end at line feeds only, and blank lines are skipped. How a file is read is decided once, from all of
its lines:

    commas          the first line has no tab, and names columns when it is cut at its commas
    semicolons      the same for semicolons (spreadsheets in many languages)
    tabs            every other file
    quoted cells    always with commas and semicolons. With tabs if all quoted cells are sound, and the header is quoted, or all
                    cells are, or only so all lines have the same number of cells

GLUE's files have no quoting: their quotation marks are characters (Google BERT's public
``run_classifier.py`` reads them with a quote character, which joins lines at an unbalanced one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megabert.common.errors import UserError
from megabert.tasks.files.quoted_cells import begins_quoted, quoted_rows
from megabert.tasks.files.text_lines import read_lines

Cells = list[str]
TAB, COMMA, SEMICOLON = "\t", ",", ";"


@dataclass(frozen=True)
class Table:
    """The lines of a file, in cells.

    Attributes:
        form: how they were read, in words.
        header: names of the columns in the first line, None where it is not a header.
        cells: of each further line; their numbers may differ.
        lines: number of each of these lines in the file, from 1.
        damaged: lines with a quoted cell that does not end.
    """

    form: str
    header: Cells | None
    cells: list[Cells]
    lines: list[int]
    damaged: list[int]


def read_table(path: Path, is_header: Callable[[Cells], bool]) -> Table:
    """Read a file.

    Args:
        path: plain, or packed with xz, gzip or bzip2.
        is_header: whether the first line's cells are names of columns.

    Raises:
        UserError: unreadable, or no line except the header.
    """
    lines = list(read_lines(path))
    first = next((line for _, line in lines if line.strip()), "")
    delimiter = next(
        (one for one in (COMMA, SEMICOLON) if TAB not in first and is_header(cells_of(first, one))),
        TAB,
    )
    if delimiter != TAB:
        form = "comma-separated" if delimiter == COMMA else "semicolon-separated"
        rows = list(quoted_rows(lines, delimiter))
    else:
        plain: list[tuple[int, Cells | None]] = [
            (number, line.split(TAB)) for number, line in lines if line.strip()
        ]
        quoted = _quoted(lines, plain, is_header)
        form = "tab-separated with quoted cells" if quoted else _plain_form(plain)
        rows = quoted or plain
    header = rows[0][1] if rows and rows[0][1] and is_header(rows[0][1]) else None
    body = rows[1:] if header is not None else rows
    if not body:
        raise UserError(f"{path} has no line{' after its header' if rows else ''}")
    sound = [(number, cells) for number, cells in body if cells is not None]
    return Table(
        form,
        header,
        [cells for _, cells in sound],
        [number for number, _ in sound],
        [number for number, cells in body if cells is None],
    )


def cells_of(line: str, delimiter: str) -> Cells:
    """Cells of a first line that is cut at a delimiter; [] if it does not end there."""
    return next(iter(quoted_rows([(1, line)], delimiter)), (1, None))[1] or []


def _quoted(
    lines: list[tuple[int, str]],
    plain: list[tuple[int, Cells | None]],
    is_header: Callable[[Cells], bool],
) -> list[tuple[int, Cells | None]] | None:
    """The rows with quoted cells, if a CSV writer made the file; see above."""
    if not any(cell[:1] == '"' for _, cells in plain for cell in cells or ()):
        return None
    rows = list(quoted_rows(lines, TAB))
    if any(cells is None for _, cells in rows):
        return None
    if not is_header(plain[0][1] or []) and is_header(rows[0][1] or []):
        return rows
    everywhere = all(begins_quoted(cell) for _, cells in plain for cell in cells or ())
    return rows if everywhere or (_uniform(rows) and not _uniform(plain)) else None


def _plain_form(rows: list[tuple[int, Cells | None]]) -> str:
    """In words; cells that a CSV writer seems to have quoted are mentioned."""
    found = sum(
        begins_quoted(cell) and '""' in cell[1:-1] for _, cells in rows for cell in cells or ()
    )
    text = "tab-separated"
    if found:
        text += f" (quotation marks are characters; {found:,} cells look quoted)"
    return text


def _uniform(rows: list[tuple[int, Cells | None]]) -> bool:
    return len({len(cells or ()) for _, cells in rows}) == 1
