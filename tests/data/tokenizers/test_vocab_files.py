"""vocab.txt as others leave it, and tokenizer.json next to it: read as transformers reads them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.common.names import SPECIAL_TOKENS
from megabert.data.tokenizers.base import warn_once
from megabert.data.tokenizers.load import load_tokenizer

WORDS = ["a", "b", "the", "##s", "river", "é", "e"]
TEXTS = ["the rivers a", "b é e\u0301 THE", "bs as riverss", "\u2028 a\u3000b\x85the"]


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    warn_once.cache_clear()


def write(folder: Path, content: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "vocab.txt").write_bytes(raw)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


def transformers_ids(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    return [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def our_ids(folder: Path) -> list[list[int]]:
    return [e.ids.tolist() for e in load_tokenizer(folder).encode_sentences(TEXTS)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [*SPECIAL_TOKENS, "a", *WORDS],
            "1 repeated and 0 blank lines of 13; line 7 repeats line 6",
        ),
        ([*SPECIAL_TOKENS, *WORDS, "the", "##s", "a"], "3 repeated and 0 blank lines of 15"),
        ([*SPECIAL_TOKENS, "", *WORDS[:3], "", *WORDS[3:]], "0 repeated and 2 blank lines of 14"),
        ([*SPECIAL_TOKENS, *WORDS, "", ""], "0 repeated and 2 blank lines of 14"),
        ([*SPECIAL_TOKENS, "a ", "b\u3000", *WORDS[2:]], ""),
        ([*SPECIAL_TOKENS, "\u2028", "##\u2028", "\u3000", *WORDS], ""),
        ([*SPECIAL_TOKENS, *WORDS, "[MASK]"], "1 repeated"),
    ],
)
def test_repeated_blank_and_odd_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], said: str
) -> None:
    """The ids are those of transformers, and a warning counts what is odd."""
    folder = write(tmp_path / "in", "\n".join(lines) + "\n")
    assert our_ids(folder) == transformers_ids(folder)
    heard = "".join(capsys.readouterr())
    assert said in heard
    assert ("repeated" in heard) == bool(said)
    ours = load_tokenizer(folder)
    assert ours.special.mask == max(i for i, line in enumerate(lines) if line == "[MASK]")
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.sha256, again.vocab_size) == (ours.sha256, ours.vocab_size)
    assert our_ids(tmp_path / "saved") == our_ids(folder)
    (tmp_path / "saved" / "vocab.txt").unlink()
    alone = load_tokenizer(tmp_path / "saved")
    assert [e.ids.tolist() for e in alone.encode_sentences(TEXTS)] == our_ids(folder)


def test_line_ends_and_a_byte_order_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They belong to the file: the same ids and the same identity; only the mark is a surprise."""
    text = "\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n"
    plain = load_tokenizer(write(tmp_path / "plain", text))
    windows = load_tokenizer(write(tmp_path / "windows", text.replace("\n", "\r\n")))
    last = load_tokenizer(write(tmp_path / "last", text.rstrip("\n")))
    assert "byte order mark" not in "".join(capsys.readouterr())
    marked = load_tokenizer(write(tmp_path / "marked", "\ufeff" + text))
    assert "begins with a byte order mark" in "".join(capsys.readouterr())
    for other in (windows, last, marked):
        assert other.sha256 == plain.sha256
        assert other.files() == plain.files()
    assert our_ids(tmp_path / "windows") == transformers_ids(tmp_path / "windows")


def test_a_vocabulary_that_transformers_saved(tmp_path: Path, shared_data: Path) -> None:
    """bert-base-chinese has U+2028 as an entry, which transformers 5 saves as an empty one."""
    from transformers import AutoTokenizer

    source = shared_data / "vocab" / "bert-base-chinese-vocab.txt"
    folder = write(tmp_path / "in", source.read_bytes())
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    body = json.loads((saved / "tokenizer.json").read_text())
    assert body["model"]["vocab"].get("") == 343
    texts = ["北京大学 The café\u2028in 1999.", "##\u2028"]
    alone = load_tokenizer(saved)
    shutil.copy(source, saved / "vocab.txt")
    both, ours = load_tokenizer(saved), load_tokenizer(source)
    assert both.sha256 == ours.sha256
    wanted = [e.ids.tolist() for e in ours.encode_sentences(texts)]
    for other in (alone, both):
        assert [e.ids.tolist() for e in other.encode_sentences(texts)] == wanted


def test_two_vocabularies_that_differ(tmp_path: Path) -> None:
    words = [*SPECIAL_TOKENS, *WORDS]
    folder = tmp_path / "in"
    load_tokenizer(write(tmp_path / "plain", "\n".join(words))).save(folder)
    for wrong, said in (
        ([*SPECIAL_TOKENS, *WORDS[::-1]], "the first is that of id 5, 'e' and 'a'"),
        (words[:-1], "the first is that of id 11, '(no line)' and 'e'"),
        ([*words, "more"], "the first is that of id 12, 'more' and None"),
        ([], "empty vocabulary"),
    ):
        (folder / "vocab.txt").write_text("\n".join(wrong))
        with pytest.raises(UserError, match=r"in/vocab\.txt") as caught:
            load_tokenizer(folder)
        assert said in str(caught.value)


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_rules_that_two_files_contradict(tmp_path: Path, name: str) -> None:
    """tokenizer_config.json against the normaliser of tokenizer.json."""
    folder = tmp_path / "in"
    load_tokenizer(write(tmp_path / "plain", "\n".join([*SPECIAL_TOKENS, *WORDS]))).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for value in (True, None):
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, name: value}))
        assert load_tokenizer(folder).lower_case
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, name: False}))
    said = f"says {name} false, but tokenizer.json says true"
    with pytest.raises(UserError, match=re.escape(said)):
        load_tokenizer(folder)


def test_a_name_that_speaks_against_the_casing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's name proves nothing, so it is only mentioned."""
    text = "\n".join([*SPECIAL_TOKENS, *WORDS])
    load_tokenizer(write(tmp_path / "bert-base-uncased", text))
    assert not "".join(capsys.readouterr())
    load_tokenizer(write(tmp_path / "cased_L-12_H-768", text))
    assert "the name says cased, but this tokenizer lower-cases" in "".join(capsys.readouterr())
    folder = write(tmp_path / "no-capitals", text)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    load_tokenizer(folder)
    assert "keeps capitals, but no entry has one" in "".join(capsys.readouterr())
