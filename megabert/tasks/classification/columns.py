"""The texts, labels and ids of a file's lines: columns by name, by a known layout, or keys of JSON objects.

Which columns or keys they are is decided once per file; a line that does not have them is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.tasks.files.column_orders import Check, ColumnOrder, find_column_order
from megabert.tasks.files.faults import Faults
from megabert.tasks.files.json_lines import read_json_lines, usual_keys
from megabert.tasks.files.names import example_ids
from megabert.tasks.files.tables import Cells, Table

Fields = tuple[tuple[str, ...], ...]
"""Names that the column of each text may have."""
_IDS = ("index", "idx")
_SPLIT = "split"
_ANNOTATOR = re.compile(r"label[0-9]")


@dataclass(frozen=True)
class Columns:
    """What is in the usable lines of a file, N of them.

    Attributes:
        layout: how the file was read, in words.
        names: of the columns, in lower case; () without a header.
        texts: of each field N texts.
        labels: as the file has them; None if it has none.
        lines: number of each line, from 1.
        ids: what names each in a prediction file.
    """

    layout: str
    names: tuple[str, ...]
    texts: tuple[list[str], ...]
    labels: list[Any] | None
    lines: list[int]
    ids: list[Any]


@dataclass(frozen=True)
class _Places:
    """Columns or keys of the texts, the label and the id."""

    texts: tuple[Any, ...]
    label: Any
    identity: Any


def _places(names: Sequence[str], fields: Fields, labels: Sequence[str]) -> _Places | None:
    """Places in ``names``, which are in lower case; None where a text has none."""
    texts = [next((names.index(name) for name in some if name in names), None) for some in fields]
    if None in texts:
        return None
    label = next((names.index(name) for name in labels if name in names), None)
    identity = next((names.index(name) for name in _IDS if name in names), None)
    if label is None and identity is None and "id" in names:
        identity = names.index("id")  # test files of QQP
    return _Places(tuple(texts), label, identity)


def _told(form: str, names: Sequence[str], places: _Places) -> str:
    """How a file with names is read, in words."""
    used = {*places.texts, places.label, places.identity}
    texts = ", ".join(repr(names[place]) for place in places.texts)
    label = "no label" if places.label is None else f"label {names[places.label]!r}"
    others = [name for place, name in enumerate(names) if place not in used]
    unused = f", not used: {', '.join(map(repr, others))}" if others else ""
    return f"{form}: texts {texts}, {label}{unused}"


def named_columns(
    path: Path, table: Table, fields: Fields, labels: Sequence[str], faults: Faults
) -> Columns:
    """The columns of a table with a header.

    Args:
        path: the file.
        table: its lines.
        fields, labels: names of the columns of the texts and of the label; the first one found counts.
        faults: gets lines with another number of columns. Columns of single annotators at the end of a line
            may be missing (SNLI and MultiNLI).

    Raises:
        UserError: two columns have one name, the lines are of several splits, or no line can be used.
    """
    assert table.header is not None
    names = tuple(name.strip().lower() for name in table.header)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path} line 1: two columns have the name {twice[0]!r}")
    places = _places(names, fields, labels)
    assert places is not None  # as the header was recognised by these names
    least = len(names)
    while _ANNOTATOR.fullmatch(names[least - 1]):
        least -= 1
    usable: list[tuple[int, Cells]] = []
    for number, cells in zip(table.lines, table.cells):
        if least <= len(cells) <= len(names):
            usable.append((number, cells))
        else:
            faults.add(number, "wrong number of columns", f"{len(cells)}, not {len(names)}")
    if not usable:
        raise UserError(f"{path}: none of its {len(table.lines)} lines has {len(names)} columns")
    if _SPLIT in names:
        require_one_split(path, [cells[names.index(_SPLIT)] for _, cells in usable])
    return _columns(_told(table.form, names, places), names, usable, places)


def require_one_split(path: Path, splits: Sequence[Any]) -> None:
    """Raise UserError if the lines are of several splits, which must not be trained on together."""
    found = list(dict.fromkeys(map(str, splits)))
    if len(found) > 1:
        raise UserError(
            f"{path} has the splits {', '.join(found[:5])} in one file; write the lines of each split to "
            "a file of its own"
        )


def known_columns(
    path: Path, table: Table, layouts: Sequence[ColumnOrder], label: Check, faults: Faults
) -> Columns:
    """The columns of a table without a header.

    Args:
        path: the file.
        table: its lines.
        layouts: one of these.
        label: check of a label.
        faults: gets lines that do not fit the file's layout; unknown labels are left to the caller.

    Raises:
        UserError: no layout fits.
    """
    rows = list(zip(table.lines, table.cells))
    layout = find_column_order(path, layouts, rows, label)
    usable = []
    for number, cells in rows:
        wrong = layout.fault(cells, lambda _: None)
        if wrong is None:
            usable.append((number, cells))
        else:
            faults.add(number, *wrong)
    places = _Places(
        layout.texts, layout.label, layout.numbers[0] if layout.label is None else None
    )
    return _columns(f"{table.form} without a header: {layout.title}", (), usable, places)


def _columns(
    layout: str, names: tuple[str, ...], rows: Sequence[tuple[int, Cells]], places: _Places
) -> Columns:
    return Columns(
        layout,
        names,
        tuple([cells[place] for _, cells in rows] for place in places.texts),
        None if places.label is None else [cells[places.label] for _, cells in rows],
        [number for number, _ in rows],
        [
            row if places.identity is None else cells[places.identity]
            for row, (_, cells) in enumerate(rows)
        ],
    )


def columns_of_objects(
    path: Path, fields: Fields, labels: Sequence[str], faults: Faults
) -> Columns:
    """The values of JSON objects, one per line, or of the rows of a Parquet file.

    The keys are those that most objects have.

    Args:
        path: the file.
        fields, labels: as of :func:`named_columns`; case is ignored.
        faults: gets lines that lack one of the keys, or have a label where others have none.

    Raises:
        UserError: unreadable, the lines are of several splits, or no line can be used.
    """
    read = list(read_json_lines(path))
    objects = [
        {str(k).lower(): v for k, v in o.items()} if isinstance(o, dict) else o for _, o in read
    ]
    names = usual_keys(objects)
    places = _places(names, fields, labels)
    if places is None:
        wanted = " and ".join(" or ".join(map(repr, some)) for some in fields)
        raise UserError(
            f"{path}: none of its {len(read)} lines is an object with the texts {wanted}"
        )
    keys = [names[place] for place in places.texts]
    label = None if places.label is None else names[places.label]
    unlabelled = set(labels) if label is None else set()
    usable: list[tuple[int, dict[str, Any]]] = []
    for (number, _), one in zip(read, objects):
        wrong = _object_fault(one, keys, label, unlabelled)
        if wrong is not None:
            faults.add(number, "unusable line", wrong)
        elif isinstance(one, dict):
            usable.append((number, one))
    if not usable:
        raise UserError(f"{path}: no line can be used ({faults.problems})")
    if _SPLIT in names:
        require_one_split(path, [one.get(_SPLIT) for _, one in usable])
    identity = None if places.identity is None else names[places.identity]
    return Columns(
        _told("JSON lines", names, places),
        tuple(names),
        tuple([one[key] for _, one in usable] for key in keys),
        None if label is None else [one[label] for _, one in usable],
        [number for number, _ in usable],
        example_ids(
            [None if identity is None else one.get(identity) for _, one in usable],
            [number for number, _ in usable],
            faults.problems,
        ),
    )


def _object_fault(
    one: dict[str, Any] | str, keys: Sequence[str], label: str | None, unlabelled: set[str]
) -> str | None:
    if isinstance(one, str):
        return one
    for key in keys:
        if not isinstance(one.get(key), str):
            return f"{key!r} is missing or not a text"
    if label is not None and label not in one:
        return f"no {label!r}, unlike most lines"
    surplus = sorted(unlabelled & one.keys())
    return f"a {surplus[0]!r}, unlike most lines" if surplus else None
