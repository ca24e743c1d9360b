"""Files whose sums are right, whatever they say: what somebody who knows the format can make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


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
