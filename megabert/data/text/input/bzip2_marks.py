"""Magic numbers of bzip2 blocks and trailers, found at any bit without decoding.

The layout of a bzip2 file is described in :mod:`megabert.data.text.input.bzip2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_MAGIC = 0x314159265359
TRAILER_MAGIC = 0x177245385090
OVERLAP = 16
"""Bytes after a piece of a file that are needed to read a mark in its last byte."""
MAGIC_BITS = 48
TRAILER_BITS = MAGIC_BITS + 32
"""A trailer, or the beginning of a block: a magic number and 32 bits of checksum."""


@dataclass(frozen=True)
class Marks:
    """The n magic numbers in a file, in ascending order.

    Attributes:
        bits: int64 [n], first bit of each magic number.
        trailer: bool [n], True for a trailer's.
        checksum: uint32 [n], the 32 bits after it.
        following: uint32 [n], after a trailer, the four bytes at the next whole byte (zeros past
            the end of the file).
    """

    bits: npt.NDArray[np.int64]
    trailer: npt.NDArray[np.bool_]
    checksum: npt.NDArray[np.uint32]
    following: npt.NDArray[np.uint32]

    @staticmethod
    def joined(parts: Sequence[Marks]) -> Marks:
        """The marks of consecutive pieces."""
        return Marks(
            np.concatenate([part.bits for part in parts]),
            np.concatenate([part.trailer for part in parts]),
            np.concatenate([part.checksum for part in parts]),
            np.concatenate([part.following for part in parts]),
        )


def find_marks(data: bytes, offset: int = 0, length: int | None = None) -> Marks:
    """The magic numbers that begin in the first ``length`` bytes of ``data``.

    ``data`` begins at byte ``offset`` of the file and continues for ``OVERLAP`` bytes after
    ``length``, unless the file ends there.
    """
    length = len(data) if length is None else length
    padded = np.frombuffer(b"\0" + data + bytes(OVERLAP), np.uint8)
    bits, trailer = _search(padded, len(data))
    owned = (bits >= 0) & (bits < 8 * length)
    bits, trailer = bits[owned], trailer[owned]
    order = np.argsort(bits)
    bits, trailer = bits[order], trailer[order]
    after, shift = np.divmod(bits + MAGIC_BITS, 8)
    checksum = _big_endian(padded, after + 1, 5) >> (8 - shift).astype(np.uint64)
    behind = (bits + TRAILER_BITS + 7) // 8
    following = np.where(trailer, _big_endian(padded, behind + 1, 4), np.uint64(0))
    return Marks(
        bits + 8 * offset,
        trailer,
        (checksum & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        following.astype(np.uint32),
    )


_SHIFTED = tuple(
    (number << (8 - shift)).to_bytes(7, "big")
    for number in (BLOCK_MAGIC, TRAILER_MAGIC)
    for shift in range(8)
)
"""The magic numbers shifted by 0 to 7 bits; bytes 1 to 5 hold nothing else."""


def _pair_table() -> npt.NDArray[np.bool_]:
    """[65536]: whether two bytes occur at place 1 or 2 in one of ``_SHIFTED``."""
    table = np.zeros(1 << 16, np.bool_)
    for pattern in _SHIFTED:
        table[[int.from_bytes(pattern[at : at + 2], "big") for at in (1, 2)]] = True
    return table


_PAIRS = _pair_table()


def _search(
    padded: npt.NDArray[np.uint8], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """First bit and kind of every magic number in ``length`` bytes after one byte of padding.

    Of any three consecutive bytes, two are at an even place and the next one: one look-up per two
    bytes finds the few places that need a full comparison.
    """
    even = 2 * ((length + 3) // 2)
    pairs = padded[:even].view(">u2").astype(np.uint16)
    hits = 2 * np.flatnonzero(_PAIRS[pairs])
    first = np.unique(np.concatenate([hits - 1, hits - 2]))  # of the seven bytes
    first = first[(first >= 0) & (first < length + 1)]
    seven = _big_endian(padded, first, 7)
    bits, trailer = [], []
    for shift in range(8):
        number = (seven >> np.uint64(8 - shift)) & np.uint64((1 << MAGIC_BITS) - 1)
        for magic in (BLOCK_MAGIC, TRAILER_MAGIC):
            found = first[number == magic]
            bits.append(8 * (found - 1) + shift)
            trailer.append(np.full(len(found), magic == TRAILER_MAGIC))
    return np.concatenate(bits), np.concatenate(trailer)


def _big_endian(
    data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.uint64]:
    """The ``count`` (at most 8) bytes at each place as one number."""
    value = np.zeros(len(places), np.uint64)
    for index in range(count):
        value = (value << np.uint64(8)) | data[places + index]
    return value
