"""Ground truths in other forms than SQuAD's: read where they are common, never taken as impossible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems
from megabert.tasks.squad.data import Answer
from megabert.tasks.squad.item_file import SquadItemFormat
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad
from megabert.tasks.squad.task_v2 import Squad2
from megabert.tasks.squad.truths import UNREADABLE, read_truths
from tests.helpers.squad_files import FakeTokenizer, impossible, qa, write_squad

CONTEXT = "Eve saw Tom in Rome. Tom slept."
TOKENIZER: Any = FakeTokenizer()
LIMITS = {"max_query_length": 4, "doc_stride": 8}


def tasks() -> tuple[Squad, Squad2]:
    """Both tasks, with short rows."""
    return Squad(SquadSettings(**LIMITS), 40), Squad2(SquadSettings(**LIMITS), 40)


def asked(answers: Any, **more: Any) -> dict[str, Any]:
    """A question whose entry has these answers."""
    return {"id": "odd", "question": "Who?", "answers": answers, **more}


def told(entry: dict[str, Any]) -> Any:
    """What an entry says."""
    return read_truths(entry, "place", Problems())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([{"text": "Tom", "answer_start": 8}], (Answer("Tom", 8),)),
        ({"text": ["Tom"], "answer_start": [8]}, (Answer("Tom", 8),)),
        ({"text": ["Tom", "Eve"], "answer_start": [8, 0]}, (Answer("Tom", 8), Answer("Eve", 0))),
        ({"text": ["Tom"], "answer_starts": [8]}, (Answer("Tom", 8),)),
        ({"text": "Tom", "answer_start": 8}, (Answer("Tom", 8),)),
        ([{"text": "Tom", "answer_start": "8"}], (Answer("Tom", 8),)),
        ([{"text": "Tom", "answer_start": 8.0}], (Answer("Tom", 8),)),
        ([{"text": "Tom", "start": 8}], (Answer("Tom", 8),)),
        ([{"answer": "Tom", "start": 8}], (Answer("Tom", 8),)),
        ([{"answer_text": "Tom", "answer_start": 8}], (Answer("Tom", 8),)),
        ([{"text": "Tom"}], (Answer("Tom", None),)),
        ([{"text": "Tom", "answer_start": None}], (Answer("Tom", None),)),
        ([{"text": "Tom", "answer_start": "eight"}], (Answer("Tom", None),)),
        ([{"text": "Tom", "answer_start": True}], (Answer("Tom", None),)),
        ([{"text": "Tom", "answer_start": 8.5}], (Answer("Tom", None),)),
        ([{"text": "Tom", "answer_start": float("nan")}], (Answer("Tom", None),)),
        ({"text": ["Tom", "Eve"], "answer_start": [8]}, (Answer("Tom", None), Answer("Eve", None))),
        ({"text": ["Tom"]}, (Answer("Tom", None),)),
        (["Tom", "Eve"], (Answer("Tom", None), Answer("Eve", None))),
        ("Tom", (Answer("Tom", None),)),
    ],
)
def test_common_forms_are_read(answers: Any, expected: tuple[Answer, ...]) -> None:
    for entry in (asked(answers), {"id": "1", "question": "q", "answer": answers}):
        for mark in ({}, {"is_impossible": False}):
            found = told({**entry, **mark})
            assert (found.answers, found.impossible, found.fault) == (expected, False, "")
        assert told({**entry, "is_impossible": True}).fault == "impossible question with answers"


@pytest.mark.parametrize(
    "answers",
    [
        [7], [None], [[]], [{}], [{"answer_start": 8}], [{"text": 5, "answer_start": 8}],
        [{"text": "", "answer_start": 0}], [" "], "", 7, True, {"x": 1}, {"text": 5},
        {"text": [None], "answer_start": [8]}, {"text": {"0": "Tom"}, "answer_start": {"0": 8}},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_fault_and_never_impossible(answers: Any) -> None:
    for mark in ({}, {"is_impossible": False}):
        found = told(asked(answers, **mark))
        assert (found.answers, found.impossible, found.fault) == ((), False, UNREADABLE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["text", "answer_start", "start", "answer"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_no_value_makes_an_unmarked_question_impossible(answers: Any) -> None:
    for mark in ({}, {"is_impossible": False}):
        found = told(asked(answers, **mark))
        assert not found.impossible
        assert all(answer.text.strip() for answer in found.answers)
        assert found.answers or found.fault or found.empty or answers is None


def mixed(folder: Path, answers: Any) -> Path:
    """A v2.0 file: an answerable question, an impossible one, and one with these answers, unmarked."""
    marked = {**qa("good", "Who?", ("Eve", 0)), "is_impossible": False}
    questions = [marked, impossible("none", "Why?"), asked(answers)]
    return write_squad(folder / "f.json", (CONTEXT, questions))


def test_lists_are_read_in_a_file_of_version_2(tmp_path: Path) -> None:
    path = mixed(tmp_path, {"text": ["Tom"], "answer_start": [8]})
    one, two = tasks()
    features: Any = two.train_features(path, TOKENIZER, None, 0)
    assert features.sizes()["questions"] == 3
    assert features.sizes()["impossible"] == 1
    assert features.sizes()["left_out"] == 0
    rows = [row for row in range(len(features.lengths)) if features.question_of(row) == 2]
    labels = features.batch(np.array(rows), 40).labels
    assert (
        features.text(rows[0], *(int(labels[f"{s}_positions"][0]) for s in ("start", "end")))
        == "Tom"
    )
    assert one.train_features(path, TOKENIZER, None, 0).sizes()["questions"] == 2


def test_an_unreadable_answer_is_left_out_with_its_first_place(tmp_path: Path) -> None:
    path = mixed(tmp_path, {"value": "Tom"})
    one, two = tasks()
    for task, used in ((one, 1), (two, 2)):
        for features in (
            task.train_features(path, TOKENIZER, None, 0),
            task.eval_features(path, TOKENIZER),
        ):
            sizes = features.sizes()
            assert sizes["questions"] == used
            assert sizes["left_out_by_kind"][UNREADABLE] == {"count": 1, "first": "id odd"}
            assert f"1 x {UNREADABLE} (first: id odd)" in features.describe()
    # It is answered all the same.
    assert [item["id"] for _, item in SquadItemFormat().read(path)] == ["good", "none", "odd"]


def test_answers_without_a_start_are_scored_and_not_trained_on(tmp_path: Path) -> None:
    path = mixed(tmp_path, ["Tom", "Tom in Rome"])
    for task in tasks():
        scored: Any = task.eval_features(path, TOKENIZER)
        assert scored.truths()["odd"] == ("Tom", "Tom in Rome")
        trained: Any = task.train_features(path, TOKENIZER, None, 0)
        assert "odd" not in trained.truths()
        assert "1 x answer without a usable answer_start (first: id odd)" in trained.describe()


def test_a_question_of_version_1_without_an_answer_is_not_impossible(tmp_path: Path) -> None:
    path = write_squad(
        tmp_path / "v1.json", (CONTEXT, [qa("a", "Who?", ("Eve", 0)), qa("b", "Why?")])
    )
    features = tasks()[1].train_features(path, TOKENIZER, None, 0)
    assert features.sizes()["impossible"] == 0
    assert features.sizes()["left_out_by_kind"] == {
        "question without an answer that is not marked impossible": {"count": 1, "first": "id b"}
    }
    hinted = {**qa("b", "Why?"), "plausible_answers": [{"text": "Tom", "answer_start": 8}]}
    path = write_squad(tmp_path / "v2.json", (CONTEXT, [qa("a", "Who?", ("Eve", 0)), hinted]))
    assert tasks()[1].train_features(path, TOKENIZER, None, 0).sizes()["impossible"] == 0


def record(identity: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    """A record as ``datasets`` writes it."""
    texts, starts = ([pair[side] for pair in answers] for side in (0, 1))
    listed = {"text": texts, "answer_start": starts}
    return {
        "id": identity,
        "title": "t",
        "context": CONTEXT,
        "question": "Who?",
        "answers": listed,
        **more,
    }


@pytest.mark.parametrize("form", ["lines", "list", "data"])
def test_flat_records_of_datasets(tmp_path: Path, form: str) -> None:
    records = [record("a", ("Eve", 0)), record("b", ("Tom", 8), ("Tom", 21)), record("c")]
    path = tmp_path / "train.json"
    if form == "lines":
        path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    else:
        path.write_text(json.dumps(records if form == "list" else {"data": records}))
    data = read_squad(path)
    assert data.contexts == [CONTEXT]
    assert [q.id for q in data.questions] == ["a", "b", "c"]
    assert [q.marked_impossible for q in data.questions] == [False, False, True]
    assert not data.problems.counts
    one, two = tasks()
    assert two.train_features(path, TOKENIZER, None, 0).sizes()["impossible"] == 1
    assert one.train_features(path, TOKENIZER, None, 0).sizes()["questions"] == 2


def test_empty_lists_do_not_mark_where_the_file_has_marks_or_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps([record("a", ("Eve", 0), is_impossible=False), record("b")]))
    assert not any(q.marked_impossible for q in read_squad(path).questions)
    path.write_text(json.dumps([record("a"), record("b")]))
    assert not read_squad(path).labelled
    path.write_text(json.dumps(record("only", ("Eve", 0))))
    assert [q.id for q in read_squad(path).questions] == ["only"]


def test_keys_twice_and_broken_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"data": [{"paragraphs": [], "paragraphs": []}]}')
    with pytest.raises(UserError, match=r"f.json: the key 'paragraphs' occurs twice"):
        read_squad(path)
    path.write_text(json.dumps(record("a", ("Eve", 0))) + "\n{\n")
    with pytest.raises(UserError, match=r"f.json line 2: not JSON"):
        read_squad(path)
