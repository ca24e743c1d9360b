"""Sums made right after a change: what somebody who knows the format does."""

from __future__ import annotations

import json
import struct
import zlib

from megabert.data.foreign.tfrecord import masked_crc32c
from megabert.data.shards.layout import BLOCK_BYTES, PREAMBLE_BYTES
from tests.helpers.sums import manifest_with_sum, record_with_sum


def manifest(content: bytes) -> bytes:
    """A manifest with its fingerprint."""
    return manifest_with_sum(json.loads(content))


def record(content: bytes) -> bytes:
    """A checkpoint's record with its sum."""
    return record_with_sum(json.loads(content))


def shard(content: bytes) -> bytes:
    """A shard with the sum of its preamble and, where its table is in the file, those of its blocks."""
    body, rest = content[: PREAMBLE_BYTES - 9], bytearray(content[PREAMBLE_BYTES:])
    fields = json.loads(body)
    start = fields["checksums_offset"] - PREAMBLE_BYTES
    count = fields["checksums_count"]
    if start >= 0 and start + 4 * count <= len(rest) and count < 1000:
        plain = rest[:start] + bytes(4 * count) + rest[start + 4 * count :]
        blocks = (
            zlib.crc32(plain[at : at + BLOCK_BYTES]) for at in range(0, len(plain), BLOCK_BYTES)
        )
        sums = struct.pack(f"<{count}I", *([*blocks] + [0] * count)[:count])
        rest[start : start + 4 * count] = sums
        fields["checksums_crc32"] = zlib.crc32(sums)
        fields["file_bytes"] = len(content)
        body = json.dumps(fields, separators=(",", ":")).encode().ljust(PREAMBLE_BYTES - 9)
    return body + b"%08x\n" % zlib.crc32(body) + bytes(rest)


def tfrecord(content: bytes) -> bytes:
    """TFRecords with their sums, as far as their lengths lead."""
    out, at = bytearray(content), 0
    while at + 16 <= len(out):
        size = int(struct.unpack_from("<Q", out, at)[0])
        end = at + 12 + size
        struct.pack_into("<I", out, at + 8, masked_crc32c(bytes(out[at : at + 8])))
        if end + 4 > len(out):
            break
        struct.pack_into("<I", out, end, masked_crc32c(bytes(out[at + 12 : end])))
        at = end + 4
    return bytes(out)


def mindspore(content: bytes) -> bytes:
    """A MindSpore checkpoint with its sum at the end."""
    plain = content.partition(b"crc_num")[0]
    return plain + b"crc_num" + zlib.crc32(plain).to_bytes(10, "big")
