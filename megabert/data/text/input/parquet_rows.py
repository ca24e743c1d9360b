"""What a process of its own reads from Parquet files: row counts, and a few rows at a time.

A small file can unpack to gigabytes: a cell, a page, a dictionary whose one entry is a million rows.
No number of its metadata bounds that, since the pages have sizes of their own. So Arrow reads in a
process with limited memory; one that a batch exceeds is started again, and reads single rows.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megabert.common.errors import UserError
from megabert.common.json_text import parse_json
from megabert.data.text.plain.lines import MAX_LINE
from megabert.data.text.plain.records import missing_field

NO_MEMORY = "no memory"
"""The ``error`` of an answer: more memory is needed than the process may have."""
_READ_BUFFER = 1 << 20  # bytes per column, instead of its whole chunk
_MOST_AT_ONCE = 1 << 23  # bytes of text of an answer with several rows
_OPTIONAL = ("id", "url", "title")

Row = dict[str, Any] | str
"""The values of a row by column, "text" for the text; or what is wrong with it."""
_Row = list[bytes | int | None] | str
Cells = list[_Row]
"""Rows of an answer: the values of each, or what is wrong with it."""
_END = b"\n"  # of the JSON that begins an answer; the texts follow


@dataclass(frozen=True)
class ParquetRequest:
    """Rows of row group ``group`` from ``row`` on, read ``batch`` at a time; ``group`` None: the row counts."""

    path: str
    field: str
    group: int | None = None
    row: int = 0
    batch: int = 1

    def encode(self) -> bytes:
        """The message."""
        return json.dumps(vars(self)).encode()


class RowReading(ABC):
    """The rows that a request asks for, in parts of an answer each; later requests continue them.

    ``next_row`` is that of the next part; ``columns`` are the names of the cells.
    """

    def __init__(self, request: Any) -> None:
        self.request = request
        self.next_row: int = request.row
        self.columns = ["text"]
        self._parts = self.read()

    @abstractmethod
    def read(self) -> Iterator[Cells]:
        """The parts from the request's ``row`` on; sets ``columns``."""

    def continues(self, request: Any) -> bool:
        """Whether a request asks for the next part."""
        mine = vars(self.request) | {"row": self.next_row}
        return mine == vars(request)

    def next_part(self) -> Cells:
        """The next rows; none at the end."""
        part = next(self._parts, [])
        self.next_row += len(part)
        return part


class _ParquetReading(RowReading):
    """The rows of a row group."""

    def read(self) -> Iterator[Cells]:
        path, group, skipped = self.request.path, self.request.group, self.request.row
        with _open(path, self.request.field) as file:
            columns = wanted_columns(file.schema_arrow.names, self.request.field)
            self.columns = list(columns)
            names = list(dict.fromkeys(columns.values()))
            batches = file.iter_batches(
                self.request.batch, row_groups=[group], columns=names, use_threads=False
            )
            while True:
                try:
                    batch = next(batches, None)
                except MemoryError:
                    raise
                except (pa.ArrowException, OSError) as error:
                    raise UserError(
                        f"{path}: damaged: row group {group} cannot be read after row "
                        f"{self.next_row:,} of it ({arrow_reason(error)}); fetch the file again"
                    ) from None
                if batch is None:
                    return
                before = min(skipped, batch.num_rows)
                skipped -= before
                yield from row_parts(batch.slice(before), columns)


class RowAnswers:
    """Answers requests for the rows of one kind of files, in the process of its own.

    Args:
        request: type of the requests, with a ``row``.
        table: what a file holds, or None if the request is for rows.
        reading: reads rows.
    """

    def __init__(
        self,
        request: type,
        table: Callable[[Any], dict[str, Any] | None],
        reading: type[RowReading],
    ) -> None:
        self._request, self._table, self._reading = request, table, reading
        self._now: RowReading | None = None

    def answer(self, message: bytes) -> bytes:
        """The answer to a message, for :func:`decode_answer`."""
        request = self._request(**parse_json(message, of_data=True))
        try:
            if (table := self._table(request)) is not None:
                return _encoded(table)
            if self._now is None or not self._now.continues(request):
                self._now = self._reading(request)
            part = self._now.next_part()
            if part:
                return _encoded({"columns": self._now.columns}, part)
            error = None
        except MemoryError:
            error = NO_MEMORY
        except UserError as fault:
            error = str(fault)
        self._now = None
        return _encoded({"error": error})


def _row_counts(request: ParquetRequest) -> dict[str, Any] | None:
    if request.group is not None:
        return None
    with _open(request.path, request.field) as file:
        metadata = file.metadata
        groups = range(metadata.num_row_groups)
        return {"counts": [metadata.row_group(g).num_rows for g in groups]}


_answers = RowAnswers(ParquetRequest, _row_counts, _ParquetReading)


def answer_parquet(message: bytes) -> bytes:
    """The answer to a message, for :func:`decode_answer`; runs in the process of its own."""
    return _answers.answer(message)


def _encoded(head: dict[str, Any], part: Sequence[_Row] = ()) -> bytes:
    head["rows"] = [
        row if isinstance(row, str) else [[len(c)] if isinstance(c, bytes) else c for c in row]
        for row in part
    ]
    texts = (cell for row in part if not isinstance(row, str) for cell in row)
    return b"".join([json.dumps(head).encode(), _END, *(t for t in texts if isinstance(t, bytes))])


def decode_answer(message: bytes) -> dict[str, Any]:
    """``rows`` (a list of :data:`Row`) and ``counts`` as requested, or ``error``."""
    place = message.index(_END) + len(_END)
    answer: dict[str, Any] = parse_json(message[:place], of_data=True)
    texts = memoryview(message)
    rows: list[Row] = []
    for row in answer["rows"]:
        cells = []
        for cell in row if isinstance(row, list) else ():
            if isinstance(cell, list):
                begin, place = place, place + cell[0]
                cells.append(texts[begin:place])
            else:
                cells.append(cell)
        if isinstance(row, list):
            rows.append(_row(answer["columns"], cells))
        else:
            rows.append(row)
    return answer | {"rows": rows}


def _row(columns: Sequence[str], cells: Sequence[Any]) -> Row:
    try:
        return {
            n: str(c, "utf-8") if isinstance(c, memoryview) else c for n, c in zip(columns, cells)
        }
    except UnicodeDecodeError:
        return "is not UTF-8 text"


def wanted_columns(present: list[str], field: str) -> dict[str, str]:
    """The columns that are read, by the names of the cells."""
    columns = {name: name for name in _OPTIONAL if name in present and name != field}
    return columns | {"text": field}


def row_parts(batch: pa.RecordBatch, columns: dict[str, str]) -> Iterator[Cells]:
    """The rows of a batch: at once if they are short, otherwise one by one."""
    whole = [_plain(batch.column(name)) for name in columns.values()]
    sizes = [0] * batch.num_rows
    for column in whole:
        if not pa.types.is_integer(column.type):
            lengths = pc.binary_length(column).to_pylist()
            sizes = [size + (length or 0) for size, length in zip(sizes, lengths)]
    step = batch.num_rows if sum(sizes) <= _MOST_AT_ONCE else 1
    for first in range(0, batch.num_rows, max(1, step)):
        if sizes[first] > MAX_LINE:
            yield [f"is longer than {MAX_LINE >> 20} MiB"]
        else:
            yield list(map(list, zip(*(column.slice(first, step).to_pylist() for column in whole))))


def _plain(column: pa.Array) -> pa.Array:
    """Texts as bytes, which may not be UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file of which as little as possible is in memory; raises what Arrow raises."""
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve more than they need
    return pq.ParquetFile(
        path,
        buffer_size=_READ_BUFFER,
        pre_buffer=False,  # else the whole row group is read before its first batch
        page_checksum_verification=True,
    )


def _open(path: str, text_field: str) -> pq.ParquetFile:
    try:
        file = open_parquet(path)
    except MemoryError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: damaged: the name of a column is not UTF-8; fetch the file again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a complete Parquet file ({arrow_reason(error)}); fetch it again"
        ) from None
    try:
        require_text_column(path, file.schema_arrow, text_field, "Parquet")
    except UserError:
        file.close()
        raise
    return file


def require_text_column(path: str, schema: pa.Schema, text_field: str, form: str) -> None:
    """Raise ``UserError`` if a table lacks the column of texts, or one that is read holds something else."""
    names = schema.names
    if text_field not in names:
        raise UserError(f"{path}: {form} {missing_field(dict.fromkeys(names), text_field)}")
    for name in dict.fromkeys((text_field, "title", "url", "id")):
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are named {name!r}; rename one of them")
        kind = schema.field(name).type if name in names else pa.string()
        text = _is_text(kind)
        if not text and not (name == "id" != text_field and pa.types.is_integer(kind)):
            raise UserError(
                f"{path}: column {name!r} holds {kind}, not strings; convert it to strings"
            )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def arrow_reason(error: Exception) -> str:
    """The beginning of what Arrow says."""
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
