"""Pages from Parquet files with the columns of ``wikimedia/wikipedia``: id, url, title, text.

The text is plain: each paragraph and heading is a line. Only the text is required. A file is read
by row groups, so that several processes can read one file, and a row group in batches of a few
rows, by a process of its own (:mod:`.parquet_rows`): memory is bounded whatever the file holds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.processes.isolated import IsolatedFault, IsolatedWorker, rows_in_batches
from megabert.data.text.input.parquet_rows import (
    NO_MEMORY,
    ParquetRequest,
    Row,
    answer_parquet,
    decode_answer,
)
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line
from megabert.data.text.plain.records import is_wiki_address, joined_page, texts_wrapping
from megabert.data.text.reading import AUTOMATIC, ReadingRules

BATCH_ROWS = 64
_MAGIC = (b"PAR1", b"PARE")  # plain, and with an encrypted footer
_ID_DIGITS = 18  # longer numbers may not fit into an int64
_worker = IsolatedWorker(answer_parquet)


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins with these bytes (4 at least) is Parquet."""
    return head[:4] in _MAGIC


def row_groups(path: Path, text_field: str = "text") -> int:
    """Number of row groups in a file, whose columns are checked.

    Raises:
        UserError: the file is missing, damaged, truncated or encrypted, or has no column
            ``text_field`` of strings.
    """
    return len(_counts(path, text_field))


def read_row_group(path: Path, group: int, rules: ReadingRules = AUTOMATIC) -> Iterator[Page]:
    """The pages of row group ``group`` (from 0), in order.

    ``page_id`` is the row's ``id`` if that is a number, else the row's place in the file, counted
    from 1 over all row groups. The first rows of the file decide whether lines are joined.

    Raises:
        UserError: as :func:`row_groups`, or damaged data; the message names file and row group.
    """
    counts = _counts(path, rules.text_field)
    wrapping = texts_wrapping(_first_texts(path, rules) if counts else [], rules)
    first = sum(counts[:group]) + 1
    for place, row in enumerate(_rows(path, group, rules.text_field), first):
        if isinstance(row, str):
            yield bad_line(f"{path}: row {place:,} of row group {group} {row}", rules.skip)
        else:
            yield joined_page(row_page(place, row), wrapping)


def _counts(path: Path, text_field: str) -> list[int]:
    """Number of rows of each row group."""
    answer = _answer(ParquetRequest(str(path), text_field))
    if answer is None:
        raise UserError(
            f"{path}: not a complete Parquet file (its metadata takes too much memory); fetch it again"
        )
    counts: list[int] = answer["counts"]
    return counts


def _rows(path: Path, group: int, text_field: str) -> Iterator[Row]:
    """The rows of a row group; one by one from where a batch takes too much memory."""

    def read(first: int, count: int) -> list[Row] | None:
        answer = _answer(ParquetRequest(str(path), text_field, group, first, count))
        return None if answer is None else answer["rows"]

    row = 0
    try:
        for content in rows_in_batches(read, BATCH_ROWS):
            row += 1
            yield content
    except IsolatedFault:
        raise UserError(
            f"{path}: row group {group} cannot be read after row {row:,} of it: it is damaged, or "
            "its next page unpacks to more than a gigabyte; write the file again with smaller row groups"
        ) from None


def ask_for_rows(worker: IsolatedWorker, request: bytes) -> dict[str, Any] | None:
    """What the process of its own reads; None: it takes too much memory, or the process dies.

    Raises:
        UserError: what is wrong with the file.
    """
    try:
        answer = decode_answer(worker.ask(request))
    except IsolatedFault:
        return None
    error = answer.get("error")
    if error is not None and error != NO_MEMORY:
        raise UserError(error)
    return None if error else answer


def texts_of_rows(answer: dict[str, Any] | None) -> list[str]:
    """The texts of the rows that have one."""
    rows = answer["rows"] if answer else []
    return [row["text"] for row in rows if isinstance(row, dict) and row["text"] is not None]


def _answer(request: ParquetRequest) -> dict[str, Any] | None:
    return ask_for_rows(_worker, request.encode())


def _first_texts(path: Path, rules: ReadingRules) -> list[str]:
    if rules.line_breaks == "keep":
        return []
    return texts_of_rows(_answer(ParquetRequest(str(path), rules.text_field, 0, 0, BATCH_ROWS)))


def row_page(place: int, row: dict[str, Any]) -> Page:
    """The page of a row; ``place`` is its number if it has no ``id`` that is one."""
    number = str(row.get("id", "")).strip()
    own = number.isascii() and number.isdigit() and len(number) <= _ID_DIGITS
    title = row.get("title") or ""
    url = row.get("url")
    return Page(
        int(number) if own else place,
        title,
        canonical_namespace(title) if url else 0,
        False,
        "wikitext",
        row["text"] or "",
        "extracted" if is_wiki_address(url) else "plain",
    )
