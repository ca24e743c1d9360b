"""The rows of a Parquet file as objects, read by a process of its own.

Memory is bounded whatever the file holds (a cell, a page or a dictionary can unpack to gigabytes), as it
is for texts (:mod:`megabert.data.text.input.parquet_rows`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, parse_json
from megabert.common.log import get_logger
from megabert.common.processes.isolated import IsolatedFault, IsolatedWorker, rows_in_batches
from megabert.data.text.input.parquet_rows import open_parquet
from megabert.data.text.plain.lines import MAX_LINE

_BATCH_ROWS = 64
_MOST_AT_ONCE = 1 << 23  # bytes of an answer with several rows
_TOO_LONG = "!"  # instead of a row's JSON

_reading: tuple[dict[str, Any], Iterator[list[str]]] | None = None  # in the process of its own


def read_parquet_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number (from 1) of each row, and its object, or what is wrong with it.

    Columns that JSON has no values for (dates, bytes) are left out.

    Raises:
        UserError: the file is damaged, has two columns of one name, or a row takes over a gigabyte.
    """
    left_out = _ask(path)
    if left_out:
        get_logger().info("%s: columns left out: %s", path, ", ".join(left_out))
    rows = rows_in_batches(lambda row, batch: _ask(path, row, batch), _BATCH_ROWS)
    number = 0
    try:
        for number, text in enumerate(rows, start=1):
            yield number, _object(text)
    except IsolatedFault:
        raise UserError(
            f"{path}: row {number + 1:,} cannot be read: it is damaged, or its page unpacks to more than a "
            "gigabyte; write the file again with smaller row groups"
        ) from None


def _object(text: str) -> dict[str, Any] | str:
    if text == _TOO_LONG:
        return f"is longer than {MAX_LINE >> 20} MiB"
    try:
        content: dict[str, Any] = parse_json(text, of_data=True)
    except JsonError as error:
        return str(error)
    return content


def _ask(path: Path, row: int = 0, batch: int = 0) -> list[str] | None:
    """The JSON of some rows from ``row`` on, none at the end; with ``batch`` 0 the columns left out.

    None: it takes too much memory, or the process dies.

    Raises:
        UserError: as :func:`read_parquet_objects`.
    """
    request = {"path": str(path), "row": row, "batch": batch}
    try:
        answer = parse_json(_worker.ask(json.dumps(request).encode()), of_data=True)
    except IsolatedFault:
        return None
    if isinstance(answer, str):
        raise UserError(f"{path}: damaged Parquet file ({answer}); fetch it again")
    return answer


# ---------------------------------------------------------------- the process of its own


def _answer(message: bytes) -> bytes:
    global _reading
    request: dict[str, Any] = parse_json(message, of_data=True)
    answer: list[str] | str | None
    try:
        if not request["batch"]:
            with open_parquet(request["path"]) as file:
                answer = _columns(file.schema_arrow)[1]
        else:
            if _reading is None or _reading[0] != request:
                _reading = request, _parts(**request)
            answer = next(_reading[1], [])
            _reading = request | {"row": request["row"] + len(answer)}, _reading[1]
    except MemoryError:
        answer = _reading = None
    except (OSError, ValueError, pa.ArrowException) as error:
        answer, _reading = " ".join(str(error).split())[:160], None
    return json.dumps(answer).encode()


def _columns(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Names of the columns that are read, and of those left out with their types."""
    names: list[str] = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are named {twice!r}")
    read = [field.name for field in schema if _has_json(field.type)]
    return read, [f"{field.name} ({field.type})" for field in schema if field.name not in read]


def _has_json(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _has_json(kind.value_type)
    if pa.types.is_nested(kind):
        return not pa.types.is_map(kind) and all(
            _has_json(kind.field(number).type) for number in range(kind.num_fields)
        )
    checks = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean,
        pa.types.is_integer, pa.types.is_floating, pa.types.is_null,
    )  # fmt: skip
    return any(check(kind) for check in checks)


def _parts(path: str, row: int, batch: int) -> Iterator[list[str]]:
    """The JSON of the rows from ``row`` on: several at once if they are short, otherwise one by one."""
    with open_parquet(path) as file:
        names, _ = _columns(file.schema_arrow)
        groups, before = _groups_from(file.metadata, row)
        for records in file.iter_batches(batch, groups, names, use_threads=False):
            skipped = min(before, records.num_rows)
            before -= skipped
            part: list[str] = []
            size = 0
            for number in range(skipped, records.num_rows):
                (content,) = records.slice(number, 1).to_pylist()
                text = json.dumps(content, ensure_ascii=False)
                if len(text) > MAX_LINE:
                    text = _TOO_LONG
                if part and size + len(text) > _MOST_AT_ONCE:
                    yield part
                    part, size = [], 0
                part.append(text)
                size += len(text)
            if part:
                yield part


def _groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """The row groups from that of ``row`` on, and how many rows of the first are before it."""
    group = 0
    while group < metadata.num_row_groups and row >= metadata.row_group(group).num_rows:
        row -= metadata.row_group(group).num_rows
        group += 1
    return list(range(group, metadata.num_row_groups)), row


_worker = IsolatedWorker(_answer)
