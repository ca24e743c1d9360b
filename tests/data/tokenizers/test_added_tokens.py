"""Added tokens, in every file that states them: transformers' ids, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.common.names import SPECIAL_TOKENS
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.wordpiece import WordPieceTokenizer

WORDS = [
    *SPECIAL_TOKENS,
    *"abcdeghilmnorstuv",
    *(f"##{c}" for c in "abcdeghilmnorstuv"),
    "new",
    ".",
]
BASE = len(WORDS)
TOKENS = ("covid", "New York", "C++", "[E1]", "naïve", "<br>", "  ", "É", "Ab", "北京")
TEXTS = [
    "covid a covids Covid COVID",
    "New York new york newyork New  York",
    "c++ C++ C+++ [E1][e1] [E1]s naive naïve NAÏVE",
    "a<br>b <BR> é É Ab ab cab 北京 北 京",
    "covid", " covid", "covid ", "xcovidx", "[E1]covid.New York",
]  # fmt: skip


def folder_with(folder: Path, **files: Any) -> Path:
    """A folder of vocab.txt and these JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    files = {"tokenizer_config": {"do_lower_case": True}, **files}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def flags(content: str, **chosen: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    return {"content": content, "special": False, **usual, **chosen}


def decoder(*tokens: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that lists its added tokens."""
    special = [flags(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    entries = [*enumerate(special), *enumerate(tokens, BASE)]
    return {"do_lower_case": True, "added_tokens_decoder": {str(i): t for i, t in entries}}


def assert_as_transformers(folder: Path, texts: list[str] = TEXTS) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    for text in texts:
        wanted = theirs(text, add_special_tokens=False)["input_ids"]
        [encoded] = ours.encode_sentences([text])
        assert encoded.ids.tolist() == wanted, (text, ours.tokens(encoded.ids))
        assert ours.encode_batch([text]).ids.tolist() == wanted
    assert ours.vocab_size == len(theirs)
    names = {role: getattr(theirs, f"{role}_token_id") for role in ours.special.as_dict()}
    assert names == ours.special.as_dict()


def test_added_tokens_json(tmp_path: Path) -> None:
    ids = {token: BASE + i for i, token in enumerate(TOKENS)}
    folder = folder_with(tmp_path / "in", added_tokens=ids)
    assert_as_transformers(folder)
    ours = load_tokenizer(folder)
    assert ours.added_tokens == ids
    assert ours.kind == "wordpiece"
    assert not isinstance(ours, WordPieceTokenizer)
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").sha256 == ours.sha256


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3, unique=True),
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("lstrip", "rstrip", "single_word", "normalized")}
    ),
)
def test_flags(tmp_path_factory: pytest.TempPathFactory, tokens: list[str], chosen: Any) -> None:
    tokens = [token for token in tokens if token.strip()] or ["covid"]
    config = decoder(*(flags(token, **chosen) for token in tokens))
    folder = folder_with(tmp_path_factory.mktemp("flags") / "in", tokenizer_config=config)
    assert_as_transformers(folder, [*TEXTS, *tokens, *(f"a{t}b {t} {t.upper()}" for t in tokens)])


def test_a_tokenizer_that_transformers_saved(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder_with(tmp_path / "in"))
    theirs.add_tokens(["covid", "New York", tokenizers.AddedToken("C++", single_word=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]", "[E2]"]})
    folder = tmp_path / "saved"
    theirs.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    texts = [text for text in TEXTS if "[E1]" not in text]
    assert_as_transformers(folder, texts)
    ours = load_tokenizer(folder)
    assert ours.added_tokens["[E2]"] == BASE + 4
    [encoded] = ours.encode_sentences(["[E1] covid [E2]"])
    assert {BASE + 3, BASE + 4}.isdisjoint(encoded.ids.tolist())
    assert BASE in encoded.ids


def test_special_ones_stay_out_of_text_and_do_not_slow_the_encoder(tmp_path: Path) -> None:
    """Special tokens that no word is spelled like need no search: BERT's own encoder is used."""
    ids = {f"[E{i}]": BASE + i for i in range(2)}
    special = {"additional_special_tokens": list(ids)}
    folder = folder_with(tmp_path / "in", added_tokens=ids, special_tokens_map=special)
    ours = load_tokenizer(folder)
    assert isinstance(ours, WordPieceTokenizer)
    assert (ours.vocab_size, ours.added_tokens) == (BASE + 2, ids)
    assert not set(ids.values()) & set(ours.encode_batch(["[E0] a [E1]b"]).ids.tolist())
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.sha256, again.added_tokens) == (ours.sha256, ids)
    assert again.files() == ours.files()
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs.convert_tokens_to_ids(list(ids)) == list(ids.values())
    assert theirs("[E1]", add_special_tokens=False)["input_ids"] == [BASE + 1]
    # a special token that could be a word is searched for, so that it is never found
    word = folder_with(
        tmp_path / "word",
        added_tokens={"ent": BASE},
        special_tokens_map={"additional_special_tokens": ["ent"]},
    )
    assert BASE not in load_tokenizer(word).encode_batch(["ent cent ent"]).ids


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"added_tokens": {"covid": BASE + 5}},
            rf"has id {BASE + 5} in one file, but its place .* gives {BASE}",
        ),
        ({"added_tokens": {"a": 90}}, "'a' has id 90 in one file"),
        ({"added_tokens": {"x y": BASE, "z": BASE}}, "'x y' and 'z' have the same id"),
        ({"added_tokens": {"x": "many"}}, "has 'many' as its id"),
        ({"added_tokens": [1]}, "expected a JSON object"),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "is not a table of ids"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": {}}}}, "token 1 has no content"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_tokenizer(folder_with(tmp_path / "in", **files))
    assert "\n" not in str(caught.value)
    assert "in" in str(caught.value)


def test_two_files_that_contradict_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    load_tokenizer(folder_with(tmp_path / "in", added_tokens={"covid": BASE})).save(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(decoder(flags("covid"))))
    assert load_tokenizer(folder).added_tokens == {"covid": BASE}
    for token in (flags("covid", single_word=True), flags("covid", special=True)):
        (folder / "tokenizer_config.json").write_text(json.dumps(decoder(token)))
        with pytest.raises(UserError, match=r"'covid' has other flags in tokenizer\.json"):
            load_tokenizer(folder)
    wrong = {"added_tokens_decoder": {str(BASE + 1): flags("covid")}}
    (folder / "tokenizer_config.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=f"has id {BASE + 1} in one file"):
        load_tokenizer(folder)
    body = json.loads((folder / "tokenizer.json").read_text())
    body["added_tokens"][-1]["id"] += 7
    (folder / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match=f"'covid' has id {BASE + 7} there, but its place"):
        load_tokenizer(folder / "tokenizer.json")


def test_added_to_a_sentencepiece_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a tokenizer.json can hold them: it is used if it is there, otherwise one line says so."""
    lines = ["the river rises in the hills and an old bridge is there, covid"] * 20
    ours = train_tokenizer(lines, TrainingSettings("unigram", 28, coverage=1.0))
    ours.save(tmp_path / "in")
    (tmp_path / "in" / "added_tokens.json").write_text('{"[MASK]": 4}')
    assert load_tokenizer(tmp_path / "in").sha256 == ours.sha256
    (tmp_path / "in" / "added_tokens.json").write_text('{"[MASK]": 4, "covid": 28}')
    found = load_tokenizer(tmp_path / "in")
    assert "lacks 1 tokens ('covid', ...)" in "".join(capsys.readouterr())
    assert found.encode_batch(["the covid"]).ids[-1] == 28
    (tmp_path / "in" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokens .'covid', .* are added to spiece\.model"):
        load_tokenizer(tmp_path / "in")


def test_a_sentencepiece_model_and_a_tokenizer_json_that_differ_in_casing(tmp_path: Path) -> None:
    lines = ["The river rises in the hills and an old bridge is there"] * 20
    train_tokenizer(lines, TrainingSettings("unigram", 26, coverage=1.0)).save(tmp_path / "in")
    cased = train_tokenizer(lines, TrainingSettings("unigram", 26, lower_case=False, coverage=1.0))
    (tmp_path / "in" / "spiece.model").write_bytes(cased.files()["spiece.model"])
    with pytest.raises(UserError, match=r"spiece.model keeps capitals, but .* lower-cases"):
        load_tokenizer(tmp_path / "in")
    cased.save(tmp_path / "cased")
    path = tmp_path / "cased" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    with pytest.raises(UserError, match="says do_lower_case true"):
        load_tokenizer(tmp_path / "cased")
