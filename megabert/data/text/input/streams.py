"""Byte streams from files: decompression that never hides damage, and tar members.

Each stream is read in pieces of at most ``PIECE`` bytes, so memory does not depend on the file's size.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from megabert.common.errors import UserError
from megabert.data.text.input.compression import MAGIC, PIECE, DecompressedFile, decompressed

OTHER_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first (7z x), or fetch the .bz2 file of the dump",
    b"PK\x03\x04": "a zip archive; unpack it first (unzip)",
    b"Rar!\x1a\x07": "a RAR archive; unpack it first",
    b"\x04\x22\x4d\x18": "an LZ4 file; unpack it first (lz4 -d)",
    b"\x1f\x9d": "a file made by compress (.Z); unpack it first (uncompress)",
    b"ZIM\x04": "a ZIM file (Kiwix), which holds HTML pages; fetch a pages-articles dump instead",
    b"SQLite format 3\0": "a SQLite database; export its text as JSON lines first",
    b"%PDF-": "a PDF document; extract its text first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; import_shards.py reads shards, and this command reads text",
}
_OFFICE = (b"[Content_Types].xml", b"mimetypeapplication/", b"word/", b"_rels/.rels")
TAR_MAGIC_AT = 257
MAX_NESTING = 4
MAX_HEADER = 1 << 20
"""Bytes of the name or the attributes of a member of a tar."""
_READS_AT_END = 100
_MAX_NAME = 255  # characters of a member's name in messages
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _peek(stream: io.BufferedReader, count: int) -> bytes:
    return stream.peek(count)[:count]


def _is_tar(head: bytes) -> bool:
    return head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar"


def buffered(raw: io.RawIOBase) -> io.BufferedReader:
    """A reader over ``raw`` that can look ahead PIECE bytes."""
    return io.BufferedReader(raw, buffer_size=PIECE)


class _Archive:
    """The bytes of a tar archive. Its end is an error where :mod:`tarfile` still skips a member, which
    takes it for ever if the size in the member's header is huge."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._empty = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes. Raises ``tarfile.ReadError`` if the end was met often."""
        data = self._stream.read(size)
        self._empty += not data
        if self._empty > _READS_AT_END:
            raise tarfile.ReadError("it ends inside a file")
        return data


class _Header(tarfile.TarInfo):
    """A header of a tar archive. One that holds a name or attributes is read at once: it has a limit."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block of the archive. Raises ``tarfile.TarError``."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and not 0 <= header.size <= MAX_HEADER:
            raise tarfile.ReadError(
                f"a header of {header.size:,} bytes for the name or attributes of a file"
            )
        return header


class _MemberFile(io.RawIOBase):
    """A tar member whose truncation raises a UserError."""

    def __init__(self, member: BinaryIO, name: str) -> None:
        self._member, self._name = member, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._member.read(len(buffer))
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise UserError(f"{self._name}: the tar archive is damaged here ({error})") from None
        buffer[: len(data)] = data
        return len(data)


def open_streams(
    path: Path, on_open: Callable[[BinaryIO], None] | None = None
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield (name, stream): the decompressed file, or each member of a tar in order.

    Compression and tar are detected from the content. A stream must be read before the next one is
    requested.

    Args:
        path: the file.
        on_open: called with the compressed file, whose ``tell()`` gives the progress.

    Raises:
        UserError: the file is missing or cannot be read, or an archive is damaged.
    """
    with _open(path) as source:
        if on_open is not None:
            on_open(source)
        yield from _unpack(buffered(cast(io.RawIOBase, source)), str(path), 0)


def _open(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, path.open("rb", buffering=0))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _unpack(
    stream: io.BufferedReader, name: str, depth: int
) -> Iterator[tuple[str, io.BufferedReader]]:
    head = _peek(stream, 512)
    for magic, label in OTHER_MAGIC.items():
        if head.startswith(magic):
            if any(part in head for part in _OFFICE):
                label = "an office document or e-book; save it as plain text"
            raise UserError(f"{name}: not supported: {label}")
    for kind, magic in MAGIC.items():
        if head.startswith(magic) and depth < MAX_NESTING:
            inner = decompressed(stream, kind, name)
            yield from _unpack(buffered(inner), name, depth + 1)
            return
    if _is_tar(head):
        yield from _members(stream, name, depth)
    else:
        yield name, stream


def packing(path: Path) -> tuple[str, ...]:
    """How a file is packed, outermost first: "bz2", "gz", "xz", "zst" and "tar" (the contents of a tar are
    not looked at).

    Raises:
        UserError: as :func:`open_streams`.
    """
    with _open(path) as source:
        stream = buffered(cast(io.RawIOBase, source))
        found: list[str] = []
        while len(found) < MAX_NESTING:
            head = _peek(stream, 512)
            kind = next((kind for kind, magic in MAGIC.items() if head.startswith(magic)), None)
            if kind is None:
                return (*found, "tar") if _is_tar(head) else tuple(found)
            found.append(kind)
            stream = buffered(decompressed(stream, kind, str(path)))
        return tuple(found)


def packing_of(stream: io.BufferedReader) -> tuple[str, ...]:
    """How a stream of :func:`open_streams` is packed, outermost first; "tar" for a member of a tar,
    whose own packing is left out."""
    found: list[str] = []
    raw = stream.raw
    while isinstance(raw, DecompressedFile):
        found.insert(0, raw.kind)
        raw = cast(io.BufferedReader, raw.source).raw
    return ("tar", *found) if isinstance(raw, _MemberFile) else tuple(found)


def _members(
    stream: io.BufferedReader, name: str, depth: int
) -> Iterator[tuple[str, io.BufferedReader]]:
    try:
        with tarfile.open(
            fileobj=cast(Any, _Archive(stream)), mode="r|", tarinfo=_Header
        ) as archive:
            for member in archive:
                cast(Any, archive).members = []  # which would grow with the archive
                parts = Path(member.name).parts
                if not member.isfile() or any(p.startswith(".") and p != "." for p in parts):
                    continue
                handle = archive.extractfile(member)
                assert handle is not None
                label = f"{name}!{member.name[:_MAX_NAME]}"
                inner = buffered(_MemberFile(cast(BinaryIO, handle), label))
                yield from _unpack(inner, label, depth + 1)
    except (tarfile.TarError, RecursionError, ValueError, OverflowError) as error:
        reason = str(error)[:160]
        raise UserError(f"{name}: the tar archive is damaged or truncated ({reason})") from None
