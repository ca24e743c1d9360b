"""SQuAD v2.0: questions without an answer, the threshold, scores, files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config import flags
from megabert.data.tokenizers.load import load_tokenizer
from megabert.finetune.settings import finetune_settings
from megabert.tasks.squad.metric import exact_match, normalize_answer, word_f1
from megabert.tasks.squad.metric_v2 import Prediction, best_threshold, squad2_score
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad
from megabert.tasks.squad.task_v2 import SURE, Squad2
from tests.helpers.batch_rows import rows_of
from tests.helpers.squad_files import FakeTokenizer, impossible, qa, write_squad

TOKENIZER: Any = FakeTokenizer()
LIMITS = {"max_query_length": 4, "doc_stride": 10}


def squad2(**changes: Any) -> Squad2:
    return Squad2(SquadSettings(**{**LIMITS, **changes}), max_length=24)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two questions with an answer, two without; the first context has several windows."""
    context = "Ann met Bob and then Eve " * 6
    return write_squad(
        tmp_path / "v2.json",
        (context, [qa("long", "Who?", ("Eve", 21)), impossible("no", "Why?")]),
        ("Ann sat", [qa("short", "Who?", ("Ann", 0)), impossible("none", "When?")]),
    )


class _Fixed(torch.nn.Module):
    """Logits that go by the tokens; those of [CLS] change by row, and are high in short rows."""

    def forward(self, batch: PackedBatch[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        start = torch.full((batch.num_sequences, batch.max_length), -math.inf)
        for row, ids in enumerate(batch.input_ids.split(batch.lengths.tolist())):
            start[row, : len(ids)] = ids.float() / 10
            start[row, 0] = 3.0 + row % 2 if len(ids) > 12 else 30.0
        return start, start / 2


def outputs(task: Squad, features: Any) -> dict[str, np.ndarray]:
    """What the task predicts of all rows, with the logits above."""
    batch = features.batch(np.arange(len(features.lengths)), task.max_length)
    found = task.predict(_Fixed(), batch.map(torch.from_numpy))
    return {name: value.numpy() for name, value in found.items()}


def test_impossible_questions_point_at_cls_in_every_window(path: Path) -> None:
    features = squad2().train_features(path, TOKENIZER, None, 0)
    assert features.sizes()["questions"] == 4
    assert features.sizes()["impossible"] == 2
    batch = rows_of(features, np.arange(len(features.lengths)))
    per_question: dict[int, list[int]] = {}
    for row, start in enumerate(batch["start_positions"]):
        per_question.setdefault(features.question_of(row), []).append(int(start))  # type: ignore[union-attr]
    found = [[start > 0 for start in starts] for starts in per_question.values()]
    assert set(found[0]) == {True, False}
    assert found[1:] == [[False] * len(found[0]), [True], [False]]
    assert "4 questions (2 impossible)" in features.describe()


def test_each_task_says_what_it_does_with_the_other_ones_file(path: Path, tmp_path: Path) -> None:
    one = Squad(SquadSettings(**LIMITS), max_length=24)
    for features in (
        one.train_features(path, TOKENIZER, None, 0),
        one.eval_features(path, TOKENIZER),
    ):
        assert features.sizes()["questions"] == features.sizes()["left_out"] == 2
        assert "2 x question marked impossible, which is for --task squad2" in features.describe()
    old = write_squad(tmp_path / "v1.json", ("Ann sat", [qa("a", "Who?", ("Ann", 0))]))
    assert (
        "1 questions (none impossible)"
        in squad2().train_features(old, TOKENIZER, None, 0).describe()
    )
    scored = squad2().eval_features(old, TOKENIZER)
    scores = squad2().score(scored, outputs(squad2(), scored), tmp_path)
    assert "NoAns_f1" not in scores
    assert scores["HasAns_total"] == scores["total"] == 1


def test_marks_that_contradict_the_answers_are_left_out(tmp_path: Path) -> None:
    wrong = {**qa("b", "q", ("Ann", 0)), "is_impossible": True}
    odd = {**qa("c", "q", ("Ann", 0)), "is_impossible": "no"}
    plain = {**qa("d", "q"), "is_impossible": False}
    path = write_squad(tmp_path / "f.json", ("Ann", [qa("a", "q", ("Ann", 0)), wrong, odd, plain]))
    for features in (
        squad2().eval_features(path, TOKENIZER),
        squad2().train_features(path, TOKENIZER, None, 0),
    ):
        assert set(features.sizes()["left_out_by_kind"]) == {
            "impossible question with answers",
            "'is_impossible' that is neither true nor false",
            "question without an answer that is not marked impossible",
        }
        assert features.sizes()["impossible"] == 0
        assert features.sizes()["questions"] == 1


def test_null_score_is_the_least_of_the_windows_and_decides(path: Path, tmp_path: Path) -> None:
    task = squad2(n_best=3)
    features = task.eval_features(path, TOKENIZER)
    found = outputs(task, features)
    task.score(features, found, tmp_path)
    odds = json.loads((tmp_path / "null_odds.json").read_text(encoding="utf-8"))
    ranked = json.loads((tmp_path / "nbest_predictions.json").read_text(encoding="utf-8"))
    predictions = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    rows = [features.question_of(row) for row in range(len(features.lengths))]
    for number, name in enumerate(("long", "no", "short", "none")):
        mine = [row for row, question in enumerate(rows) if question == number]
        null = min(float(found["null_start"][row] + found["null_end"][row]) for row in mine)
        best = max(float(found["start_logit"][row, 0] + found["end_logit"][row, 0]) for row in mine)
        assert odds[name] == pytest.approx(null - best)
        assert predictions[name] == (
            "" if null - best > 0 else next(e["text"] for e in ranked[name] if e["text"])
        )
        texts = [entry["text"] for entry in ranked[name]]
        assert texts.count("") == 1
        assert len(texts) in (3, 4)
        scores = [entry["start_logit"] + entry["end_logit"] for entry in ranked[name]]
        assert scores[:3] == sorted(scores[:3], reverse=True)
        assert sum(entry["probability"] for entry in ranked[name]) == pytest.approx(1)
    assert len({predictions[name] == "" for name in predictions}) == 2, "both kinds are tested"


def test_a_threshold_is_given_found_saved_and_loaded(path: Path, tmp_path: Path) -> None:
    usual, given_one, auto = squad2(), squad2(null_threshold=1000), squad2(null_threshold="auto")
    features = usual.eval_features(path, TOKENIZER)
    found = outputs(usual, features)
    scores = [task.score(features, found, tmp_path) for task in (usual, given_one, auto)]
    assert [s["null_threshold"] for s in scores] == [0.0, 1000.0, scores[0]["best_f1_thresh"]]
    assert scores[1]["NoAns_f1"] == 0
    assert scores[2]["f1"] == scores[0]["best_f1"] >= max(scores[0]["f1"], scores[1]["f1"])
    assert auto.threshold != 0.0
    other = {**found, "null_start": found["null_start"] + 50}
    auto.freeze_thresholds()
    tested = auto.score(features, other, tmp_path)
    assert tested["null_threshold"] == scores[2]["null_threshold"] != tested["best_f1_thresh"]
    record = json.loads(json.dumps(auto.record()))
    assert record["null_threshold"] == scores[2]["null_threshold"]
    assert record["doc_stride"] == 10
    again = squad2()
    again.load_labels((), record)
    assert again.score(features, found, tmp_path)["f1"] == scores[2]["f1"]
    again.train_features(path, TOKENIZER, None, 0)
    assert again.record()["null_threshold"] == 0.0, "training makes another model"
    with pytest.raises(UserError, match="null_threshold is not a number"):
        again.load_labels((), {"null_threshold": "high"})


def test_the_flag_takes_a_number_or_auto() -> None:
    def given(text: str) -> Any:
        tree = finetune_settings()
        given = flags.parse(tree, ["--null-threshold", text], "x", "x")
        return flags.build(tree, given.flags).squad.null_threshold

    assert (given("-1.5"), given("auto")) == (-1.5, "auto")
    for wrong in ("nan", "high"):
        with pytest.raises(UserError, match="--null-threshold"):
            given(wrong)


texts = st.sampled_from(["", "the", "Ann", "Ann Lee", "a Bob", "Bob Ann"])
cases = st.lists(
    st.tuples(st.lists(texts, max_size=3), texts, st.integers(-3, 3).map(float)),
    min_size=1,
    max_size=8,
)


def plain_value(golds: list[str], prediction: str) -> tuple[float, float]:
    """Exact match and F1 of one answer, written out from the definition."""
    kept = [gold for gold in golds if normalize_answer(gold)]
    if not kept:
        right = float(normalize_answer(prediction) == "")
        return right, right
    return (
        max(exact_match(prediction, gold) for gold in kept),
        max(word_f1(prediction, gold) for gold in kept),
    )


@settings(deadline=None, max_examples=60)
@given(cases, st.integers(-4, 4).map(float))
def test_scores_and_best_thresholds_are_those_of_the_definition(
    questions: list[tuple[list[str], str, float]], threshold: float
) -> None:
    truths = {str(n): golds for n, (golds, _, _) in enumerate(questions)}
    found = {str(n): Prediction(text, odds) for n, (_, text, odds) in enumerate(questions)}
    scores = squad2_score(truths, found, threshold)

    def at(limit: float) -> tuple[float, float]:
        values = [
            plain_value(golds, "" if odds > limit else text) for golds, text, odds in questions
        ]
        return tuple(100 * sum(side) / len(values) for side in zip(*values))  # type: ignore[return-value]

    assert (scores["exact_match"], scores["f1"]) == pytest.approx(at(threshold))
    limits = [-9.0, *(odds for _, _, odds in questions)]
    for place, name in enumerate(("best_exact", "best_f1")):
        assert scores[name] == pytest.approx(max(at(limit)[place] for limit in limits))
        assert at(scores[f"{name}_thresh"])[place] == pytest.approx(scores[name])
    parts = [
        scores.get(f"{part}_f1", 0) * scores.get(f"{part}_total", 0) for part in ("HasAns", "NoAns")
    ]
    assert sum(parts) == pytest.approx(scores["f1"] * scores["total"])


def test_best_threshold_of_equal_odds_takes_all_or_none_of_them() -> None:
    odds = np.array([1.0, 1.0, 2.0])
    assert best_threshold(odds, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])) == (
        np.nextafter(1.0, -np.inf),
        2.0,
    )
    assert best_threshold(odds, np.ones(3), np.zeros(3)) == (2.0, 3.0)


def test_a_context_without_a_token_gets_no_answer(tmp_path: Path) -> None:
    path = write_squad(
        tmp_path / "f.json", (" ", [impossible("a", "q")]), ("", [qa("b", "q", ("x", 0))])
    )
    task = squad2()
    features = task.eval_features(path, TOKENIZER)
    scores = task.score(features, outputs(task, features), tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8")) == {
        "a": "",
        "b": "",
    }
    assert json.loads((tmp_path / "null_odds.json").read_text(encoding="utf-8"))["a"] == SURE
    assert (scores["NoAns_f1"], scores["HasAns_f1"]) == (100.0, 0.0)


def test_a_file_without_truths_gets_predictions_and_no_scores(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for paragraph in content["data"][0]["paragraphs"]:
        for entry in paragraph["qas"]:
            entry.pop("answers")
            entry.pop("is_impossible", None)
    test = tmp_path / "test.json"
    test.write_text(json.dumps(content), encoding="utf-8")
    for task in (squad2(), Squad(SquadSettings(**LIMITS), max_length=24)):
        features = task.eval_features(test, TOKENIZER)
        assert task.score(features, outputs(task, features), tmp_path) == {}
        written = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
        assert list(written) == ["long", "no", "short", "none"]
        assert "without ground truths" in features.describe()
        with pytest.raises(UserError, match="no question with a usable answer"):
            task.train_features(test, TOKENIZER, None, 0)


def test_items_are_answered_with_places_or_nothing() -> None:
    context = "  Ann met Bob and then Eve "
    items = [{"question": "Who?", "context": context}, {"question": "Why?", "context": "  "}]
    usual, never = squad2(null_threshold=1000), squad2(null_threshold=-1000)
    features = usual.item_features(items, TOKENIZER)
    found = outputs(usual, features)
    first, second = usual.answers(features, found)
    assert context[first["start"] : first["end"]] == first["answer"] != ""
    assert first["null_odds"] < 1000
    shares = [entry["score"] for entry in first["n_best"]]
    assert len(shares) <= 21
    assert sum(shares) == pytest.approx(1.0)
    assert (second["answer"], second["start"], second["end"]) == ("", None, None)
    nothing = never.answers(features, found)[0]
    assert (nothing["answer"], nothing["start"]) == ("", None)
    assert nothing["score"] == next(e["score"] for e in nothing["n_best"] if not e["answer"])
    plain = Squad(SquadSettings(**LIMITS), max_length=24).answers(features, found)[0]
    assert plain["answer"] == first["answer"]
    assert "null_odds" not in plain
    for wrong, says in (
        ({"question": "x"}, "item 2: 'context' is missing or not a text"),
        ({"question": 1}, "item 2: 'question' is missing or not a text"),
    ):
        with pytest.raises(UserError, match=says):
            usual.item_features([items[0], wrong], TOKENIZER)


def test_the_published_part(shared_data: Path) -> None:
    words = load_tokenizer(shared_data / "vocab" / "bert-base-uncased-vocab.txt")
    file = shared_data / "squad" / "dev-v2.0-part.json.xz"
    features = Squad2(SquadSettings()).eval_features(file, words)
    assert features.sizes()["questions"] == 781
    assert features.sizes()["impossible"] == 369
    truths = features.truths()
    perfect = {q: Prediction(a[0] if a else "", 0.0 if a else 1.0) for q, a in truths.items()}
    scores = squad2_score(truths, perfect, 0.0)
    assert scores["exact_match"] == scores["HasAns_f1"] == scores["NoAns_f1"] == 100.0
    silent = squad2_score(truths, dict.fromkeys(truths, Prediction("", 1.0)), 0.0)
    assert silent["f1"] == pytest.approx(100 * 369 / 781)


def test_scoring_uses_the_lengths_of_the_fine_tuning_unless_flags_say_otherwise() -> None:
    record = Squad(SquadSettings(doc_stride=64, max_answer_length=50), 512).record()
    usual = Squad(SquadSettings(), None)
    usual.load_lengths(record, None)
    assert usual.record() == record
    given = Squad(SquadSettings(doc_stride=32), 256)
    given.load_lengths(record, 256)
    assert given.record() == {**record, "max_length": 256, "doc_stride": 32}
