"""The fast way to encode much text: the same as sentence by sentence, in bounded memory."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers import wordpiece_batch
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.chinese_words import find_words
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.wordpiece import BertRules, WordPieceTokenizer
from tests.helpers.text_strategies import random_texts

ENTRIES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "b",
    "c",
    "e",
    "é",
    "i",
    "ss",
    "ß",
    "the",
    "quick",
    "##ly",
    "##s",
    "##e",
    "##é",
    "run",
    "##ning",
    ",",
    ".",
    "!",
    "-",
    "'",
    "北",
    "京",
    "大",
    "学",
    "x",
    "##x",
    "▁",
    "中",
    "##京",
]


def make(**rules: bool | None) -> WordPieceTokenizer:
    return WordPieceTokenizer(
        Path("vocab.txt"), ENTRIES, BertRules(**{"lower_case": True, **rules})
    )


KINDS = [
    make(),
    make(lower_case=False),
    make(strip_accents=False),
    make(lower_case=False, strip_accents=True),
    make(split_ideographs=False),
]


def assert_as_single(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Ids and word starts are those of each sentence encoded by itself with its offsets."""
    batch = tokenizer.encode_batch(texts)
    wanted = [e for text in texts for e in tokenizer.encode_sentences([text])]
    assert batch.lengths.tolist() == [len(e.ids) for e in wanted]
    parts = batch.split()
    assert len(parts) == len(texts)
    for text, found, single in zip(texts, parts, wanted):
        assert found.ids.tolist() == single.ids.tolist(), text
        assert found.word_starts.tolist() == single.word_starts.tolist(), text


@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda t: str(KINDS.index(t)))
def test_wordpiece(tokenizer: WordPieceTokenizer) -> None:
    texts = random_texts(600, 1)
    assert_as_single(tokenizer, texts)
    assert_as_single(tokenizer, texts[::-1])  # now from the cache


@pytest.mark.parametrize("bits", [1, 4])
def test_words_that_share_a_place_keep_their_ids(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a table of short words that is far too small."""
    monkeypatch.setattr(wordpiece_batch, "_TABLE_BITS", bits)
    words = [
        "the",
        "run",
        "running",
        "runs",
        "x" * 8,
        "x" * 9,
        "x" * 16,
        "x" * 17,
        "é",
        "Ī",
        "the\0",
    ]
    texts = [" ".join(words[place:] + words[:place]) for place in range(len(words))]
    for tokenizer in (make(), make(lower_case=False)):
        assert_as_single(tokenizer, texts + random_texts(200, 2))
        assert_as_single(tokenizer, texts)


@pytest.mark.parametrize("tokenizer", KINDS[:2], ids=("small", "cased"))
def test_every_character_of_the_basic_plane(tokenizer: WordPieceTokenizer) -> None:
    characters = [chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000]
    texts = [
        " ".join(f"the{c}s {c}" for c in characters[first : first + 64])
        for first in range(0, len(characters), 64)
    ]
    wanted = tokenizer.encode_sentences(texts)
    assert np.array_equal(
        tokenizer.encode_batch(texts).ids, np.concatenate([e.ids for e in wanted])
    )


def test_batch_boundaries_and_a_full_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece_batch, "_BATCH_CHARACTERS", 50)
    monkeypatch.setattr(wordpiece_batch, "MAX_CACHE_BYTES", 10_000)
    tokenizer = make()
    texts = ["", *random_texts(400, 2), "", "the quick", ""]
    assert_as_single(tokenizer, texts)
    assert 0 < len(tokenizer._batch_encoder._words) < 80


def test_empty_and_odd_input() -> None:
    tokenizer = make()
    for texts in ([], [""], ["", " \t", "\u200b"]):
        batch = tokenizer.encode_batch(texts)
        assert (len(batch.ids), batch.lengths.tolist()) == (0, [0] * len(texts))
        assert len(batch.split()) == len(texts)
    assert batch.ids.dtype == np.int32
    assert batch.word_starts.dtype == np.bool_
    long = tokenizer.encode_batch(["x" * 100_000, "x" * 100])
    assert long.ids[0] == tokenizer.special.unk
    assert long.lengths.tolist() == [1, 100]


def test_lone_surrogates_count_as_unknown_characters(tmp_path: Path) -> None:
    lines = ["the quick fox runs over the lazy dog", "北京 大学 é, ok!"] * 20
    piece = train_tokenizer(lines, TrainingSettings("unigram", 34, coverage=1.0))
    piece.save(tmp_path)
    for tokenizer in (make(), piece, load_tokenizer(tmp_path / "tokenizer.json")):
        for encode in (tokenizer.encode_sentences, lambda t: tokenizer.encode_batch(t).split()):  # noqa: B023
            broken, replaced = encode(["the\ud800 fox\udc00", "the\ufffd fox\ufffd"])
            assert broken.ids.tolist() == replaced.ids.tolist()
        assert len(tokenizer.encode_batch(["北\ud800京"], find_words("zh")).lengths) == 1


def test_other_kinds(tmp_path: Path) -> None:
    lines = ["the quick fox runs over the lazy dog", "北京 大学 é, ok! café"] * 20
    texts = [*lines[:2], "", *random_texts(200, 3)]
    for kind in ("unigram", "bpe"):
        tokenizer = train_tokenizer(lines, TrainingSettings(kind, 36, coverage=1.0))
        assert_as_single(tokenizer, texts)
        tokenizer.save(tmp_path / kind)
        assert_as_single(load_tokenizer(tmp_path / kind / "tokenizer.json"), texts)


def test_a_lone_space_piece_belongs_to_the_word_behind_it() -> None:
    lines = ["the quick fox runs over the lazy dog", "北京 大学 is (not) here"] * 20
    tokenizer = train_tokenizer(lines, TrainingSettings("unigram", 34, coverage=1.0))
    batch = tokenizer.encode_batch(["北 (x"])
    pieces = tokenizer.tokens(batch.ids)
    assert pieces[:2] == ["▁", "北"]
    starts = dict(zip(pieces[1:], batch.word_starts[1:].tolist()))
    assert starts["北"] is False
    assert batch.word_starts[0]


def _ids(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_batch(["the quick, running é北京"]).ids.tolist()


def test_pickled_to_a_spawned_process() -> None:
    tokenizer = make()
    wanted = _ids(tokenizer)  # with a cache
    assert _ids(pickle.loads(pickle.dumps(tokenizer))) == wanted
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_ids, [tokenizer]) == [wanted]
