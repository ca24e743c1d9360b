"""Sums made right after a change: what somebody who knows the format does."""

from __future__ import annotations

import json
import struct
import zlib

from megabert.data.foreign.tfrecord import masked_crc32c
from tests.helpers.sums import manifest_with_sum, record_with_sum


def manifest(content: bytes) -> bytes:
    """A manifest with its fingerprint."""
    return manifest_with_sum(json.loads(content))


def record(content: bytes) -> bytes:
    """A checkpoint's record with its sum."""
    return record_with_sum(json.loads(content))


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
