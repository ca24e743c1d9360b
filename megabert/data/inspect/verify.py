"""Verification: every byte of a folder of shards is checked against its manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megabert.common import names
from megabert.common.files import sha256_of_file
from megabert.data.shards.manifest import (
    Manifest,
    ShardError,
    ShardInfo,
    load_manifest,
)
from megabert.data.shards.reader import ShardFile
from megabert.data.shards.shard_set import check_file, check_membership
from megabert.data.tokenizers.load import load_tokenizer


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
    for check in (_verify_tokenizer, _verify_no_strays):
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
