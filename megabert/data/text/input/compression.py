"""Decompression that never hides damage.

Python's bz2 and lzma readers mistake a damaged later stream of a multistream file for the end of the
file; here every compressed stream must be complete, or a UserError names file and byte.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from megabert.common.errors import UserError

PIECE = 1 << 18
"""Bytes that are read at once, at most."""
MAGIC = {
    "bz2": b"BZh",
    "gz": b"\x1f\x8b",
    "xz": b"\xfd7zXZ\x00",
    "zst": b"\x28\xb5\x2f\xfd",
}
_WINDOW = "Frame requires too much memory"


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


class _Counted:
    """A file that counts what is read from it."""

    closed = False

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        data = self._source.read(min(size, PIECE))
        self.count += len(data)
        return data

    def close(self) -> None:
        """The file belongs to the caller."""


class ZstandardFile(DecompressedFile):
    """Reads Zstandard frames by Arrow, as Python 3.11 has no module for them; raises as :class:`DecompressedFile`."""

    def __init__(self, source: BinaryIO, kind: str, name: str) -> None:
        import pyarrow as pa

        super().__init__(source, kind, name)
        self._counted = _Counted(source)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._counted, "r"), "zstd")

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(min(len(buffer), PIECE))
        except OSError as error:
            reason = str(error).strip()
            what = f"damaged or truncated zst data ({reason})"
            if _WINDOW in reason:
                what = "a window of more than 128 MiB (unpack it with zstd -d --long=31)"
            raise compressed_fault(self._name, what, self._counted.count) from None
        buffer[: len(data)] = data
        return len(data)


def decompressed(stream: io.BufferedReader, kind: str, name: str) -> DecompressedFile:
    """The content of a compressed stream of one of the kinds of MAGIC."""
    opened = ZstandardFile if kind == "zst" else DecompressedFile
    return opened(cast(BinaryIO, stream), kind, name)
