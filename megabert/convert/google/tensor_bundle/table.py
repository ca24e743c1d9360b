"""Sorted tables as TensorFlow stores them (LevelDB's table format): bytes -> bytes, sorted by key.

A file consists of data blocks, an empty meta block, an index block, and a footer of 48 bytes. A
block is followed by one byte for its compression and by a masked CRC-32C of both. An entry of a
block is ``shared, unshared, size of value`` (varints), the unshared end of the key, and the value;
a key begins with the first ``shared`` bytes of the previous key, which are none at every restart. A
block ends with the places of the restarts (uint32) and their number (uint32). The index block
holds, for each data block, a key not below its last one, and its handle (offset and size, varints).
The footer holds the handles of the meta and index blocks, zeros, and a magic number. All numbers
are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import open_file, read_limited
from megabert.convert.google.tensor_bundle import snappy
from megabert.data.foreign.tfrecord import masked_crc32c
from megabert.data.tokenizers.protobuf import read_varint, varint

_FOOTER_BYTES = 48
_HANDLES_BYTES = 40
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER = struct.Struct("<BI")  # compression, masked checksum
_UINT32 = struct.Struct("<I")
_PLAIN, _SNAPPY = 0, 1
_BLOCK_BYTES = 262_144
"""Size at which TensorFlow ends a data block."""
_RESTART_INTERVAL = 16
_LARGEST = 1 << 28
"""Bytes of a table that is read."""
LONGEST_KEY = 4096
"""A longer key is treated as damage: with shared prefixes, a small block could mean gigabytes."""

Entry = tuple[bytes, bytes]


@dataclass(frozen=True)
class _Handle:
    """Place of a block, without its trailer."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size + _TRAILER.size

    def encoded(self) -> bytes:
        return varint(self.offset) + varint(self.size)


def is_table(path: Path) -> bool:
    """Whether a file ends like a table."""
    with open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_MAGIC)))
        return file.read() == _MAGIC


def read_sorted_table(path: Path) -> list[Entry]:
    """All entries of a table; every checksum is verified, and every byte accounted for.

    Raises:
        UserError: not a table, or truncated or damaged; the message names the place.
    """
    check_downloaded(path)
    try:
        if not is_table(path):
            raise UserError(
                f"{path}: not a TensorFlow index, or truncated: its last 8 bytes are not the magic "
                "number; copy the file again"
            )
        data = read_limited(path, _LARGEST, "an index of a checkpoint")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    place = "the footer"
    try:
        meta, index = _footer(data)
        place = f"the meta block (byte {meta.offset:,})"
        _block(data, meta)
        place = f"the index block (byte {index.offset:,})"
        blocks = [(key, _handle(value)) for key, value in _entries(_block(data, index))]
        _check_order(len(data), [handle for _, handle in blocks], meta, index)
        entries: list[Entry] = []
        for last, handle in blocks:
            place = f"the block at byte {handle.offset:,}"
            for key, value in _entries(_block(data, handle)):
                if entries and key <= entries[-1][0]:
                    raise ValueError("its keys are not sorted")
                if key > last:
                    raise ValueError("it holds a key beyond the last one that the index states")
                entries.append((key, value))
    except ValueError as error:
        raise UserError(f"{path}: damaged in {place}: {error}; copy the file again") from None
    return entries


def _footer(data: bytes) -> tuple[_Handle, _Handle]:
    if len(data) < _FOOTER_BYTES:
        raise ValueError("the file is shorter than a footer")
    footer = data[-_FOOTER_BYTES:]
    meta, position = _handle_at(footer, 0)
    index, _ = _handle_at(footer, position)
    if footer != _encode_footer(meta, index):
        raise ValueError("it does not hold two handles and zeros")
    return meta, index


def _encode_footer(meta: _Handle, index: _Handle) -> bytes:
    return (meta.encoded() + index.encoded()).ljust(_HANDLES_BYTES, b"\0") + _MAGIC


def _handle_at(data: bytes, position: int) -> tuple[_Handle, int]:
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return _Handle(offset, size), position


def _handle(value: bytes) -> _Handle:
    handle, end = _handle_at(value, 0)
    if end != len(value):
        raise ValueError("it holds an entry that is not a handle")
    return handle


def _check_order(total: int, blocks: list[_Handle], meta: _Handle, index: _Handle) -> None:
    """Check that the blocks fill the file without gaps, so that checksums cover every byte."""
    position = 0
    for handle in (*blocks, meta, index):
        if handle.offset != position:
            raise ValueError(f"no block begins at byte {position:,}, after the previous one")
        position = handle.end
    if position != total - _FOOTER_BYTES:
        raise ValueError(f"the last block ends at byte {position:,}, not at the footer")


def _block(data: bytes, handle: _Handle) -> bytes:
    """The decompressed content of a block."""
    end = handle.offset + handle.size
    if handle.end > len(data) - _FOOTER_BYTES:
        raise ValueError("it exceeds the end of the file")
    kind, crc = _TRAILER.unpack_from(data, end)
    if crc != masked_crc32c(data[handle.offset : end + 1]):
        raise ValueError("its checksum does not match")
    if kind not in (_PLAIN, _SNAPPY):
        raise ValueError(f"unknown compression {kind}")
    content = data[handle.offset : end]
    return snappy.decompress(content) if kind == _SNAPPY else content


def _entries(block: bytes) -> Iterator[Entry]:
    if len(block) < _UINT32.size:
        raise ValueError("it is too short")
    (restarts,) = _UINT32.unpack_from(block, len(block) - _UINT32.size)
    end = len(block) - _UINT32.size * (restarts + 1)
    if end < 0:
        raise ValueError("its list of restarts is longer than the block")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        size, position = read_varint(block, position)
        if shared > len(key) or position + unshared + size > end:
            raise ValueError("an entry exceeds its end")
        if shared + unshared > LONGEST_KEY:
            raise ValueError(f"it holds a name of {shared + unshared:,} bytes")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size


def table_bytes(entries: Iterable[Entry], block_bytes: int = _BLOCK_BYTES) -> bytes:
    """An uncompressed table, as TensorFlow's builder writes it.

    Args:
        entries: sorted by key, each key once.
        block_bytes: size at which a data block ends.
    """
    writer = _TableWriter(block_bytes)
    for key, value in entries:
        writer.add(key, value)
    return writer.finish()


class _BlockWriter:
    """Entries of one block, with a restart every ``interval`` entries."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._data = bytearray()
        self._restarts = [0]
        self._key = b""
        self._since_restart = 0

    def add(self, key: bytes, value: bytes) -> None:
        shared = _common(self._key, key)
        if self._since_restart == self._interval:
            self._restarts.append(len(self._data))
            self._since_restart = shared = 0
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self._data += key[shared:] + value
        self._key = key
        self._since_restart += 1

    @property
    def size(self) -> int:
        return len(self._data) + _UINT32.size * (len(self._restarts) + 1)

    def finish(self) -> bytes:
        numbers = (*self._restarts, len(self._restarts))
        return bytes(self._data) + b"".join(map(_UINT32.pack, numbers))


class _TableWriter:
    """Consecutive blocks, and their index."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._out = bytearray()
        self._index = _BlockWriter(interval=1)
        self._block: _BlockWriter | None = None
        self._last = b""
        self._written: _Handle | None = None  # a block that is not in the index yet

    def add(self, key: bytes, value: bytes) -> None:
        if self._block is not None and len(key) + len(value) >= 2 * self._block_bytes:
            self._end_block()
        if self._block is None:
            self._to_index(_separator(self._last, key))
            self._block = _BlockWriter(_RESTART_INTERVAL)
        self._block.add(key, value)
        self._last = key
        if self._block.size >= self._block_bytes:
            self._end_block()

    def finish(self) -> bytes:
        self._end_block()
        meta = self._write(_BlockWriter(_RESTART_INTERVAL).finish())
        self._to_index(_successor(self._last))
        index = self._write(self._index.finish())
        return bytes(self._out) + _encode_footer(meta, index)

    def _end_block(self) -> None:
        if self._block is not None:
            self._written = self._write(self._block.finish())
            self._block = None

    def _to_index(self, key: bytes) -> None:
        if self._written is not None:
            self._index.add(key, self._written.encoded())
            self._written = None

    def _write(self, block: bytes) -> _Handle:
        handle = _Handle(len(self._out), len(block))
        self._out += block + _TRAILER.pack(_PLAIN, masked_crc32c(block + bytes([_PLAIN])))
        return handle


def _common(left: bytes, right: bytes) -> int:
    """Length of the common prefix."""
    shortest = min(len(left), len(right))
    return next((i for i in range(shortest) if left[i] != right[i]), shortest)


def _separator(last: bytes, following: bytes) -> bytes:
    """A short key that is not below ``last``, and is below ``following``."""
    at = _common(last, following)
    if at < min(len(last), len(following)) and last[at] + 1 < following[at]:
        return last[:at] + bytes([last[at] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """A short key that is not below ``last``."""
    at = next((i for i, byte in enumerate(last) if byte != 0xFF), None)
    return last if at is None else last[:at] + bytes([last[at] + 1])
