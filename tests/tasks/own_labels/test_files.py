"""The forms of one's own files give the same rows, and labels, columns and held-out shares are found in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megabert.data.tokenizers.base import Tokenizer
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.classification.features import ClassificationFeatures
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.files.names import NamedColumns
from megabert.tasks.registry import make_task
from megabert.tasks.tagging.features import TaggingFeatures
from tests.helpers.batch_rows import rows_of
from tests.helpers.tagging_files import tokenizer as small_tokenizer

ROWS = [("a, \"b\"", "x"), ("b\nc", "y"), ("c-a", "x"), ("ab", "10")]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("words"))


def quoted(delimiter: str, end: str = "\n") -> str:
    cells = [("text", "label"), *ROWS]
    doubled = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return end.join(delimiter.join(row) for row in doubled) + end


def write(folder: Path, form: str) -> Path:
    objects = [{"text": text, "label": label} for text, label in ROWS]
    path = folder / f"file.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), path)
        return path
    texts = {
        "jsonl": "\n".join(map(json.dumps, objects)),
        "json": json.dumps(objects, indent=1),
        "csv": quoted(","),
        "csv.gz": "\ufeff" + quoted(",", "\r\n"),
        "semicolons.csv": quoted(";"),
        "tsv": quoted("\t"),
    }
    data = texts[form].encode()
    path.write_bytes(gzip.compress(data) if form.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "form", ["jsonl", "json", "csv", "csv.gz", "semicolons.csv", "tsv", "parquet"]
)
def test_every_form_gives_the_same_rows(tokenizer: Tokenizer, tmp_path: Path, form: str) -> None:
    task = make_task("classify", None, 16)
    found = task.train_features(write(tmp_path, form), tokenizer, None, 0)
    assert isinstance(found, ClassificationFeatures)
    assert task.labels == ("10", "x", "y")
    assert found.targets is not None
    assert found.targets.tolist() == [1, 2, 1, 0]
    expected = make_task("classify", None, 16).train_features(
        write(tmp_path, "jsonl"), tokenizer, None, 0
    )
    order = np.arange(4)
    assert (rows_of(found, order)["input_ids"] == rows_of(expected, order)["input_ids"]).all()


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, -1], ("-1", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        ([True, False, True], ("false", "true")),
        (["none", "n/a", "-"], ("-", "n/a", "none")),
    ],
)
def test_labels_are_sorted(
    tokenizer: Tokenizer, tmp_path: Path, values: list[Any], labels: tuple[str, ...]
) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(json.dumps({"text": "a", "label": v}) for v in values))
    task = make_task("classify")
    task.train_features(path, tokenizer, None, 0)
    assert task.labels == labels


def test_lists_and_separated_texts_are_several_labels(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lists, texts = tmp_path / "f.jsonl", tmp_path / "f.csv"
    labels = [["x", "y"], [], ["z"]]
    lists.write_text("\n".join(json.dumps({"text": "a", "labels": one}) for one in labels))
    texts.write_text("text,labels\n" + "".join(f"a,{'|'.join(one)}\n" for one in labels))
    for path, settings in ((lists, None), (texts, ClassificationSettings(label_separator="|"))):
        task = make_task("classify", settings)
        found = task.train_features(path, tokenizer, None, 0)
        assert isinstance(found, ClassificationFeatures)
        assert found.targets is not None
        assert found.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
        assert found.counts() == {"x": 1, "y": 1, "z": 1}
        assert task.metric == "micro_f1"
        assert task.record()["multi_label"] is True
        assert task.record()["threshold"] == 0.5


def test_columns_of_training_are_looked_for_in_later_files(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    train, other = tmp_path / "train.csv", tmp_path / "other.csv"
    train.write_text("First,second,kind,text\na,b,x,c\nb,c,y,c\n")
    other.write_text("text,second,First\nc,b,a\n")
    task = make_task("classify")
    task.columns = NamedColumns("first", "second", "kind")
    task.train_features(train, tokenizer, None, 0)
    assert task.record()["columns"] == ["First", "second", "kind"]
    found = task.eval_features(other, tokenizer)
    assert isinstance(found, ClassificationFeatures)
    assert found.targets is None  # no such column
    loaded = make_task("classify")
    loaded.load_labels(task.labels, task.record())
    again = loaded.eval_features(train, tokenizer)
    assert isinstance(again, ClassificationFeatures)
    assert again.targets is not None
    items = loaded.item_features([{"First": "a", "second": "b"}], tokenizer)
    assert items.lengths.tolist() == found.lengths.tolist() == [5]


def test_a_later_file_without_the_label_of_training_has_none(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whatever its other columns are called; a new training file may name its label in another way."""
    train, other = tmp_path / "train.csv", tmp_path / "other.csv"
    train.write_text("text,label\na,1\nb,2\nc,4\n")
    for name, column in (("regress", "rating"), ("classify", "topic")):
        other.write_text(f"text,{column}\na,9\nb,8\n")
        task = make_task(name)
        task.train_features(train, tokenizer, None, 0)
        found = task.eval_features(other, tokenizer)
        assert isinstance(found, ClassificationFeatures)
        assert found.targets is None, name
        again = make_task(name)
        again.load_labels(task.labels, task.record())
        again.labels = ()
        assert again.train_features(other, tokenizer, None, 0).lengths.tolist() == [3, 3]


def test_a_file_of_minus_one_has_no_labels(tokenizer: Tokenizer, tmp_path: Path) -> None:
    train, other = tmp_path / "train.csv", tmp_path / "other.csv"
    other.write_text("text,label\na,-1\nb,-1\n")
    for labels, unlabelled in (("x", "y"), True), (("-1", "1"), False):
        train.write_text("text,label\n" + "".join(f"a,{label}\n" for label in labels))
        task = make_task("classify")
        task.train_features(train, tokenizer, None, 0)
        found = task.eval_features(other, tokenizer)
        assert isinstance(found, ClassificationFeatures)
        assert (found.targets is None) == unlabelled


def test_a_share_is_held_out_by_the_seed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("id,text,label\n" + "".join(f"{n},a,{n % 3}\n" for n in range(50)))
    ids = {}
    for seed in (1, 1, 2):
        sides = make_task("classify").split_features(path, tokenizer, None, seed, 0.1)
        train, held = ([*side.ids] for side in sides if isinstance(side, ClassificationFeatures))
        assert len(held) == 5
        assert sorted([*train, *held], key=int) == [str(n) for n in range(50)]
        assert ids.setdefault(seed, held) == held
    assert ids[1] != ids[2]
    few, held = make_task("classify").split_features(path, tokenizer, 7, 1, 0.1)
    assert (len(few.lengths), len(held.lengths)) == (7, 5)
    assert set(ids[1]).isdisjoint(few.ids)  # type: ignore[attr-defined]
    tiny = ExampleChoice(True, share=0.01)
    assert [len(one.drawn(2)) for one in tiny.with_held_out()] == [1, 1]


FORMS: dict[str, tuple[str, list[str]]] = {
    "spans": ('{"text": "a b c", "entities": [[0, 3, "X"]]}', ["O", "B-X", "I-X"]),
    "tokens": ('{"tokens": ["a", "b", "c"], "tags": ["B-X", "I-X", "O"]}', ["O", "B-X", "I-X"]),
    "numbers": ('{"words": ["a", "b", "c"], "ner_tags": [1, 2, 0]}', ["O", "B-X", "I-X"]),
    "plain": ('{"tokens": ["a", "b", "c"], "tags": ["X", "X", "O"]}', ["O", "I-X"]),
    "bioes": ('{"tokens": ["a", "b", "c"], "tags": ["B-X", "E-X", "O"]}',
              ["O", "B-X", "I-X", "E-X", "S-X"]),
    "columns": ("a B-X\nb I-X\nc O\n", ["O", "B-X", "I-X"]),
    "plain columns": ("a\tX\nb\tX\nc\tO\n", ["O", "I-X"]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tagged_texts(tokenizer: Tokenizer, tmp_path: Path, form: str) -> None:
    content, labels = FORMS[form]
    path = tmp_path / "file"
    path.write_text(content + "\n")
    (tmp_path / "label2id.json").write_text('{"O": 0, "B-X": 1, "I-X": 2}')
    task = make_task("tag", None, 16)
    found = task.train_features(path, tokenizer, None, 0)
    assert isinstance(found, TaggingFeatures)
    assert list(task.labels) == labels
    (only,) = found.truths()[0]
    assert (only.type, only.start, only.end) == ("X", 0, 3 if form == "spans" else 2)
    tags = rows_of(found, np.array([0]))["tags"][0]
    assert [task.labels[n] for n in tags[:3]][2] == "O"
    loaded = make_task("tag", None, 16)
    loaded.load_labels(task.labels, task.record())
    items = loaded.item_features([{"text": "a b c"}], tokenizer)
    outputs = {"labels": np.array([[*tags[:3], *[0] * 11]]), "scores": np.full((1, 14), 0.5)}
    (answer,) = loaded.answers(items, outputs)
    assert [(e["text"], e["start"], e["end"]) for e in answer["entities"]] == [("a b", 0, 3)]
    tokens = loaded.item_features([{"tokens": ["a", "b", "c"]}], tokenizer)
    (answer,) = loaded.answers(tokens, outputs)
    assert answer["tags"][2] == "O"
    assert len(answer["tags"]) == 3
