"""Hard cases of question answering: odd text, window edges, repeated answers, rows of run_squad."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign.tfrecord import frame
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.metric import exact_match
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad
from megabert.tasks.squad.task_v2 import Squad2
from tests.helpers.batch_rows import rows_of
from tests.helpers.foreign_shards import example
from tests.helpers.squad_files import FakeTokenizer, qa, write_squad

WORDS = [
    "the",
    "caf",
    "##e",
    "##s",
    "paris",
    "in",
    "##0",
    "##1",
    "##9",
    "99",
    "##€",
    "##国",
    "ann",
    "lee",
]
SIGNS = "€中国🎉-'().,?012"


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Lower-casing WordPiece, which strips accents as BERT's uncased vocabularies do."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text(
        "\n".join([*special, *WORDS, *SIGNS, *"abcdefghijklmnopqrstuvwxyz"]) + "\n",
        encoding="utf-8",
    )
    return load_tokenizer(path, lower_case=True)


def train_rows(
    tokenizer: Any, folder: Path, context: str, answer: str, start: int, **more: Any
) -> tuple[SquadFeatures, dict[str, np.ndarray]]:
    path = write_squad(folder / "f.json", (context, [qa("1", "who ?", (answer, start))]))
    limits = {"max_query_length": 4, **more}
    longest = limits.pop("max_length", 40)
    features = SquadFeatures(
        read_squad(path),
        tokenizer,
        SquadSettings(**limits),
        ExampleChoice(True),
        max_length=longest,
    )
    return features, rows_of(features, np.arange(len(features.lengths)))


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("In Café Paris", "Café"),
        (unicodedata.normalize("NFD", "In Café Paris"), unicodedata.normalize("NFD", "Café")),
        ("the 99\u00a0€ in Paris", "99\u00a0€"),
        ("the\u200b caf\u200be in\u200b Paris", "caf\u200be"),
        ("in 中国 the", "中国"),
        ("in \U0001f389 Paris 中", "\U0001f389 Paris"),
        ("Ann\u2003Lee in", "Ann\u2003Lee"),
        ("\u202bAnn\u202c Lee", "Ann"),
        ("in e\u0301\u0302\u0303 Paris", "e\u0301\u0302\u0303"),
        ("(Ann's) caf, the", "Ann's"),
        ("İn Paris ß Ann", "Ann"),
        ("Ann", "Ann"),
        ("Lee. Ann.", "Ann."),
        ("the 2019-2010", "2019"),
    ],
)
def test_answers_in_odd_text_come_back_as_they_are(
    wordpiece: Tokenizer, tmp_path: Path, context: str, answer: str
) -> None:
    features, batch = train_rows(wordpiece, tmp_path, context, answer, context.index(answer))
    start, end = int(batch["start_positions"][0]), int(batch["end_positions"][0])
    assert start > 0
    assert features.text(0, start, end) == answer
    first, last = features.characters(0, start, end)
    assert context[first:last] == answer


odd_text = st.text(
    alphabet=st.sampled_from(
        "ab \u00e9e\u0301\u200b\u00a0\u4e2d\u56fd\U0001f389.'\u0130\ufeff\u00ad\t"
    ),
    min_size=1,
    max_size=24,
)


@settings(deadline=None, max_examples=60)
@given(odd_text, st.data())
def test_any_answer_in_any_text_is_covered_by_its_tokens(
    wordpiece: Tokenizer, tmp_path_factory: Any, context: str, data: Any
) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    answer = context[start : data.draw(st.integers(start + 1, len(context)))]
    try:
        features, batch = train_rows(
            wordpiece, tmp_path_factory.mktemp("f"), context, answer, start
        )
    except UserError as error:
        told = str(error)
        assert "empty answer" in told or "answer without a token" in told
        return
    first, last = features.characters(
        0, int(batch["start_positions"][0]), int(batch["end_positions"][0])
    )
    visible = [place for place in range(start, start + len(answer)) if context[place].isalnum()]
    assert all(first <= place < last for place in visible)


@pytest.mark.parametrize("place", range(12))
def test_an_answer_at_every_place_is_found_in_every_window_that_holds_it(
    tmp_path: Path, place: int
) -> None:
    names = [f"n{chr(97 + number)}" for number in range(12)]
    context = " ".join(names)
    features, batch = train_rows(
        FakeTokenizer(), tmp_path, context, names[place], context.index(names[place]),
        max_length=13, doc_stride=3,
    )  # fmt: skip
    # who ? and three special tokens leave 8; windows start at 0, 3, 6
    room, stride = 8, 3
    holding = [place in range(start, min(start + room, 12)) for start in (0, stride, 2 * stride)]
    assert (batch["start_positions"] > 0).tolist() == holding[: len(features.lengths)]
    assert any(holding)
    for row in np.flatnonzero(batch["start_positions"]):
        where = int(batch["start_positions"][row]), int(batch["end_positions"][row])
        assert features.text(int(row), *where) == names[place]


def test_an_answer_over_a_window_edge_is_cls_where_it_is_cut(tmp_path: Path) -> None:
    context = "na nb nc nd ne nf ng nh ni nj"
    features, batch = train_rows(
        FakeTokenizer(),
        tmp_path,
        context,
        "nh ni",
        context.index("nh"),
        max_length=13,
        doc_stride=8,
    )
    assert len(features.lengths) == 2
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [0, 0]


def test_a_repeated_answer_is_the_one_at_its_place(tmp_path: Path) -> None:
    context = "Ann met Bob. Ann met Eve. Ann left."
    for place in (0, 13, 26):
        features, batch = train_rows(FakeTokenizer(), tmp_path, context, "Ann", place)
        where = features.characters(
            0, int(batch["start_positions"][0]), int(batch["end_positions"][0])
        )
        assert where == (place, place + 3)


def test_no_question_and_a_long_one(tmp_path: Path) -> None:
    path = write_squad(
        tmp_path / "f.json",
        ("Ann sat", [qa("a", "", ("Ann", 0)), qa("b", "why " * 99, ("Ann", 0))]),
    )
    features = Squad(SquadSettings(max_query_length=6), 20).train_features(
        path, FakeTokenizer(), None, 0
    )  # type: ignore[arg-type]
    assert features.lengths.tolist() == [0 + 2 + 3, 6 + 2 + 3]
    assert rows_of(features, np.array([0, 1]))["start_positions"].tolist() == [2, 8]


def test_every_published_answer_is_found_again(shared_data: Path) -> None:
    """The tokens of each answer give its text back, up to what a token cannot divide ("1990s")."""
    words = load_tokenizer(shared_data / "vocab" / "bert-base-uncased-vocab.txt")
    data = read_squad(shared_data / "squad" / "dev-v1.1.json.xz")
    features = SquadFeatures(data, words, SquadSettings(), ExampleChoice(True, 1500, seed=3))
    assert not features.problems.counts
    batch = rows_of(features, np.arange(len(features.lengths)))
    right = {}
    for row in np.flatnonzero(batch["start_positions"]):
        where = int(batch["start_positions"][row]), int(batch["end_positions"][row])
        question = features.question(features.question_of(int(row)))
        right[question.id] = exact_match(features.text(int(row), *where), question.answers[0].text)
    assert len(right) == 1500
    assert sum(right.values()) / len(right) > 0.995


def recorded(path: Path, *rows: dict[str, Any]) -> Path:
    """A TFRecord file of run_squad, rows of ten tokens."""
    path.write_bytes(b"".join(frame(example(row)) for row in rows))
    return path


def row_of(
    number: int, start: int, end: int, impossible: int = 0, **changes: Any
) -> dict[str, Any]:
    ids = [2, 7, 3, 8, 9, 10 + number, 3]
    fill = [0] * (10 - len(ids))
    return {
        "unique_ids": [1_000_000_000 + number],
        "input_ids": ids + fill,
        "input_mask": [1] * len(ids) + fill,
        "segment_ids": [0] * 3 + [1] * 4 + fill,
        "start_positions": [start],
        "end_positions": [end],
        "is_impossible": [impossible],
    } | changes


@pytest.mark.parametrize("kind", [Squad, Squad2])
def test_rows_of_run_squad_are_taken_as_they_are(tmp_path: Path, kind: type[Squad]) -> None:
    path = recorded(
        tmp_path / "train.tf_record", row_of(0, 3, 4), row_of(1, 0, 0, 1), row_of(2, 5, 5)
    )
    task = kind(SquadSettings(), 10)
    tokenizer: Any = FakeTokenizer()
    features = task.train_features(path, tokenizer, None, 0)
    batch = rows_of(features, np.array([2, 0]))
    assert batch["input_ids"].tolist() == [[2, 7, 3, 8, 9, 12, 3], [2, 7, 3, 8, 9, 10, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 2
    assert batch["attention_mask"].all()
    assert batch["start_positions"].tolist() == [5, 3]
    assert batch["end_positions"].tolist() == [5, 4]
    assert features.sizes() == {"rows": 3, "tokens": 21, "without_answer": 1, "impossible": 1}
    assert (
        "3 rows of run_squad (1 without their answer, 1 of them impossible)" in features.describe()
    )
    assert len(task.train_features(path, tokenizer, 2, 0).lengths) == 2
    with pytest.raises(UserError, match="TFRecord features do not hold the text"):
        task.eval_features(path, tokenizer)


def test_wrong_rows_of_run_squad_are_named(tmp_path: Path) -> None:
    task, tokenizer = Squad(SquadSettings(), 10), FakeTokenizer()
    for changes, says in (
        ({"start_positions": [8]}, "outside"),
        ({"input_ids": [2] + [500] * 9}, "500"),
    ):
        path = recorded(tmp_path / "bad.tf_record", row_of(0, 3, 4), row_of(1, 3, 9, **changes))
        with pytest.raises(UserError, match=says) as caught:
            task.train_features(path, tokenizer, None, 0)  # type: ignore[arg-type]
        assert "bad.tf_record" in str(caught.value)
        assert "record 1" in str(caught.value)
    (tmp_path / "no.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        task.train_features(tmp_path / "no.json", tokenizer, None, 0)  # type: ignore[arg-type]
