"""Tokenizers: ids as transformers makes them, word starts, special ids, saved folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.sentencepiece_model import read_model

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    "a",
    "b",
    "e",
    "he",
    "##ll",
    "##o",
    "hello",
    "world",
    "##s",
    ",",
    ".",
    "'",
    "é",
    "北",
    "京",
]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Hello, World! It's the U.S. army's café, isn't it?",
    "北京大学 is in 中国。 北京の天気",
    "  spaces \t and\u00a0no-break\u3000wide ",
    "combining e\u0301 and ﬁ ligature ½ ①",
    "",
    "☃ 🙂 unknown",
    "x" * 120,
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small SentencePiece model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    lines = [
        "the quick brown fox jumps over the lazy dog near the river bank",
        "hello world, it is the army of the north. is it not?",
        "北京大学 在 中国。 北京 很 大",
        "café naïve hello hello worlds words 123 45",
    ] * 20
    paths = {}
    for kind, size in (("unigram", 63), ("bpe", 63)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(folder / kind),
            model_type=kind,
            vocab_size=size,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece="[PAD]",
            unk_piece="[UNK]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            control_symbols=["[MASK]"],
            num_threads=1,
            minloglevel=2,
        )
        paths[kind] = folder / f"{kind}.model"
    return paths


def write_vocab(folder: Path, entries: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return path


def encode_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    [encoded] = tokenizer.encode_sentences([text])
    return encoded.ids.tolist()


def test_wordpiece_word_starts_and_offsets(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path, SPECIALS + PIECES))
    text = "Hello hellos, 北京"
    [encoded] = tokenizer.encode_sentences([text])
    assert tokenizer.tokens(encoded.ids) == ["hello", "hello", "##s", ",", "北", "京"]
    assert encoded.word_starts.tolist() == [True, True, False, True, True, True]
    assert [text[a:b] for a, b in encoded.offsets] == ["Hello", "hello", "s", ",", "北", "京"]
    assert tokenizer.decode(encoded.ids) == "hello hellos, 北 京"
    assert encoded.ids.dtype == np.int32
    [fast] = tokenizer.encode_sentences([text], with_offsets=False)
    assert fast.ids.tolist() == encoded.ids.tolist()
    assert fast.offsets.shape == (0, 2)
    assert tokenizer.encode_sentences([]) == []
    assert tokenizer.encode_sentences([""])[0].ids.shape == (0,)


def test_casing_is_read_off_the_vocabulary(tmp_path: Path, shared_data: Path) -> None:
    vocab = shared_data / "vocab"
    assert load_tokenizer(vocab / "bert-base-uncased-vocab.txt").lower_case
    assert not load_tokenizer(vocab / "bert-base-cased-vocab.txt").lower_case
    chinese = load_tokenizer(vocab / "bert-base-chinese-vocab.txt")
    assert chinese.lower_case
    assert chinese.vocab_size == 21128
    assert chinese.special.as_dict() == {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    path = write_vocab(tmp_path, SPECIALS + PIECES)
    assert not load_tokenizer(path, lower_case=False).lower_case
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not load_tokenizer(tmp_path).lower_case
    assert not load_tokenizer(path).lower_case
    with pytest.raises(UserError, match="cased according to its own files"):
        load_tokenizer(tmp_path, lower_case=True)


TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from("abcdeÉéİıßŸ北京。,.'-[]#\u0301\u200b\u00ad\u2028 \t\n"),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[tuple[Tokenizer, object]]:
    from transformers import BertTokenizerFast

    pairs = []
    for name in ("uncased", "cased", "chinese"):
        path = shared_data / "vocab" / f"bert-base-{name}-vocab.txt"
        ours = load_tokenizer(path)
        vocabulary = {t: i for i, t in enumerate(ours.tokens(range(ours.vocab_size)))}
        theirs = BertTokenizerFast(vocab=vocabulary, do_lower_case=ours.lower_case)
        pairs.append((ours, theirs))
    return pairs


def test_ids_equal_those_of_transformers(published: list[tuple[Tokenizer, object]]) -> None:
    @settings(max_examples=200, deadline=None)
    @given(TEXT)
    def check(text: str) -> None:
        for ours, theirs in published:
            [encoded] = ours.encode_sentences([text])
            wanted = theirs(  # type: ignore[operator]
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                split_special_tokens=True,
            )
            assert encoded.ids.tolist() == wanted["input_ids"]
            assert encoded.offsets.tolist() == [list(pair) for pair in wanted["offset_mapping"]]

    check()
    for text in SENTENCES:
        for ours, theirs in published:
            wanted = theirs(text, add_special_tokens=False)  # type: ignore[operator]
            assert encode_ids(ours, text) == wanted["input_ids"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_word_starts(trained: dict[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(trained[kind])
    assert tokenizer.kind == kind
    assert tokenizer.special.as_dict() == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    text = "hello, worlds 北京 café☃ the"
    [encoded] = tokenizer.encode_sentences([text])
    pieces = tokenizer.tokens(encoded.ids)
    words: list[str] = []
    for piece, begins in zip(pieces, encoded.word_starts):
        if begins:
            words.append("")
        words[-1] += piece.replace("▁", "").replace("[UNK]", "☃")
    assert [w for w in words if w][:3] == ["hello", ",", "worlds"]
    # each ideograph is a word, unless the vocabulary has both as one piece
    assert "北京" in words or words[words.index("北") + 1] == "京"
    assert words[-1] == "the"
    plain = sentencepiece.SentencePieceProcessor(model_file=str(trained[kind]))
    assert encoded.ids.tolist() == plain.encode(text)
    for (start, stop), piece in zip(encoded.offsets, pieces):
        assert piece == "[UNK]" or text[start:stop].strip() == piece.replace("▁", "")
    joined = "".join(text[a:b] for a, b in encoded.offsets)
    assert joined == text
    assert tokenizer.decode([2, *encoded.ids[:3], 3]).startswith("[CLS] hel")


def test_sentencepiece_files_are_decoded_as_the_library_does(trained: dict[str, Path]) -> None:
    for kind, path in trained.items():
        spec = read_model(path.read_bytes())
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        assert spec.kind == kind
        assert [p for p, _, _ in spec.pieces] == [
            model.id_to_piece(i) for i in range(model.vocab_size())
        ]
        assert all(
            abs(score - model.get_score(i)) < 1e-6 for i, (_, score, _) in enumerate(spec.pieces)
        )


def test_saved_folders_load_in_transformers(tmp_path: Path, trained: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    sources = {"wordpiece": write_vocab(tmp_path, SPECIALS + PIECES), **trained}
    for kind, path in sources.items():
        ours = load_tokenizer(path)
        folder = tmp_path / kind
        digests = ours.save(folder)
        assert digests == dict(ours.info().files)
        (folder / "config.json").write_text('{"model_type": "bert"}')
        theirs = AutoTokenizer.from_pretrained(folder)
        again = load_tokenizer(folder)
        assert again.sha256 == ours.sha256
        assert again.files() == ours.files()
        assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.special.pad, ours.special.mask)
        for text in SENTENCES:
            wanted = encode_ids(ours, text)
            assert theirs(text, add_special_tokens=False)["input_ids"] == wanted, (kind, text)
            assert encode_ids(again, text) == wanted
        pair = theirs("hello", "world")["input_ids"]
        assert (pair[0], pair[-1], pair.count(ours.special.sep)) == (
            ours.special.cls,
            ours.special.sep,
            2,
        )


def test_bert_folder_loads_in_bert_tokenizer(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    ours = load_tokenizer(write_vocab(tmp_path, SPECIALS + PIECES))
    ours.save(tmp_path / "saved")
    theirs = BertTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("Hello WORLDs")["input_ids"][1:-1] == encode_ids(ours, "Hello WORLDs")


def test_identity_does_not_depend_on_the_file(tmp_path: Path, trained: dict[str, Path]) -> None:
    path = write_vocab(tmp_path, SPECIALS + PIECES)
    ours = load_tokenizer(path)
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved" / "tokenizer.json").sha256 == ours.sha256
    assert load_tokenizer(tmp_path / "saved" / "vocab.txt").sha256 == ours.sha256
    assert load_tokenizer(path, lower_case=False).sha256 != ours.sha256
    other = tmp_path / "other"
    other.mkdir()
    assert load_tokenizer(write_vocab(other, [*SPECIALS, *PIECES[::-1]])).sha256 != ours.sha256


def test_foreign_tokenizer_json(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    backend.train_from_iterator(["hello worlds of words"] * 5, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.kind == "bpe"
    assert not tokenizer.lower_case
    assert tokenizer.special.as_dict() == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    [encoded] = tokenizer.encode_sentences(["hello <mask> wor"])
    assert tokenizer.special.mask not in encoded.ids
    assert encoded.word_starts.sum() >= 3
    assert tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").sha256 == tokenizer.sha256


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "a\nb\n", r"\[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] missing"),
        ("vocab.txt", "", "empty vocabulary"),
        ("vocab.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("vocab.txt", "some prose\nsome prose\n", r"\[PAD\], \[UNK\], .* missing"),
        ("spiece.model", b"not a model", "not a SentencePiece model"),
        ("tokenizer.json", "{}", "not a tokenizer.json"),
        ("tokenizer.json", "[1", "not a tokenizer.json"),
    ],
)
def test_files_that_are_not_tokenizers_are_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / name)
    with pytest.raises(UserError):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no tokenizer in this folder.* or spiece\.model$"):
        load_tokenizer(tmp_path / "empty")
    (tmp_path / "empty" / "tokenizer").mkdir()
    with pytest.raises(UserError, match=r"; a run's is .*/empty/tokenizer$"):
        load_tokenizer(tmp_path / "empty")


def test_truncated_model_is_refused(tmp_path: Path, trained: dict[str, Path]) -> None:
    path = tmp_path / "cut.model"
    path.write_bytes(trained["unigram"].read_bytes()[:500])
    with pytest.raises(UserError, match=r"cut\.model"):
        load_tokenizer(path)


def test_hugging_face_json_with_truncation(tmp_path: Path) -> None:
    ours = load_tokenizer(write_vocab(tmp_path, SPECIALS + PIECES))
    ours.save(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    body = json.loads(path.read_text())
    body["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(body))
    assert len(encode_ids(load_tokenizer(path), "hello " * 20)) == 20
    shutil.rmtree(tmp_path / "saved")
