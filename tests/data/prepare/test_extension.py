"""Vocabularies that are extended: old ids stay, new entries are used, other kinds are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools import train_tokenizer as command
from megabert.common.errors import UserError
from megabert.data.prepare.vocabulary.extension import MIN_FREQUENCY, extend, require_extensible
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.wordpiece import BertRules, WordPieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ENTRIES = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), "the", "[E1]"]
TEXT = [
    "The earbuds fit the ears.",
    "Earbuds with Bluetooth: the battery of these earbuds lasts.",
    "A blue battery, blue tooth, α and α.",
] * 3


def old_tokenizer() -> WordPieceTokenizer:
    rules = BertRules(lower_case=True)
    return WordPieceTokenizer(Path("vocab.txt"), ENTRIES, rules, extra_special=["[E1]"])


def test_new_entries_follow_and_are_used(tmp_path: Path) -> None:
    old = old_tokenizer()
    made = extend(old, TEXT, len(ENTRIES) + 14, alphabet=100)
    new = made.tokenizer
    added = new.tokens(range(len(ENTRIES), new.vocab_size))
    assert new.tokens(range(len(ENTRIES))) == ENTRIES
    assert len(set(added)) == 14
    assert {"α", "earbuds", "battery"} <= set(added)
    used = [int(i) for e in new.encode_sentences(TEXT) for i in e.ids]
    for number in range(len(ENTRIES), new.vocab_size):
        assert used.count(number) >= MIN_FREQUENCY
    before = [i for e in old.encode_sentences(TEXT) for i in e.ids]
    words = sum(int(e.word_starts.sum()) for e in old.encode_sentences(TEXT))
    assert made.words == words
    assert (made.before, made.after) == (len(before) / words, len(used) / words)
    assert made.after < made.before / 2
    assert made.unknown_before == before.count(1) / words > made.unknown_after
    new.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.sha256, again.special, again.added_tokens) == (
        new.sha256, old.special, old.added_tokens,
    )  # fmt: skip
    twice = extend(old, TEXT, len(ENTRIES) + 14, alphabet=100).tokenizer
    assert twice.sha256 == new.sha256


def test_no_more_than_the_text_uses() -> None:
    with pytest.raises(UserError, match=r"this text uses at most (\d+) entries more, (\d+) in all"):
        extend(old_tokenizer(), TEXT, 500, alphabet=100)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, old = tmp_path / "text.txt", tmp_path / "old"
    text.write_text("\n".join(TEXT))
    old_tokenizer().save(old)
    plain = ["--input", str(text), "--workers", "1", "--output", str(tmp_path / "out")]
    size = ["--vocab-size", str(len(ENTRIES) + 10)]

    def refused(match: str, *more: object) -> None:
        with pytest.raises(UserError, match=match):
            command.main([*plain, *map(str, more)])
        assert not (tmp_path / "out").exists()

    refused("of --extend has 59 entries already", "--extend", old, "--vocab-size", 59)
    refused("remove --type and --cased", "--extend", old, *size, "--type", "bpe")
    refused("remove --type and --cased", "--extend", old, *size, "--cased")
    refused("no such tokenizer", "--extend", tmp_path / "nowhere", *size)
    assert command.main([*plain, "--extend", str(old), *size]) == 0
    shown = capsys.readouterr().out
    assert "69 entries, lower case" in shown
    assert "tokens per word" in shown


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    argv = [
        "--input", str(tmp_path / "text.txt"), "--workers", "1", "--type", "bpe", "--vocab-size", "45",
        "--output", str(tmp_path / "bpe"),
    ]  # fmt: skip
    (tmp_path / "text.txt").write_text("\n".join(TEXT))
    assert command.main(argv) == 0
    bpe = load_tokenizer(tmp_path / "bpe")
    with pytest.raises(UserError, match=r"a bpe model.*only BERT's WordPiece can be extended"):
        require_extensible(tmp_path / "bpe", bpe, 100)
