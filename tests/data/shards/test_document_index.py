"""The index of document lengths: read instead of the shards, and only where it is theirs."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megabert.common import names
from megabert.data.inspect.verify import verify_folder
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.document_index import (
    check_document_index,
    restore_document_index,
    write_document_index,
)
from megabert.data.shards.manifest import ShardError, load_manifest
from megabert.data.shards.reader import ShardFile
from megabert.data.shards.writer import Document, write_corpus
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.small_dump import write_vocabulary

HEADER = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards to train on and one to evaluate on."""
    return _make(tmp_path / "shards", 3)


def _make(folder: Path, first: int) -> Path:
    tokenizer = load_tokenizer(write_vocabulary(folder.parent / "vocab.txt"))

    def documents(count: int) -> list[Document]:
        return [
            Document(number, [([5 + number % 3] * (first + number), [True] * (first + number))])
            for number in range(count)
        ]

    shards = {names.TRAIN: [documents(n) for n in (4, 7, 2)], names.EVAL: [documents(5)]}
    write_corpus(folder, shards, tokenizer.info())
    tokenizer.save(folder / names.TOKENIZER_FOLDER)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are opened."""
    found: list[str] = []
    make = ShardFile.__init__

    def counted(self: ShardFile, path: Path, *rest: np.ndarray) -> None:
        found.append(path.name)
        make(self, path, *rest)

    monkeypatch.setattr(ShardFile, "__init__", counted)
    return found


def test_no_shard_is_opened_for_the_lengths(folder: Path, opened: list[str]) -> None:
    path = folder / names.DOCUMENT_INDEX
    assert path.stat().st_size == HEADER + 4 * (5 + 13)
    for split, shards in ((names.TRAIN, 3), (names.EVAL, 1)):
        by_index = Corpus.open(folder, split).document_ends
        assert not opened
        path.rename(folder / "hidden")
        ends = Corpus.open(folder, split).document_ends
        assert len(opened) == shards
        (folder / "hidden").rename(path)
        opened.clear()
        assert by_index.dtype == ends.dtype == np.int64
        assert np.array_equal(by_index, ends)
    verify_folder(folder)
    before = path.read_bytes()
    write_document_index(folder, load_manifest(folder))
    assert path.read_bytes() == before, "nothing but the shards is in it"


def _with_sum(content: bytes, change: Callable[[np.ndarray], None]) -> bytes:
    """Other lengths, with the right sum."""
    header = json.loads(content[:HEADER])
    lengths = np.frombuffer(content[HEADER:], "<u4").copy()
    change(lengths)
    header["crc32"] = {
        names.EVAL: zlib.crc32(lengths[:5].tobytes()),
        names.TRAIN: zlib.crc32(lengths[5:].tobytes()),
    }
    return json.dumps(header).encode().ljust(HEADER) + lengths.tobytes()


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _longer_first(lengths: np.ndarray) -> None:
    lengths[5] += 1


def _no_length(lengths: np.ndarray) -> None:
    lengths[6] += lengths[5]
    lengths[5] = 0


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a flipped bit": (lambda content: _flipped(content, -5), "damaged: the lengths of the train"),
    "a cut": (lambda content: content[:-4], "damaged: 4164 bytes instead of 4168"),
    "empty": (lambda content: b"", "damaged: its header"),
    "no JSON": (lambda content: b"x" + content[1:], "damaged: its header"),
    "no object": (lambda content: b"[]".ljust(HEADER) + content[HEADER:], "damaged: its header"),
    "another space": (
        lambda content: content[: HEADER - 9] + b"\n" + content[HEADER - 8 :],
        "damaged: its header",
    ),
    "another version": (
        lambda content: content.replace(b'"version": 1', b'"version": 9'),
        "this program reads",
    ),
    "another total": (lambda content: _with_sum(content, _longer_first), "damaged: the lengths"),
    "an empty document": (lambda content: _with_sum(content, _no_length), "damaged: the lengths"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_said_and_the_shards_are_read(
    name: str, folder: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGES[name]
    path = folder / names.DOCUMENT_INDEX
    ends = Corpus.open(folder, names.TRAIN).document_ends
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=words):
        check_document_index(folder, load_manifest(folder))
    with pytest.raises(ShardError, match=words):
        verify_folder(folder)
    opened.clear()
    assert np.array_equal(Corpus.open(folder, names.TRAIN).document_ends, ends)
    assert len(opened) == 3
    said = capsys.readouterr().err
    assert words in said
    assert "are read from the shards instead" in said


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)  # to itself: unreadable to root as well


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_as_folder, r"document_lengths.bin: cannot be read \(Is a directory\)"),
        (_as_dangling_link, "document_lengths.bin: a link to nowhere, which is not there"),
        (_unreadable, "document_lengths.bin: a link to document_lengths.bin, which is not there"),
    ],
)
def test_what_is_no_file_is_named_once_and_written_again(
    spoil: Callable[[Path], None], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, manifest = folder / names.DOCUMENT_INDEX, load_manifest(folder)
    content = path.read_bytes()
    spoil(path)
    with pytest.raises(ShardError, match=words + ": remove it, and the lengths"):
        verify_folder(folder)
    for split in (names.TRAIN, names.EVAL):
        assert len(Corpus.open(folder, split).document_ends)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert line.endswith("are read from the shards instead; the file may be removed")
    if path.is_dir():
        with pytest.raises(ShardError, match="a folder in the place of a file: remove it"):
            restore_document_index(folder, manifest)
        path.rmdir()
    assert restore_document_index(folder, manifest)
    assert not path.is_symlink()
    assert path.read_bytes() == content
    assert not restore_document_index(folder, manifest)


def test_an_index_of_other_shards(folder: Path, tmp_path: Path) -> None:
    """Copied from another folder, or made for it with wrong lengths that have the right totals."""
    other = _make(tmp_path / "other", 4)
    manifest = load_manifest(folder)
    ends = Corpus.open(folder, names.TRAIN).document_ends
    path = folder / names.DOCUMENT_INDEX
    content = path.read_bytes()
    shutil.copy(other / names.DOCUMENT_INDEX, path)
    with pytest.raises(ShardError, match="of other shards"):
        check_document_index(folder, manifest)
    assert np.array_equal(Corpus.open(folder, names.TRAIN).document_ends, ends)

    def swap(lengths: np.ndarray) -> None:
        lengths[5:7] = lengths[6], lengths[5]

    path.write_bytes(_with_sum(content, swap))
    with pytest.raises(ShardError, match="other lengths of documents than in the shards"):
        verify_folder(folder)
    corpus = Corpus.open(folder, names.TRAIN)
    with pytest.raises(ShardError, match="do not fill it"):
        corpus.sentence_starts(0)
    path.unlink()
    verify_folder(folder)
