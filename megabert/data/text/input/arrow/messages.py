"""What a process of its own reads from Arrow files: the pieces of a file, and a few rows at a time.

A *piece* is a run of record batches that can be read by itself. Of the file format it is named by the
number of its first batch, of the stream format also by the byte at which that begins: what is read
there is the schema, followed by the stream from this byte on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from megabert.common.errors import UserError
from megabert.data.text.input.formats import ARROW_FILE, ARROW_STREAM
from megabert.data.text.input.parquet_rows import (
    Cells,
    RowAnswers,
    RowReading,
    arrow_reason,
    require_text_column,
    row_parts,
    wanted_columns,
)

PIECE_BYTES = 1 << 23
"""Bytes of record batches of a piece, at least, except for the last one."""
_END_OF_STREAM = ARROW_STREAM + bytes(4)


@dataclass(frozen=True)
class ArrowRequest:
    """Rows of a piece from ``row`` on, ``batch`` at most; ``first`` None: the table of pieces."""

    path: str
    field: str
    first: int | None = None
    batches: int = 0
    offset: int = 0
    row: int = 0
    batch: int = 1

    def encode(self) -> bytes:
        """The message."""
        return json.dumps(vars(self)).encode()


def answer_arrow(message: bytes) -> bytes:
    """The answer to a message, for ``decode_answer``; runs in the process of its own."""
    return _answers.answer(message)


def _pieces(request: ArrowRequest) -> dict[str, Any] | None:
    """All pieces of a file as lists: first batch, batches, byte of the first one, rows, bytes."""
    if request.first is not None:
        return None
    path = request.path
    size = Path(path).stat().st_size
    pieces: list[list[int]] = []
    with _opened(path) as source:
        try:
            is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
            source.seek(0)
            measure = _measure_file if is_file else _measure_stream
            rows = measure(source, request, size)
            for number, (offset, count, length) in enumerate(rows):
                if pieces and (length < 0 or pieces[-1][4] < PIECE_BYTES):
                    last = pieces[-1]
                    last[1], last[3], last[4] = last[1] + 1, last[3] + count, last[4] + abs(length)
                else:
                    pieces.append([number, 1, offset, count, abs(length)])
        except (pa.ArrowException, OSError) as error:
            place = f"record batch {sum(piece[1] for piece in pieces)}"
            raise UserError(
                f"{path}: damaged or not complete at {place} ({arrow_reason(error)}); fetch or write "
                "the file again"
            ) from None
    return {"pieces": pieces}


def _measure_file(
    source: BinaryIO, request: ArrowRequest, size: int
) -> Iterator[tuple[int, int, int]]:
    reader = pa.ipc.open_file(source, options=_options([]))
    require_text_column(request.path, pa.ipc.open_file(source).schema, request.field, "Arrow")
    for number in range(reader.num_record_batches):
        yield 0, reader.get_batch(number).num_rows, size // reader.num_record_batches


def _measure_stream(
    source: BinaryIO, request: ArrowRequest, size: int
) -> Iterator[tuple[int, int, int]]:
    """Byte, rows and length of each batch; a negative length means that it cannot begin a piece."""
    schema = pa.ipc.open_stream(source).schema
    require_text_column(request.path, schema, request.field, "Arrow")
    together = any(_has_dictionary(field.type) for field in schema)
    source.seek(0)
    reader = pa.ipc.open_stream(source, options=_options([]))
    start = source.tell()
    while (batch := next(reader, None)) is not None:
        length = source.tell() - start
        yield start, batch.num_rows, -length if together else length
        start = source.tell()
    source.seek(max(0, source.tell() - len(_END_OF_STREAM)))
    if source.read() != _END_OF_STREAM:
        raise OSError("the mark at the end of the stream is missing, or something follows it")


def _has_dictionary(kind: pa.DataType) -> bool:
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return bool(pa.types.is_dictionary(kind)) or any(map(_has_dictionary, inner))


def _options(columns: list[int]) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=columns, use_threads=False)


def _opened(path: str) -> BinaryIO:
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve more than they need
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _ArrowReading(RowReading):
    """The rows of a piece."""

    def read(self) -> Iterator[Cells]:
        request, skipped = self.request, self.request.row
        with _opened(request.path) as source:
            number = request.first
            try:
                for batch in self._record_batches(source):
                    number += 1
                    if skipped >= batch.num_rows:
                        skipped -= batch.num_rows
                        continue
                    columns = wanted_columns(batch.schema.names, request.field)
                    self.columns = list(columns)
                    for first in range(skipped, batch.num_rows, request.batch):
                        yield from row_parts(batch.slice(first, request.batch), columns)
                    skipped = 0
            except MemoryError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{request.path}: damaged: record batch {number} cannot be read "
                    f"({arrow_reason(error)}); fetch or write the file again"
                ) from None

    def _record_batches(self, source: BinaryIO) -> Iterator[pa.RecordBatch]:
        request = self.request
        is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
        source.seek(0)
        schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).schema
        head = source.tell()
        columns = wanted_columns(schema.names, request.field)
        fields = _options(sorted({schema.names.index(name) for name in columns.values()}))
        source.seek(0)
        if is_file:
            file = pa.ipc.open_file(source, options=fields)
            batches = (file.get_batch(request.first + i) for i in range(request.batches))
        else:
            start = request.offset or head
            stream = pa.ipc.open_stream(_Spliced(source, head, start), options=fields)
            batches = (stream.read_next_batch() for _ in range(request.batches))
        for batch in batches:
            for name in batch.schema.names:
                # as bytes: a text that is not UTF-8 is a fault of its row
                column = batch.column(name)
                if pa.types.is_string(column.type):
                    column.view(pa.binary()).validate(full=True)
                elif pa.types.is_large_string(column.type):
                    column.view(pa.large_binary()).validate(full=True)
                elif not pa.types.is_string_view(column.type):
                    column.validate(full=True)
            yield batch


class _Spliced(io.RawIOBase):
    """The first ``head`` bytes of a file, followed by those from ``start`` on."""

    def __init__(self, source: BinaryIO, head: int, start: int) -> None:
        self._source, self._head, self._start, self._place = source, head, start, 0
        source.seek(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._place == self._head:
            self._source.seek(self._start)
        most = self._head - self._place if self._place < self._head else len(buffer)
        data = self._source.read(min(most, len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


_answers = RowAnswers(ArrowRequest, _pieces, _ArrowReading)
