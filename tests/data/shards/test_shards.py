"""Shards: what is written is what is read; damage anywhere is found; files are deterministic."""

from __future__ import annotations

import errno
import fcntl
import itertools
import multiprocessing
import os
import pickle
import random
import resource
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common import names
from megabert.common.errors import UserError
from megabert.data.inspect.verify import verify_folder
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards import layout, shard_set
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import (
    Manifest,
    ShardError,
    SpecialIds,
    TokenizerInfo,
    load_manifest,
    save_manifest,
)
from megabert.data.shards.reader import ShardFile
from megabert.data.shards.spans import Spans
from megabert.data.shards.writer import Document, ShardHeader, ShardWriter, as_piece, write_corpus
from tests.helpers.batch_rows import named_arrays, samples_from

TOKENIZER = TokenizerInfo("wordpiece", "ab" * 32, 1000, True, SpecialIds(0, 1, 2, 3, 4))


def make_document(number: int, seed: int = 0, sentences: int = 30) -> Document:
    draw = random.Random(f"{seed} {number}")
    content = []
    for _ in range(draw.randint(1, sentences)):
        size = draw.randint(1, 40)
        ids = [draw.randrange(5, 1000) for _ in range(size)]
        content.append((ids, [draw.random() < 0.7 for _ in range(size)]))
    return Document(1000 + number, content)


def make_folder(folder: Path, sizes: tuple[int, ...] = (40, 25)) -> list[Document]:
    """A training split of shards with ``sizes`` documents, and three evaluation documents."""
    numbers = iter(range(10_000))
    shards = [[make_document(next(numbers)) for _ in range(size)] for size in sizes]
    evaluation = [make_document(9000 + i) for i in range(3)]
    write_corpus(folder, {names.TRAIN: shards, names.EVAL: [evaluation]}, TOKENIZER, seed=3)
    return [document for shard in shards for document in shard]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Document]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, make_folder(folder)


def joined(document: Document) -> tuple[list[int], list[bool]]:
    ids = [t for sentence, _ in document.sentences for t in sentence]
    words = [w for _, starts in document.sentences for w in starts]
    return ids, words


def assert_holds(corpus: Corpus, documents: list[Document]) -> None:
    assert corpus.num_documents == len(documents)
    assert corpus.num_tokens == sum(len(joined(d)[0]) for d in documents)
    assert corpus.document_lengths.dtype == np.int64
    for number, document in enumerate(documents):
        ids, words = joined(document)
        assert corpus.tokens(number).tolist() == ids
        assert corpus.word_starts(number).tolist() == words
        assert corpus.document_lengths[number] == len(ids)
        lengths = np.diff(corpus.sentence_starts(number)).tolist()
        assert lengths == [len(sentence) for sentence, _ in document.sentences]
        assert corpus.document_id(number) == document.document_id
        draw = random.Random(number)
        start = draw.randint(0, len(ids))
        stop = draw.randint(start, len(ids))
        assert corpus.tokens(number, start, stop).tolist() == ids[start:stop]
        assert corpus.word_starts(number, start, stop).tolist() == words[start:stop]


def test_reads_back_what_was_written(corpus: tuple[Path, list[Document]]) -> None:
    folder, documents = corpus
    found = Corpus.open(folder, names.TRAIN)
    assert_holds(found, documents)
    assert found.tokens(0).dtype == np.int32
    assert found.word_starts(0).dtype == np.bool_
    assert found.shard_of(41) == (folder / "train-00001-of-00002.h5", 1)
    assert found.manifest.tokenizer == TOKENIZER
    with pytest.raises(IndexError):
        found.tokens(len(documents))
    with pytest.raises(IndexError):
        found.tokens(0, 0, 10**6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=12),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 3),
)
def test_any_documents_in_any_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    content: list[list[list[tuple[int, bool]]]],
    step: int,
) -> None:
    documents = [
        Document(i, [([t for t, _ in s], [w for _, w in s]) for s in sentences])
        for i, sentences in enumerate(content)
    ]
    path = tmp_path_factory.mktemp("any") / "x.h5"
    whole = as_piece(documents)
    header = ShardHeader("en", TOKENIZER, names.TRAIN, 0, 1, 0, "x", "")
    with ShardWriter(
        path,
        header,
        documents=len(documents),
        sentences=len(whole.sentence_lengths),
        tokens=len(whole.tokens),
    ) as writer:
        for first in range(0, len(documents), step):
            writer.append(as_piece(documents[first : first + step]))
        writer.finish()
    file = ShardFile(path)
    file.verify()
    assert file.array(layout.TOKENS, "<u2").tolist() == whole.tokens.tolist()
    bits = np.unpackbits(file.array(layout.WORD_STARTS, "|u1"), bitorder="little")
    assert bits[: len(whole.tokens)].tolist() == whole.word_starts.tolist()
    ends = np.cumsum([sum(len(t) for t, _ in d.sentences) for d in documents])
    assert file.document_ends().tolist() == ends.tolist()
    assert not list(path.parent.glob("*.tmp"))


def test_any_hdf5_program_can_read_it(corpus: tuple[Path, list[Document]]) -> None:
    folder, documents = corpus
    with h5py.File(folder / "train-00000-of-00002.h5", "r") as file:
        assert set(file) == {
            "tokens",
            "sentence_starts",
            "document_starts",
            "document_token_starts",
            "word_starts",
            "document_ids",
            "block_crc32",
        }
        ids, words = joined(documents[0])
        assert file["tokens"].dtype == np.uint16
        assert file["tokens"][: len(ids)].tolist() == ids
        bits = np.unpackbits(file["word_starts"][:], bitorder="little")
        assert bits[: len(words)].astype(bool).tolist() == words
        assert file["document_starts"][1] == len(documents[0].sentences)
        assert file["document_token_starts"][1] == len(ids)
        assert file["document_ids"][0] == 1000
        assert all(dataset.chunks is None for dataset in file.values())
        assert file.attrs["split"] == "train"
        assert file.attrs["mask_id"] == 4
        assert (file.attrs["shard_index"], file.attrs["shard_count"]) == (0, 2)
        assert file.attrs["vocab_size"] == 1000


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    tokenizer = TokenizerInfo("unigram", "cd" * 32, 70_000, False, SpecialIds(0, 1, 2, 3, 4))
    document = Document(1, [([69_999, 65_536, 7], [True, False, True])])
    write_corpus(tmp_path, {names.TRAIN: [[document]]}, tokenizer)
    assert Corpus.open(tmp_path, names.TRAIN).tokens(0).tolist() == [69_999, 65_536, 7]
    with h5py.File(tmp_path / "train-00000-of-00001.h5", "r") as file:
        assert file["tokens"].dtype == np.uint32


def test_same_content_same_bytes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for name in ("one", "two"):
        process = context.Process(target=make_folder, args=(tmp_path / name,))
        process.start()
        process.join()
        assert process.exitcode == 0
    make_folder(tmp_path / "three")
    for path in (tmp_path / "one").iterdir():
        content = path.read_bytes()
        assert content == (tmp_path / "two" / path.name).read_bytes()
        assert content == (tmp_path / "three" / path.name).read_bytes()


def _read_all(corpus: Corpus, result: multiprocessing.queues.Queue) -> None:  # type: ignore[name-defined]
    result.put([int(corpus.tokens(d).sum()) for d in range(corpus.num_documents)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_corpus_travels_to_other_processes(
    corpus: tuple[Path, list[Document]], method: str
) -> None:
    folder, documents = corpus
    found = Corpus.open(folder, names.TRAIN)
    found.tokens(0)  # a reader is open before the corpus travels
    context = multiprocessing.get_context(method)
    result = context.Queue()
    process = context.Process(target=_read_all, args=(found, result))
    process.start()
    assert result.get(timeout=60) == [sum(joined(d)[0]) for d in documents]
    process.join()
    assert_holds(pickle.loads(pickle.dumps(found)), documents)


def test_ids_outside_of_the_vocabulary_are_not_written(tmp_path: Path) -> None:
    bad = Document(1, [([5, 1000], [True, True])])
    with pytest.raises(ValueError, match="id is outside"):
        write_corpus(tmp_path, {names.TRAIN: [[bad]]}, TOKENIZER)
    assert not list(tmp_path.glob("*.h5*"))


def copy_with(folder: Path, target: Path, name: str, content: bytes) -> Path:
    target.mkdir(exist_ok=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(content if path.name == name else path.read_bytes())
    return target


def test_any_flipped_byte_is_found(corpus: tuple[Path, list[Document]], tmp_path: Path) -> None:
    folder, _ = corpus
    name = "train-00001-of-00002.h5"
    good = (folder / name).read_bytes()
    target = copy_with(folder, tmp_path / "bad", name, good)

    @settings(max_examples=120, deadline=None)
    @given(
        st.integers(0, len(good) - 1), st.integers(1, 255), st.sampled_from([True] + [False] * 7)
    )
    def check(position: int, change: int, in_folder: bool) -> None:
        content = bytearray(good)
        content[position] ^= change
        (target / name).write_bytes(content)
        with pytest.raises(ShardError, match=name):
            ShardFile(target / name).verify()
        if in_folder:
            with pytest.raises(ShardError, match=name):
                verify_folder(target)

    check()


def test_damage_is_named_and_found_at_first_use(tmp_path: Path) -> None:
    documents = make_folder(tmp_path / "good", sizes=(200,))
    name = "train-00000-of-00001.h5"
    good = (tmp_path / "good" / name).read_bytes()
    preamble = layout.read_preamble(Path(name), good[: layout.PREAMBLE_BYTES], len(good))
    offset, size = preamble.arrays[layout.TOKENS]
    position = offset + size // 2 // 2 * 2
    content = bytearray(good)
    content[position] ^= 1
    target = copy_with(tmp_path / "good", tmp_path / "bad", name, bytes(content))
    found = Corpus.open(target, names.TRAIN)
    ends = np.cumsum(found.document_lengths)
    hit = int(np.searchsorted(ends, (position - offset) // 2, side="right"))
    assert found.tokens(0).tolist() == joined(documents[0])[0]  # far from the damage
    assert found.tokens(199).tolist() == joined(documents[199])[0]
    with pytest.raises(ShardError) as caught:
        found.tokens(hit)
    message = str(caught.value)
    block = (position - layout.PREAMBLE_BYTES) // layout.BLOCK_BYTES
    start, stop = preamble.block_range(block)
    assert str(target / name) in message
    assert "dataset tokens" in message
    assert f"block {block} (bytes {start} to {stop})" in message


def test_truncated_missing_and_foreign_files(
    corpus: tuple[Path, list[Document]], tmp_path: Path
) -> None:
    folder, _ = corpus
    name = "train-00000-of-00002.h5"
    good = (folder / name).read_bytes()
    for length in (0, 100, layout.PREAMBLE_BYTES, len(good) // 2, len(good) - 1):
        target = copy_with(folder, tmp_path / "cut", name, good[:length])
        with pytest.raises(ShardError, match="truncated"):
            Corpus.open(target, names.TRAIN)
        with pytest.raises(ShardError, match=name):
            ShardFile(target / name)
    (target / name).unlink()
    with pytest.raises(ShardError, match="missing"):
        Corpus.open(target, names.TRAIN)
    with pytest.raises(ShardError, match="missing"):
        verify_folder(target)
    (target / name).write_bytes(good)
    verify_folder(target)
    (target / "train-00007-of-00009.h5").write_bytes(good)
    with pytest.raises(ShardError, match="not in the manifest"):
        verify_folder(target)
    (target / "other.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    with pytest.raises(ShardError, match="not a shard"):
        ShardFile(target / "other.h5")


def test_shards_of_another_set_are_refused(
    corpus: tuple[Path, list[Document]], tmp_path: Path
) -> None:
    folder, _ = corpus
    swapped = copy_with(folder, tmp_path / "swapped", "", b"")
    one, two = (swapped / f"train-0000{i}-of-00002.h5" for i in (0, 1))
    manifest = load_manifest(swapped)
    shards = manifest.splits[names.TRAIN].shards
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(ShardError, match=shards[0].file):
        Corpus.open(swapped, names.TRAIN)


def test_a_changed_manifest_is_refused(corpus: tuple[Path, list[Document]], tmp_path: Path) -> None:
    folder, _ = corpus
    good = (folder / names.MANIFEST).read_bytes()
    path = tmp_path / names.MANIFEST
    with pytest.raises(ShardError, match=r"no such folder"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"manifest\.json is missing"):
        load_manifest(tmp_path)
    path.write_bytes(good)
    assert load_manifest(tmp_path) == load_manifest(folder)
    path.write_bytes(good.replace(b'"seed": 3', b'"seed": 4'))
    with pytest.raises(ShardError, match="fingerprint"):
        load_manifest(tmp_path)
    path.write_bytes(good[:-20])
    with pytest.raises(ShardError, match=r"manifest\.json: damaged"):
        load_manifest(tmp_path)
    path.write_bytes(good.replace(b'"version": 1', b'"version": 9'))
    with pytest.raises(ShardError, match="version 9"):
        load_manifest(tmp_path)
    draw = random.Random(0)
    solid = [i for i, byte in enumerate(good) if byte not in b" \n"]
    for _ in range(200):
        content = bytearray(good)
        content[draw.choice(solid)] ^= 1 << draw.randrange(7)
        path.write_bytes(content)
        with pytest.raises(ShardError):
            load_manifest(tmp_path)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(UserError, match="the split 'test' has no documents"):
        Corpus.open(tmp_path, "test")
    manifest = load_manifest(tmp_path)
    save_manifest(
        tmp_path,
        Manifest(manifest.tokenizer, "en", 3, {names.TRAIN: manifest.splits[names.TRAIN]}),
    )
    with pytest.raises(UserError, match="eval"):
        Corpus.open(tmp_path, names.EVAL)


def test_readers_take_no_lock(corpus: tuple[Path, list[Document]]) -> None:
    folder, documents = corpus
    with (folder / "train-00000-of-00002.h5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # HDF5's own locking would stop here
        assert Corpus.open(folder, names.TRAIN).tokens(0).tolist() == joined(documents[0])[0]


def test_more_shards_than_open_files(
    corpus: tuple[Path, list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, documents = corpus
    monkeypatch.setattr(shard_set, "_files_allowed", lambda wanted: 1)
    found = Corpus.open(folder, names.TRAIN)
    rows = np.array([0, 50, 3, 64, 1, 50])
    spans = Spans(rows, np.zeros_like(rows), found.document_lengths[rows])
    ids, words = zip(*(joined(documents[row]) for row in rows))
    for _ in range(2):
        assert found.read_tokens(spans).tolist() == list(itertools.chain(*ids))
        assert found.read_word_starts(spans).tolist() == list(itertools.chain(*words))
        assert found.sentences(rows).lengths.tolist() == [len(content) for content in ids]
    assert_holds(found, documents)
    assert len(found._shards._opened) == 1


def test_the_limit_of_open_files_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    for limit, allowed, raised in (
        ((20_000, 20_000), 1000, []),
        ((1024, 4096), 1000, [(1256, 4096)]),
        ((1024, resource.RLIM_INFINITY), 1000, [(1256, resource.RLIM_INFINITY)]),
        ((512, 1024), 768, [(1024, 1024)]),
        ((100, 100), 1, [(100, 100)]),
    ):
        limits.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: limit)
        assert shard_set._files_allowed(1000) == allowed
        assert limits == raised


def test_a_shard_cut_short_replaced_or_gone_while_it_is_used(
    corpus: tuple[Path, list[Document]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, documents = corpus
    name = "train-00001-of-00002.h5"
    good = (folder / name).read_bytes()
    target = copy_with(folder, tmp_path / "used", name, good)
    found = Corpus.open(target, names.TRAIN)
    for document in range(40, 65):
        found.tokens(document)  # all blocks have been checked
    os.truncate(target / name, layout.PREAMBLE_BYTES)
    with pytest.raises(ShardError, match=f"{name}: the file was truncated while it was in use"):
        found.tokens(64)
    (target / name).write_bytes(good)
    assert found.tokens(64).tolist() == joined(documents[64])[0]

    def fails(*_: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails)
        with pytest.raises(
            ShardError, match=f"{name}: this shard cannot be read: Stale file handle"
        ):
            found.tokens(64)
    file = ShardFile(target / name)
    file.close()
    (target / "new").write_bytes(good)
    (target / "new").rename(target / name)
    for _ in range(2):
        with pytest.raises(ShardError, match=f"{name}: the file was replaced"):
            file.read(layout.PREAMBLE_BYTES, layout.PREAMBLE_BYTES + 1)


def test_a_shard_of_equal_size_from_another_set_is_refused(tmp_path: Path) -> None:
    documents = [make_document(n) for n in range(20)]
    for seed in (1, 2):
        write_corpus(tmp_path / str(seed), {names.TRAIN: [documents]}, TOKENIZER, seed=seed)
    name = "train-00000-of-00001.h5"
    (tmp_path / "1" / name).write_bytes((tmp_path / "2" / name).read_bytes())
    found = Corpus.open(tmp_path / "1", names.TRAIN)
    with pytest.raises(ShardError, match=r"seed is 2 here and 1 in the manifest"):
        found.tokens(0)


def test_folders_of_version_1_are_read(root: Path, tmp_path: Path) -> None:
    folder = root / "tests/data/shards/shards_version_1"
    documents = [make_document(n, sentences=4) for n in range(5)]
    assert_holds(Corpus.open(folder, names.TRAIN), documents)
    verify_folder(folder)
    write_corpus(tmp_path, {names.TRAIN: [documents[:3], documents[3:]]}, TOKENIZER, seed=3)
    settings = SampleSettings(16, seed=4)
    old, new = (
        named_arrays(samples_from(SampleSource(Corpus.open(place, names.TRAIN), settings), 0, 50))
        for place in (folder, tmp_path)
    )
    assert all((old[key] == new[key]).all() for key in old)


@pytest.mark.parametrize("shards", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_thousand_shards_open_in_a_second(tmp_path: Path, shards: int) -> None:
    write_corpus(tmp_path, {names.TRAIN: [[make_document(1)]] * shards}, TOKENIZER)
    started = time.process_time()
    source = SampleSource(Corpus.open(tmp_path, names.TRAIN), SampleSettings(128))
    samples_from(source, 10**8, 64)
    assert time.process_time() - started < 1
