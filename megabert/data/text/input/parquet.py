"""Pages from Parquet files with the columns of ``wikimedia/wikipedia``: id, url, title, text.

The text is plain: each paragraph and heading is a line. Only the text is required. A file is read
by row groups, so that several processes can read one file, and a row group in batches of a few
rows: memory depends on the longest rows, not on the size of a row group.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megabert.common.errors import UserError
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line
from megabert.data.text.plain.records import (
    is_wiki_address,
    joined_page,
    missing_field,
    texts_wrapping,
)
from megabert.data.text.reading import AUTOMATIC, ReadingRules

BATCH_ROWS = 64
_READ_BUFFER = 1 << 20  # bytes per column, instead of its whole chunk
_MAGIC = (b"PAR1", b"PARE")  # plain, and with an encrypted footer
_ID_DIGITS = 18  # longer numbers may not fit into an int64
_OPTIONAL = ("id", "url", "title")


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins with these bytes (4 at least) is Parquet."""
    return head[:4] in _MAGIC


def row_groups(path: Path, text_field: str = "text") -> int:
    """Number of row groups in a file, whose columns are checked.

    Raises:
        UserError: the file is missing, damaged, truncated or encrypted, or has no column
            ``text_field`` of strings.
    """
    with _open(path, text_field) as file:
        return int(file.metadata.num_row_groups)


def read_row_group(path: Path, group: int, rules: ReadingRules = AUTOMATIC) -> Iterator[Page]:
    """The pages of row group ``group`` (from 0), in order.

    ``page_id`` is the row's ``id`` if that is a number, else the row's place in the file, counted
    from 1 over all row groups. The first rows of the file decide whether lines are joined.

    Raises:
        UserError: as :func:`row_groups`, or damaged data; the message names file and row group.
    """
    with _open(path, rules.text_field) as file:
        wrapping = texts_wrapping(_first_texts(file, path, rules), rules)
        metadata = file.metadata
        place = sum(metadata.row_group(earlier).num_rows for earlier in range(group))
        present = set(file.schema_arrow.names)
        columns = {name: name for name in _OPTIONAL if name in present - {rules.text_field}}
        columns["text"] = rules.text_field
        for batch in _batches(file, path, group, list(dict.fromkeys(columns.values()))):
            rows = {name: _strings(batch.column(column)) for name, column in columns.items()}
            for row in range(batch.num_rows):
                place += 1
                values = {name: column[row] for name, column in rows.items()}
                if any(isinstance(value, bytes) for value in values.values()):
                    what = f"{path}: row {place:,} of row group {group} is not UTF-8 text"
                    yield bad_line(what, rules.skip)
                else:
                    yield joined_page(_page(place, values), wrapping)


def _batches(
    file: pq.ParquetFile, path: Path, group: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            yield batch
            done += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: damaged: row group {group} cannot be read after row {done:,} of it "
            f"({_reason(error)}); fetch the file again"
        ) from None


def _strings(column: pa.Array) -> list[Any]:
    """The values of a column, where one that is not UTF-8 remains bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [_text_or_bytes(value) for value in column.cast(binary).to_pylist()]


def _text_or_bytes(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _first_texts(file: pq.ParquetFile, path: Path, rules: ReadingRules) -> list[str]:
    if rules.line_breaks == "keep" or not file.metadata.num_row_groups:
        return []
    batch = next(_batches(file, path, 0, [rules.text_field]), None)
    texts = [] if batch is None else _strings(batch.column(rules.text_field))
    return [text for text in texts if isinstance(text, str)]


def _page(place: int, row: dict[str, Any]) -> Page:
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


def _open(path: Path, text_field: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(
            path,
            buffer_size=_READ_BUFFER,
            pre_buffer=False,  # else the whole row group is read before its first batch
            page_checksum_verification=True,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: damaged: the name of a column is not UTF-8; fetch the file again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a complete Parquet file ({_reason(error)}); fetch it again"
        ) from None
    try:
        _require_layout(path, file.schema_arrow, text_field)
    except UserError:
        file.close()
        raise
    return file


def _require_layout(path: Path, schema: pa.Schema, text_field: str) -> None:
    names = schema.names
    if text_field not in names:
        raise UserError(f"{path}: Parquet {missing_field(dict.fromkeys(names), text_field)}")
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


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
