"""Text never becomes [PAD], [CLS], [SEP] or [MASK], whatever the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from megabert.common.errors import UserError
from megabert.common.names import SPECIAL_TOKENS
from megabert.convert import probe_inputs
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.base import Tokenizer, find_special
from megabert.data.tokenizers.load import load_tokenizer

ANGLED = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
WORDS = ("PAD", "UNK", "CLS", "SEP", "MASK")
LETTERS = "abcdefghiklmnoprstuvwxyACKLMPSEUND[]<>/▁ "
TEXTS = [
    "[MASK] a [SEP]b [CLS][PAD]c[UNK]",
    "<mask> a <s>b </s><pad>c<unk>",
    "MASK a SEP CLS PADc UNK",
    "▁[MASK] ▁ <s>▁[SEP]▁",
    "[mask] [MaSK] [MASK]] [[MASK",
]
LINES = [
    "the [MASK] of a [SEP] and <mask> or <s> here",
    "cut [CLS] and [PAD] lines up, then read them all",
    "the river rises in the hills, and an old bridge is there",
    "MASK and SEP and CLS and PAD are words in capitals",
] * 30


def piece_model(path: Path, kind: str, control: bool) -> Path:
    """A SentencePiece model whose special tokens are control symbols, or user-defined ones."""
    some = [n for n in SPECIAL_TOKENS if n != "[UNK]"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*LINES, "hello , world ( it is ) not !"] * 3),
        model_prefix=str(path.with_suffix("")),
        model_type=kind,
        vocab_size=70,
        unk_piece="[UNK]",
        bos_id=-1,
        eos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        user_defined_symbols=["(", "<x>", *([] if control else some)],
        control_symbols=some if control else [],
    )
    return path


def json_model(path: Path, kind: str, names: tuple[str, ...], **more: object) -> Path:
    """A tokenizer.json of another project, whose model has the special tokens as pieces."""
    pieces = [*names, *LETTERS, "th", "the"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    model: models.Model
    if kind == "unigram":
        scores = [0.0] * len(names) + [-3.0] * (len(pieces) - len(names))
        model = models.Unigram(list(zip(pieces, scores)), 1, False)
    elif kind == "bpe":
        merges = [("t", "h"), ("th", "e"), *_merges(names[4], ids), *_merges(names[2], ids)]
        model = models.BPE(ids, merges, unk_token=names[1], **more)  # type: ignore[arg-type]
    else:
        model = models.WordPiece(ids | {f"##{p}": len(ids) for p in ("x",)}, unk_token=names[1])
    backend = tokenizers.Tokenizer(model)
    if kind == "unigram":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    elif names is WORDS:
        backend.normalizer = normalizers.BertNormalizer(lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(names))
    backend.save(str(path))
    return path


def _merges(name: str, ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Merges that build a special token letter by letter."""
    left = name[0]
    for letter in name[1:]:
        yield left, letter
        left += letter
        ids.setdefault(left, len(ids))


def _names(path: Path, **roles: str) -> None:
    (path / "tokenizer_config.json").write_text(
        json.dumps({f"{role}_token": name for role, name in roles.items()})
    )


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """A tokenizer of every kind that is read, and those that train_tokenizer makes."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {}
    for kind in ("unigram", "bpe"):
        for control in (True, False):
            path = folder / f"{kind}-{control}.model"
            found[path.stem] = load_tokenizer(piece_model(path, kind, control))
    for kind, names in (
        ("unigram", ANGLED),
        ("unigram", SPECIAL_TOKENS),
        ("bpe", ANGLED),
        ("bpe", SPECIAL_TOKENS),
        ("wordpiece", ANGLED),
        ("wordpiece", SPECIAL_TOKENS),
    ):
        path = folder / f"{kind}{names[4]}.json"
        found[path.stem] = load_tokenizer(json_model(path, kind, names))
    found["whole words"] = load_tokenizer(
        json_model(folder / "w.json", "bpe", ANGLED, ignore_merges=True)
    )
    (folder / "words").mkdir()
    roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), WORDS))
    _names(folder / "words", **roles)
    json_model(folder / "words" / "tokenizer.json", "wordpiece", WORDS)
    found["words"] = load_tokenizer(folder / "words")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *ANGLED, *LETTERS]))
    found["vocab.txt"] = load_tokenizer(vocabulary)
    for kind, size in (("wordpiece", 100), ("unigram", 54), ("bpe", 70)):
        settings = TrainingSettings(kind, size, lower_case=False, coverage=1.0)
        found[f"trained {kind}"] = train_tokenizer(LINES, settings)
        found[f"trained {kind}"].save(folder / kind)
        found[f"saved {kind}"] = load_tokenizer(folder / kind / "tokenizer.json")
    return found


def special_in(tokenizer: Tokenizer, texts: list[str]) -> set[int]:
    """Special ids that the texts are encoded to, by each way to encode."""
    ids = set(tokenizer.encode_batch(texts).ids.tolist())
    for encoded in tokenizer.encode_sentences(texts):
        ids |= set(encoded.ids.tolist())
    for encoded in tokenizer.encode_sentences(texts, with_offsets=False):
        ids |= set(encoded.ids.tolist())
    return ids & (set(tokenizer.special.values()) - {tokenizer.special.unk})


def test_in_every_kind(kinds: dict[str, Tokenizer]) -> None:
    for name, tokenizer in kinds.items():
        assert not special_in(tokenizer, TEXTS), name
        own = list(tokenizer.special_tokens.values())
        texts = [f"{a}{b}" for a in own for b in own] + [f"a {a} b" for a in own]
        assert not special_in(tokenizer, texts), name
        assert tokenizer.tokens([tokenizer.special.mask]) == [tokenizer.special_tokens["mask"]]


PIECES = st.sampled_from([*SPECIAL_TOKENS, *ANGLED, *WORDS, *LETTERS, "▁", "(", "<x>", "\uffff"])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_in_any_text(kinds: dict[str, Tokenizer], text: str) -> None:
    for name, tokenizer in kinds.items():
        assert not special_in(tokenizer, [text]), name
        batch = tokenizer.encode_batch([text]).ids.tolist()
        assert batch == tokenizer.encode_sentences([text])[0].ids.tolist(), name


def test_a_symbol_of_the_user_is_text_and_keeps_its_id(kinds: dict[str, Tokenizer]) -> None:
    """Only special tokens are hidden: other user-defined symbols give the library's ids."""
    for kind in ("unigram", "bpe"):
        one, other = kinds[f"{kind}-True"], kinds[f"{kind}-False"]
        for text in ("hello (world", "the<x>here", "( <x>"):
            for tokenizer in (one, other):
                pieces = tokenizer.tokens(tokenizer.encode_batch([text]).ids)
                assert ("(" in pieces) == ("(" in text)
                assert ("<x>" in pieces) == ("<x>" in text)
        text = "the [MASK] of"
        assert (
            one.tokens(one.encode_batch([text]).ids) == other.tokens(other.encode_batch([text]).ids)
            or one.vocab_size != other.vocab_size
        )


def test_symbols_of_the_user_in_transformers(
    tmp_path: Path, kinds: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer.json for transformers gives their ids, or conversion's check names the symbol."""
    from transformers import AutoTokenizer

    monkeypatch.setattr(probe_inputs, "PAIRS", (("the river is here", "hello"),))
    monkeypatch.setattr(probe_inputs, "TEXTS", ())
    for kind, wanted in (("unigram", None), ("bpe", "'<x>'")):
        ours = kinds[f"{kind}-True"]
        assert ours.added_tokens.keys() == {"(", "<x>"}
        ours.save(tmp_path / kind)
        theirs = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert probe_inputs.same_ids(ours, theirs) == wanted


def test_the_unknown_piece_is_the_models(tmp_path: Path) -> None:
    """A model with its own unknown piece and a symbol [UNK]: unknown text gives the model's."""
    path = tmp_path / "spiece.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=60,
        model_type="unigram",
        hard_vocab_limit=False,
        user_defined_symbols=list(SPECIAL_TOKENS),
        minloglevel=2,
        num_threads=1,
    )
    tokenizer = load_tokenizer(path)
    assert tokenizer.special_tokens["unk"] == "<unk>"
    [encoded] = tokenizer.encode_sentences(["the ☃"])
    assert tokenizer.special.unk in encoded.ids
    assert tokenizer.encode_batch(["the ☃"]).ids.tolist() == encoded.ids.tolist()


def test_names_that_the_files_state(tmp_path: Path) -> None:
    """A vocabulary with two spellings: the one that tokenizer_config.json names is the special one."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *ANGLED, *"abc"]))
    plain = load_tokenizer(tmp_path)
    assert plain.special.as_dict() == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    _names(tmp_path, mask="<mask>", cls="<s>")
    named = load_tokenizer(tmp_path)
    assert named.special.as_dict() == {"pad": 0, "unk": 1, "cls": 7, "sep": 3, "mask": 9}
    assert named.sha256 != plain.sha256
    named.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.special, again.sha256) == (named.special, named.sha256)


@pytest.mark.parametrize("name", ["a:b", "$A"])
def test_names_that_a_template_reads_otherwise(name: str) -> None:
    ids = {token: n for n, token in enumerate(["[PAD]", "[UNK]", name, "[SEP]", "[MASK]"])}
    with pytest.raises(UserError, match=r"v: cls_token .* cannot hold this name"):
        find_special(Path("v"), ids, {"cls": name})
