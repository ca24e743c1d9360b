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
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.data.text.input.bzip2_marks import MAGIC_BITS, TRAILER_BITS, TRAILER_MAGIC, Marks
from megabert.data.text.input.compression import PIECE, compressed_fault, not_padding

_HEADER_BITS, _CRC_BITS = 32, 32
_LONGEST_BLOCK = 1 << 25  # bits; more than 900,001 symbols of at most 20 bits


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
        if size < TRAILER_BITS:
            raise OSError("too short for a block")
        block = self._bits(start, stop)
        crc = (block >> (size - TRAILER_BITS)) & 0xFFFFFFFF
        stream = (int.from_bytes(b"BZh%d" % level, "big") << size) | block
        stream = (stream << TRAILER_BITS) | (TRAILER_MAGIC << _CRC_BITS) | crc
        total = _HEADER_BITS + size + TRAILER_BITS
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
            at = (self._bits[end] + TRAILER_BITS + 7) // 8
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
            if 8 * self._source.size < wanted + MAGIC_BITS:
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
            cut = self._bits[-1] + TRAILER_BITS > 8 * self._source.size
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
