"""The wire format of protocol buffers: fields of a message, without a schema."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Message = TypeVar("Message", bytes, memoryview)

_FIXED_BYTES = {1: 8, 5: 4}  # wire type -> bytes of a value
_LONGEST_VARINT = 10  # bytes of a 64-bit value


def fields(message: Message) -> Iterator[tuple[int, int | Message]]:
    """Number and raw value of each field: an int for a varint, else the value's bytes.

    If ``message`` is a memoryview, the values are memoryviews too, so nothing is copied.

    Raises:
        ValueError: not a message, or a truncated one.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = read_varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = read_varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = read_varint(message, position)
        elif wire in _FIXED_BYTES:
            size = _FIXED_BYTES[wire]
        else:
            raise ValueError(f"not a protocol-buffer message (wire type {wire})")
        if position + size > end:
            raise ValueError("a protocol-buffer message is truncated")
        yield number, message[position : position + size]
        position += size


def read_varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """The unsigned number that begins at ``position``, and the position after it.

    Raises:
        ValueError: truncated, or longer than 10 bytes.
    """
    value = shift = 0
    while position < len(message) and shift < 7 * _LONGEST_VARINT:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a protocol-buffer message is truncated")


def varint(value: int) -> bytes:
    """The encoding of an unsigned number: 7 bits per byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_field(number: int, value: int) -> bytes:
    """A field of wire type 0; empty for the value 0, the default that readers assume (proto3)."""
    return varint(number << 3) + varint(value) if value else b""


def message_field(number: int, message: bytes) -> bytes:
    """A field of wire type 2: a message, a string or bytes."""
    return varint(number << 3 | 2) + varint(len(message)) + message


def packed_varints(packed: bytes | memoryview) -> npt.NDArray[np.int64]:
    """The numbers of a packed repeated field of int64, [N].

    Raises:
        ValueError: the last number is truncated, or one is too long.
    """
    raw = np.frombuffer(packed, np.uint8)
    last = raw < 0x80
    if last.all():
        return raw.astype(np.int64)
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if not last[-1] or sizes.max() > _LONGEST_VARINT:
        raise ValueError("a packed list of numbers is truncated")
    shifts = 7 * (np.arange(len(raw)) - np.repeat(starts, sizes))
    groups = (raw & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.bitwise_or.reduceat(groups, starts).astype(np.int64)
