"""The framing of TFRecord files: the place of each record, and its bytes after two checksums.

A record is: its length (uint64), a masked CRC-32C of those 8 bytes (uint32), the data, a masked
CRC-32C of the data (uint32), all little-endian. Masking rotates by 15 bits and adds a constant.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import google_crc32c
import numpy as np

from megabert.data.foreign.static import ForeignShardError
from megabert.data.shards.spans import Ints

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
HEAD_BYTES, TAIL_BYTES = _HEAD.size, _TAIL.size
_MASK_DELTA = 0xA282EAD8
_BUFFER = 1 << 20


def masked_crc32c(data: bytes) -> int:
    """CRC-32C as TFRecords store it."""
    return masked(int(google_crc32c.value(data)))


def masked(crc: int) -> int:
    """A CRC-32C as TensorFlow's files store it: rotated, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """A record as it is stored in a file."""
    size = struct.pack("<Q", len(data))
    return b"".join((size, _TAIL.pack(masked_crc32c(size)), data, _TAIL.pack(masked_crc32c(data))))


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 12) is an uncompressed TFRecord."""
    if len(head) < HEAD_BYTES:
        return False
    _, crc = _HEAD.unpack_from(head)
    return crc == masked_crc32c(head[:8])


def index_records(path: Path) -> Ints:
    """Offset of each record, int64 [N]; this reads and checks the lengths, not the data.

    Raises:
        ForeignShardError: the checksum of a length is wrong, or the file ends inside a record.
    """
    offsets: list[int] = []
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            total = os.fstat(file.fileno()).st_size
            position = 0
            while position < total:
                head = file.read(HEAD_BYTES)
                size, crc = _HEAD.unpack(head) if len(head) == HEAD_BYTES else (total, 0)
                if len(head) == HEAD_BYTES and crc != masked_crc32c(head[:8]):
                    raise ForeignShardError(
                        f"{path}: damaged: the length of record {len(offsets)} (byte {position:,}) "
                        "does not match its checksum"
                    )
                offsets.append(position)
                position += HEAD_BYTES + size + TAIL_BYTES
                if position > total:
                    raise ForeignShardError(
                        f"{path}: cut off: record {len(offsets) - 1} (byte {offsets[-1]:,}) "
                        f"extends beyond the end of the file ({total:,} bytes)"
                    )
                file.seek(position)
    except OSError as error:
        raise ForeignShardError(f"{path}: cannot be read ({error.strerror})") from None
    return np.array(offsets, np.int64)


def read_framed_record(handle: int, offset: int, path: Path, row: int) -> bytes:
    """The data of the record at ``offset`` of an open file descriptor.

    Raises:
        ForeignShardError: a checksum is wrong, or the file ends inside the record.
    """
    head = _pread(handle, HEAD_BYTES, offset, path)
    if len(head) == HEAD_BYTES:
        size, crc = _HEAD.unpack(head)
        if crc == masked_crc32c(head[:8]):
            body = _pread(handle, size + TAIL_BYTES, offset + HEAD_BYTES, path)
            data = body[:size]
            if len(body) == size + TAIL_BYTES and _TAIL.unpack(body[size:])[0] == masked_crc32c(
                data
            ):
                return data
    raise ForeignShardError(
        f"{path}: damaged or cut off: record {row} (byte {offset:,}) does not match its checksum"
    )


def _pread(handle: int, size: int, offset: int, path: Path) -> bytes:
    try:
        return os.pread(handle, size, offset)
    except OSError as error:
        raise ForeignShardError(f"{path}: cannot be read ({error.strerror})") from None
