"""The examples of a file as objects with named values: JSON lines, one JSON list, Parquet, or columns with a header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.tasks.classification.columns import require_one_split
from megabert.tasks.files.faults import BadLines, Faults
from megabert.tasks.files.json_lines import has_objects, read_objects, usual_keys
from megabert.tasks.files.tables import COMMA, SEMICOLON, TAB, Cells, Table, cells_of, read_table
from megabert.tasks.files.text_lines import read_lines
from megabert.tasks.own_labels.columns import Choose, ChosenColumns

_SPLIT = "split"
_DELIMITERS = {TAB: "tabs", COMMA: "commas", SEMICOLON: "semicolons"}
_UNITS = {"line": "JSON lines", "row": "Parquet", "item": "a JSON list"}


@dataclass(frozen=True)
class Records:
    """The usable examples of a file, N > 0 of them.

    Attributes:
        columns: which of their values hold texts and labels.
        layout: how the file was read, in words.
        rows: number of each in the file, from 1, and its values by column.
        faults: what happens to further bad ones; its ``unit`` says what the numbers count.
    """

    columns: ChosenColumns
    layout: str
    rows: list[tuple[int, dict[str, Any]]]
    faults: Faults

    def values(self, column: str) -> list[Any]:
        """The values of a column, None where it is missing."""
        return [row.get(column) for _, row in self.rows]


def read_records(path: Path, choose: Choose, bad_lines: BadLines) -> Records:
    """Read a file.

    Args:
        path: the file, plain or packed.
        choose: the columns of a file with these names.
        bad_lines: what happens to lines that are not objects, or have another number of cells than the header.

    Raises:
        UserError: unreadable, empty, columns that are not found, or lines of several splits.
    """
    if has_objects(path):
        return _objects(path, choose, bad_lines)
    table = read_table(path, lambda cells: _fits(cells, choose))
    if table.header is None:
        _refuse_header(path, choose)
    return _cells(path, table, choose, bad_lines)


def _objects(path: Path, choose: Choose, bad_lines: BadLines) -> Records:
    unit, read = read_objects(path)
    faults = Faults(path, bad_lines, unit)
    names = usual_keys(content for _, content in read)
    if not names:
        wrong = next((content for _, content in read if isinstance(content, str)), "empty objects")
        raise UserError(f"{path} has no JSON object with values ({wrong})")
    chosen = choose(names)
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, content in read:
        if isinstance(content, str):
            faults.add(number, f"unusable {unit}", content)
        else:
            rows.append((number, content))
    return _records(chosen, f"{_UNITS[unit]}: {chosen.told(names)}", rows, faults)


def _cells(path: Path, table: Table, choose: Choose, bad_lines: BadLines) -> Records:
    faults = Faults(path, bad_lines)
    for line in table.damaged:
        faults.add(line, "damaged line", "a quoted cell that does not end at a delimiter")
    names = [name.strip() for name in table.header or ()]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path} line 1: two columns have the name {twice[0]!r}")
    chosen = choose(names)
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, cells in zip(table.lines, table.cells):
        if len(cells) == len(names):
            rows.append((number, dict(zip(names, cells))))
        else:
            detail = f"{len(cells)}, where the header has {len(names)}"
            faults.add(number, "wrong number of columns", detail)
    return _records(chosen, f"{table.form}: {chosen.told(names)}", rows, faults)


def _records(
    chosen: ChosenColumns, layout: str, rows: list[tuple[int, dict[str, Any]]], faults: Faults
) -> Records:
    if not rows:
        raise UserError(f"{faults.path} has no usable example ({faults.problems})")
    found = Records(chosen, layout, rows, faults)
    if any(_SPLIT in row for _, row in rows) and chosen.label != _SPLIT:
        require_one_split(faults.path, found.values(_SPLIT))
    return found


def _fits(cells: Cells, choose: Choose) -> bool:
    """Whether the cells of a first line name the columns."""
    try:
        choose([cell.strip() for cell in cells])
    except UserError:
        return False
    return True


def _refuse_header(path: Path, choose: Choose) -> None:
    """Raise UserError for a file whose first line does not name its columns."""
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    cut = {delimiter: cells_of(first, delimiter) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda one: len(cut[one]))
    names = [cell.strip() for cell in cut[delimiter] or [first]]
    how = f"cut at {_DELIMITERS[delimiter]}" if len(names) > 1 else "no tab, comma or semicolon"
    try:
        choose(names)
    except UserError as error:
        raise UserError(f"{error}, as its first line names them ({how})") from error
    raise UserError(f"{path}: its first line is not a header")
