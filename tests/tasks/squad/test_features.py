"""Features: windows, answer positions, original text, batches."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.tasks.batches import WINDOW_BATCHES, BatchPlan, ExampleChoice, draw_subset, steps_for
from megabert.tasks.squad.data import Answer
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.windows import best_window, locate_answer, token_span, windows
from tests.helpers.batch_rows import rows_of
from tests.helpers.squad_files import FakeTokenizer, qa, write_squad


def features(path: Path, training: bool = True, **more: Any) -> SquadFeatures:
    limits = {key: more.pop(key) for key in list(more) if key in SquadSettings.__annotations__}
    choice = ExampleChoice(training, more.pop("max_examples", None), more.pop("seed", 0))
    return SquadFeatures(read_squad(path), FakeTokenizer(), SquadSettings(**limits), choice, **more)


@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 80))
def test_windows_cover_everything(tokens: int, room: int, stride: int) -> None:
    spans = windows(tokens, room, stride)
    assert spans[0][0] == 0
    assert sum(spans[-1]) == tokens
    assert all(length <= room for _, length in spans)
    covered = {t for start, length in spans for t in range(start, start + length)}
    assert covered == set(range(tokens))
    starts = [start for start, _ in spans]
    assert all(b - a == min(stride, room) for a, b in itertools.pairwise(starts))


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60))
def test_best_window_follows_its_definition(tokens: int, room: int, stride: int) -> None:
    spans = windows(tokens, room, stride)
    chosen = best_window(spans, tokens)
    for token in range(0, tokens, 7):
        best, best_score = -1, -np.inf
        for index, (start, length) in enumerate(spans):
            if start <= token < start + length:
                score = min(token - start, start + length - 1 - token) + 0.01 * length
                if score > best_score:
                    best, best_score = index, score
        assert chosen[token] == best


def test_token_span() -> None:
    offsets = np.asarray([[0, 3], [3, 5], [6, 9]])
    assert token_span(offsets, 0, 3) == (0, 0)
    assert token_span(offsets, 1, 7) == (0, 2)
    assert token_span(offsets, 4, 5) == (1, 1)
    assert token_span(offsets, 5, 6) is None  # only white space
    assert token_span(np.zeros((0, 2)), 0, 1) is None


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Answer("Bob", 8)], (2, 2)),
        ([Answer(" Bob", 7)], (2, 2)),
        ([Answer("Eve", 0)], "answer that is not in its context"),
        ([Answer("Bob", 3)], "answer that is not at its answer_start"),
        ([Answer("Bob", -1)], "answer that is not at its answer_start"),
        ([Answer("Bob", 8000)], "answer that is not at its answer_start"),
        ([Answer("  ", 3)], "empty answer"),
        ([Answer("Bob", 3), Answer("Ann", 0)], (0, 0)),
        ([], "question without an answer"),
    ],
)
def test_locate_answer(answers: list[Answer], expected: Any) -> None:
    context = "Ann met Bob."
    offsets = FakeTokenizer().encode_sentences([context])[0].offsets
    assert locate_answer(context, offsets, tuple(answers)) == expected


def test_a_row_by_hand(tmp_path: Path) -> None:
    path = write_squad(
        tmp_path / "f.json",
        ("Ann met Bobby.", [qa("1", "Whom?", ("Bobby", 8))]),
        ("Long context of words", [qa("2", "Q", ("Long", 0))]),
    )
    made = features(path)  # Who m ? + Ann met Bob by .   and   Q + Lon g con tex t of wor ds
    assert made.lengths.tolist() == [3 + 5 + 3, 1 + 8 + 3]
    batch = rows_of(made, np.asarray([0, 1]))
    assert batch["input_ids"].shape == (2, 12)
    assert batch["input_ids"][0][[0, 4, 10, 11]].tolist() == [2, 3, 3, 0]
    assert batch["input_ids"][1][[0, 2, 11]].tolist() == [2, 3, 3]
    assert batch["token_type_ids"][0].tolist() == [0] * 5 + [1] * 6 + [0]
    assert batch["attention_mask"][0].tolist() == [1] * 11 + [0]
    assert batch["start_positions"].tolist() == [7, 3]
    assert batch["end_positions"].tolist() == [8, 4]
    assert made.text(0, 7, 8) == "Bobby"
    assert made.text(1, 3, 4) == "Long"
    assert all(column.dtype == np.int64 for column in batch.values())


def test_answers_of_long_contexts_come_back_from_some_window(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(300)]
    context = " ".join(words)
    questions = [
        qa(str(n), "which word", (words[n], context.index(words[n] + " ")))
        for n in range(0, 299, 13)
    ]
    path = write_squad(tmp_path / "f.json", (context, questions))
    made = features(path, max_length=64, max_query_length=10, doc_stride=16)
    batch = rows_of(made, np.arange(len(made.lengths)))
    found = set()
    for row in range(len(made.lengths)):
        start, end = int(batch["start_positions"][row]), int(batch["end_positions"][row])
        if start:
            number = made.question_of(row)
            assert made.text(row, start, end) == words[number * 13]
            found.add(number)
        else:
            assert end == 0  # [CLS]: the answer is in another window
    assert found == set(range(len(questions)))
    assert int(made.lengths.max()) <= 64


def test_every_context_token_may_start_an_answer_in_exactly_one_window(tmp_path: Path) -> None:
    context = " ".join(["word"] * 200)
    path = write_squad(tmp_path / "f.json", (context, [qa("1", "q", ("word", 0))]))
    made = features(path, training=False, max_length=70, max_query_length=10, doc_stride=20)
    batch = rows_of(made, np.arange(len(made.lengths)))
    assert len(made.lengths) > 3
    assert batch["answer_starts"].sum() == 400  # two pieces a word
    assert (batch["answer_starts"] <= batch["answer_ends"]).all()
    assert not batch["answer_ends"][:, :3].any()
    assert (batch["answer_ends"].sum(1) == made.lengths - 4).all()


def test_long_questions_are_cut_and_special_ids_used(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "f.json", ("Ann", [qa("1", "why " * 200, ("Ann", 0))]))
    made = features(path, max_query_length=5)
    batch = rows_of(made, np.asarray([0]))
    assert batch["input_ids"].shape == (1, 9)
    assert batch["input_ids"][0][[0, 6, 8]].tolist() == [2, 3, 3]
    assert batch["token_type_ids"][0].tolist() == [0] * 7 + [1] * 2
    assert batch["start_positions"].tolist() == [7]


def test_unusable_questions_are_left_out_of_training_only(tmp_path: Path) -> None:
    path = write_squad(
        tmp_path / "f.json",
        ("Ann met Bob.", [qa("1", "q", ("Eve", 0)), qa("2", "q", ("Ann", 0)), qa("3", "q")]),
        ("", [qa("4", "q", ("x", 0))]),
    )
    training = features(path)
    assert list(training.truths()) == ["2"]
    assert training.sizes()["left_out"] == 3
    assert "answer that is not in its context (first: id 1)" in training.describe()
    scored = features(path, training=False)
    assert list(scored.truths()) == ["1", "2", "4"]
    assert scored.sizes()["left_out"] == 1
    assert rows_of(scored, np.arange(3))["answer_starts"][2].sum() == 0


def test_nothing_usable_and_no_room_are_refused(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "f.json", ("Ann", [qa("1", "q", ("Eve", 0))]))
    with pytest.raises(UserError, match="no question with a usable answer"):
        features(path)
    with pytest.raises(UserError, match="--max-length 60 leaves no room"):
        features(path, max_length=60)


def test_max_examples_is_a_seeded_draw(tmp_path: Path) -> None:
    entries = [qa(str(n), "q", ("Ann", 0)) for n in range(50)]
    path = write_squad(tmp_path / "f.json", ("Ann", entries))
    first = features(path, max_examples=10, seed=1)
    assert len(first.truths()) == 10
    assert list(first.truths()) == list(features(path, max_examples=10, seed=1).truths())
    assert list(first.truths()) != list(features(path, max_examples=10, seed=2).truths())
    assert draw_subset(5, 9, 0).tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 300), st.integers(1, 40), st.floats(0.1, 4), st.integers(0, 5), st.data())
def test_a_plan_shows_every_row_equally_often(
    rows: int, batch: int, epochs: float, seed: int, data: Any
) -> None:
    lengths = np.asarray(
        data.draw(st.lists(st.integers(3, 384), min_size=rows, max_size=rows)), np.int64
    )
    steps = steps_for(rows, batch, epochs)
    plan = BatchPlan(lengths, batch, steps, seed)
    shown = np.concatenate([plan.rows(step) for step in range(steps)])
    assert len(shown) == steps * batch >= rows * epochs - 1e-6
    counts = np.bincount(shown, minlength=rows)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(lengths[plan.rows(0)]) <= 0).all()
    assert np.array_equal(
        plan.rows(steps - 1), BatchPlan(lengths, batch, steps, seed).rows(steps - 1)
    )


def test_a_plan_pads_little_and_changes_with_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(30, 384, 5000)
    plan = BatchPlan(lengths, 32, 300, seed=7)
    padded = sum(32 * int(lengths[plan.rows(step)].max()) for step in range(300))
    real = sum(int(lengths[plan.rows(step)].sum()) for step in range(300))
    assert padded / real < 1.06
    other = BatchPlan(lengths, 32, 300, seed=8)
    assert not np.array_equal(np.sort(plan.rows(0)), np.sort(other.rows(0)))
    first = [int(lengths[plan.rows(step)].max()) for step in range(WINDOW_BATCHES)]
    assert first != sorted(first, reverse=True)
    with pytest.raises(IndexError):
        plan.rows(400)
