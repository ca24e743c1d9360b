"""Decompression of Snappy blocks (as in the format description of google/snappy)."""

from __future__ import annotations

from megabert.data.tokenizers.protobuf import read_varint

_MAX_EXPANSION = 64
"""No element of 2 bytes or more decodes to more bytes than this."""
_LONG_LITERAL = 60  # from this value on, the length follows in 1 to 4 bytes


def decompress(data: bytes) -> bytes:
    """The content of a block.

    Raises:
        ValueError: the block is damaged, or its length differs from the stated one.
    """
    size, position = read_varint(data, 0)
    if size > _MAX_EXPANSION * len(data):
        raise ValueError(f"{len(data)} bytes of Snappy cannot decode to {size}")
    out = bytearray()
    while position < len(data):
        position = _element(data, position, out)
        if len(out) > size:
            break
    if len(out) != size:
        raise ValueError(f"a Snappy block of {size} bytes decodes to {len(out)}")
    return bytes(out)


def _element(data: bytes, position: int, out: bytearray) -> int:
    """Decode the element at ``position``, append it, and return the position after it."""
    tag = data[position]
    kind, upper, position = tag & 3, tag >> 2, position + 1
    if kind == 0:
        extra = max(0, upper - _LONG_LITERAL + 1)
        length = 1 + (_number(data, position, extra) if extra else upper)
        position += extra
        if position + length > len(data):
            raise ValueError("a Snappy block is truncated")
        out += data[position : position + length]
        return position + length
    if kind == 1:
        length, bytes_of_offset = 4 + (upper & 7), 1
        offset = (upper >> 3) << 8 | _number(data, position, 1)
    else:
        length, bytes_of_offset = 1 + upper, 2 if kind == 2 else 4
        offset = _number(data, position, bytes_of_offset)
    if not 0 < offset <= len(out):
        raise ValueError("a Snappy block refers to bytes before its beginning")
    _repeat(out, offset, length)
    return position + bytes_of_offset


def _number(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise ValueError("a Snappy block is truncated")
    return int.from_bytes(data[position : position + size], "little")


def _repeat(out: bytearray, offset: int, length: int) -> None:
    """Append ``length`` bytes that begin ``offset`` before the end; they may overlap themselves."""
    piece = bytes(out[-offset:])
    times = -(-length // offset)
    out += (piece * times)[:length]
