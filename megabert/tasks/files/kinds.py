"""Files of tasks that are not text: recognised by their first bytes, and named with what to do."""

from __future__ import annotations

from pathlib import Path

from megabert.common.errors import UserError

_PARQUET = (b"PAR1", b"PARE")
_EXPORT = (
    "which is not read: export its features where MindSpore is installed, as docs/reference/tasks.md shows "
    "under MindRecord, and give the JSON lines"
)
_OTHER: tuple[tuple[bytes, str], ...] = (
    (
        b"SQLite format 3\0",
        f"an SQLite database, such as the index (.db) of a MindRecord file, {_EXPORT}",
    ),
    (b"\x89HDF\r\n\x1a\n", "HDF5, but a task's file is text: give the file that it was made from"),
    (b"ARROW1", "an Arrow file: write it as JSON lines with datasets' to_json or pandas"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, as datasets' save_to_disk writes it: write it with to_json",
    ),
    (b"\x80\x02", "a pickle, which is not read: write its content as text"),
    (b"\x80\x03", "a pickle, which is not read: write its content as text"),
    (b"\x80\x04", "a pickle, which is not read: write its content as text"),
    (b"\x80\x05", "a pickle, which is not read: write its content as text"),
)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError:
        return b""  # whoever reads it says what is wrong


def has_parquet_rows(path: Path) -> bool:
    """Whether a file begins as Parquet."""
    return _head(path).startswith(_PARQUET)


def is_mindrecord(head: bytes) -> bool:
    """Whether a file that begins with these bytes is MindRecord: the size of a header, then that in JSON."""
    size = int.from_bytes(head[:8], "little")
    return 0 < size < 1 << 34 and head[8:].lstrip()[:1] == b"{" and b'"' in head[9:12]


def refuse_binary(path: Path) -> None:
    """Raise UserError for a file that a task cannot read, with the way around.

    Raises:
        UserError: MindRecord, SQLite, HDF5, Arrow, Parquet where lines are expected, or a pickle.
    """
    head = _head(path)
    what = next((what for magic, what in _OTHER if head.startswith(magic)), None)
    if is_mindrecord(head):
        what = f"a MindRecord file, {_EXPORT}"
    if head.startswith(_PARQUET):
        what = "Parquet, where lines of text are expected: write it as JSON lines or columns"
    if what is not None:
        raise UserError(f"{path} is {what}")
