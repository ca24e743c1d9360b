"""Token features of other programs: TFRecord or JSON lines, with the labels next to them."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign.tfrecord import frame
from megabert.tasks.tagging.entity_spans import Entity, entities_of, out_of_order, parse_tag
from megabert.tasks.tagging.records import read_tag_records
from tests.helpers.batch_rows import rows_of
from tests.helpers.foreign_shards import example
from tests.helpers.tagging_files import entity, gold_labels, make, outputs_for, tokenizer

BMES = [
    "O",
    "S_name",
    "B_name",
    "M_name",
    "E_name",
    "S_address",
    "B_address",
    "M_address",
    "E_address",
]
GOOGLE = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "X", "[CLS]", "[SEP]"]
WIDTH = 12


def bmes(folder: Path) -> Path:
    """Labels as CLUENER's scripts number them, from 0."""
    content = {name: number for number, name in enumerate(BMES)}
    (folder / "label2id.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def google(folder: Path) -> Path:
    """Labels as BERT-NER scripts number them, from 1, pickled."""
    content = {name: number for number, name in enumerate(GOOGLE, start=1)}
    (folder / "label2id.pkl").write_bytes(pickle.dumps(content))
    return folder


def record(words: Any, text: list[str], labels: list[int], **changes: Any) -> dict[str, Any]:
    """A padded record of a text's pieces and all labels, those of [CLS] and [SEP] too."""
    vocabulary = {
        token: number for number, token in enumerate(words.tokens(range(words.vocab_size)))
    }
    ids = [2, *(vocabulary[piece] for piece in text), 3]
    assert len(ids) == len(labels)
    fill = [0] * (WIDTH - len(ids))
    return {
        "input_ids": ids + fill,
        "input_mask": [1] * len(ids) + fill,
        "segment_ids": [0] * WIDTH,
        "label_ids": labels + fill,
    } | changes


def write(path: Path, *records: dict[str, Any]) -> Path:
    """A TFRecord file, or JSON lines if the name says so."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    else:
        path.write_bytes(b"".join(frame(example(features)) for features in records))
    return path


@pytest.mark.parametrize("name", ["train.tf_record", "train.jsonl"])
@pytest.mark.parametrize("task", ["cluener", "conll"])
def test_records_of_cluener_scripts(tmp_path: Path, name: str, task: str) -> None:
    words = tokenizer(tmp_path)
    rows = [
        record(words, ["王", "明", "在", "上", "海"], [0, 2, 4, 0, 6, 8, 0]),
        record(words, ["李", "去", "了", "中"], [0, 1, 0, 0, 5, 0]),
    ]
    path = write(bmes(tmp_path) / name, *rows)
    made = make(task)
    features = made.train_features(path, words, None, 0)
    assert made.scheme == "bmes"
    assert made.labels[:3] == ("O", "B-address", "M-address")
    assert features.truths() == [
        [entity("name", 0, 2), entity("address", 3, 5)],
        [entity("name", 0, 1), entity("address", 3, 4)],
    ]
    batch = rows_of(features, np.arange(2))
    assert [made.labels[n] for n in batch["tags"][0]] == [
        "B-name", "E-name", "O", "B-address", "E-address",
    ]  # fmt: skip
    assert batch["input_ids"][0, :7].tolist() == rows[0]["input_ids"][:7]
    assert batch["tag_positions"][0].tolist() == [1, 2, 3, 4, 5]
    scored = made.eval_features(path, words)
    scores = made.score(scored, outputs_for(scored, gold_labels(scored)), tmp_path)
    assert scores["f1"] == scores["accuracy"] == 100.0
    written = (tmp_path / "predictions.txt").read_text(encoding="utf-8").splitlines()
    assert written[:3] == ["王 B-name B-name", "明 I-name I-name", "在 O O"]


def test_records_of_google_style_scripts(tmp_path: Path) -> None:
    """Labels from 1, a label for the further pieces of a word, and a mask of another name."""
    words = tokenizer(tmp_path)
    row = record(words, ["ip", "##hone", "##6", "在", "北", "京"], [7, 2, 6, 6, 1, 4, 5, 8])
    row["mask"] = row.pop("input_mask")
    path = write(google(tmp_path) / "train.tf_record", row)
    made = make("conll")
    features = made.train_features(path, words, None, 0)
    assert made.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert features.corpus.texts == [["iphone6", "在", "北", "京"]]
    assert features.truths() == [[Entity("PER", 0, 1), Entity("LOC", 2, 4)]]
    batch = rows_of(features, np.arange(1))
    assert batch["tag_positions"][0].tolist() == [1, 4, 5, 6]
    assert not made.characters


def test_a_model_trained_on_one_form_scores_the_other(tmp_path: Path) -> None:
    words, made = tokenizer(tmp_path), make("cluener")
    text = {
        "text": "王明在上海",
        "label": {"name": {"王明": [[0, 1]]}, "address": {"上海": [[3, 4]]}},
    }
    plain = tmp_path / "dev.json"
    plain.write_text(json.dumps(text), encoding="utf-8")
    path = write(
        bmes(tmp_path) / "a.tf_record",
        record(words, ["王", "明", "在", "上", "海"], [0, 2, 4, 0, 6, 8, 0]),
    )
    made.train_features(path, words, None, 0)
    scored = made.eval_features(plain, words)
    assert made.score(scored, outputs_for(scored, gold_labels(scored)), tmp_path)["f1"] == 100.0
    other = make("cluener")
    other.train_features(plain, words, None, 0)
    recorded = other.eval_features(path, words)
    assert other.scheme == "bio"
    assert (
        other.score(recorded, outputs_for(recorded, gold_labels(recorded)), tmp_path)["f1"] == 100.0
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label_ids": [0, 2, 44, 0, *[0] * 8]},
            "label id 44, which .*label2id.json does not have",
        ),
        ({"label_ids": [0, 2, -1, 0, *[0] * 8]}, "label id -1, which"),
        ({"label_ids": [2]}, "1 numbers in label_ids, where one per token was expected"),
        ({"label_ids": [0.5] * WIDTH}, "label_ids is not a list of whole numbers"),
        ({"input_ids": [2, 5, 6, 7, *[0] * 8]}, r"ends with token id 7, not with \[SEP\]"),
        ({"input_ids": [9, 5, 6, 3, *[0] * 8]}, r"begins with token id 9, not with \[CLS\]"),
        ({"input_ids": [2, 5, 999, 3, *[0] * 8]}, "token id 999, but the vocabulary has"),
    ],
)
def test_records_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    words = tokenizer(tmp_path)
    good = record(words, ["王", "明"], [0, 2, 4, 0])
    path = write(bmes(tmp_path) / "train.tf_record", good, good | changes)
    with pytest.raises(UserError, match=f"{path}: record 1: .*{message}"):
        make("cluener").train_features(path, words, None, 0)


def test_label_sets_that_do_not_match_are_errors(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    path = write(tmp_path / "train.tf_record", record(words, ["王", "明", "在"], [0, 2, 4, 0, 0]))
    with pytest.raises(
        UserError, match=r'numbers of labels, not their names; put label2id.json, \{"O": 0'
    ):
        make("cluener").train_features(path, words, None, 0)
    file = tmp_path / "label2id.json"
    for content, message in (
        ("{", "label2id.json cannot be read"),
        ("[]", "is not an object of labels"),
        ("{}", "is not an object of labels"),
        ('{"O": 0, "O": 1}', "the key 'O' occurs twice"),
        ('{"O": 0, "B-a": 0}', "two labels have the number 0"),
        ('{"O": 0, "B-a": "1"}', "'B-a': '1' is not a label and its number"),
        ('{"O": 0, "B-a": null}', "is not a label and its number"),
        ('{"O": 0, "address": 1}', "'address' is not a tag; expected O, or B"),
        ('{"O": 0, "X": 1}', "names no tag of an entity"),
        ('{"O": 0, "B-a": 2, "I-a": 4, "M-a": 1}', "prefixes B, I, M, O are not of one scheme"),
        ('{"O": 2, "B-a": 0, "I-a": 4}', "2 of 2 tags of entities are out of order"),
    ):
        file.write_text(content, encoding="utf-8")
        if "out of order" in message:  # what was B is now O, and the I after it has no beginning
            path = write(path, record(words, ["王", "明", "在"], [0, 2, 4, 2, 0]))
            path = write(path, *[record(words, ["王", "明", "在"], [0, 2, 4, 2, 0])] * 2)
        with pytest.raises(UserError, match=message) as caught:
            make("cluener").train_features(path, words, None, 0)
        assert "\n" not in str(caught.value)
    bmes(tmp_path)
    made = make("cluener")
    made.train_features(path, words, None, 0)
    file.write_text('{"O": 0, "B-book": 2, "M-book": 3, "E-book": 4}', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"record 0: 'book' is not among the labels of the training file"
    ):
        made.eval_features(path, words)


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/never"),))


def test_a_pickle_of_anything_else_runs_no_code(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    path = write(tmp_path / "train.tf_record", record(words, ["王"], [7, 2, 8]))
    for content in (pickle.dumps({"O": _Evil()}), pickle.dumps(set(GOOGLE)), b"\x80", b""):
        (tmp_path / "label2id.pkl").write_bytes(content)
        with pytest.raises(UserError, match=r"label2id.pkl (cannot be read|is not an object)"):
            read_tag_records(path, words, WIDTH)
    assert not Path("/tmp/never").exists()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_tags_give_the_entities_of_their_order(rows: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = bmes(Path(name))
        words = tokenizer(folder)
        made = [record(words, ["王"] * len(row), [0, *row, 0]) for row in rows]
        path = write(folder / "train.tf_record", *made)
        tags = [[tag for n in row if (tag := parse_tag(BMES[n]))] for row in rows]
        wrong = sum(len(list(out_of_order(row, "bmes"))) for row in tags)
        if 2 * wrong > sum(tag.type != "" for row in tags for tag in row):
            with pytest.raises(UserError, match="out of order"):
                read_tag_records(path, words, WIDTH)
            return
        corpus, pieces = read_tag_records(path, words, WIDTH)
    assert corpus.problems.total == wrong
    assert corpus.entities == [entities_of(row) for row in tags]
    assert [len(piece.scored) for piece in pieces] == [len(row) for row in rows]
