"""Reads a tensor bundle: the index at once, tensors one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import torch
from torch import Tensor

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import open_file
from megabert.convert.google.tensor_bundle.entries import (
    DTYPES,
    VERSION,
    BundleEntry,
    Header,
    part_key,
    part_slices,
)
from megabert.convert.google.tensor_bundle.table import read_sorted_table
from megabert.data.foreign.tfrecord import masked

_PART = b"\0"  # first byte of the keys of parts
_CHUNK = 1 << 20
_MOST_SHARDS = 100_000  # five digits in the files' names


def index_file(prefix: Path) -> Path:
    """``PREFIX.index``."""
    return prefix.with_name(f"{prefix.name}.index")


def data_file(prefix: Path, shard: int, shards: int) -> Path:
    """``PREFIX.data-0000i-of-0000n``."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


class Bundle:
    """An opened tensor bundle.

    Opening it reads and verifies the whole index, and compares it with the sizes of the data files:
    each tensor must be inside its file, have the number of bytes that its shape requires, and not
    overlap another, so that no more is read than the files hold.

    Args:
        prefix: path without ``.index``.

    Raises:
        UserError: a file is missing, truncated, damaged or of an unsupported form.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = Path(prefix)
        self._index = index_file(self.prefix)
        entries = read_sorted_table(self._index)
        if not entries or entries[0][0] != b"":
            raise UserError(
                f"{self._index}: a table, but not a TensorFlow checkpoint: it has no header"
            )
        key = b"the header"
        try:
            header = Header.parse(entries[0][1])
            self._entries: dict[bytes, BundleEntry] = {}
            for key, value in entries[1:]:
                if not key.startswith(_PART):
                    key.decode()
                self._entries[key] = BundleEntry.parse(value)
        except ValueError as error:
            raise UserError(f"{self._index}: {_shown(key)} cannot be read: {error}") from None
        self._check_header(header)
        self.shards = header.shards
        self._check_places()

    def _check_header(self, header: Header) -> None:
        if header.big_endian:
            raise UserError(f"{self._index}: big-endian numbers, which megabert does not support")
        if header.min_consumer > VERSION:
            raise UserError(
                f"{self._index}: it requires a reader of version {header.min_consumer}, and this "
                f"is version {VERSION}; save the checkpoint with an older TensorFlow"
            )
        if header.shards >= _MOST_SHARDS:
            raise UserError(f"{self._index}: its header states {header.shards:,} data files")

    def _check_places(self) -> None:
        by_shard: dict[int, list[tuple[int, int, bytes]]] = {}
        for key, entry in self._entries.items():
            if entry.parts:
                continue
            if entry.shard >= self.shards:
                raise UserError(
                    f"{self._index}: {_shown(key)} is in data file {entry.shard} of {self.shards}"
                )
            dtype = DTYPES.get(entry.code)
            if dtype is not None and entry.size != entry.elements * dtype.itemsize:
                raise UserError(
                    f"{self._index}: {_shown(key)} has {entry.size:,} bytes, but shape "
                    f"{list(entry.shape)} of {dtype}"
                )
            place = (entry.offset, entry.offset + entry.size, key)
            by_shard.setdefault(entry.shard, []).append(place)
        for shard, places in by_shard.items():
            self._check_shard(data_file(self.prefix, shard, self.shards), sorted(places))

    def _check_shard(self, path: Path, places: list[tuple[int, int, bytes]]) -> None:
        if not path.is_file():
            raise UserError(f"{path} is missing: according to {self._index.name}, it holds tensors")
        total, before = path.stat().st_size, 0
        if total:
            check_downloaded(path)
        for start, end, key in places:
            if end > total:
                raise UserError(
                    f"{path}: truncated: {_shown(key)} ends at byte {end:,} of {total:,}; copy the "
                    "file again"
                )
            if start < before:
                raise UserError(f"{self._index}: {_shown(key)} overlaps another tensor")
            before = end

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the index."""
        return [_shown(key) for key in self._entries if not key.startswith(_PART)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the index."""
        return self._entries[name.encode()].shape

    def dtype(self, name: str) -> torch.dtype | None:
        """Data type of a tensor; None for an unsupported one (a string)."""
        return DTYPES.get(self._entries[name.encode()].code)

    def read(self, name: str) -> Tensor:
        """A tensor, with its checksum verified; the parts of a partitioned variable are assembled.

        Raises:
            KeyError: there is no tensor of that name.
            UserError: the tensor is damaged, of an unsupported type, or lacks parts.
        """
        key = name.encode()
        entry = self._entries[key]
        if entry.code not in DTYPES:
            raise UserError(
                f"{self._index}: {name} holds no numbers (TensorFlow's data type {entry.code})"
            )
        return self._whole(key, entry) if entry.parts else self._stored(key, entry)

    def _stored(self, key: bytes, entry: BundleEntry) -> Tensor:
        """A tensor that is stored in one piece."""
        path = data_file(self.prefix, entry.shard, self.shards)
        dtype = DTYPES[entry.code]
        content = bytearray()
        try:
            with open_file(path) as file:
                file.seek(entry.offset)
                crc = _read_into(content, file, entry.size)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        if len(content) != entry.size or masked(crc) != entry.checksum:
            raise UserError(
                f"{path}: damaged: the {entry.size:,} bytes of {_shown(key)} (from byte "
                f"{entry.offset:,}) do not match their checksum; copy the file again"
            )
        if not content:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).reshape(entry.shape)

    def _whole(self, key: bytes, entry: BundleEntry) -> Tensor:
        """A partitioned variable from its parts, which must cover it exactly."""
        name = _shown(key)
        try:
            parts = list(self._parts(key, entry))
        except ValueError as error:
            raise UserError(f"{self._index}: {name}: {error}") from None
        if sum(part.elements for _, part, _ in parts) != entry.elements:
            raise UserError(f"{self._index}: the parts of {name} do not have its size")
        whole = torch.empty(entry.shape, dtype=DTYPES[entry.code])
        covered = torch.zeros(entry.shape, dtype=torch.bool)
        for part_name, part, index in parts:
            whole[index] = self._stored(part_name, part)
            covered[index] = True
        if not covered.all():
            raise UserError(f"{self._index}: the parts of {name} overlap and leave gaps")
        return whole

    def _parts(
        self, key: bytes, entry: BundleEntry
    ) -> Iterator[tuple[bytes, BundleEntry, tuple[slice, ...]]]:
        if len(set(entry.parts)) < len(entry.parts):
            raise ValueError("a part of it occurs twice")
        for place in entry.parts:
            index = tuple(part_slices(place, entry.shape))
            stored = part_key(key, place)
            part = self._entries.get(stored)
            if part is None or part.parts:
                raise ValueError(f"its part {list(place)} is missing")
            if part.code != entry.code or part.shape != tuple(s.stop - s.start for s in index):
                raise ValueError(f"its part {list(place)} has another type or shape")
            yield stored, part, index


def _read_into(content: bytearray, file: BinaryIO, size: int) -> int:
    """Append the next ``size`` bytes of a file (fewer if it ends earlier); return their CRC-32C."""
    crc = 0
    while len(content) < size:
        piece = file.read(min(_CHUNK, size - len(content)))
        if not piece:
            break
        crc = int(google_crc32c.extend(crc, piece))
        content += piece
    return crc


def _shown(key: bytes) -> str:
    """A key in messages: the name of a tensor, or a description of a part."""
    if key.startswith(_PART):
        return f"a part of {key[1:].split(bytes(1))[0].decode(errors='backslashreplace')}"
    return key.decode(errors="backslashreplace")
