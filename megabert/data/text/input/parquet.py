"""Pages from Parquet files with the columns of ``wikimedia/wikipedia``: id, url, title, text.

The text is plain: each paragraph and heading is a line. Only ``text`` is required. A file is read
by row groups, so that several processes can read one file, and a row group in batches of a few
rows: memory depends on the longest rows, not on the size of a row group.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megabert.common.errors import UserError
from megabert.data.text.extracted import is_wiki_address
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page

BATCH_ROWS = 64
_READ_BUFFER = 1 << 20  # bytes per column, instead of its whole chunk
_MAGIC = (b"PAR1", b"PARE")  # plain, and with an encrypted footer
_ID_DIGITS = 18  # longer numbers may not fit into an int64
_OPTIONAL = ("id", "url", "title")


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins with these bytes (4 at least) is Parquet."""
    return head[:4] in _MAGIC


def row_groups(path: Path) -> int:
    """Number of row groups in a file, whose columns are checked.

    Raises:
        UserError: the file is missing, damaged, truncated or encrypted, or has no ``text`` column
            of strings.
    """
    with _open(path) as file:
        return int(file.metadata.num_row_groups)


def read_row_group(path: Path, group: int) -> Iterator[Page]:
    """The pages of row group ``group`` (from 0), in order.

    ``page_id`` is the row's ``id`` if that is a number, else the row's place in the file, counted
    from 1 over all row groups.

    Raises:
        UserError: as :func:`row_groups`, or damaged data; the message names file and row group.
    """
    with _open(path) as file:
        metadata = file.metadata
        place = sum(metadata.row_group(earlier).num_rows for earlier in range(group))
        present = set(file.schema_arrow.names)
        columns = ["text", *(name for name in _OPTIONAL if name in present)]
        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                rows = {name: batch.column(name).to_pylist() for name in columns}
                for row in range(batch.num_rows):
                    place += 1
                    yield _page(place, {name: values[row] for name, values in rows.items()})
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: damaged: row group {group} cannot be read after row {place:,} "
                f"({_reason(error)}); fetch the file again"
            ) from None


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


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(
            path,
            buffer_size=_READ_BUFFER,
            pre_buffer=False,  # else the whole row group is read before its first batch
            page_checksum_verification=True,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a complete Parquet file ({_reason(error)}); fetch it again"
        ) from None
    try:
        _require_layout(path, file.schema_arrow)
    except UserError:
        file.close()
        raise
    return file


def _require_layout(path: Path, schema: pa.Schema) -> None:
    names = schema.names
    if "text" not in names:
        raise UserError(
            f"{path}: Parquet without a column 'text' (it has {', '.join(names) or 'none'}); "
            "expected id, url, title, text"
        )
    for name in ("text", "title", "url", "id"):
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are named {name!r}; remove one of them")
        kind = schema.field(name).type if name in names else pa.string()
        text = _is_text(kind)
        if not text and not (name == "id" and pa.types.is_integer(kind)):
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
