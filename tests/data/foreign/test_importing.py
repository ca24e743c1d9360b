"""Foreign shards turned into ours: the text that comes back, what is left out, what is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import import_shards as command
from megabert.common.errors import UserError
from megabert.data.foreign.importing import ImportOptions, ImportReport, import_shards
from megabert.data.foreign.recovery import Recovery, Sentence, _spell_pieces, _with_capitals
from megabert.data.foreign.repetition import LEAST_REPEATED, SeenText
from megabert.data.foreign.static import NO_LABEL, ForeignShardError, StaticSample
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.writer import Document, write_corpus
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.batch_rows import samples_from
from tests.helpers.foreign_shards import samples_of, write_fixed, write_tfrecord, write_variable

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def write_vocabulary(path: Path) -> Path:
    """Words of one or two syllables; the second is a piece of its own."""
    words = [*SYLLABLES, *("##" + syllable for syllable in SYLLABLES), ".", ",", "Ⓐ"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *words]) + "\n", encoding="utf-8")
    return path


def sentence(rng: random.Random) -> str:
    words = ["".join(rng.sample(SYLLABLES, 2)) for _ in range(rng.randint(4, 14))]
    return " ".join(words) + "."


def documents(count: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [[sentence(rng) for _ in range(rng.randint(4, 20))] for _ in range(count)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocab") / "vocab.txt")


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return load_tokenizer(vocabulary)


def sample(
    tokenizer: Tokenizer, first: str, second: str, label: int, *, masks: Sequence[int] = (1,)
) -> StaticSample:
    a, b = (e.ids.astype(np.int64) for e in tokenizer.encode_sentences([first, second]))
    special = tokenizer.special
    ids = np.concatenate(([special.cls], a, [special.sep], b, [special.sep]))
    segments = np.repeat([0, 1], [len(a) + 2, len(b) + 1])
    positions = np.array(masks, np.int64)
    labels = ids[positions]
    ids[positions] = special.mask
    return StaticSample(ids, segments, positions, labels, label)


def imported(output: Path, vocabulary: Path, *inputs: Path, **changes: Any) -> ImportReport:
    values: dict[str, Any] = {"eval_fraction": 0.0, "min_document_tokens": 0} | changes
    return import_shards(ImportOptions(inputs, vocabulary, output, **values))


def texts(folder: Path, tokenizer: Tokenizer, split: str = "train") -> list[list[str]]:
    """The sentences of each document of a folder of shards."""
    corpus = Corpus.open(folder, split)
    found = []
    for document in range(corpus.num_documents):
        starts = corpus.sentence_starts(document).tolist()
        found.append([tokenizer.decode(corpus.tokens(document, a, b)) for a, b in pairwise(starts)])
    return found


# --- what comes back --------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [write_fixed, write_variable, write_tfrecord])
def test_pairs(writer: Any, vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """B that follows A is of one document with it, a random B of another; masks are undone."""
    samples = [
        sample(tokenizer, "bada kofi. lumo, nepa.", "siru tabe.", 0, masks=(1, 4, 12)),
        sample(tokenizer, "fofo gugu.", "mimi nono. papa.", 1, masks=(2, 3)),
    ]
    path = writer(tmp_path / "shard", samples, 32)
    report = imported(tmp_path / "out", vocabulary, path)
    assert texts(tmp_path / "out", tokenizer) == [
        ["bada kofi.", "lumo, nepa.", "siru tabe."],
        ["fofo gugu."],
        ["mimi nono.", "papa."],
    ]
    assert report.manifest.articles_read == 3
    assert report.repeated_tokens == 0
    assert (report.counts.sentences, report.counts.respelled, report.counts.unaligned) == (6, 6, 0)
    corpus = Corpus.open(tmp_path / "out", "train")
    words = corpus.word_starts(0, 0, 6).tolist()
    assert words == [True, False, True, False, True, True]  # ba ##da ko ##fi . lu


def test_without_labels_of_pairs(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Segments whose relation is not known are documents of their own."""
    samples = [sample(tokenizer, "bada kofi.", "siru tabe.", NO_LABEL)]
    path = write_fixed(tmp_path / "a.hdf5", samples, 32)
    imported(tmp_path / "out", vocabulary, path)
    assert texts(tmp_path / "out", tokenizer) == [["bada kofi."], ["siru tabe."]]


def test_unknown_words_keep_their_boundaries(tokenizer: Tokenizer) -> None:
    """[UNK] cannot be spelled again; sentences and word starts are found all the same."""
    (encoded,) = tokenizer.encode_sentences(["bada zzz kofi. lumo nepa."])
    recovery = Recovery(tokenizer, "en")
    ((first, second),) = recovery.sentences([encoded.ids.astype(np.int64)])
    assert tokenizer.tokens(first.ids) == ["ba", "##da", "[UNK]", "ko", "##fi", "."]
    assert first.word_starts.tolist() == [True, False, True, True, False, True]
    assert (recovery.counts.sentences, recovery.counts.respelled) == (2, 1)
    assert first.edge
    assert second.edge


def test_spelling() -> None:
    pieces = ["u", ".", "s", ".", "in", "3", ".", "5", "(", "a", "##b", ")", ",", "今", "天", "x"]
    text, starts = _spell_pieces(pieces)
    assert text == "u. s. in 3.5 (ab), 今天 x"
    for piece, start in zip(pieces, starts):
        assert text[start:].startswith(piece.removeprefix("##"))
    assert _with_capitals('he left. " it rained. the u. s. army. ßa. élan') == (
        'He left. " It rained. The u. s. army. ßa. Élan'
    )


@pytest.mark.parametrize(("kind", "size"), [("unigram", 120), ("bpe", 120), ("bpe", 400)])
def test_sentencepiece(kind: Any, size: int, tmp_path: Path) -> None:
    """Text of a SentencePiece vocabulary comes back by decoding and encoding."""
    pages = documents(40, seed=3)
    flat = [s.capitalize() for page in pages for s in page]
    (tmp_path / "text.txt").write_text("\n".join(flat), encoding="utf-8")
    settings = TrainingSettings(kind=kind, vocab_size=size, lower_case=False)
    trained = train_tokenizer(flat, settings)
    trained.save(tmp_path / "tokenizer")
    samples = [sample(trained, " ".join(flat[:2]), " ".join(flat[2:4]), 0)]
    path = write_variable(tmp_path / "a.hdf5", samples)
    report = imported(tmp_path / "out", tmp_path / "tokenizer", path)
    assert texts(tmp_path / "out", trained) == [flat[:4]]
    assert report.counts.respelled == 4
    corpus = Corpus.open(tmp_path / "out", "train")
    (encoded,) = trained.encode_sentences(flat[:1])
    size = len(encoded.ids)
    assert np.array_equal(corpus.tokens(0, 0, size), encoded.ids)
    assert np.array_equal(corpus.word_starts(0, 0, size), encoded.word_starts)


def test_chinese(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = shared_data / "vocab" / "bert-base-chinese-vocab.txt"
    tokenizer = load_tokenizer(vocabulary)
    samples = [sample(tokenizer, "今天天气很好。我们去公园。", "你呢？好的。", 0, masks=(2, 9))]
    path = write_variable(tmp_path / "a.hdf5", samples)
    report = imported(tmp_path / "out", vocabulary, path, language="zh")
    (found,) = texts(tmp_path / "out", tokenizer)
    assert [s.replace(" ", "") for s in found] == [
        "今天天气很好。",
        "我们去公园。",
        "你呢？",
        "好的。",
    ]
    assert report.counts.respelled == 4
    assert "--language" not in capsys.readouterr().err
    long = sample(tokenizer, "今天天气很好。我们去公园。" * 3, "你呢？好的。", 0)
    other = write_variable(tmp_path / "b.hdf5", [long])
    imported(tmp_path / "other", vocabulary, other, language="en")
    said = capsys.readouterr().err
    assert "split into sentences as en, but" in said
    assert "give --language zh" in said


# --- text that is there several times ---------------------------------------------------------


def as_sentences(*sizes: int, start: int = 0, edges: bool = False) -> list[Sentence]:
    found = []
    for size in sizes:
        ids = np.arange(start, start + size)
        found.append(Sentence(ids, np.ones(size, np.bool_), edge=False))
        start += size
    if edges:
        for place in (0, -1):
            found[place] = Sentence(found[place].ids, found[place].word_starts, edge=True)
    return found


def sizes(stretches: list[list[Sentence]]) -> list[list[int]]:
    return [[len(s.ids) for s in stretch] for stretch in stretches]


def test_repeated_sentences() -> None:
    text = as_sentences(10, 12, 9, 14)
    seen = SeenText()
    assert sizes(seen.take_new(text)) == [[10, 12, 9, 14]]
    assert seen.take_new(text) == []
    new = as_sentences(20, 20, start=500)
    assert sizes(seen.take_new([new[0], *text[1:3], new[1]])) == [[20], [20]]
    phrase = as_sentences(LEAST_REPEATED - 1, start=900)
    more = as_sentences(20, 20, start=1000)
    seen.take_new(phrase)
    assert sizes(seen.take_new([more[0], *phrase, more[1]])) == [[20, LEAST_REPEATED - 1, 20]]


def test_repeated_text_that_was_cut() -> None:
    """Either of two sentences may have been cut, at its front or at its back."""
    whole = as_sentences(30, 30, 30)
    seen = SeenText()
    seen.take_new(whole)
    front = [Sentence(whole[0].ids[5:], whole[0].word_starts[5:], edge=True)]
    back = [Sentence(whole[2].ids[:-5], whole[2].word_starts[:-5], edge=True)]
    assert seen.take_new([*front, whole[1], *back]) == []
    inside = [Sentence(whole[1].ids[5:], whole[1].word_starts[5:], edge=False)]
    assert sizes(seen.take_new(inside)) == [[25]]
    seen = SeenText()
    seen.take_new(back)
    assert sizes(seen.take_new(whole)) == [[30, 30]]


def test_copies_under_other_masks(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Five epochs of the same documents, cut and masked differently, give about the text of one."""
    pages = documents(50)
    numbered = enumerate(tokenizer.encode_sentences(page) for page in pages)
    content = [
        Document(number, [(e.ids.tolist(), e.word_starts.tolist()) for e in page])
        for number, page in numbered
    ]
    write_corpus(tmp_path / "ours", {"train": [content]}, tokenizer.info())
    source = SampleSource(
        Corpus.open(tmp_path / "ours", "train"), SampleSettings(128), MaskSettings()
    )
    count = source.samples_per_epoch
    path = write_variable(tmp_path / "a.hdf5", samples_of(source, 5 * count))
    report = imported(tmp_path / "out", vocabulary, path)
    original = sum(len(ids) for document in content for ids, _ in document.sentences)
    kept = report.manifest.splits["train"].tokens
    assert report.tokens > 4.5 * original
    assert 0.95 * original < kept < 1.1 * original
    assert kept == report.tokens - report.repeated_tokens
    found = [s for document in texts(tmp_path / "out", tokenizer) for s in document]
    whole = {s for page in pages for s in page}
    assert len(whole & set(found)) > 0.8 * len(whole)  # the others were cut where first met
    again = imported(tmp_path / "again", vocabulary, path)
    assert again.manifest == report.manifest
    training = SampleSource(Corpus.open(tmp_path / "out", "train"), SampleSettings(64))
    assert samples_from(training, 0, 8).input_ids.shape == (8, 64)


# --- splits, options, errors ------------------------------------------------------------------


def test_splits(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pages = documents(40, seed=1)
    samples = [sample(tokenizer, page[0], page[1], 0) for page in pages]
    write_variable(folder / "part_0.hdf5", samples[:30])
    write_variable(folder / "part_1.hdf5", samples[20:30])
    imported(tmp_path / "all", vocabulary, folder, shards=2, eval_fraction=None)
    manifest = Corpus.open(tmp_path / "all", "train").manifest
    assert len(manifest.splits["train"].shards) == 2
    assert manifest.dropped == {"repeated": 10}
    assert manifest.articles_kept == 30
    imported(tmp_path / "part", vocabulary, folder, eval_fraction=0.3)
    splits = Corpus.open(tmp_path / "part", "train").manifest.splits
    assert 2 < splits["eval"].documents < 18
    write_variable(folder / "part_test_0.hdf5", samples[30:])
    imported(tmp_path / "held", vocabulary, folder, eval_fraction=None)
    splits = Corpus.open(tmp_path / "held", "train").manifest.splits
    assert (splits["train"].documents, splits["eval"].documents) == (30, 10)
    imported(tmp_path / "long", vocabulary, folder, min_document_tokens=40)
    manifest = Corpus.open(tmp_path / "long", "train").manifest
    assert manifest.dropped["short"] > 5
    assert manifest.articles_kept + sum(manifest.dropped.values()) == manifest.articles_read


def test_masks_without_labels(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    lost = sample(tokenizer, "bada kofi.", "siru tabe.", 0, masks=(1, 2))
    lost = StaticSample(
        lost.input_ids, lost.segment_ids, lost.positions[:1], lost.labels[:1], lost.next_sentence
    )
    path = write_variable(tmp_path / "a.hdf5", [lost])
    with pytest.raises(
        ForeignShardError, match="sample 0: masked tokens have no label, so its text"
    ):
        imported(tmp_path / "out", vocabulary, path)
    assert not (tmp_path / "out").exists()


def test_samples_of_another_form(vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pair = sample(tokenizer, "bada kofi.", "siru tabe.", 0)
    swapped = StaticSample(
        pair.input_ids, 1 - pair.segment_ids, pair.positions, pair.labels, pair.next_sentence
    )
    path = write_variable(tmp_path / "a.hdf5", [pair, swapped])
    with pytest.raises(
        ForeignShardError,
        match=r"sample 1: by the tokenizer's ids it is not \[CLS\] A \[SEP\] B \[SEP\]",
    ):
        imported(tmp_path / "out", vocabulary, path)
    labels = np.array([tokenizer.vocab_size])
    outside = StaticSample(pair.input_ids, pair.segment_ids, pair.positions, labels, 0)
    path = write_variable(tmp_path / "b.hdf5", [outside])
    with pytest.raises(ForeignShardError, match=r"b\.hdf5: sample 0: token id .* is outside"):
        imported(tmp_path / "out", vocabulary, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_fraction": 1.0}, "--eval-fraction 1.0"),
        ({"shards": 0}, "--shards 0: expected at least 1"),
        ({"seed": -1}, "--seed -1"),
        ({"shards": 9}, "--shards 9: there are only 1"),
        ({"min_document_tokens": 500}, "no training text is left of 1 documents .1 short"),
    ],
)
def test_wrong_options(
    changes: dict[str, Any], message: str, vocabulary: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    samples = [sample(tokenizer, "bada kofi.", "siru tabe.", 0)]
    path = write_variable(tmp_path / "a.hdf5", samples)
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "out", vocabulary, path, **changes)
    assert not (tmp_path / "out").exists()


def test_command(
    vocabulary: Path,
    tokenizer: Tokenizer,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = [sample(tokenizer, "bada kofi.", "siru tabe.", 0)]
    path = write_variable(tmp_path / "a.hdf5", samples)
    flags = [
        "--input",
        str(path),
        "--tokenizer",
        str(vocabulary),
        "--output",
        str(tmp_path / "out"),
    ]
    assert command.main([*flags, "--min-document-tokens", "0", "--eval-fraction", "0"]) == 0
    shown = capsys.readouterr().out
    assert "1 documents from 1 samples (NVIDIA HDF5, variable length)" in shown
    assert "not recoverable: original documents and their order" in shown
    with pytest.raises(UserError, match="already holds finished shards"):
        command.main(flags)
    with pytest.raises(UserError, match="--language xx: not a language code"):
        command.main([*flags, "--language", "xx"])
    path.write_bytes(path.read_bytes()[:300])
    called = [sys.executable, str(root / "data_tools" / "import_shards.py"), *flags]
    called[-1] = str(tmp_path / "other")
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2
    assert len(errors) == 1
    assert "a.hdf5: damaged or cut off" in errors[0]
    assert not (tmp_path / "other").exists()
