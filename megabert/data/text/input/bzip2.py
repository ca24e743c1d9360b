"""bzip2 files block by block: blocks are found without decoding, then decoded independently.

A bzip2 file is a sequence of streams, each beginning at a whole byte:

    "BZh" digit | block ... block | trailer | up to 7 bits of padding

A block begins, at any bit, with a 48-bit magic number and the CRC-32 of its decoded content; the
trailer has another magic number and a checksum over the CRCs of the stream. Both magic numbers are
searched for at every bit, and the checksum shows whether exactly the stream's blocks were found.
If it does not match, that stream is decoded block by block, which distinguishes damage from a magic
number that occurs inside a block by chance (expected once in 17,592 GB).
Source of the layout: the bzip2 1.0 sources (compress.c, decompress.c).
"""

from __future__ import annotations

import bz2
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.data.text.input.streams import PIECE, compressed_fault, not_padding

BLOCK_MAGIC = 0x314159265359
TRAILER_MAGIC = 0x177245385090
OVERLAP = 16
"""Bytes after a piece of a file that are needed to read a mark in its last byte."""
_HEADER_BITS, _MAGIC_BITS, _CRC_BITS = 32, 48, 32
_TRAILER_BITS = _MAGIC_BITS + _CRC_BITS
_LONGEST_BLOCK = 1 << 25  # bits; more than 900,001 symbols of at most 20 bits


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
    after, shift = np.divmod(bits + _MAGIC_BITS, 8)
    checksum = _big_endian(padded, after + 1, 5) >> (8 - shift).astype(np.uint64)
    behind = (bits + _TRAILER_BITS + 7) // 8
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
        number = (seven >> np.uint64(8 - shift)) & np.uint64((1 << _MAGIC_BITS) - 1)
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


class BlockFile:
    """A bzip2 file whose blocks are decoded one at a time; a context manager."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, start: int, count: int) -> bytes:
        """Up to ``count`` bytes from byte ``start``."""
        parts = []
        while count and (part := os.pread(self._file.fileno(), count, start)):
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)

    def _bits(self, start: int, stop: int) -> int:
        first, last = start // 8, (stop + 7) // 8
        value = int.from_bytes(self.read(first, last - first), "big")
        return (value >> (8 * last - stop)) & ((1 << (stop - start)) - 1)

    def decode(self, start: int, stop: int, level: int) -> bytes:
        """The decoded content (at most 46 MB) of the block in bits ``start`` to ``stop``.

        Args:
            start, stop: first bit, and the bit after the last.
            level: the digit of its stream's header.

        Raises:
            OSError: the bits are not exactly one block with a correct CRC-32.
        """
        size = stop - start
        if size < _TRAILER_BITS:
            raise OSError("too short for a block")
        block = self._bits(start, stop)
        crc = (block >> (size - _TRAILER_BITS)) & 0xFFFFFFFF
        stream = (int.from_bytes(b"BZh%d" % level, "big") << size) | block
        stream = (stream << _TRAILER_BITS) | (TRAILER_MAGIC << _CRC_BITS) | crc
        total = _HEADER_BITS + size + _TRAILER_BITS
        length = (total + 7) // 8
        unpacker = bz2.BZ2Decompressor()
        data = unpacker.decompress((stream << (8 * length - total)).to_bytes(length, "big"))
        if not unpacker.eof or unpacker.unused_data:
            raise OSError("the block does not end where the next one begins")
        return data

    def ends_inside(self, start: int, level: int) -> bool:
        """Whether the file ends inside the block at bit ``start``, or right after it."""
        stop = min(8 * self.size, start + _LONGEST_BLOCK)
        size = stop - start
        stream = (int.from_bytes(b"BZh%d" % level, "big") << size) | self._bits(start, stop)
        total = _HEADER_BITS + size
        whole = total // 8
        unpacker = bz2.BZ2Decompressor()
        try:
            unpacker.decompress((stream >> (total - 8 * whole)).to_bytes(whole, "big"))
        except OSError:
            return False
        return stop == 8 * self.size and not unpacker.eof


def find_blocks(marks: Marks, source: BlockFile) -> npt.NDArray[np.int64]:
    """The blocks of a file: [n, 3] of first bit, bit after the last, and level.

    Raises:
        UserError: the file is truncated, damaged outside its blocks (``BlockFile.decode`` finds
            damage inside), or not a bzip2 stream; the message names file and compressed byte.
    """
    return np.array(_Walk(marks, source).blocks(), np.int64).reshape(-1, 3)


class _Walk:
    """Walks over the marks of a file, stream by stream."""

    def __init__(self, marks: Marks, source: BlockFile) -> None:
        self._source = source
        self._bits: list[int] = marks.bits.tolist()
        self._trailer: list[bool] = marks.trailer.tolist()
        self._checksum: list[int] = marks.checksum.tolist()
        self._following: list[int] = marks.following.tolist()

    def blocks(self) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        at, head, mark = 0, self._source.read(0, 4), 0
        while True:
            level = self._level(at, head)
            if level is None:
                return found
            mark = self._first_mark(at, mark)
            end = self._quick(mark)
            if end is not None:
                found += [(self._bits[i], self._bits[i + 1], level) for i in range(mark, end)]
            else:
                stream, end = self._slow(mark, level)
                found += stream
            at = (self._bits[end] + _TRAILER_BITS + 7) // 8
            if at > self._source.size:
                raise self._truncated()
            head, mark = self._following[end].to_bytes(4, "big"), end + 1

    def _level(self, at: int, head: bytes) -> int | None:
        """Level of the stream at byte ``at``; None at the end of the file."""
        size = self._source.size
        if head[:3] == b"BZh" and at + 4 <= size and 49 <= head[3] <= 57:
            return head[3] - 48
        if at and self._is_padding(at):
            return None
        if head[:3] == b"BZh":
            raise self._truncated() if at + 4 > size else self._damaged(at, "no level")
        raise not_padding(self._source.name, "bz2", at)

    def _is_padding(self, at: int) -> bool:
        while data := self._source.read(at, PIECE):
            if data.strip(b"\0"):
                return False
            at += len(data)
        return True

    def _first_mark(self, at: int, mark: int) -> int:
        """The mark directly after the header at byte ``at``."""
        wanted = 8 * at + _HEADER_BITS
        while mark < len(self._bits) and self._bits[mark] < wanted:
            mark += 1
        if mark == len(self._bits) or self._bits[mark] != wanted:
            if 8 * self._source.size < wanted + _MAGIC_BITS:
                raise self._truncated()
            raise self._damaged(at + 4, "neither a block nor the end of the stream")
        return mark

    def _quick(self, mark: int) -> int | None:
        """The trailer of the stream, by its checksum only; None if the checksum does not match."""
        checksum = 0
        for index in range(mark, len(self._bits)):
            if self._trailer[index]:
                return index if self._checksum[index] == checksum else None
            checksum = _with_block(checksum, self._checksum[index])
        return None

    def _slow(self, mark: int, level: int) -> tuple[list[tuple[int, int, int]], int]:
        """The stream's blocks and its trailer, by decoding: a chunk that is not a whole block is
        joined with the next one."""
        if self._trailer[-1]:
            cut = self._bits[-1] + _TRAILER_BITS > 8 * self._source.size
        else:
            cut = self._source.ends_inside(self._bits[-1], level)
        if cut:
            raise self._truncated()
        blocks: list[tuple[int, int, int]] = []
        checksum = 0
        while not self._trailer[mark]:
            end = self._end_of_block(mark, level)
            blocks.append((self._bits[mark], self._bits[end], level))
            checksum = _with_block(checksum, self._checksum[mark])
            mark = end
        if self._checksum[mark] != checksum:
            raise self._damaged(self._bits[mark] // 8, "the checksum of the stream is wrong")
        return blocks, mark

    def _end_of_block(self, mark: int, level: int) -> int:
        start = self._bits[mark]
        reason: object = "the end of the block was not found"
        for end in range(mark + 1, len(self._bits)):
            if self._bits[end] - start > _LONGEST_BLOCK:
                break
            try:
                self._source.decode(start, self._bits[end], level)
            except OSError as error:
                reason = error
                continue
            return end
        if self._source.ends_inside(start, level):
            raise self._truncated()
        raise self._damaged(start // 8, reason)

    def _truncated(self) -> UserError:
        return compressed_fault(
            self._source.name, "the bz2 data is truncated: it ends", self._source.size
        )

    def _damaged(self, byte: int, reason: object) -> UserError:
        return compressed_fault(self._source.name, f"damaged bz2 data ({reason})", byte)


def _with_block(checksum: int, crc: int) -> int:
    """The checksum of a stream after adding a block."""
    return ((checksum << 1 | checksum >> 31) & 0xFFFFFFFF) ^ crc
