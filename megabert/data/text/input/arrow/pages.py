"""Pages from Arrow files: columns as in Parquet, read piece by piece by a process of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.processes.isolated import IsolatedFault, IsolatedWorker, rows_in_batches
from megabert.data.text.input.arrow.messages import ArrowRequest, answer_arrow
from megabert.data.text.input.parquet import BATCH_ROWS, ask_for_rows, row_page, texts_of_rows
from megabert.data.text.input.parquet_rows import Row
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line
from megabert.data.text.plain.records import joined_page, texts_wrapping
from megabert.data.text.reading import AUTOMATIC, ReadingRules

_worker = IsolatedWorker(answer_arrow)


@dataclass(frozen=True)
class ArrowPiece:
    """A run of record batches that can be read by itself.

    Attributes:
        first, batches: the record batches.
        offset: byte of the first one in a stream.
        rows, size: rows, and bytes (of the file format, about).
    """

    first: int
    batches: int
    offset: int
    rows: int
    size: int


def arrow_pieces(path: Path, text_field: str = "text") -> tuple[ArrowPiece, ...]:
    """The pieces of a file, whose columns are checked.

    Raises:
        UserError: the file is missing, damaged or truncated, or has no column ``text_field`` of strings.
    """
    answer = _answer(ArrowRequest(str(path), text_field))
    if answer is None:
        raise UserError(
            f"{path}: not a complete Arrow file, or a record batch of it takes more than a gigabyte; "
            "write it again with smaller batches"
        )
    return tuple(ArrowPiece(*piece) for piece in answer["pieces"])


def read_arrow_piece(
    path: Path, piece: ArrowPiece, before: int, rules: ReadingRules = AUTOMATIC
) -> Iterator[Page]:
    """The pages of a piece, in order.

    ``page_id`` is the row's ``id`` if that is a number, else its place in the input: ``before`` rows
    precede the piece. The first rows of the file decide whether lines are joined.

    Raises:
        UserError: damaged data; the message names file and record batch.
    """
    wrapping = texts_wrapping(_first_texts(path, rules) if piece.rows else [], rules)
    for place, row in enumerate(_rows(path, piece, rules.text_field), 1):
        if isinstance(row, str):
            where = f"{path}: row {place:,} from record batch {piece.first} on"
            yield bad_line(f"{where} {row}", rules.skip)
        else:
            yield joined_page(row_page(before + place, row), wrapping)


def iter_arrow(path: Path, before: int, rules: ReadingRules) -> Iterator[Page]:
    """The pages of a whole file, as :func:`read_arrow_piece` reads its pieces."""
    for piece in arrow_pieces(path, rules.text_field):
        yield from read_arrow_piece(path, piece, before, rules)
        before += piece.rows


def _request(path: Path, piece: ArrowPiece, field: str, row: int, count: int) -> ArrowRequest:
    return ArrowRequest(str(path), field, piece.first, piece.batches, piece.offset, row, count)


def _rows(path: Path, piece: ArrowPiece, field: str) -> Iterator[Row]:
    def read(first: int, count: int) -> list[Row] | None:
        answer = _answer(_request(path, piece, field, first, count))
        return None if answer is None else answer["rows"]

    row = 0
    try:
        for content in rows_in_batches(read, BATCH_ROWS):
            row += 1
            yield content
    except IsolatedFault:
        raise UserError(
            f"{path}: cannot be read after row {row:,} from record batch {piece.first} on: it is "
            "damaged, or a record batch takes more than a gigabyte; write it again with smaller batches"
        ) from None


def _answer(request: ArrowRequest) -> dict[str, Any] | None:
    return ask_for_rows(_worker, request.encode())


def _first_texts(path: Path, rules: ReadingRules) -> list[str]:
    if rules.line_breaks == "keep":
        return []
    return texts_of_rows(_answer(ArrowRequest(str(path), rules.text_field, 0, 1, batch=BATCH_ROWS)))
