"""Ids equal those of transformers and of sentencepiece, on text made to break tokenizers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from tests.helpers.text_strategies import TEXT, random_texts

VOCABULARIES = ("uncased", "cased", "chinese")
MANY = 100_000
LINES = [
    "the quick brown fox jumps over the lazy dog near the river bank, isn't it?",
    "Running water, unaffable people and 3,141 numbers: 2020 (or so) [MASK] in U.S. text.",
    "北京大学 在 中国。 中華人民共和國 很 大 漢字 仮名かなカナ",
    "café naïve Ångström résumé ½ ① ﬁ Straße ΟΔΟΣ привет мир שלום سلام हिन्दी 한국어",
] * 40

Encode = Callable[[list[str]], list[list[int]]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trained SentencePiece models, with all files that transformers reads."""
    paths = {}
    for kind in ("unigram", "bpe"):
        for lower_case in (True, False):
            rules = TrainingSettings(kind, 120, lower_case=lower_case, coverage=1.0)
            folder = tmp_path_factory.mktemp(f"{kind}-{lower_case}")
            train_tokenizer(LINES, rules).save(folder)
            (folder / "config.json").write_text('{"model_type": "bert"}')
            paths[f"{kind}-{lower_case}"] = folder
    return paths


def batch_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoded.ids.tolist() for encoded in tokenizer.encode_batch(texts).split()]


def transformers_ids(tokenizer: Callable) -> Encode:
    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    return encode


def assert_same(tokenizer: Tokenizer, encode: Encode, texts: list[str]) -> None:
    """Both ways to encode give the ids of ``encode``."""
    wanted = encode(texts)
    for found in (
        batch_ids(tokenizer, texts),
        [encoded.ids.tolist() for encoded in tokenizer.encode_sentences(texts)],
    ):
        wrong = [t for t, a, b in zip(texts, found, wanted) if a != b]
        assert not wrong, (len(wrong), wrong[0])


def bert(shared_data: Path, name: str) -> tuple[Tokenizer, Callable]:
    from transformers import BertTokenizerFast

    ours = load_tokenizer(shared_data / "vocab" / f"bert-base-{name}-vocab.txt")
    vocabulary = {token: i for i, token in enumerate(ours.tokens(range(ours.vocab_size)))}
    return ours, BertTokenizerFast(vocab=vocabulary, do_lower_case=ours.lower_case)


def check_wordpiece(shared_data: Path, name: str, texts: list[str]) -> None:
    ours, theirs = bert(shared_data, name)
    assert_same(ours, transformers_ids(theirs), texts)
    wanted = theirs(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    found = [encoded.offsets.tolist() for encoded in ours.encode_sentences(texts)]
    assert found == [[list(pair) for pair in pairs] for pairs in wanted]


def check_sentencepiece(folder: Path, texts: list[str]) -> None:
    from transformers import BertGenerationTokenizer

    ours = load_tokenizer(folder)
    path = str(folder / "spiece.model")
    plain = sentencepiece.SentencePieceProcessor(model_file=path)
    assert_same(ours, lambda many: plain.encode(many, num_threads=1), texts)
    names = {f"{role}_token": ours.special_tokens[role] for role in ("pad", "unk", "sep")}
    slow = BertGenerationTokenizer(path, bos_token="[CLS]", eos_token="[SEP]", **names)
    few = texts[:2000]
    assert batch_ids(ours, few) == [transformers_ids(slow)([text])[0] for text in few]


def check_json(path: Path, texts: list[str]) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    ours = load_tokenizer(path)
    theirs = transformers_ids(PreTrainedTokenizerFast(tokenizer_file=str(path)))
    # The library finds special tokens that its model has as pieces, even with that flag.
    names = set(ours.special_tokens.values())
    assert_same(ours, theirs, [t for t in texts if not any(name in t for name in names)])
    never = set(ours.special.values()) - {ours.special.unk}
    assert never.isdisjoint(ours.encode_batch(texts).ids.tolist())
    return ours


def wrongly_normalised(folder: Path, texts: list[str]) -> list[str]:
    """Texts that the tokenizer.json next to a model normalises differently from the model."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    normalizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
    return [
        text
        for text in texts
        if model.normalize(text)
        != "▁" * bool(found := normalizer.normalize_str(text)) + found.replace(" ", "▁")
    ]


def share_of_json(folder: Path, texts: list[str]) -> float:
    """Fraction of texts for which the tokenizer.json next to a model gives the model's ids."""
    json_ids = batch_ids(load_tokenizer(folder / "tokenizer.json"), texts)
    pairs = zip(batch_ids(load_tokenizer(folder), texts), json_ids)
    return float(np.mean([a == b for a, b in pairs]))


def has_stacked_marks(text: str) -> bool:
    """Two combining marks in a row (halfwidth kana's count), where the two are known to differ."""
    decomposed = unicodedata.normalize("NFD", text)
    marks = [unicodedata.category(c).startswith("M") or c in "\uff9e\uff9f" for c in decomposed]
    return any(a and b for a, b in pairwise(marks)) or "\uff9f" in text or "\uff9e" in text


QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SOME = st.lists(TEXT, min_size=8, max_size=24)


def test_wordpiece(shared_data: Path) -> None:
    pairs = [bert(shared_data, name) for name in VOCABULARIES]

    @QUICK
    @given(SOME)
    def check(texts: list[str]) -> None:
        for ours, theirs in pairs:
            assert_same(ours, transformers_ids(theirs), texts)

    check()
    for name in VOCABULARIES:
        check_wordpiece(shared_data, name, random_texts(600, 1))


def test_sentencepiece(models: dict[str, Path]) -> None:
    for folder in models.values():
        check_sentencepiece(folder, random_texts(700, 2))

    ours = [load_tokenizer(folder) for folder in models.values()]
    plain = [
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        for folder in models.values()
    ]

    @QUICK
    @given(SOME)
    def check(texts: list[str]) -> None:
        for tokenizer, model in zip(ours, plain):
            assert_same(tokenizer, lambda many: model.encode(many, num_threads=1), texts)  # noqa: B023

    check()


def test_offsets_of_sentencepiece_are_the_librarys(models: dict[str, Path]) -> None:
    texts = random_texts(500, 3)
    for folder in models.values():
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        for text, encoded in zip(texts, load_tokenizer(folder).encode_sentences(texts)):
            pieces = model.encode(text, return_type="proto").pieces
            raw = text.encode()
            wanted = [[len(raw[:b].decode()) for b in (p.begin, p.end)] for p in pieces]
            assert encoded.offsets.tolist() == wanted


def test_tokenizer_json(tmp_path: Path, shared_data: Path, models: dict[str, Path]) -> None:
    texts = random_texts(700, 4)
    ours, _ = bert(shared_data, "uncased")
    ours.save(tmp_path)
    assert check_json(tmp_path / "tokenizer.json", texts).sha256 == ours.sha256
    kinds = [check_json(folder / "tokenizer.json", texts).kind for folder in models.values()]
    assert set(kinds) == {"unigram", "bpe"}
    usual = [*LINES[:4], *(text for text in texts if not has_stacked_marks(text))]
    for name, folder in models.items():
        assert not wrongly_normalised(folder, usual)
        # of two unigram paths with one score, either may be taken
        assert share_of_json(folder, usual) >= (1 if name.startswith("bpe") else 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_wordpiece_on_many(shared_data: Path, name: str) -> None:
    check_wordpiece(shared_data, name, random_texts(MANY, 5))


@pytest.mark.slow
def test_sentencepiece_on_many(models: dict[str, Path]) -> None:
    texts = random_texts(MANY, 6)
    for name, folder in models.items():
        check_sentencepiece(folder, texts)
        usual = [text for text in texts if not has_stacked_marks(text)]
        assert len(usual) > MANY / 3
        share = share_of_json(folder, usual)
        print(
            f"{name}: tokenizer.json gives the model's ids on {share_of_json(folder, texts):.2%} "
            f"of {MANY} strings, on {share:.4%} of the {len(usual)} without stacked marks"
        )
        assert len(wrongly_normalised(folder, usual)) < MANY / 10_000
        assert share > (0.999 if name.startswith("bpe") else 0.9)


@pytest.mark.slow
def test_tokenizer_json_on_many(tmp_path: Path, shared_data: Path, models: dict[str, Path]) -> None:
    texts = random_texts(MANY, 7)
    ours, _ = bert(shared_data, "uncased")
    ours.save(tmp_path)
    for folder in (tmp_path, models["unigram-True"], models["bpe-False"]):
        check_json(folder / "tokenizer.json", texts)
