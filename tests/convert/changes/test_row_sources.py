"""From which old rows new rows are made, for every kind of vocabulary and pairs of kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import models, pre_tokenizers, trainers

from megabert.convert.changes.entries import Entries, WordPart
from megabert.convert.changes.row_sources import RowSources, row_sources
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.base import SPECIAL_NAMES, Tokenizer, starts_word_alone
from megabert.data.tokenizers.json_file import from_json
from megabert.data.tokenizers.wordpiece import BertRules, WordPieceTokenizer
from tests.helpers.text_strategies import TEXT

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OTHER_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, near the river's bank.",
    "Running and jumping; the runners jumped and ran (quickly).",
    "北京大学在中国的北京。 Café naïve, 123 45!",
    "Unhappiness is unhelpful, happiness helps; happy helpers are unaffable.",
] * 12


def words(*entries: str, cased: bool = False, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    names = dict(zip(SPECIAL_NAMES, special))
    vocabulary = [*special, *entries]
    return WordPieceTokenizer(Path("vocab.txt"), vocabulary, BertRules(not cased), names=names)


def byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(OTHER_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return from_json(Path("tokenizer.json"), backend.to_str(), None, None)


@pytest.fixture(scope="module")
def kinds() -> dict[str, Tokenizer]:
    made = {
        kind: train_tokenizer(SENTENCES, TrainingSettings(kind, size, lower_case=kind != "bpe"))
        for kind, size in (("wordpiece", 130), ("unigram", 72), ("bpe", 100))
    }
    return made | {"byte-level": byte_level()}


def made_of(old: Tokenizer, new: Tokenizer) -> dict[str, str]:
    """New entry -> what it is made of, in names."""
    found = row_sources(old, new)
    kept = {found.new_names[i]: f"= {found.old_names[k]}" for i, k in found.copied.items()}
    means = {
        found.new_names[i]: " + ".join(found.old_names[k] for k in pieces)
        for i, pieces in found.averaged.items()
    }
    return kept | means | {found.new_names[i]: "drawn" for i in found.drawn}


def test_words_and_their_continuations() -> None:
    old = words("ear", "##bud", "##s", "bud", "river", ",", "'", "s", "##ear")
    new = words("earbuds", "##buds", "buds", "##s", "rivers", ",", "'s", "xyz", "Ear", "##earbud")
    made = made_of(old, new)
    assert {name: made[name] for name in new.tokens(range(5, 15))} == {
        "earbuds": "ear + ##bud + ##s",
        "##buds": "##bud + ##s",
        "buds": "bud + ##s",
        "##s": "= ##s",
        "rivers": "river + ##s",
        ",": "= ,",
        "'s": "' + s",
        "xyz": "drawn",
        "Ear": "ear",
        "##earbud": "##ear + ##bud",
    }
    assert row_sources(old, new).dropped == [5, 6, 8, 9, 11, 12, 13]


def test_casing() -> None:
    """Rows of a lower-casing vocabulary serve a cased one; a changed text is a mean, not a copy."""
    old = words("apple", "cafe", "##s", "a")
    new = words("apple", "Apple", "Apples", "Café", "café", "A", cased=True)
    made = made_of(old, new)
    assert [made[name] for name in ("apple", "Apple", "Apples")] == [
        "= apple",
        "apple",
        "apple + ##s",
    ]
    assert [made[name] for name in ("Café", "café", "A")] == ["cafe", "cafe", "a"]


def test_spellings_that_become_one() -> None:
    """A lower-casing vocabulary takes the rows of the cased entries that it no longer distinguishes."""
    old = words("Rome", "ROME", "Paris", "paris", "r", "##ome", "##s", cased=True)
    made = made_of(old, words("rome", "paris", "romes"))
    assert made["rome"] == "Rome + ROME"
    assert (made["paris"], made["romes"]) == ("= paris", "r + ##ome + ##s")


def test_special_tokens_are_matched_by_role() -> None:
    old, new = words("a"), words("[X]", "a", "[PAD]", special=OTHER_SPECIAL)
    found = row_sources(old, new)
    assert [found.copied[i] for i in range(5)] == [0, 1, 2, 3, 4]
    assert found.copied[6] == 5
    assert 7 not in found.copied  # an entry spelled like a role's old name, which is taken
    assert not set(found.dropped)


def test_marks_have_no_place_in_wordpiece() -> None:
    """A comma of SentencePiece, with and without a space before it, is WordPiece's; and back."""
    body = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True
        },
        "model": {
            "type": "Unigram", "unk_id": 1, "byte_fallback": False,
            "vocab": [[t, 0.0] for t in OTHER_SPECIAL]
            + [["▁", -9.0], ["q", -2.0], ["▁the", -1.0], [",", -2.0], ["▁,", -3.0], ["ing", -2.0], ["▁ing", -4.0], ["北", -3.0]],
        },
    }  # fmt: skip
    pieces = from_json(Path("tokenizer.json"), json.dumps(body), None, None)
    plain = words("the", ",", "##ing", "ing", "北", "##,", "##the", "q", "##q", "z")
    made = made_of(plain, pieces)
    assert made["▁the"] == "= the"
    assert made[","] == made["▁,"] == "= ,"
    assert (made["ing"], made["▁ing"], made["北"]) == ("= ##ing", "= ing", "= 北")
    back = made_of(pieces, plain)
    assert (back["the"], back[","], back["##ing"], back["ing"]) == (
        "= ▁the",
        "= ,",
        "= ing",
        "= ▁ing",
    )
    assert back["北"] == "= 北"
    # a space alone takes no part, and the place of its word differs
    assert (back["q"], back["##q"], back["z"]) == ("q", "= q", "drawn")


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "byte-level"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(text=TEXT)
def test_a_text_is_segmented_as_the_tokenizer_does(
    kinds: dict[str, Tokenizer], kind: str, text: str
) -> None:
    """As a text's beginning; inside a word the pieces still spell the normalised text."""
    tokenizer = kinds[kind]
    entries = Entries(tokenizer)
    text = text.strip()
    found = entries.segment(WordPart(True, text.encode()))
    leading = f" {text}" if kind == "byte-level" else text
    (encoded,) = tokenizer.encode_sentences([leading], with_offsets=False)
    expected = [i for i in encoded.ids.tolist() if i != tokenizer.special.unk]
    assert [i for i in found if entries.names[i] not in ("▁", "Ġ")] == [
        i for i in expected if entries.names[i] not in ("▁", "Ġ")
    ]
    inner = entries.segment(WordPart(False, text.encode()))
    if tokenizer.special.unk not in encoded.ids and len(inner) and kind != "wordpiece":
        spelled = [
            b"".join(entries.piece(entries.names[i]).text for i in ids) for ids in (inner, found)
        ]
        assert spelled[0] == spelled[1] or kind != "byte-level"
        assert not entries.piece(entries.names[inner[0]]).begins or text[:1].isspace()


@pytest.mark.parametrize("old", ["wordpiece", "unigram", "bpe", "byte-level"])
@pytest.mark.parametrize("new", ["wordpiece", "unigram", "bpe", "byte-level"])
def test_every_row_has_one_source(kinds: dict[str, Tokenizer], old: str, new: str) -> None:
    found: RowSources = row_sources(kinds[old], kinds[new])
    rows = sorted([*found.copied, *found.averaged, *found.drawn])
    assert rows == list(range(kinds[new].vocab_size))
    for role in SPECIAL_NAMES:
        assert found.copied[kinds[new].special[role]] == kinds[old].special[role]
    if old == new:
        assert found.copied == {i: i for i in rows}
    else:
        assert len(found.copied) > 25
        entries = Entries(kinds[new])
        for number in found.drawn:  # not of letters that all of them know
            text = entries.piece(found.new_names[number]).text.decode(errors="replace")
            assert not text or set(text) - set("abdefghijklmnopqrstuvwxyz")
        for pieces in found.averaged.values():
            assert kinds[old].special.unk not in pieces


def test_text_keeps_its_rows(kinds: dict[str, Tokenizer]) -> None:
    """A word's entry is copied, or its mean has the pieces that the old tokenizer gives the word."""
    old = kinds["wordpiece"]
    for new in kinds.values():
        found = row_sources(old, new)
        entries = Entries(new)
        for number, pieces in found.averaged.items():
            piece = entries.piece(found.new_names[number])
            text = piece.text.decode()
            if piece.begins and not starts_word_alone(text[0]):
                (encoded,) = old.encode_sentences([text])
                assert encoded.ids.tolist() == pieces
