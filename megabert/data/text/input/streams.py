"""Byte streams from files: decompression that never hides damage, and tar members.

Each stream is read in pieces of at most ``PIECE`` bytes, so memory does not depend on the file's
size. Python's bz2 and lzma readers mistake a damaged later stream of a multistream file for the end
of the file; here every compressed stream must be complete, or a UserError names file and byte.
"""

import bz2
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, cast

from megabert.common.errors import UserError

PIECE = 1 << 18
MAGIC = {"bz2": b"BZh", "gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00"}
OTHER_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first (7z x), or fetch the .bz2 file of the dump",
    b"\x28\xb5\x2f\xfd": "a Zstandard file (.zst); unpack it first (zstd -d)",
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


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's, which buffer their input."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


_NEW: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "gz": _Gzip,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 30),
}


def compressed_fault(name: str, what: str, byte: int) -> UserError:
    """The error of a damaged file: ``what`` was found at a byte of the compressed file."""
    return UserError(
        f"{name}: {what} at compressed byte {byte:,}; fetch the file again or check its checksum"
    )


def not_padding(name: str, kind: str, byte: int) -> UserError:
    """The error of data after a complete stream that is neither a stream nor zeros."""
    return compressed_fault(name, f"data that is not a {kind} stream", byte)


class DecompressedFile(io.RawIOBase):
    """Reads one or more consecutive compressed streams.

    Raises:
        UserError: the data ends inside a stream, a stream is damaged, or something else follows a
            stream; the message names the file and the compressed byte.
    """

    def __init__(self, source: BinaryIO, kind: str, name: str) -> None:
        self.source, self.kind = source, kind
        self._name = name
        self._decompressor: _Decompressor | None = None
        self._pending = b""  # compressed bytes read but not yet passed to a decompressor
        self._read = 0  # compressed bytes read from the source
        self._started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer):
            data = self._piece(min(len(buffer) - filled, PIECE))
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def _fail(self, what: str) -> UserError:
        return compressed_fault(self._name, what, self._read - len(self._pending))

    def _more(self) -> bytes:
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        data = self.source.read(PIECE)
        self._read += len(data)
        return data

    def _piece(self, limit: int) -> bytes:
        feed = b""
        while True:
            if self._decompressor is None:
                if not self._next_stream():
                    return b""
                feed = b""  # an empty stream has ended, and the next one begins
            assert self._decompressor is not None
            try:
                data = self._decompressor.decompress(feed, limit)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise self._fail(f"damaged {self.kind} data ({error})") from None
            if self._decompressor.eof:
                self._pending = self._decompressor.unused_data + self._pending
                self._decompressor = None
            if data:
                return data
            if self._decompressor is not None:
                feed = self._more()
                if not feed:
                    raise self._fail(f"the {self.kind} data is truncated: it ends")

    def _next_stream(self) -> bool:
        """Start the next compressed stream; False at the real end of the file."""
        head = self._more()
        while len(head) < 6:
            more = self.source.read(PIECE)
            self._read += len(more)
            if not more:
                break
            head += more
        self._pending = head
        if not head:
            return False
        if head.startswith(MAGIC[self.kind]):
            self._decompressor = _NEW[self.kind]()
            self._started = True
            return True
        if self._started and self._rest_is_padding():
            return False
        raise not_padding(self._name, self.kind, self._read - len(self._pending))

    def _rest_is_padding(self) -> bool:
        """Whether only zero bytes follow, which xz and tape tools write as padding."""
        while True:
            data = self._more()
            if not data:
                return True
            if data.strip(b"\x00"):
                self._pending = data
                return False


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
            inner = DecompressedFile(cast(BinaryIO, stream), kind, name)
            yield from _unpack(buffered(inner), name, depth + 1)
            return
    if _is_tar(head):
        yield from _members(stream, name, depth)
    else:
        yield name, stream


def packing(path: Path) -> tuple[str, ...]:
    """How a file is packed, outermost first: "bz2", "gz", "xz" and "tar" (the contents of a tar are
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
            stream = buffered(DecompressedFile(cast(BinaryIO, stream), kind, str(path)))
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
