"""EM and F1 of SQuAD v1.1 against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.tasks.squad.metric import exact_match, normalize_answer, squad_score, word_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("a an the", ""),
        ("An apple, a day", "apple day"),
        ("the-end", "theend"),  # punctuation goes first, so no article is left to take away
        ("U.S.A.", "usa"),
        ("Théâtre", "théâtre"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation counts
        ("$1,000.50", "100050"),
        ("A", ""),
    ],
)
def test_normalize_answer(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def test_f1_by_hand() -> None:
    assert word_f1("the red car", "red car") == 1.0
    assert word_f1("red car", "red bus") == pytest.approx(0.5)
    # 2 common words (b once of two, c): precision 2/3, recall 2/4
    assert word_f1("b c x", "b b c d") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert word_f1("x", "y") == 0.0
    assert word_f1("", "") == 0.0
    assert exact_match("", "the") == 1.0


def test_score_takes_the_best_truth_and_counts_every_question() -> None:
    truths = {"1": ("Berlin", "the city of Berlin"), "2": ("1999",), "3": ("never asked",)}
    predictions = {"1": "city of Berlin", "2": "in 1999", "99": "ignored"}
    score = squad_score(truths, predictions)
    assert (score.total, score.answered) == (3, 2)
    assert score.exact_match == pytest.approx(100 / 3)
    assert score.f1 == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_no_question_scores_zero() -> None:
    assert squad_score({}, {}).f1 == 0.0


words = st.text(alphabet="ab the,.", max_size=20)


@given(words, words)
def test_f1_is_symmetric_bounded_and_one_where_exact(left: str, right: str) -> None:
    value = word_f1(left, right)
    assert value == pytest.approx(word_f1(right, left))
    assert 0.0 <= value <= 1.0
    if normalize_answer(left) and exact_match(left, right):
        assert value == 1.0
