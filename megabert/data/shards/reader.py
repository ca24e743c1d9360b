"""One shard file: its bytes, each checked before its first use.

Files are read by plain positioned reads. Nothing is mapped into memory: a file that is cut short
or a server that is gone while it is read is an error with a name, where a memory map would end the
process by a signal; and the memory of a process does not depend on what it has read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from megabert.data.shards import layout
from megabert.data.shards.manifest import ShardError

_VERIFIED_BYTES = 2**22


class ShardFile:
    """The bytes of a shard, checked block by block at first use.

    Opening checks the preamble, the file's length, and the table of checksums.

    Args:
        path: the file.
        checked: bool [blocks], which blocks were checked; a new one if None.

    Raises:
        ShardError: names the file, and the dataset, block and bytes that are damaged.
    """

    def __init__(self, path: Path, checked: npt.NDArray[np.bool_] | None = None) -> None:
        self.path = path
        self._handle = -1
        self._identity: tuple[int, int] | None = None
        size = os.fstat(self.open()).st_size
        head = self._pread(0, min(layout.PREAMBLE_BYTES, size))
        self.preamble = layout.read_preamble(path, head, size)
        self._table = self._read_table()
        self._checked = np.zeros(self.preamble.blocks, bool) if checked is None else checked

    def __del__(self) -> None:
        self.close()

    def open(self) -> int:
        """Opens the file unless it is open; returns its descriptor."""
        if self._handle < 0:
            try:
                self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(self._handle)
            except OSError as error:
                raise ShardError(f"{self.path}: cannot read this shard: {error.strerror}") from None
            identity = status.st_ino, status.st_size
            if self._identity not in (None, identity):
                self.close()
                raise ShardError(f"{self.path}: was replaced while it was in use")
            self._identity = identity
        return self._handle

    def close(self) -> None:
        """Closes the file; the next read opens it again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of the file, after checking the blocks they lie in."""
        self.check(start, stop)
        return self._pread(start, stop)

    def check(self, start: int, stop: int) -> None:
        """Checks the blocks that hold bytes `start` to `stop` and were not checked before."""
        if stop > start:
            first = (start - layout.PREAMBLE_BYTES) // layout.BLOCK_BYTES
            last = (stop - 1 - layout.PREAMBLE_BYTES) // layout.BLOCK_BYTES
            for block in range(first, last + 1):
                if not self._checked[block]:
                    self._check_block(block)

    def array(self, name: str, dtype: str) -> npt.NDArray[Any]:
        """A whole array."""
        offset, size = self.preamble.arrays[name]
        return np.frombuffer(self.read(offset, offset + size), dtype)

    @cached_property
    def content(self) -> Mapping[str, str | int]:
        """What the shard holds: `layout.CONTENT` at least."""
        return self.preamble.content or self.attributes()

    def document_id(self, document: int) -> int:
        """The page id of a document."""
        offset, size = self.preamble.arrays[layout.DOCUMENT_IDS]
        if not 0 <= 8 * document < size:
            raise IndexError(f"{self.path}: document {document}")
        place = offset + 8 * document
        return int(np.frombuffer(self.read(place, place + 8), "<i8")[0])

    def document_ends(self) -> npt.NDArray[np.int64]:
        """Tokens up to and with each document, int64 [D].

        Shards of version 1 say so by their sentences only, all of which are read.
        """
        if layout.DOCUMENT_TOKEN_STARTS in self.preamble.arrays:
            return self.array(layout.DOCUMENT_TOKEN_STARTS, "<u4")[1:].astype(np.int64)
        documents = self.array(layout.DOCUMENT_STARTS, "<u4")
        return self.array(layout.SENTENCE_STARTS, "<u4")[documents[1:]].astype(np.int64)

    def attributes(self) -> dict[str, str | int]:
        """The attributes of the HDF5 file.

        HDF5's headers are checked before the HDF5 library sees them, and that it finds the arrays
        where the preamble says.
        """
        position = layout.PREAMBLE_BYTES
        for offset, size in sorted(self.preamble.arrays.values()):
            self.check(position, offset)
            position = offset + size
        self.check(position, self.preamble.file_bytes)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                found = {
                    name: (d.id.get_offset(), d.id.get_storage_size()) for name, d in file.items()
                }
                attributes = dict(file.attrs)
        except (OSError, RuntimeError, KeyError, AttributeError) as error:
            raise ShardError(f"{self.path}: not readable as HDF5: {error}") from None
        found.pop(layout.CHECKSUMS, None)
        if found != self.preamble.arrays:
            raise ShardError(f"{self.path}: its datasets do not lie where its preamble says")
        return {k: v if isinstance(v, str) else int(v) for k, v in attributes.items()}

    def verify(self) -> None:
        """Check every byte of the file, and that what it holds fits together."""
        for block in range(self.preamble.blocks):
            self._check_block(block)
        attributes = self.attributes()
        if any(attributes.get(name) != value for name, value in self.content.items()):
            raise ShardError(f"{self.path}: its attributes are not those of its preamble")
        self._verify_starts()
        self._verify_ids()

    def _verify_starts(self) -> None:
        documents, sentences, tokens = (
            self.content[name] for name in ("documents", "sentences", "tokens")
        )
        starts = self.array(layout.SENTENCE_STARTS, "<u4").astype(np.int64)
        firsts = self.array(layout.DOCUMENT_STARTS, "<u4").astype(np.int64)
        sound = (
            len(starts) - 1 == firsts[-1] == sentences
            and len(firsts) - 1 == documents
            and starts[0] == firsts[0] == 0
            and starts[-1] == tokens
            and bool(np.all(np.diff(starts) > 0) and np.all(np.diff(firsts) > 0))
            and np.array_equal(starts[firsts[1:]], self.document_ends())
        )
        if not sound:
            raise ShardError(f"{self.path}: starts and counts do not fit together")

    def _verify_ids(self) -> None:
        vocab_size = int(self.content["vocab_size"])
        offset, size = self.preamble.arrays[layout.TOKENS]
        for first in range(0, size, _VERIFIED_BYTES):
            content = self.read(offset + first, offset + min(size, first + _VERIFIED_BYTES))
            ids = np.frombuffer(content, layout.token_dtype(vocab_size))
            if int(ids.max()) >= vocab_size:
                place = first // ids.itemsize + int(ids.argmax())
                raise ShardError(
                    f"{self.path}: token {place} has id {ids.max()}, outside of the vocabulary of "
                    f"{vocab_size}"
                )

    def _pread(self, start: int, stop: int) -> bytes:
        handle = self.open()
        try:
            content = os.pread(handle, stop - start, start)
            while len(content) < stop - start:
                more = os.pread(handle, stop - start - len(content), start + len(content))
                if not more:
                    raise ShardError(f"{self.path}: truncated while it was in use")
                content += more
        except OSError as error:
            raise ShardError(f"{self.path}: cannot be read: {error.strerror}") from None
        return content

    def _read_table(self) -> npt.NDArray[np.uint32]:
        p = self.preamble
        raw = self._pread(p.checksums_offset, p.checksums_end)
        if zlib.crc32(raw) != p.checksums_crc32:
            raise ShardError(
                f"{self.path}: damaged: dataset {layout.CHECKSUMS} "
                f"(bytes {p.checksums_offset} to {p.checksums_end})"
            )
        return np.frombuffer(raw, "<u4")

    def _check_block(self, block: int) -> None:
        start, stop = self.preamble.block_range(block)
        content = self._pread(start, stop)
        if self.preamble.block_crc32(content, block) != self._table[block]:
            place = self.preamble.place(start, stop)
            raise ShardError(
                f"{self.path}: damaged: {place}, block {block} (bytes {start} to {stop}); "
                "copy the file again or make the shards again"
            )
        self._checked[block] = True
