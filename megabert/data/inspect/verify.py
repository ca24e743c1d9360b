"""Verification: every byte of a folder of shards is checked against its manifest.

Tokens are text, so an id of [PAD], [CLS], [SEP] or [MASK] among them is a fault too: a tokenizer made
it from text that spells it, and training would take it for the end of a segment or a mask. [UNK]
stands for text that the vocabulary lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from megabert.common import names
from megabert.common.files import sha256_of_file
from megabert.data.shards import layout
from megabert.data.shards.document_index import check_document_index
from megabert.data.shards.manifest import (
    Manifest,
    ShardError,
    ShardInfo,
    load_manifest,
)
from megabert.data.shards.reader import ShardFile
from megabert.data.shards.shard_set import check_file, check_membership
from megabert.data.tokenizers.load import load_tokenizer

_NOT_TEXT = ("pad", "cls", "sep", "mask")
_READ_BYTES = 2**22


def verify_folder(folder: Path, report: Callable[[int, int, str], None] | None = None) -> Manifest:
    """Check the manifest, the tokenizer's files and every byte of every shard.

    Args:
        report: called with (bytes done, bytes in total, file) after each shard.

    Returns:
        The manifest.

    Raises:
        ShardError: describes the first fault and names the other faulty files.
    """
    manifest = load_manifest(folder)
    faults: list[tuple[str, str]] = []
    shards = [
        (split, index, info)
        for split, found in manifest.splits.items()
        for index, info in enumerate(found.shards)
    ]
    total = sum(info.bytes for _, _, info in shards)
    done = 0
    for split, index, info in shards:
        try:
            _verify_shard(folder, manifest, split, index, info)
        except ShardError as error:
            faults.append((info.file, str(error)))
        done += info.bytes
        if report is not None:
            report(done, total, info.file)
    for check in (_verify_tokenizer, _verify_no_strays, check_document_index):
        try:
            check(folder, manifest)
        except ShardError as error:
            faults.append((check.__name__, str(error)))
    if faults:
        others = ", ".join(name for name, _ in faults[1:])
        raise ShardError(faults[0][1] + (f" (also faulty: {others})" if others else ""))
    return manifest


def _verify_shard(
    folder: Path, manifest: Manifest, split: str, index: int, info: ShardInfo
) -> None:
    check_file(folder, info)
    path = folder / info.file
    file = ShardFile(path)
    check_membership(file, manifest, split, index)
    file.verify()
    if sha256_of_file(path) != info.sha256:
        raise ShardError(f"{path}: undamaged, but not the file that the manifest describes")
    _verify_text(file, manifest)


def _verify_text(file: ShardFile, manifest: Manifest) -> None:
    """Check that no token is a special one that text never gives."""
    special = {role: manifest.tokenizer.special[role] for role in _NOT_TEXT}
    is_special = np.zeros(manifest.tokenizer.vocab_size, np.bool_)
    is_special[list(special.values())] = True
    offset, size = file.preamble.arrays[layout.TOKENS]
    dtype = layout.token_dtype(manifest.tokenizer.vocab_size)
    for first in range(0, size, _READ_BYTES):
        content = file.read(offset + first, offset + min(size, first + _READ_BYTES))
        ids = np.frombuffer(content, dtype)
        found = np.flatnonzero(is_special[ids])
        if not len(found):
            continue
        token = first // ids.itemsize + int(found[0])
        document = int(np.searchsorted(file.document_ends(), token, side="right"))
        number = int(ids[found[0]])
        role = next(role for role, one in special.items() if one == number)
        raise ShardError(
            f"{file.path}: document {document} (id {file.document_id(document)}) holds the special "
            f"token [{role.upper()}] (id {number}) at its token {_place(file, document, token)} as "
            "text; prepare the shards again with this version, whose tokenizers never give it"
        )


def _place(file: ShardFile, document: int, token: int) -> int:
    ends = file.document_ends()
    return token - (int(ends[document - 1]) if document else 0)


def _verify_tokenizer(folder: Path, manifest: Manifest) -> None:
    home = folder / names.TOKENIZER_FOLDER
    for name, digest in manifest.tokenizer.files.items():
        path = home / name
        if not path.is_file():
            raise ShardError(f"{path}: this file of the tokenizer is missing")
        if sha256_of_file(path) != digest:
            raise ShardError(f"{path}: damaged or edited: its SHA-256 differs from the manifest")
    if manifest.tokenizer.files and load_tokenizer(home).sha256 != manifest.tokenizer.sha256:
        raise ShardError(f"{home}: not the tokenizer that made these shards")


def _verify_no_strays(folder: Path, manifest: Manifest) -> None:
    known = {info.file for split in manifest.splits.values() for info in split.shards}
    strays = sorted(p.name for p in folder.glob(f"*{names.SHARD_SUFFIX}") if p.name not in known)
    if strays:
        raise ShardError(f"{folder / strays[0]}: this shard is not in the manifest; remove it")
