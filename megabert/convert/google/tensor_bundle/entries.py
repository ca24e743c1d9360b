"""The entries of a tensor bundle's index (tensorflow/core/protobuf/tensor_bundle.proto).

The key "" holds the header. Every other key is a tensor's name or, for a part of a partitioned
variable, an encoding of the name and of the part's place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megabert.data.tokenizers.protobuf import fields, message_field, varint, varint_field

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    8: torch.complex64,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    17: torch.uint16,
    18: torch.complex128,
    19: torch.float16,
    22: torch.uint32,
    23: torch.uint64,
}
"""TensorFlow's numbers of data types (types.proto), except strings, resources and quantised ones."""
CODES = {dtype: code for code, dtype in DTYPES.items()}

VERSION = 1
_MOST_DIMENSIONS = 254  # TensorFlow's own limit
_FULL = -1  # length of a part that covers a whole dimension

PartPlace = tuple[tuple[int, int], ...]
"""A part of a tensor: (start, length) per dimension; (0, -1) is the whole dimension."""


@dataclass(frozen=True)
class Header:
    """The number of data files, and whether their numbers are big-endian."""

    shards: int
    big_endian: bool = False
    min_consumer: int = 0

    @classmethod
    def parse(cls, message: bytes) -> Header:
        """Decode a header. Raises ``ValueError`` if it is not one."""
        numbers = dict.fromkeys((1, 2), 0)
        min_consumer = 0
        for number, value in fields(message):
            if number == 3:
                version = dict(fields(_bytes(value)))
                min_consumer = _int(version.get(2, 0))
            elif number in numbers:
                numbers[number] = _int(value)
        if numbers[1] < 1:
            raise ValueError("a header without data files")
        return cls(numbers[1], numbers[2] != 0, min_consumer)

    def encoded(self) -> bytes:
        """The encoded message, with this module's version."""
        version = message_field(3, varint_field(1, VERSION) + varint_field(2, self.min_consumer))
        return varint_field(1, self.shards) + varint_field(2, int(self.big_endian)) + version


@dataclass(frozen=True)
class BundleEntry:
    """The place of a tensor or, with ``parts``, the parts that it consists of.

    Attributes:
        code: TensorFlow's number of its data type.
        shape: of the whole tensor, or of the part.
        shard: number of the data file.
        offset, size: place in that file, in bytes.
        checksum: masked CRC-32C of those bytes.
        parts: of a partitioned variable, which has no bytes itself.
    """

    code: int
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    parts: tuple[PartPlace, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @classmethod
    def parse(cls, message: bytes) -> BundleEntry:
        """Decode an entry. Raises ``ValueError`` if it is not one."""
        numbers = dict.fromkeys((1, 3, 4, 5), 0)
        shape: tuple[int, ...] = ()
        parts: list[PartPlace] = []
        checksum = 0
        for number, value in fields(message):
            if number == 2:
                shape = _parse_shape(_bytes(value))
            elif number == 6:
                checksum = int.from_bytes(_bytes(value), "little")
            elif number == 7:
                parts.append(_parse_place(_bytes(value)))
            elif number in numbers:
                numbers[number] = _int(value)
        if any(len(part) != len(shape) for part in parts):
            raise ValueError("a part and the whole tensor differ in their number of dimensions")
        return cls(numbers[1], shape, numbers[3], numbers[4], numbers[5], checksum, tuple(parts))

    def encoded(self) -> bytes:
        """The encoded message."""
        shape = b"".join(message_field(2, varint_field(1, size)) for size in self.shape)
        checksum = varint(6 << 3 | 5) + self.checksum.to_bytes(4, "little")
        return b"".join(
            (
                varint_field(1, self.code),
                message_field(2, shape),
                varint_field(3, self.shard),
                varint_field(4, self.offset),
                varint_field(5, self.size),
                checksum if self.checksum else b"",
                *(message_field(7, _encode_place(part)) for part in self.parts),
            )
        )


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int) or value >= 1 << 63:
        raise ValueError("expected a number of 0 or more")
    return value


def _parse_shape(message: bytes) -> tuple[int, ...]:
    shape = []
    for number, value in fields(message):
        if number == 3 and value:
            raise ValueError("a shape of unknown rank")
        if number == 2:
            shape.append(_int(dict(fields(_bytes(value))).get(1, 0)))
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError("a shape with too many dimensions")
    if math.prod(size for size in shape if size) >= 1 << 63:
        raise ValueError("a shape with too many elements")
    return tuple(shape)


def _parse_place(message: bytes) -> PartPlace:
    place = []
    for number, value in fields(message):
        if number == 1:
            extent = dict(fields(_bytes(value)))
            place.append((_int(extent.get(1, 0)), _int(extent[2]) if 2 in extent else _FULL))
    return tuple(place)


def _encode_place(place: PartPlace) -> bytes:
    extents = []
    for start, length in place:
        # the length is a member of a oneof, so it is written even if it is 0
        extent = b"" if length == _FULL else varint(2 << 3) + varint(length)
        extents.append(message_field(1, varint_field(1, start) + extent))
    return b"".join(extents)


def part_slices(place: PartPlace, shape: tuple[int, ...]) -> Iterator[slice]:
    """The part as slices of a tensor of ``shape``.

    Raises:
        ValueError: the part exceeds the tensor.
    """
    for (start, length), size in zip(place, shape):
        end = size if length == _FULL else start + length
        if end > size:
            raise ValueError(f"a part ends at row {end} of {size}")
        yield slice(start, end)


_ESCAPED = {0x00: b"\0\xff", 0xFF: b"\xff\0"}


def part_key(name: bytes, place: PartPlace) -> bytes:
    """The key of a part of a partitioned variable.

    TensorFlow's order-preserving code (core/lib/strings/ordered_code): 0, the name, the number of
    dimensions, then start and length of each.
    """
    escaped = b"".join(_ESCAPED.get(byte, bytes([byte])) for byte in name)
    numbers = b"".join(ordered_signed(number) for extent in place for number in extent)
    return _ordered(0) + escaped + b"\0\1" + _ordered(len(place)) + numbers


def _ordered(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def ordered_signed(value: int) -> bytes:
    """A signed 64-bit number whose codes sort as the numbers do.

    n bytes begin with n ones and a zero, followed by the bits of the number; for a negative number,
    all bits of the code of ``~value`` are inverted.
    """
    positive = value if value >= 0 else ~value
    size = next(n for n in range(1, 11) if positive.bit_length() < 7 * n)
    ones = ((1 << size) - 1) << 7 * size
    code = (ones | positive).to_bytes(size, "big")
    return code if value >= 0 else bytes(byte ^ 0xFF for byte in code)
