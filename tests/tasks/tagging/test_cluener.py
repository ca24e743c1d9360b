"""CLUENER files, features, predictions and the benchmark's score."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.tagging.cluener import as_label, clue_f1, read_cluener
from tests.helpers.batch_rows import rows_of
from tests.helpers.tagging_files import entity, gold_labels, make, outputs_for, tokenizer


def write(path: Path, *lines: Any) -> Path:
    """One JSON value per line; a str is written as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def line(text: str, *entities: tuple[str, int, int]) -> dict[str, Any]:
    """A line with entities, last character included."""
    label: dict[str, Any] = {}
    for kind, first, last in entities:
        label.setdefault(kind, {}).setdefault(text[first : last + 1], []).append([first, last])
    return {"text": text, "label": label}


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_reads_plain_and_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes], prefix: bytes
) -> None:
    content = [line("王明在上海", ("name", 0, 1), ("address", 3, 4)), line("的")]
    text = "\r\n".join(json.dumps(entry) for entry in content) + "\r\n\r\n"
    path = tmp_path / "file.json"
    path.write_bytes(pack(prefix + text.encode()))
    corpus = read_cluener(path)
    assert corpus.texts == ["王明在上海", "的"]
    assert corpus.entities == [[entity("name", 0, 2), entity("address", 3, 5)], []]
    assert (corpus.ids, corpus.lines) == ([0, 1], [1, 2])


def test_entities_not_at_their_place_are_counted(tmp_path: Path) -> None:
    broken = {
        "text": "王明去",
        "label": {"name": {"李明": [[0, 1]], "明": [[1, 1], [3, 3], [2, 1]]}},
    }
    corpus = read_cluener(write(tmp_path / "f.json", line("上海", ("a", 0, 1)), broken))
    assert corpus.entities == [[entity("a", 0, 2)], [entity("name", 1, 2)]]
    assert corpus.problems.counts == {
        "entity whose text is not at its place": 1,
        "entity outside its text": 2,
    }
    assert "line 2" in str(corpus.problems)


def test_a_text_with_a_misplaced_entity_is_no_example_of_o(tmp_path: Path) -> None:
    """Leaving only the entity out would train its characters as O."""
    good, broken = line("王明去", ("name", 0, 1)), line("李明去", ("name", 0, 1))
    broken["label"] = {"name": {"李明": [[1, 2]]}}
    path, words, task = (
        write(tmp_path / "f.json", good, broken),
        tokenizer(tmp_path),
        make("cluener"),
    )
    trained = task.train_features(path, words, None, 0)
    assert trained.texts.tolist() == [0]
    assert trained.problems.first == {
        "entity whose text is not at its place": "line 2, 李明",
        "text with a misplaced entity, not trained on": "line 2",
    }
    features = task.eval_features(path, words)
    outputs = outputs_for(features, [[1, 2, 0], [1, 2, 0]])
    scores = task.score(features, outputs, tmp_path)
    assert scores["f1"] == scores["accuracy"] == scores["clue_f1"] == 100.0
    assert "1 x text with a misplaced entity, not scored (first: line 2)" in features.describe()
    written = (tmp_path / "cluener_predict.json").read_text(encoding="utf-8").splitlines()
    assert json.loads(written[1])["label"] == {"name": {"李明": [[0, 1]]}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no line"),
        (["{"], "line 1: not JSON"),
        ([line("a"), "[1]"], "line 2: no JSON object"),
        ([{"label": {}}], "line 1: 'text' is missing or not a text"),
        ([{"text": 7}], "line 1: 'text' is missing or not a text"),
        ([line("a"), {"text": "b"}], "line 2: no 'label', unlike"),
        ([{"text": "b"}, line("a")], "line 2: a 'label', unlike"),
        (['{"text": "a", "text": "b"}'], "line 1: the key 'text' occurs twice"),
        (['{"text": "a", "label": {"x": {"a": [[0, 0]], "a": []}}}'], "the key 'a' occurs"),
        ([{"text": "a", "label": []}], "line 1: 'label' has another form"),
        ([{"text": "a", "label": None}], "line 1: 'label' has another form"),
        ([{"text": "a", "label": {"": {"a": [[0, 0]]}}}], "has another form"),
        ([{"text": "a", "label": {" x": {"a": [[0, 0]]}}}], "has another form"),
        ([{"text": "a", "label": {"None": {"a": [[0, 0]]}}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [["0", "0"]]}}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [[None, 0]]}}}], "has another form"),
        ([{"text": "a", "label": {"x": ["a"]}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [0, 0]}}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [[0]]}}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [[0, 0.0]]}}}], "has another form"),
        ([{"text": "a", "label": {"x": {"a": [[False, 0]]}}}], "has another form"),
    ],
)
def test_wrong_files_name_the_line(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(
        "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in lines),
        encoding="utf-8",
    )
    with pytest.raises(UserError) as caught:
        read_cluener(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_cluener(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"latin.json line 2 is not UTF-8"):
        read_cluener(tmp_path / "latin.json")
    (tmp_path / "cut.json.xz").write_bytes(lzma.compress(b'{"text": "a"}\n' * 99)[:-9])
    with pytest.raises(UserError, match=r"cut.json.xz: .*truncated"):
        read_cluener(tmp_path / "cut.json.xz")
    unlabelled = write(tmp_path / "test.json", {"text": "a"})
    with pytest.raises(UserError, match="no labels"):
        make("cluener").train_features(unlabelled, tokenizer(tmp_path), None, 0)
    with pytest.raises(UserError, match="no entity"):
        make("cluener").train_features(write(unlabelled, line("a")), tokenizer(tmp_path), None, 0)


def test_pieces_of_several_characters_and_lost_ones(tmp_path: Path) -> None:
    """``iPhone6`` is three pieces, ``20`` two characters in two, white space none."""
    text = "王明 iPhone6在上海vs北京"
    content = line(
        text, ("name", 0, 1), ("game", 3, 9), ("address", 11, 12), ("game", 13, 13), ("a", 2, 2)
    )
    words, task = tokenizer(tmp_path), make("cluener")
    features = task.train_features(write(tmp_path / "f.json", content), words, None, 0)
    batch = rows_of(features, np.array([0]))
    pieces = words.tokens(batch["input_ids"][0])
    expected = ["王", "明", "ip", "##hone", "##6", "在", "上", "海", "vs", "北", "京"]
    assert pieces == ["[CLS]", *expected, "[SEP]"]
    names = [task.labels[label] for label in batch["tags"][0]]
    assert names == [
        "B-name", "I-name", "B-game", "I-game", "I-game", "O", "B-address", "I-address", "B-game",
        "O", "O",
    ]  # fmt: skip
    assert set(features.problems.counts) == {
        "entity without a token",
        "entity that ends inside a token",
    }
    found = features.found([np.array(labels) for labels in gold_labels(features)])[0]
    assert [text[start:end] for _, start, end in found] == ["王明", "iPhone6", "上海", "vs"]


def test_predictions_are_written_as_the_file_has_them(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("cluener", max_length=6)
    content = [
        line("王明在上海，上海", ("name", 0, 1), ("address", 3, 4), ("address", 6, 7)),
        line(""),
    ]
    path = write(tmp_path / "f.json", content[0], content[1])
    task.train_features(path, words, None, 0)
    features = task.eval_features(path, words)
    assert len(features.lengths) > 2
    scores = task.score(features, outputs_for(features, gold_labels(features)), tmp_path)
    assert scores["f1"] == scores["accuracy"] == scores["clue_f1"] == 100.0
    assert scores["all_o_accuracy"] == 25.0
    lines = (tmp_path / "cluener_predict.json").read_text(encoding="utf-8").splitlines()
    written = [json.loads(entry) for entry in lines]
    expected = [{"id": n, "label": entry["label"]} for n, entry in enumerate(content)]
    assert written == expected


def test_a_file_without_labels_is_predicted_but_not_scored(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("cluener")
    task.train_features(write(tmp_path / "f.json", line("王明", ("name", 0, 1))), words, None, 0)
    features = task.eval_features(
        write(tmp_path / "t.json", {"id": 7, "text": "李明"}, {"id": "x", "text": ""}), words
    )
    assert not features.labelled
    batch = rows_of(features, np.arange(2))
    assert "tags" not in batch
    assert batch["tag_counts"].tolist() == [2, 0]
    outputs = outputs_for(features, [[1, 2], []])
    assert task.score(features, outputs, tmp_path) == {}
    text = (tmp_path / "cluener_predict.json").read_text(encoding="utf-8")
    assert list(map(json.loads, text.splitlines())) == [
        {"id": 7, "label": {"name": {"李明": [[0, 1]]}}},
        {"id": "x", "label": {}},
    ]


def test_items_and_answers(tmp_path: Path) -> None:
    words, task = tokenizer(tmp_path), make("cluener")
    task.train_features(write(tmp_path / "f.json", line("王明", ("name", 0, 1))), words, None, 0)
    features = task.item_features([{"text": "在 iPhone6"}, {"text": " "}], words)
    outputs = outputs_for(features, [[0, 1, 2, 2], []], score=0.25)
    (first, second) = task.answers(features, outputs)
    assert first == {
        "entities": [{"type": "name", "text": "iPhone6", "start": 2, "end": 9, "score": 0.25}]
    }
    assert second == {"entities": []}
    with pytest.raises(UserError, match="item 2: 'text' is missing or not a text"):
        task.item_features([{"text": "a"}, {"sentence": "b"}], words)


def test_the_benchmarks_score_by_hand() -> None:
    gold = [{"name": {"A": [[0, 0]], "B": [[2, 2]]}, "book": {"C": [[4, 4]]}}, {"name": {"A": []}}]
    found = [{"name": {"A": [[9, 9]]}, "movie": {"C": [[4, 4]]}}, {"name": {"A": [], "D": []}}]
    name = 2 * (2 / 3) * (2 / 3) / (4 / 3)
    assert clue_f1(gold, found) == pytest.approx(100 * (name + 0) / 2)
    assert clue_f1(gold, gold) == 100.0


@settings(max_examples=50, deadline=None)
@given(st.text("王明上 a", max_size=12), st.data())
def test_labels_hold_every_entity_once(text: str, data: st.DataObject) -> None:
    spans = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    drawn = data.draw(st.sets(st.tuples(st.sampled_from("xy"), spans)))
    entities = [entity(kind, a, b) for kind, (a, b) in drawn if a < b]
    again = {
        entity(kind, first, last + 1)
        for kind, named in as_label(text, entities).items()
        for name, places in named.items()
        for first, last in places
        if text[first : last + 1] == name
    }
    assert again == set(entities)


def test_the_published_files(shared_data: Path) -> None:
    folder = shared_data / "cluener"
    words = load_tokenizer(shared_data / "vocab" / "bert-base-chinese-vocab.txt")
    task = make("cluener", max_length=64)
    train = task.train_features(folder / "train.json.xz", words, None, 0)
    assert (train.sizes()["texts"], train.sizes()["entities"]) == (10748, 23971)
    assert train.problems.counts == {
        "entity that shares a token with a longer one": 3,
        "entity that ends inside a token": 10,
    }
    assert train.problems.first["entity that shares a token with a longer one"] == "line 1507"
    assert len(task.labels) == 21
    dev = task.eval_features(folder / "dev.json.xz", words)
    assert (dev.sizes()["texts"], dev.sizes()["entities"]) == (1343, 3072)
    assert dev.problems.counts == {"entity that ends inside a token": 4}
    found = dev.found([np.array(labels) for labels in gold_labels(dev)])
    missed = sum(len(set(truth) - set(got)) for truth, got in zip(dev.truths(), found))
    assert missed == 4
    test = task.eval_features(folder / "test.json.xz", words)
    assert (len(test.lengths), test.labelled) == (1345, False)
    some = task.train_features(folder / "train.json.xz", words, 100, 1)
    assert len(some.lengths) == 100
