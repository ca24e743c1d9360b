"""The length of every document of a folder of shards, in one file: ``document_lengths.bin``.

It is derived from the shards, so that a rank that starts reads one file instead of a part of every
shard. Its first 4,096 bytes are a line of JSON, filled with spaces; then follows one uint32 for each
document, of all splits (by name) and shards in order. It depends on nothing but the shards. A folder
without it, or with one of other shards or damaged, is read as before.
"""

from __future__ import annotations

import json
import os
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import open_file, write_bytes
from megabert.common.json_text import JsonError, parse_json
from megabert.common.log import get_logger
from megabert.data.shards.manifest import Manifest, ShardError
from megabert.data.shards.shard_set import ShardSet, Split
from megabert.data.shards.spans import Ints

_FORMAT = "megabert-document-lengths"
_VERSION = 1
_HEADER_BYTES = 4096
_INSTEAD = "the lengths of documents are read from the shards instead"

_said: set[Path] = set()  # of which a line has said that they cannot be used


def write_document_index(folder: Path, manifest: Manifest) -> None:
    """Write the index of finished shards, whole or not at all."""
    lengths = {split: _lengths_of_shards(folder, split, manifest) for split in _splits(manifest)}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": manifest.fingerprint,
        "crc32": {split: zlib.crc32(part.tobytes()) for split, part in lengths.items()},
    }
    content = _packed(header) + b"".join(part.tobytes() for part in lengths.values())
    write_bytes(folder / names.DOCUMENT_INDEX, content)


def read_document_ends(folder: Path, split: str, manifest: Manifest) -> Ints | None:
    """Tokens up to and including each document of a split, int64 [D]; None: the shards must be asked.

    A line says why, once for all splits, unless there is no index.
    """
    path = folder / names.DOCUMENT_INDEX
    try:
        return _read_ends(path, split, manifest)
    except FileNotFoundError:
        return None
    except UserError as error:
        if path not in _said:
            _said.add(path)
            get_logger().warning("%s: %s; the file may be removed", error, _INSTEAD)
        return None


def restore_document_index(folder: Path, manifest: Manifest) -> bool:
    """Write the index again if it is missing or cannot be used; whether that was done."""
    path = folder / names.DOCUMENT_INDEX
    try:
        for split in _splits(manifest):
            _read_ends(path, split, manifest)
    except (FileNotFoundError, UserError):
        if path.is_dir():
            raise ShardError(f"{path}: a folder in the place of a file: remove it") from None
        write_document_index(folder, manifest)
        return True
    return False


def check_document_index(folder: Path, manifest: Manifest) -> None:
    """Raise ``ShardError`` if there is an index, and it does not hold what the shards hold."""
    path = folder / names.DOCUMENT_INDEX
    for split in _splits(manifest):
        try:
            ends = _read_ends(path, split, manifest)
        except FileNotFoundError:
            return
        except UserError as error:
            raise ShardError(f"{error}: remove it, and {_INSTEAD}") from error
        if not np.array_equal(
            np.diff(ends, prepend=0), _lengths_of_shards(folder, split, manifest)
        ):
            raise ShardError(
                f"{path}: other lengths of documents than in the shards: remove it, and {_INSTEAD}"
            )


def _splits(manifest: Manifest) -> list[str]:
    return sorted(name for name, split in manifest.splits.items() if split.shards)


def _lengths_of_shards(folder: Path, split: str, manifest: Manifest) -> npt.NDArray[np.uint32]:
    ends = ShardSet([Split(folder, split, manifest)]).document_ends()
    return np.diff(ends, prepend=0).astype("<u4")


def _read_ends(path: Path, split: str, manifest: Manifest) -> Ints:
    """:func:`read_document_ends`; raises ``UserError`` where the index cannot be used.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_symlink() and not path.exists():
        raise ShardError(f"{path}: a link to {path.readlink()}, which is not there")
    try:
        return _ends_in(path, split, manifest)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from error


def _ends_in(path: Path, split: str, manifest: Manifest) -> Ints:
    documents = {name: manifest.splits[name].documents for name in _splits(manifest)}
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        wanted = _HEADER_BYTES + 4 * sum(documents.values())
        checksum = _checksum(path, file, split, manifest)
        if size != wanted:
            raise ShardError(f"{path}: damaged: {size} bytes instead of {wanted}")
        before = sum(count for name, count in documents.items() if name < split)
        file.seek(_HEADER_BYTES + 4 * before)
        content = file.read(4 * documents[split])
    lengths = np.frombuffer(content, "<u4")
    ends = lengths.cumsum(dtype=np.int64)
    shards = manifest.splits[split].shards
    last = np.array(list(accumulate(shard.documents for shard in shards))) - 1
    totals = list(accumulate(shard.tokens for shard in shards))
    fits = bool((lengths > 0).all()) and ends[last].tolist() == totals
    if zlib.crc32(content) != checksum or not fits:
        raise ShardError(f"{path}: damaged: the lengths of the {split} split")
    return ends


def _packed(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode().ljust(_HEADER_BYTES)


def _checksum(path: Path, file: BinaryIO, split: str, manifest: Manifest) -> Any:
    """The CRC-32 of the split's lengths, from the header."""
    content = file.read(_HEADER_BYTES)
    try:
        header = parse_json(content)
        version, checksum = (header["format"], header["version"]), header["crc32"][split]
        fingerprint = header["fingerprint"]
    except (JsonError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: damaged: its header ({error})") from error
    if version != (_FORMAT, _VERSION):
        raise ShardError(f"{path}: {version}, and this program reads {(_FORMAT, _VERSION)}")
    if fingerprint != manifest.fingerprint:
        raise ShardError(f"{path}: of other shards than the manifest's")
    if _packed(header) != content:  # a space between the parts may be another sign in JSON
        raise ShardError(f"{path}: damaged: its header")
    return checksum
