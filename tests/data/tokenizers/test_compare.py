"""Two tokenizers are the same if they do the same, whichever files they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabert.data.tokenizers.compare import tokenizer_difference
from megabert.data.tokenizers.load import load_tokenizer

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'[]()@#é北京大",
    *("##" + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789é"), "the", "quick", "##ing", "école",
]  # fmt: skip


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder with vocab.txt only."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def by_transformers(folder: Path, words: list[str] = WORDS, **options: bool) -> Path:
    """A folder as transformers 5 writes it: tokenizer.json and tokenizer_config.json."""
    import transformers

    ids = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=ids, **options).save_pretrained(folder)
    assert not (folder / "vocab.txt").exists()
    return folder


def difference(left: Path, right: Path) -> str | None:
    return tokenizer_difference(load_tokenizer(left), load_tokenizer(right))


def test_one_vocabulary_in_two_forms(plain: Path, tmp_path: Path) -> None:
    assert difference(plain, by_transformers(tmp_path / "written")) is None


def test_what_differs_is_named(plain: Path, tmp_path: Path) -> None:
    cased = by_transformers(tmp_path / "a", do_lower_case=False)
    assert difference(cased, plain) == "it keeps capitals, the other lower-cases"
    accents = by_transformers(tmp_path / "b", strip_accents=False)
    said = difference(accents, plain)
    assert said is not None
    assert said.startswith("it splits 'Ångström, naïve café")
    whole = by_transformers(tmp_path / "c", tokenize_chinese_chars=False)
    assert "北京大学" in str(difference(whole, plain))
    longer = by_transformers(tmp_path / "d", [*WORDS, "more"])
    assert difference(longer, plain) == f"it has {len(WORDS) + 1} entries, the other {len(WORDS)}"
    moved = by_transformers(tmp_path / "e", [*WORDS[:-2], WORDS[-1], WORDS[-2]])
    n = len(WORDS)
    assert difference(moved, plain) == (
        f"2 ids have other entries: id {n - 2} is 'école' and '##ing', id {n - 1} is '##ing' and 'école'"
    )


def test_an_added_token_that_text_can_have(plain: Path, tmp_path: Path) -> None:
    """The same entries, but one of them is found before words are split."""
    written = by_transformers(tmp_path / "written")
    file = written / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    number = WORDS.index("école")
    content["added_tokens"].append(
        {"id": number, "content": "école", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": True, "special": False}
    )  # fmt: skip
    file.write_text(json.dumps(content), encoding="utf-8")
    assert difference(written, plain) is not None
