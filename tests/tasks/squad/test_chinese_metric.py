"""CMRC 2018: its metric against an independent one, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.squad.chinese_metric import (
    CHINESE,
    chinese_f1,
    longest_common_run,
    metric_for,
    units,
    without_punctuation,
)
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.metric import ENGLISH
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad
from tests.helpers.batch_rows import rows_of
from tests.helpers.squad_files import FakeTokenizer, qa, write_squad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("《战国无双3》", ["战", "国", "无", "双", "3"]),
        ("1990年3.5万", ["1990", "年", "3.5", "万"]),
        ("1,000人，是", ["1,000", "人", "是"]),
        ("ω-force", ["ωforce"]),  # the hyphen goes first
        ("The iPhone 6s（4G）", ["the", "iphone", "6s4g"]),
        ("it's U.S.", ["it", "'s", "u.s", "."]),
        ("don't", ["do", "n't"]),
        ("50%是", ["50", "%", "是"]),
        ("5–6年", ["5", "–", "6", "年"]),
        ("a,b c, d", ["a", ",", "b", "c", ",", "d"]),
        ("  ", []),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert units(text) == expected


def test_scores_by_hand() -> None:
    assert without_punctuation(" 《光荣》和ω-force。 ") == "光荣和ωforce"
    assert CHINESE.exact_match("《光荣》，", "光荣") == 1.0
    assert CHINESE.exact_match("光荣 ", "光 荣") == 0.0, "white space inside counts"
    # 和光荣 of 5 and of 4 units
    assert chinese_f1("光荣和光荣", "在和光荣") == pytest.approx(
        2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4)
    )
    assert chinese_f1("光荣", "村上") == 0.0
    assert chinese_f1("", "光") == chinese_f1("，", "。") == 0.0
    assert ENGLISH.f1("光荣和光荣", "在和光荣") == 0.0, "SQuAD's words are all or nothing"


pieces = st.lists(st.sampled_from("甲乙丙ab"), max_size=9)


@settings(deadline=None, max_examples=80)
@given(pieces, pieces)
def test_longest_common_run_is_that_of_all_substrings(left: list[str], right: list[str]) -> None:
    runs = {tuple(right[a:b]) for a in range(len(right)) for b in range(a, len(right) + 1)}
    best = max(
        (
            b - a
            for a in range(len(left))
            for b in range(a, len(left) + 1)
            if tuple(left[a:b]) in runs
        ),
        default=0,
    )
    assert longest_common_run(left, right) == best


def test_the_language_is_that_of_the_truths() -> None:
    assert metric_for("auto", ["the Song dynasty (宋朝)", "1990"]) is ENGLISH
    assert metric_for("auto", ["光荣和ω-force", "3.5", "村上"]) is CHINESE
    assert metric_for("auto", ["1990", "3"]) is ENGLISH
    assert metric_for("zh", ["Ann"]) is CHINESE
    assert metric_for("en", ["光荣"]) is ENGLISH


def test_chinese_scores_are_named(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "f.json", ("光荣 和 村上", [qa("a", "谁", ("光荣", 0))]))
    tokenizer: Any = FakeTokenizer()
    task = Squad(SquadSettings(max_query_length=4), max_length=20)
    features = task.eval_features(path, tokenizer)
    found = {
        "start_logit": np.zeros((1, 1), np.float32),
        "end_logit": np.zeros((1, 1), np.float32),
        "start": np.full((1, 1), 3),
        "end": np.full((1, 1), 4),  # 光荣 和
    }
    scores = task.score(features, found, tmp_path)
    assert scores == pytest.approx(
        {"exact_match": 0, "f1": 80, "average": 40, "squad_exact_match": 0, "squad_f1": 200 / 3}
    )


def test_the_published_files(shared_data: Path) -> None:
    folder = shared_data / "cmrc2018"
    words = load_tokenizer(shared_data / "vocab" / "bert-base-chinese-vocab.txt")
    dev = read_squad(folder / "cmrc2018_dev.json.xz")
    assert (len(dev.contexts), len(dev.questions)) == (848, 3219)
    task = Squad(SquadSettings(max_answer_length=50))
    assert task.eval_features(folder / "cmrc2018_trial.json.xz", words).sizes()["questions"] == 1002
    features = SquadFeatures(dev, words, task.settings, ExampleChoice(True))
    assert features.problems.counts == {"answer that is not at its answer_start": 3}
    assert "32 answers are longer than --max-answer-length 50" in features.describe()
    batch = rows_of(features, np.arange(200))
    inside = np.flatnonzero(batch["start_positions"])
    for row in inside:
        text = features.text(
            int(row), int(batch["start_positions"][row]), int(batch["end_positions"][row])
        )
        answers = features.question(features.question_of(int(row))).answers
        assert CHINESE.exact_match(text, answers[0].text) == 1.0
    assert len(inside) > 50
