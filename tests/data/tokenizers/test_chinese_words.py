"""Words of Chinese text by jieba, and tokens in them."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.samples.masking import Masker, MaskSettings
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages
from megabert.data.tokenizers import chinese_words
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.chinese_words import ChineseWords, find_words
from megabert.data.tokenizers.load import load_tokenizer

TEXT = st.text(
    st.one_of(
        st.sampled_from(
            "中华人民共和国中華人民共和國北京大学大學生活的是在了一二三年月日〇々，。 aB1\n"
        ),
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def words() -> ChineseWords:
    return ChineseWords()


@pytest.fixture(scope="module")
def chinese(shared_data: Path) -> Tokenizer:
    return load_tokenizer(shared_data / "vocab" / "bert-base-chinese-vocab.txt")


@pytest.fixture(scope="module")
def articles(shared_data: Path) -> list[str]:
    """Sentences of real articles, in both scripts."""
    found: list[str] = []
    for page in iter_pages(shared_data / "wiki_extracted" / "zhwiki-part.tar.xz"):
        found += chain.from_iterable(page_to_sentences(page, "zh").paragraphs)
        if len(found) > 2500:
            break
    return found


def cut(words: ChineseWords, text: str) -> list[str]:
    """The text, split where no ideograph continues a word."""
    return _parts(text, ~words.continues(text))


def _parts(items: str | list[str], starts: np.ndarray) -> list[str]:
    parts: list[str] = []
    for item, start in zip(items, starts.tolist()):
        if start or not parts:
            parts.append("")
        parts[-1] += item
    return parts


def token_words(tokenizer: Tokenizer, text: str, words: ChineseWords | None) -> list[str]:
    batch = tokenizer.encode_batch([text], words)
    tokens = [t.removeprefix("##").replace("▁", "") for t in tokenizer.tokens(batch.ids)]
    return _parts(tokens, batch.word_starts)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("我来到北京清华大学", "我/来到/北京/清华大学"),
        ("我來到北京清華大學", "我/來到/北京/清華大學"),
        ("他来到了网易杭研大厦", "他/来到/了/网易/杭研/大厦"),
        ("玻璃幕牆", "玻璃幕牆"),
        ("中华人民共和国", "中华人民共和国"),
        ("中，华", "中/，/华"),
        ("北京a大学", "北京/a/大学"),
        ("北京\n大学", "北京/\n/大学"),
        ("", ""),
        ("abc", "a/b/c"),
    ],
)
def test_words_by_hand(words: ChineseWords, text: str, wanted: str) -> None:
    assert "/".join(cut(words, text)) == wanted


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT)
def test_a_word_is_a_run_of_ideographs_and_knows_nothing_else(first: str, second: str) -> None:
    words = find_words("zh")
    assert words is not None
    continues = words.continues(first)
    assert continues.shape == (len(first),)
    for place in np.flatnonzero(continues):
        assert place > 0
        assert re.fullmatch("[\u4e00-\u9fd5]{2}", first[place - 1 : place + 1])
    joined = words.continues(f"{first}\n{second}")
    assert joined.tolist() == [*continues, False, *words.continues(second)]


def test_the_same_words_as_jieba(words: ChineseWords, articles: list[str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jieba = pytest.importorskip("jieba")
    jieba.setLogLevel(logging.ERROR)
    reference = jieba.Tokenizer()
    reference.tmp_dir = str(tmp_path)
    simplified = "".join(map(chr, words._simplified))
    table = {0x4E00 + i: c for i, c in enumerate(simplified)}
    runs = re.findall("[\u4e00-\u9fd5]+", "\n".join(articles))[:2000]
    assert any(run != run.translate(table) for run in runs)
    wrong = 0
    for run in runs:
        lengths = [len(word) for word in reference.cut(run.translate(table))]
        wrong += [len(word) for word in cut(words, run)] != lengths
    assert wrong <= len(runs) / 2000


def test_simplified_forms(words: ChineseWords) -> None:
    table = dict(zip(range(0x4E00, 0x9FD6), map(chr, words._simplified)))
    assert "".join(table[ord(c)] for c in "中華民國臺灣學習體育") == "中华民国台湾学习体育"
    assert all(table[ord(c)] == c for c in "中华民国学习体育的一")


def test_wordpiece(chinese: Tokenizer, words: ChineseWords) -> None:
    text = "2020年，他在北京清華大學讀unaffable電影。"
    found = token_words(chinese, text, words)
    assert found == [
        "2020", "年", "，", "他", "在", "北京", "清華大學", "讀", "unaffable", "電影", "。",
    ]  # fmt: skip
    plain = token_words(chinese, text, None)
    assert "北" in plain
    assert "unaffable" in plain


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_and_json(
    kind: str, words: ChineseWords, articles: list[str], tmp_path: Path
) -> None:
    rules = TrainingSettings(kind, 3600, language="zh", coverage=0.998)
    trained = train_tokenizer(articles, rules)
    trained.save(tmp_path)
    for tokenizer in (trained, load_tokenizer(tmp_path / "tokenizer.json")):
        check_alignment(tokenizer, words, articles[:150])


def test_alignment_of_wordpiece(
    chinese: Tokenizer, words: ChineseWords, articles: list[str], tmp_path: Path
) -> None:
    check_alignment(chinese, words, articles)
    chinese.save(tmp_path)


def check_alignment(tokenizer: Tokenizer, words: ChineseWords, texts: list[str]) -> None:
    """A token starts a word if and only if the tokenizer and the words both say so."""
    plain, found = tokenizer.encode_batch(texts), tokenizer.encode_batch(texts, words)
    assert found.ids.tolist() == plain.ids.tolist()
    assert found.lengths.tolist() == plain.lengths.tolist()
    offsets = [e.offsets for e in tokenizer.encode_sentences(texts)]
    for text, spans, before, after in zip(texts, offsets, plain.split(), found.split()):
        continues = words.continues(text)
        wanted = [
            bool(start and not (begin < end and continues[begin]))
            for start, (begin, end) in zip(before.word_starts, spans.tolist())
        ]
        assert after.word_starts.tolist() == wanted
        assert not len(wanted) or wanted[0]
    assert found.word_starts.sum() < 0.8 * plain.word_starts.sum()


def test_text_is_cut_in_parts(
    words: ChineseWords, articles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(["", *articles[:300]])
    whole = words.continues(text)
    monkeypatch.setattr(chinese_words, "_PART", 100)
    assert words.continues(text).tolist() == whole.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=5))
def test_every_sentence_begins_a_word(chinese: Tokenizer, texts: list[str]) -> None:
    batch = chinese.encode_batch(texts, find_words("zh"))
    for part in batch.split():
        assert part.word_starts[:1].all()
    assert batch.lengths.sum() == len(batch.ids) == len(batch.word_starts)


def test_language_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("zh", "zh-TW", "zh_hans", "ZH"):
        assert isinstance(find_words(language), ChineseWords)
        assert find_words(language, "tokens") is None
    for language in ("en", "ja", "zhx", "yue"):
        assert find_words(language) is None
        assert find_words(language, "jieba") is find_words("zh", "jieba")
    with pytest.raises(UserError, match="expected one of auto, tokens, jieba"):
        find_words("zh", "words")
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(UserError, match="pip install rjieba opencc"):
        ChineseWords()


@pytest.mark.parametrize("masking", ["whole-word", "ngram"])
def test_masks_hold_whole_words(
    masking: str, chinese: Tokenizer, words: ChineseWords, articles: list[str]
) -> None:
    width = 64
    batch = chinese.encode_batch(articles, words)
    rows = len(batch.ids) // width
    ids = batch.ids[: rows * width].astype(np.int64).reshape(rows, width)
    starts = batch.word_starts[: rows * width].reshape(rows, width)
    special = chinese.special
    masker = Masker(
        MaskSettings(masking), 1, special.mask, chinese.vocab_size, special.as_dict().values()
    )
    everywhere = np.ones(ids.shape, np.bool_)
    samples = np.arange(rows)
    positions, labels = masker.apply(ids.copy(), everywhere, starts, samples * 0, samples)
    assert labels.tolist() == ids.ravel()[positions].tolist()
    chosen = np.zeros(ids.size, np.bool_)
    chosen[positions] = True
    begins = starts.copy()
    begins[:, 0] = True  # a word cut off by its row
    word = np.cumsum(begins.ravel()) - 1
    share = np.bincount(word, chosen) / np.bincount(word)
    assert set(share.tolist()) == {0.0, 1.0}
    lengths = np.bincount(word)[share == 1]
    assert (lengths > 1).sum() > rows  # words of several ideographs are among them
    if masking == "ngram":
        assert (np.diff(np.flatnonzero(share == 1)) == 1).mean() > 0.2
