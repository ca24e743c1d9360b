"""Files of one's own that cannot be used: one line with the file, the place, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.data.tokenizers.base import Tokenizer
from megabert.tasks.base import Task
from megabert.tasks.classification.settings import ClassificationSettings
from megabert.tasks.files.names import NamedColumns
from megabert.tasks.registry import make_task
from tests.helpers.tagging_files import tokenizer as small_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("words"))


def train(task: Task, path: Path, tokenizer: Tokenizer, content: str | list[Any]) -> Any:
    """The features of a training file: text, or objects for JSON lines."""
    lines = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
    path.write_text(lines + "\n", encoding="utf-8", newline="")
    return task.train_features(path, tokenizer, None, 0)


GOOD = [{"text": "a b", "label": "x"}, {"text": "b", "label": "y"}]
TOKENS: dict[str, Any] = {"tokens": ["a", "b"], "tags": ["B-X", "O"]}
SPAN: dict[str, Any] = {"text": "a b", "entities": [{"start": 0, "end": 1, "label": "X"}]}


def span(*entities: Any) -> list[Any]:
    return [SPAN, {"text": "a b c", "entities": [*entities]}]


CASES: list[tuple[str, str, str | list[Any], str]] = [
    ("classify", "f.csv", "review,stars\na,x\nb,y", r"no column has a usual name of a text \(text, .* --text-column; it has the columns 'review', 'stars', as its first line names them \(cut at commas\)"),
    ("classify", "f.csv", "text,stars\na,x\nb,y", r"no column has a usual name of a label .* --label-column; it has the columns 'text', 'stars'"),
    ("classify", "f.csv", "text|label\na|x\nb|y", r"it has the one column 'text\|label'.*no tab, comma or semicolon"),
    ("classify", "f.csv", "a film,x\nb film,y", r"it has the columns 'a film', 'x', as its first line"),
    ("classify", "f.csv", "text,sentence,label\na,b,x", r"the text may be 'text' or 'sentence': name it with --text-column"),
    ("classify", "f.csv", "text,label,class\na,b,x", r"the label may be 'label' or 'class': name it with --label-column"),
    ("classify", "f.csv", "text,label,label\na,b,x", r"line 1: two columns have the name 'label'"),
    ("classify", "f.csv", "text,label\na,x\nb, c,y", r"line 3: wrong number of columns: 3, where the header has 2"),
    ("classify", "f.csv", 'text,label\na,x\n"b,y', r"line 3: damaged line: a quoted cell"),
    ("classify", "f.csv", "text,label\na,x\n ,y", r"line 3: empty text: 'text' is empty"),
    ("classify", "f.csv", "text,label\na,x\nb,", r"line 3: missing label: ''"),
    ("classify", "f.csv", "text,label\na,x\nb,NaN", r"line 3: missing label: 'NaN'"),
    ("classify", "f.csv", "text,label\na,x\nb,x", r"its 2 rows have only the label 'x' \(column 'label'\)"),
    ("classify", "f.csv", "text,label", r"has no line after its header"),
    ("classify", "f.csv", "text,label\n" + "".join(f"a,{n}\n" for n in range(30)), r"each of its 30 rows has a label of its own"),
    ("classify", "f.csv", "text,label,split\na,x,train\nb,y,test", r"has the splits train, test in one file"),
    ("classify", "f.json", [*GOOD, {"text": "a"}], r"line 3: missing label: it has none"),
    ("classify", "f.json", [*GOOD, {"text": 5, "label": "x"}], r"line 3: unusable text: 'text' is 5, not a text"),
    ("classify", "f.json", [*GOOD, {"label": "x"}], r"line 3: missing text: no 'text'"),
    ("classify", "f.json", [*GOOD, {"text": "a", "label": 1}], r"line 3: label of another type: 1 is a whole number, that of 1 a text"),
    ("classify", "f.json", [*GOOD, {"text": "a", "label": 0.5}], r"line 3: unusable label: 0.5, a number with a point"),
    ("classify", "f.json", [*GOOD, {"text": "a", "label": ["x"]}], r"line 3: unusable label: a list, where other rows have one label"),
    ("classify", "f.json", [{"text": "a", "labels": ["x"]}, {"text": "a", "labels": ["y"]}, {"text": "b", "labels": "y"}], r"line 3: unusable label: 'y', where other rows have a list"),
    ("classify", "f.json", [{"text": "a", "labels": ["x", "x"]}], r"line 1: repeated label: x, x"),
    ("classify", "f.json", '[{"text": "a", "label": "x"}, 7]', r"item 2: unusable item: no JSON object"),
    ("classify", "f.json", '[{"text": "a", "label": "x"}', r"is not a list in JSON"),
    ("classify", "f.json", [*GOOD, 3], r"line 3: unusable line: no JSON object"),
    ("classify", "f.json", [{"input_ids": [1], "segment_ids": [0], "input_mask": [1], "label_ids": [0]}], r"holds features of another program"),
    ("regress", "f.csv", "text,label\na,1\nb,high", r"line 3: unusable label: 'high' is not a number"),
    ("regress", "f.csv", "text;label\na;1\nb;1,5", r"line 3: unusable label: '1,5' is not a number \(decimals are written with a point\)"),
    ("regress", "f.csv", "text,label\na,1\nb,1e999", r"line 3: unusable label: 1e999 is not a finite number"),
    ("regress", "f.csv", "text,label\na,1\nb,", r"line 3: missing label: it has no number"),
    ("regress", "f.json", '{"text": "a", "label": 1}\n{"text": "b", "label": NaN}', r"line 2: unusable label: nan is not a finite number"),
    ("regress", "f.json", [{"text": "a", "label": True}], r"line 1: unusable label: True is not a number"),
    ("regress", "f.csv", "text,label\na,2\nb,2", r"all 2 labels are 2, so there is nothing to learn"),
    ("tag", "f.json", [TOKENS, {"tokens": ["a"], "tags": ["O", "O"]}], r"line 2: unusable tags: 1 tokens, but 2 tags \('tokens', 'tags'\)"),
    ("tag", "f.json", [TOKENS, {"tokens": ["a"]}], r"line 2: unusable tags: 1 tokens, but no list of tags"),
    ("tag", "f.json", [TOKENS, {"tokens": ["a", ""], "tags": ["O", "O"]}], r"line 2: unusable tokens: 'tokens' has '' among the tokens"),
    ("tag", "f.json", [TOKENS, {"tokens": ["a"], "tags": ["PER"]}], r"line 2: invalid tag: 'PER' is not a tag"),
    ("tag", "f.json", [TOKENS, {"tokens": ["a", "b"], "tags": ["I-X", "M-X"]}], r"line 2: the tag M-X is not a tag of a scheme with the tags before it"),
    ("tag", "f.json", [{"tokens": ["a"], "tags": [1]}], r"put label2id.json, .* into the same folder"),
    ("tag", "f.json", [TOKENS, {"tokens": "a b", "tags": ["O"]}], r"line 2: unusable text: 'tokens' is not a list of tokens, as in line 1"),
    ("tag", "f.json", [{"tokens": ["a"], "tags": ["O"]}], r"has no entity to train on"),
    ("tag", "f.json", span([0, 3, "X"], [2, 5, "Y"]), r"line 2: overlapping entities: 'a b' \(X, 0 to 3\) and 'b c' \(Y, 2 to 5\)"),
    ("tag", "f.json", span([0, 9, "X"]), r"line 2: entity outside its text: 0 to 9 of 5 characters \(X\)"),
    ("tag", "f.json", span([2, 2, "X"]), r"line 2: entity without a character: 2 to 2"),
    ("tag", "f.json", span({"start": 0, "end": 1}), r"line 2: unusable entity: .* expected \{\"start\": 0"),
    ("tag", "f.json", span({"start": 0, "end": 1, "label": "X", "text": "b"}), r"line 2: entity whose text is not at its place: 'b', there is 'a'"),
    ("tag", "f.json", [SPAN, {"text": "a", "entities": {"X": [0, 1]}}], r"line 2: unusable entities: .*not a list of"),
    ("tag", "f.csv", "a,B-X\nb,O", r"its lines are separated by commas; expected a token and its tag"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "content", "message"), CASES, ids=[case[3][:50] for case in CASES]
)
def test_one_line_names_what_is_wrong(
    tokenizer: Tokenizer, tmp_path: Path, name: str, file: str, content: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(make_task(name), tmp_path / file, tokenizer, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (NamedColumns("reviw"), r"no column 'reviw' \(--text-column\); did you mean 'review'\?; it has"),
        (NamedColumns("review", None, "x"), r"no column 'x' \(--label-column\)"),
        (NamedColumns("review", "review", "label"), "the column 'review' cannot be two of"),
        (NamedColumns("label", None, "label"), "the column 'label' cannot be two of"),
    ],
)  # fmt: skip
def test_named_columns_that_do_not_fit(
    tokenizer: Tokenizer, tmp_path: Path, columns: NamedColumns, message: str
) -> None:
    task = make_task("classify")
    task.columns = columns
    with pytest.raises(UserError, match=message):
        train(task, tmp_path / "f.csv", tokenizer, "review,label\na,x\nb,y")


def test_later_files_must_have_the_labels_of_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make_task("classify")
    train(task, tmp_path / "train.csv", tokenizer, "text,label\na,x\nb,y")
    other = tmp_path / "eval.csv"
    other.write_text("text,label\na,x\nb,z\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"eval.csv line 3: unknown label: 'z', not one of x, y;"):
        task.eval_features(other, tokenizer)
    again = make_task("classify")
    again.load_labels(("x", "w"), {})
    with pytest.raises(UserError, match=r"'y' is not among the checkpoint's \(x, w\): --new-head"):
        again.train_features(tmp_path / "train.csv", tokenizer, None, 0)
    several = make_task("classify")
    several.load_labels(("x", "y"), {"multi_label": True})
    with pytest.raises(UserError, match=r"line 2: unusable label: 'x', where other rows have"):
        several.train_features(tmp_path / "train.csv", tokenizer, None, 0)


def test_bad_lines_may_be_left_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make_task("classify")
    task.bad_lines = "skip"
    content = "text,label\na,x\n,y\nb,\nb,y,z\nb,y"
    found = train(task, tmp_path / "f.csv", tokenizer, content)
    assert task.labels == ("x", "y")
    assert len(found.lengths) == 2
    assert found.problems.counts == {
        "wrong number of columns": 1, "empty text": 1, "missing label": 1,
    }  # fmt: skip


TWO = {"tokens": ["a", "b"], "tags": ["O", "B-X"]}
BAD_TAGS = [
    ([TWO, 3, {**TWO, "tokens": ["a"]}, {**TWO, "tags": ["Y", "O"]}, {**TWO, "tokens": "a b"}, {**TWO, "tags": ["O", 1]}, TWO],
     {"unusable line": 1, "unusable text": 1, "unusable tags": 2, "invalid tag": 1}, {"tokens": ["a"], "tags": ["B-Z"]}),
    ([*span([2, 2, "X"]), *span([0, 9, "X"]), *span([0, 3, "X"], [2, 5, "X"]), {"text": " ", "entities": []}, {"text": 1}],
     {"unusable text": 1, "entity without a character": 1, "entity outside its text": 1, "overlapping entities": 1, "empty text": 1},
     {"text": "a", "entities": [[0, 1, "Z"]]}),
]  # fmt: skip


@pytest.mark.parametrize(("content", "counts", "unknown"), BAD_TAGS, ids=["tokens", "spans"])
def test_bad_tags_may_be_left_out(
    tokenizer: Tokenizer, tmp_path: Path, content: list[Any], counts: dict[str, int], unknown: Any
) -> None:
    """Rows of a training file, and those of a later file whose types it lacks."""
    task = make_task("tag")
    task.bad_lines = "skip"
    assert train(task, tmp_path / "f.json", tokenizer, content).problems.counts == counts
    later = tmp_path / "later.json"
    later.write_text("\n".join(map(json.dumps, [unknown, content[0]])), encoding="utf-8")
    found = task.eval_features(later, tokenizer)
    assert found.problems.by_kind() == {"unknown type": {"count": 1, "first": "line 1, Z"}}
    assert found.corpus.lines == [2]


def test_checkpoints_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="gives several labels per text, unlike --task tnews"):
        make_task("tnews").load_labels(("a", "b"), {"multi_label": True})
    with pytest.raises(UserError, match="the checkpoint gives 3 labels, not a number"):
        make_task("regress").load_labels(("a", "b", "c"), {})
    with pytest.raises(UserError, match="--label-separator is for several labels"):
        make_task("classify", ClassificationSettings(label_separator=",")).load_labels(
            ("a", "b"), {}
        )
    with pytest.raises(UserError, match="names no labels for classify"):
        make_task("classify").load_labels((), {})
