"""Manifests and shards whose sums are right, but not what they say: checked by schema behind the sums."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabert.common.processes.isolated import IsolatedFault, run_isolated
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.layout import PREAMBLE_BYTES
from megabert.data.shards.manifest import ShardError, load_manifest
from tests.helpers.sums import manifest_with_sum, shard_with_sums

_SHARD = "train-00000-of-00002.h5"


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    shutil.copytree(root / "tests" / "fixtures" / "shards", tmp_path / "shards")
    return tmp_path / "shards"


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_bytes(manifest_with_sum(body))


def _shard(body: dict[str, Any]) -> dict[str, Any]:
    return body["splits"]["train"]["shards"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: _shard(b).update(file="../train.h5"),
            r"shards\[0\].file: expected the plain name",
        ),
        (
            lambda b: _shard(b).update(file="/etc/passwd"),
            r"shards\[0\].file: expected the plain name",
        ),
        (lambda b: _shard(b).update(file=""), r"shards\[0\].file: expected the plain name"),
        (lambda b: _shard(b).update(file="a\0b"), r"shards\[0\].file: expected the plain name"),
        (lambda b: _shard(b).update(file="x" * 300), "at most 255 bytes"),
        (
            lambda b: _shard(b).update(file="train-00001-of-00002.h5"),
            "two shards have the same file",
        ),
        (
            lambda b: _shard(b).update(bytes=True),
            r"shards\[0\].bytes: input should be a valid integer",
        ),
        (lambda b: _shard(b).update(bytes=-1), r"shards\[0\].bytes"),
        (lambda b: _shard(b).update(bytes="21840"), r"shards\[0\].bytes"),
        (lambda b: _shard(b).update(documents=10**12), "a document has a sentence"),
        (lambda b: _shard(b).update(tokens=10**12), "too few for 1000000000000 tokens"),
        (lambda b: b["tokenizer"].update(vocab_size=10**12), "tokenizer.vocab_size"),
        (lambda b: b["tokenizer"].update(vocab_size=2), "outside the vocabulary of 2"),
        (lambda b: b["tokenizer"].update(files={"../x": "0" * 64}), "plain name"),
        (lambda b: b.update(splits=[]), "splits: input should be a valid dictionary"),
        (lambda b: b.update(inputs={}), "inputs: input should be a valid list"),
        (lambda b: b.update(repeated_sentence_share="a"), "repeated_sentence_share"),
        (lambda b: b.pop("articles"), "not a manifest of this version"),
        (lambda b: b["splits"].update(train={"shards": None}), "splits.train.shards"),
    ],
)
def test_a_manifest_with_right_sums(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    load_manifest(folder)
    _change(folder, change)
    with pytest.raises(ShardError, match=message) as caught:
        load_manifest(folder)
    assert "\n" not in str(caught.value)


def test_memory_is_taken_for_files_that_are_there(folder: Path) -> None:
    """A shard of an exabyte is the size of no file, which is looked at first."""
    _change(
        folder,
        lambda b: _shard(b).update(
            bytes=1 << 60, documents=1 << 50, sentences=1 << 50, tokens=1 << 50
        ),
    )
    with pytest.raises(ShardError, match="truncated: 21840 bytes"):
        Corpus.open(folder, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(version=[2]), "version: input should be a valid integer"),
        (lambda p: p.pop("arrays"), "arrays: field required"),
        (lambda p: p.update(arrays=[]), "arrays: input should be a valid dictionary"),
        (lambda p: p["arrays"].update(tokens=[12288]), "arrays.tokens"),
        (lambda p: p["arrays"].update(tokens=[10**15, 6726]), "ends at byte"),
        (lambda p: p["arrays"].update(tokens=[0, 6726]), "inside the preamble"),
        (
            lambda p: p["arrays"].update(tokens=[12288, 4]),
            "tokens has 4 bytes, but should have 6726",
        ),
        (lambda p: p["arrays"].pop("document_ids"), "no array document_ids"),
        (lambda p: p.update(checksums_count=1 << 40), "block_crc32 ends at byte"),
        (lambda p: p.update(checksums_count=0), "0 checksums for"),
        (lambda p: p.update(checksums_offset=1 << 40), "block_crc32 ends at byte"),
        (
            lambda p: p["content"].update(documents=True),
            "content.documents",
        ),
        (lambda p: p["content"].update(sentences=10**9), "sentence_starts has"),
        (lambda p: p["content"].pop("seed"), "seed: field required"),
    ],
)
def test_a_preamble_with_right_sums(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = folder / _SHARD
    content = path.read_bytes()
    preamble = json.loads(content[: PREAMBLE_BYTES - 9])
    change(preamble)
    body = json.dumps(preamble, separators=(",", ":")).encode().ljust(PREAMBLE_BYTES - 9)
    path.write_bytes(body + b"%08x\n" % zlib.crc32(body) + content[PREAMBLE_BYTES:])
    with pytest.raises(ShardError, match=message) as caught:
        Corpus.open(folder, "train").sentence_starts(0)
    assert str(path) in str(caught.value)


def test_the_hdf5_library_is_left_alone_with_what_it_cannot_read() -> None:
    """What hangs, crashes, raises or fills memory in a process of its own is one fault."""
    assert run_isolated(lambda: {"a": [1, 2]}) == {"a": [1, 2]}
    wrong = (
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "does not come to an end on it, or crashes"),
        (lambda: sum(0 for _ in iter(int, 1)), "does not come to an end on it, or crashes"),
        (lambda: len(bytes(3 << 30)), "MemoryError"),
        (lambda: {}["a"], "'a'"),
    )
    for function, message in wrong:
        with pytest.raises(IsolatedFault, match=message):
            run_isolated(function)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("sentence_starts", 1, "sentences of document 0 do not fill it"),
        ("sentence_starts", 0, "sentences of document 0 do not fill it"),
        ("document_starts", 1, "documents are not in order"),
        ("document_token_starts", 1, "documents differ from the manifest"),
    ],
)
def test_starts_that_fit_nothing(folder: Path, name: str, entry: int, message: str) -> None:
    """With right sums: found when the documents are read, as there is no other guard in training."""
    path = folder / _SHARD
    content = bytearray(path.read_bytes())
    place = json.loads(content[: PREAMBLE_BYTES - 9])["arrays"][name][0] + 4 * entry
    content[place : place + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(shard_with_sums(bytes(content)))
    with pytest.raises(ShardError, match=message):
        Corpus.open(folder, "train").tokens(0)
