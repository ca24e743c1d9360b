"""One shard file, each byte of which is checked before its first use.

Files are read by plain positioned reads, not mapped into memory. So a file that is truncated or a
server that fails during a read is an error that names the file, where a memory map would end the
process by a signal; and the memory of a process does not depend on what it has read.

A file that changes while it is in use is noticed after each read, by its inode, size and times. What is
then read from it is checked again.
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

from megabert.common.files import require_file
from megabert.common.log import get_logger
from megabert.common.processes.isolated import IsolatedFault, run_isolated
from megabert.data.shards import layout
from megabert.data.shards.file_state import FileState
from megabert.data.shards.manifest import ShardError
from megabert.data.shards.plain_hdf5 import Hdf5Refused, require_own_data, require_own_links

LOOKS = 5
"""How often a file that changes is read again."""
_VERIFIED_BYTES = 2**22


class ShardFile:
    """The bytes of a shard, checked block by block at first use.

    Opening checks the preamble, the file's length, and the table of checksums.

    Args:
        path: the file.
        checked: bool [blocks], the blocks already checked; None for none of them.

    Raises:
        ShardError: the file is damaged; the message names the file, dataset, block and bytes.
    """

    def __init__(self, path: Path, checked: npt.NDArray[np.bool_] | None = None) -> None:
        self.path = path
        self._handle = -1
        self._state: FileState | None = None
        size = os.fstat(self.open()).st_size
        head = self._pread(0, min(layout.PREAMBLE_BYTES, size))
        self.preamble = layout.read_preamble(path, head, size)
        self._table = self._read_table()
        self._checked = np.zeros(self.preamble.blocks, bool) if checked is None else checked

    def __del__(self) -> None:
        self.close()

    def open(self) -> int:
        """Open the file unless it is open; return its descriptor."""
        if self._handle < 0:
            try:
                require_file(self.path)
                self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                now = FileState.of(self._handle)
            except OSError as error:
                raise _unreadable(self.path, error) from None
            self._state = self._state or now
            fault = self._state.fault(now)
            if fault is not None:
                self.close()
                raise ShardError(f"{self.path}: {fault}")
        return self._handle

    @property
    def state(self) -> FileState:
        """The file as it was when its content was checked."""
        assert self._state is not None
        return self._state

    def look_again(self) -> bool:
        """Whether the file is as it was; if not, everything is checked again at its next use.

        Raises:
            ShardError: it was deleted, replaced, or overwritten by another shard.
        """
        handle = self.open()
        try:
            now = FileState.of(handle)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if now == self._state:
            return True
        fault = self.state.fault(now)
        if fault is not None:
            raise ShardError(f"{self.path}: {fault}")
        head = self._pread(0, layout.PREAMBLE_BYTES)
        if layout.read_preamble(self.path, head, now.size) != self.preamble:
            raise ShardError(f"{self.path}: the file was overwritten while it was in use")
        self._read_table()
        self._state, self._checked[:] = now, False
        get_logger().warning("%s changed while it was in use; it is checked again", self.path)
        return False

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of the file, after checking their blocks."""
        for _ in range(LOOKS):
            self.check(start, stop)
            content = self._pread(start, stop)
            if self.look_again():
                return content
        raise ShardError(f"{self.path}: the file keeps changing while it is in use")

    def check(self, start: int, stop: int) -> None:
        """Check the blocks of bytes ``start`` to ``stop`` that were not checked before."""
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
        """What the shard holds: at least the names in ``layout.CONTENT``."""
        return self.preamble.content or self.attributes()

    def document_id(self, document: int) -> int:
        """The page id of a document."""
        offset, size = self.preamble.arrays[layout.DOCUMENT_IDS]
        if not 0 <= 8 * document < size:
            raise IndexError(f"{self.path}: document {document}")
        place = offset + 8 * document
        return int(np.frombuffer(self.read(place, place + 8), "<i8")[0])

    def document_ends(self) -> npt.NDArray[np.int64]:
        """Tokens up to and including each document, int64 [D].

        For a shard of version 1, this reads the starts of all its sentences.
        """
        if layout.DOCUMENT_TOKEN_STARTS in self.preamble.arrays:
            return self.array(layout.DOCUMENT_TOKEN_STARTS, "<u4")[1:].astype(np.int64)
        documents = self.array(layout.DOCUMENT_STARTS, "<u4")
        return self.array(layout.SENTENCE_STARTS, "<u4")[documents[1:]].astype(np.int64)

    def attributes(self) -> dict[str, str | int]:
        """The attributes of the HDF5 file.

        The headers are checked before the HDF5 library reads them, and the arrays must be where the
        preamble says.
        """
        position = layout.PREAMBLE_BYTES
        for offset, size in sorted(self.preamble.arrays.values()):
            self.check(position, offset)
            position = offset + size
        self.check(position, self.preamble.file_bytes)
        try:
            answer = run_isolated(self._hdf5_content)
        except IsolatedFault as error:
            raise ShardError(f"{self.path}: not readable as HDF5: {error}") from None
        if answer.get("refused"):
            raise ShardError(f"{self.path}: {answer['refused']}")
        found = {name: tuple(place) for name, place in answer["datasets"].items()}
        found.pop(layout.CHECKSUMS, None)
        if found != self.preamble.arrays:
            raise ShardError(f"{self.path}: its datasets are not where its preamble says")
        return dict(answer["attributes"])

    def _hdf5_content(self) -> dict[str, Any]:
        """Places of the datasets, and the attributes, as the HDF5 library reads them."""
        with h5py.File(self.path, "r", locking=False) as file:
            try:
                require_own_links(file)
                require_own_data(file, [*self.preamble.arrays, layout.CHECKSUMS])
            except Hdf5Refused as error:
                return {"refused": str(error)}
            datasets = {
                name: (d.id.get_offset(), d.id.get_storage_size()) for name, d in file.items()
            }
            attributes = {k: v if isinstance(v, str) else int(v) for k, v in file.attrs.items()}
            return {"datasets": datasets, "attributes": attributes}

    def verify(self) -> None:
        """Check every byte of the file, and that its arrays and counts are consistent."""
        for block in range(self.preamble.blocks):
            self._check_block(block)
        attributes = self.attributes()
        if any(attributes.get(name) != value for name, value in self.content.items()):
            raise ShardError(f"{self.path}: its attributes differ from its preamble")
        self._verify_starts()
        self._verify_ids()

    def _verify_starts(self) -> None:
        documents, sentences, tokens = (
            self.content[name] for name in ("documents", "sentences", "tokens")
        )
        starts = self.array(layout.SENTENCE_STARTS, "<u4").astype(np.int64)
        firsts = self.array(layout.DOCUMENT_STARTS, "<u4").astype(np.int64)
        consistent = (
            len(starts) - 1 == firsts[-1] == sentences
            and len(firsts) - 1 == documents
            and starts[0] == firsts[0] == 0
            and starts[-1] == tokens
            and bool(np.all(np.diff(starts) > 0) and np.all(np.diff(firsts) > 0))
            and np.array_equal(starts[firsts[1:]], self.document_ends())
        )
        if not consistent:
            raise ShardError(f"{self.path}: its starts and counts are inconsistent")

    def _verify_ids(self) -> None:
        vocab_size = int(self.content["vocab_size"])
        offset, size = self.preamble.arrays[layout.TOKENS]
        for first in range(0, size, _VERIFIED_BYTES):
            content = self.read(offset + first, offset + min(size, first + _VERIFIED_BYTES))
            ids = np.frombuffer(content, layout.token_dtype(vocab_size))
            if int(ids.max()) >= vocab_size:
                place = first // ids.itemsize + int(ids.argmax())
                raise ShardError(
                    f"{self.path}: token {place} has id {ids.max()}, outside the vocabulary of "
                    f"{vocab_size}"
                )

    def _pread(self, start: int, stop: int) -> bytes:
        handle = self.open()
        try:
            content = os.pread(handle, stop - start, start)
            while len(content) < stop - start:
                more = os.pread(handle, stop - start - len(content), start + len(content))
                if not more:
                    raise ShardError(f"{self.path}: the file was truncated while it was in use")
                content += more
        except OSError as error:
            raise _unreadable(self.path, error) from None
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


def _unreadable(path: Path, error: OSError) -> ShardError:
    return ShardError(f"{path}: this shard cannot be read: {error.strerror}")
