"""Files whose sums are right, whatever they say: what somebody who knows the format can make."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.data.shards.layout import BLOCK_BYTES, PREAMBLE_BYTES


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def manifest_with_sum(body: Mapping[str, Any]) -> bytes:
    """The bytes of a ``manifest.json`` with its fingerprint."""
    rest = {key: value for key, value in body.items() if key != "fingerprint"}
    fingerprint = hashlib.sha256(_canonical(rest)).hexdigest()
    whole = {**rest, "fingerprint": fingerprint}
    return (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode()


def record_with_sum(record: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint's ``megabert.json`` with its own sum."""
    rest = {key: value for key, value in record.items() if key != "record_sha256"}
    return json.dumps(
        {**rest, "record_sha256": hashlib.sha256(_canonical(rest)).hexdigest()}
    ).encode()


def without_sums(folder: Path) -> None:
    """Take the sums out of the record of a megabert folder, so that a test may change its files."""
    path = folder / "megabert.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in ("weights_sha256", "record_sha256"):
        del record[name]
    path.write_text(json.dumps(record), encoding="utf-8")


def shard_with_sums(content: bytes) -> bytes:
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
