"""The bytes of a shard: an HDF5 file whose user block says how to check every other byte.

    offset 0      preamble, 4,096 bytes: one line of JSON, spaces, its own CRC-32
    offset 4096   HDF5 proper: superblock, headers, attributes, and contiguous datasets

HDF5 programs skip the first part (it is HDF5's *user block*). The JSON gives the file's length, the
place of each array and of the table of checksums, and what the shard holds. That table, the dataset
``block_crc32``, holds one CRC-32 for every 16 KiB of everything after the preamble. Its own bytes
count as zeros in these sums, and its own CRC-32 is in the preamble. So exactly one checksum covers
each byte of the file, and a reader can check the part that it reads before the HDF5 library does,
and report the place of the damage.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.json_text import JsonError, parse_json
from megabert.data.shards.manifest import ShardError

FORMAT = "megabert-shard"
VERSION = 2
READABLE = (1, 2)
"""Version 1 has no ``document_token_starts``, and no ``content`` in its preamble."""
PREAMBLE_BYTES = 4096
BLOCK_BYTES = 16384

TOKENS = "tokens"
SENTENCE_STARTS = "sentence_starts"
DOCUMENT_STARTS = "document_starts"
DOCUMENT_TOKEN_STARTS = "document_token_starts"
WORD_STARTS = "word_starts"
DOCUMENT_IDS = "document_ids"
CHECKSUMS = "block_crc32"

_ARRAYS = (
    *(TOKENS, WORD_STARTS, SENTENCE_STARTS, DOCUMENT_STARTS),
    *(DOCUMENT_TOKEN_STARTS, DOCUMENT_IDS),
)

CONTENT = (
    *("tokenizer_sha256", "vocab_size", "language", "seed", "split", "shard_index", "shard_count"),
    *("documents", "sentences", "tokens"),
)
"""Attributes that the preamble repeats; they tie a shard to its manifest."""

MAX_SHARD_TOKENS = 2**32 - 1
"""The limit of ``sentence_starts``, which are uint32."""

_CRC_TAIL = 9  # eight hexadecimal digits and a newline


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """uint16, or uint32 for more than 65,536 ids; little-endian."""
    return np.dtype("<u2") if vocab_size <= 65536 else np.dtype("<u4")


@dataclass(frozen=True)
class Preamble:
    """The JSON of the user block. Offsets and sizes in bytes from the start of the file."""

    file_bytes: int
    checksums_offset: int
    checksums_count: int
    checksums_crc32: int
    arrays: dict[str, tuple[int, int]]  # name -> (offset, bytes)
    content: dict[str, str | int] = field(default_factory=dict)  # the same as HDF5 attributes
    block_bytes: int = BLOCK_BYTES
    format: str = FORMAT
    version: int = VERSION

    @property
    def blocks(self) -> int:
        """Number of blocks after the preamble."""
        return -(-(self.file_bytes - PREAMBLE_BYTES) // BLOCK_BYTES)

    @property
    def checksums_end(self) -> int:
        """End of the table of checksums (exclusive)."""
        return self.checksums_offset + 4 * self.checksums_count

    def block_range(self, block: int) -> tuple[int, int]:
        """First byte and end (exclusive) of a block."""
        start = PREAMBLE_BYTES + block * BLOCK_BYTES
        return start, min(start + BLOCK_BYTES, self.file_bytes)

    def block_crc32(self, content: bytes, block: int) -> int:
        """CRC-32 of a block, given its bytes; bytes of the table itself count as zeros."""
        start, stop = self.block_range(block)
        first = max(start, self.checksums_offset) - start
        last = min(stop, self.checksums_end) - start
        if first < last:
            content = content[:first] + bytes(last - first) + content[last:]
        return zlib.crc32(content)

    def place(self, start: int, stop: int) -> str:
        """The arrays in a byte range, as text for a message."""
        names = [
            name
            for name, (offset, size) in self.arrays.items()
            if offset < stop and start < offset + size
        ]
        return "dataset " + ", ".join(names) if names else "HDF5 headers and attributes"

    def encode(self) -> bytes:
        """The 4,096 bytes of the preamble."""
        line = json.dumps(asdict(self), separators=(",", ":")).encode()
        if len(line) > PREAMBLE_BYTES - _CRC_TAIL:
            raise ValueError("the preamble does not fit into its block")
        body = line.ljust(PREAMBLE_BYTES - _CRC_TAIL)
        return body + b"%08x\n" % zlib.crc32(body)


def read_preamble(path: Path, content: bytes, file_bytes: int) -> Preamble:
    """Decode the first 4,096 bytes of a file of ``file_bytes`` bytes.

    Raises:
        ShardError: the file is not a shard, is cut off, or is damaged; the message names the file.
    """
    if b'"format":"' + FORMAT.encode() not in content and not _looks_like_shard(content):
        raise ShardError(f"{path}: not a shard of this program")
    if len(content) < PREAMBLE_BYTES:
        raise ShardError(f"{path}: truncated: {file_bytes} bytes, shorter than a preamble")
    body, tail = content[:-_CRC_TAIL], content[-_CRC_TAIL:]
    if b"%08x\n" % zlib.crc32(body) != tail:
        raise ShardError(f"{path}: damaged: preamble (bytes 0 to {PREAMBLE_BYTES})")
    fields = _fields(path, body)
    if fields["version"] not in READABLE or fields["block_bytes"] != BLOCK_BYTES:
        raise ShardError(
            f"{path}: shard version {fields['version']} with blocks of {fields['block_bytes']} "
            f"bytes; this program reads versions {READABLE} with blocks of {BLOCK_BYTES}"
        )
    fields["arrays"] = {name: (start, size) for name, (start, size) in fields["arrays"].items()}
    preamble = Preamble(**fields)
    if file_bytes != preamble.file_bytes:
        what = "truncated" if file_bytes < preamble.file_bytes else "damaged"
        raise ShardError(f"{path}: {what}: {file_bytes} bytes instead of {preamble.file_bytes}")
    fault = _fault(preamble)
    if fault is not None:
        raise ShardError(f"{path}: its preamble is not consistent: {fault}")
    return preamble


def _fields(path: Path, body: bytes) -> dict[str, Any]:
    """The checked JSON of a preamble."""
    from megabert.data.shards.schema import preamble_fault

    try:
        fields = parse_json(body)
    except JsonError as error:
        raise ShardError(f"{path}: its preamble is not JSON: {error}") from None
    fault = preamble_fault(fields)
    if fault is not None:
        raise ShardError(f"{path}: its preamble: {fault}")
    return {key: value for key, value in fields.items() if key in Preamble.__annotations__}


def _fault(preamble: Preamble) -> str | None:
    """What does not fit together in a preamble of known version; None if all does."""
    from megabert.data.shards.schema import ranges_fault

    if preamble.checksums_count < preamble.blocks or preamble.file_bytes <= PREAMBLE_BYTES:
        return f"{preamble.checksums_count} checksums for {preamble.blocks} blocks"
    table = (CHECKSUMS, preamble.checksums_offset, 4 * preamble.checksums_count)
    arrays = [(name, *place) for name, place in preamble.arrays.items()]
    fault = ranges_fault([*arrays, table], PREAMBLE_BYTES, preamble.file_bytes)
    if fault is not None:
        return fault
    wanted = _ARRAYS if preamble.version > 1 else [n for n in _ARRAYS if n != DOCUMENT_TOKEN_STARTS]
    if absent := [name for name in wanted if name not in preamble.arrays]:
        return f"no array {absent[0]}"
    return _content_fault(preamble) if preamble.content else None


def _content_fault(preamble: Preamble) -> str | None:
    """What is wrong with the counts of a preamble, or with the sizes of arrays by these counts."""
    from megabert.data.shards.schema import content_fault

    content = preamble.content
    fault = content_fault(content)
    if fault is not None:
        return fault
    documents, sentences, tokens = (int(content[n]) for n in ("documents", "sentences", "tokens"))
    sizes = {
        TOKENS: tokens * token_dtype(int(content["vocab_size"])).itemsize,
        WORD_STARTS: -(-tokens // 8),
        SENTENCE_STARTS: 4 * (sentences + 1),
        DOCUMENT_STARTS: 4 * (documents + 1),
        DOCUMENT_TOKEN_STARTS: 4 * (documents + 1),
        DOCUMENT_IDS: 8 * documents,
    }
    for name, (_, size) in preamble.arrays.items():
        if sizes.get(name, size) != size:
            return f"{name} has {size} bytes, but should have {sizes[name]}"
    return None


def _looks_like_shard(content: bytes) -> bool:
    """Whether this may be a preamble with a few flipped bytes: JSON, then spaces, then the CRC."""
    return content[:1] == b"{" or content[-512:-_CRC_TAIL].isspace()
