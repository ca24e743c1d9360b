"""Inputs of ``launch/predict.py``: JSON lines, plain lines, tab-separated columns, SQuAD files."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, parse_json
from megabert.common.log import get_logger
from megabert.tasks.base import ItemFormat
from megabert.tasks.files.json_lines import begins_list, read_objects
from megabert.tasks.files.kinds import has_parquet_rows
from megabert.tasks.files.tables import Cells, Table, read_table
from megabert.tasks.files.text_lines import read_lines
from megabert.tasks.registry import all_input_fields, item_formats

INPUT_FORMATS = ("auto", "jsonl", "text", "tsv")
"""Formats of a file of inputs; next to them, documents of the tasks' own."""
STANDARD_INPUT = Path("-")
Fields = tuple[tuple[str, ...], ...]
"""Names of each text of an item, the usual one first."""
_IDS = ("id", "index")

log = get_logger()


@dataclass(frozen=True)
class Items:
    """Inputs in their order, and the place of each ("line 3")."""

    items: list[dict[str, Any]]
    places: list[str]


@contextmanager
def as_file(source: Path) -> Iterator[tuple[Path, str]]:
    """A file to read and its name for messages; standard input is read to its end first."""
    if source != STANDARD_INPUT:
        yield source, str(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield path, "standard input"
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from error


def read_items(path: Path, fields: Fields, form: str, own: ItemFormat | None = None) -> Items:
    """All inputs of a file.

    Args:
        path: the file, plain or packed.
        fields: of the task.
        form: one of ``INPUT_FORMATS``, or the name of a task's own format; ``auto`` goes by the name (``.tsv``, ``.csv``)
            and the first line: an object is JSON lines, or the task's document where it does not end
            there or holds the document's key; a list of objects is the task's document; a line that names the
            texts is the header of columns; other lines are plain texts, or columns where the task has two
            texts. Rows of Parquet are objects.
        own: the document format of the task.

    Raises:
        UserError: unreadable, empty, or a line that is not of the form; the message names it.
    """
    if form == "auto":
        form = _detected(path, fields, own)
    if form not in INPUT_FORMATS:
        items = _document(path, form, own)
    elif form == "jsonl":
        items = _json_lines(path)
    elif form == "tsv":
        items = _columns(path, fields)
    else:
        items = _texts(path, fields)
    if not items.items:
        raise UserError(f"{path} has no input")
    return items


def _detected(path: Path, fields: Fields, own: ItemFormat | None) -> str:
    if has_parquet_rows(path):
        return "jsonl"
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if begins_list(first):
        return "jsonl" if own is None else own.name
    if first.lstrip().startswith("{"):
        try:
            content = parse_json(first, of_data=True)
        except JsonError:
            return "jsonl" if own is None else own.name
        documents = (form.name for form in item_formats().values() if form.key in content)
        return next(documents, "jsonl")
    named = {".tsv", ".csv"} & set(path.suffixes)
    titled = any(
        delimiter in first and _is_header(first.replace('"', "").split(delimiter), fields)
        for delimiter in "\t,"
    )
    return "tsv" if named or titled or len(fields) > 1 else "text"


def _is_header(cells: Cells, fields: Fields) -> bool:
    """Whether a line's cells name a column for every text."""
    names = {cell.strip().lower() for cell in cells}
    return all(names & {name.lower() for name in some} for some in fields)


def _document(path: Path, form: str, own: ItemFormat | None) -> Items:
    if own is None or own.name != form:
        title = item_formats()[form].title
        raise UserError(f"{path} is a {title} file, but this checkpoint's task does not read it")
    read = own.read(path)
    return Items([item for _, item in read], [place for place, _ in read])


def _json_lines(path: Path) -> Items:
    found = Items([], [])
    unit, read = read_objects(path)
    for number, content in read:
        if isinstance(content, str):
            raise UserError(f"{path} {unit} {number}: {content}")
        found.items.append(content)
        found.places.append(f"{unit} {number}")
    return found


def _texts(path: Path, fields: Fields) -> Items:
    """One text per line; empty lines at the end are ignored."""
    if len(fields) > 1:
        names = " and ".join(names[0] for names in fields)
        raise UserError(
            f"{path}: plain lines, but an input needs {names}; give JSON lines or columns"
        )
    lines = [line for _, line in read_lines(path)]
    while lines and not lines[-1].strip():
        lines.pop()
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise UserError(f"{path} line {empty} is empty; remove it, or give JSON lines")
    log.info("%s is read as plain lines: one input per line", path)
    return Items(
        [{fields[0][0]: line} for line in lines],
        [f"line {number + 1}" for number in range(len(lines))],
    )


def _columns(path: Path, fields: Fields) -> Items:
    """Columns found by their names in a first line, or in the order of the texts."""
    table = read_table(path, lambda cells: _is_header(cells, fields))
    if table.damaged:
        raise UserError(
            f"{path} line {table.damaged[0]}: a quoted cell that does not end at a delimiter"
        )
    names = [name.strip().lower() for name in table.header or ()]
    if not names:
        _refuse_other_header(path, table, fields)
    places = {some[0]: _place(names, some, place) for place, some in enumerate(fields)}
    identity = next((name for name in _IDS if name in names), None)
    if identity is not None:
        places["id"] = names.index(identity)
    shown = names or [some[0] for some in fields]
    for number, cells in zip(table.lines, table.cells):
        if len(cells) != len(shown):
            hint = "" if names else " (or add a first line that names them)"
            raise UserError(
                f"{path} line {number}: columns: {len(cells)}, expected {len(shown)}: "
                f"{', '.join(shown)}{hint}"
            )
    order = "by the names in its first line" if names else f"{', '.join(shown)} in this order"
    log.info("%s is read as %s: columns %s", path, table.form, order)
    return Items(
        [{name: cells[place] for name, place in places.items()} for cells in table.cells],
        [f"line {number}" for number in table.lines],
    )


def _place(names: list[str], known: tuple[str, ...], order: int) -> int:
    """Place of a text's column: by its name in lower case, or in the order of the texts if there are no names."""
    alike = [name.lower() for name in known]
    return next(names.index(name) for name in alike if name in names) if names else order


def _refuse_other_header(path: Path, table: Table, fields: Fields) -> None:
    """Raise UserError if the first line names columns of another task, so that it is not an input."""
    first = [cell.strip().lower() for cell in table.cells[0]] if table.cells else []
    known = {name for task in all_input_fields() for some in task for name in some} | {
        "label",
        *_IDS,
    }
    if len(first) > 1 and set(first) <= known:
        wanted = " and ".join(names[0] for names in fields)
        raise UserError(
            f"{path} line 1 names the columns {', '.join(first)}, but an input needs {wanted}: name the "
            "columns so, or remove the line"
        )


def item_of(texts: Mapping[str, str | None], fields: Fields) -> dict[str, Any] | None:
    """One input from the texts of flags; None if no flag is given.

    ``texts``: ``text``, ``text_b``, ``question``, ``context``.

    Raises:
        UserError: other texts are given than the task takes.
    """
    given = {name: text for name, text in texts.items() if text is not None}
    if not given:
        return None
    flags = ("question", "context") if ("context",) in fields else ("text", "text_b")[: len(fields)]
    if set(given) != set(flags):
        wanted = " and ".join(f"--{flag.replace('_', '-')}" for flag in flags)
        raise UserError(f"this checkpoint takes {wanted}: give these, or --input")
    return {some[0]: given[flag] for some, flag in zip(fields, flags)}
