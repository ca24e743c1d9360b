"""Spans and answers against an exhaustive search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.packed_batch import PackedBatch
from megabert.tasks.batches import ExampleChoice
from megabert.tasks.squad.answers import best_spans, rank_answers, write_json
from megabert.tasks.squad.features import SquadFeatures
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.squad.settings import SquadSettings
from megabert.tasks.squad.task import Squad
from tests.helpers.batch_rows import rows_of
from tests.helpers.squad_files import FakeTokenizer, qa, write_squad


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 6), st.integers(1, 12))
def test_best_spans_is_the_exhaustive_search(seed: int, width: int, longest: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 3, width, generator=generator)
    may_start, may_end = torch.rand(2, 3, width, generator=generator) < 0.6
    got = best_spans(start, end, may_start, may_end, max_answer_length=longest, n_best=n)
    assert got["start"].shape == got["end_logit"].shape == (3, n)
    for row in range(3):
        spans = [
            (float(start[row, a] + end[row, b]), a, b)
            for a in range(width)
            for b in range(a, min(width, a + longest))
            if may_start[row, a] and may_end[row, b]
        ]
        best = sorted(spans, reverse=True)[:n]
        scores = (got["start_logit"] + got["end_logit"])[row]
        assert int(torch.isfinite(scores).sum()) == len(best)
        for place, (score, a, b) in enumerate(best):
            assert float(scores[place]) == pytest.approx(score)
            assert (int(got["start"][row, place]), int(got["end"][row, place])) == (a, b)


@pytest.fixture
def rows(tmp_path: Path) -> SquadFeatures:
    """Three questions; the first has several windows, the last has no token to answer with."""
    context = "  Ann\u00a0Lee  met Bob, then  Eve! " + "and so on " * 20
    path = write_squad(
        tmp_path / "f.json",
        (context, [qa("long", "Who?", ("Ann\u00a0Lee", 2))]),
        ("Ann", [qa("short", "Who?", ("Ann", 0))]),
        (" ", [qa("empty", "Who?", ("x", 0))]),
    )
    limits = SquadSettings(max_query_length=4, doc_stride=10)
    return SquadFeatures(
        read_squad(path), FakeTokenizer(), limits, ExampleChoice(False), max_length=40
    )


def outputs_of(features: SquadFeatures, start: torch.Tensor, end: torch.Tensor, n: int = 5):
    """``best_spans`` of all rows as arrays."""
    batch = rows_of(features, np.arange(len(features.lengths)))
    found = best_spans(
        start,
        end,
        torch.from_numpy(batch["answer_starts"]),
        torch.from_numpy(batch["answer_ends"]),
        max_answer_length=30,
        n_best=n,
    )
    return {key: value.numpy() for key, value in found.items()}


def logits(features: SquadFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (len(features.lengths), int(features.lengths.max()))
    return torch.full(shape, -5.0), torch.full(shape, -5.0)


def test_answers_are_cut_from_the_original_text(rows: SquadFeatures) -> None:
    start, end = logits(rows)
    start[0, 5], end[0, 6] = 3.0, 2.0  # [CLS] Who ? -> 4 tokens in front: Who ?; Ann at 4
    start[0, 4] = 4.0
    answers = rank_answers(rows, outputs_of(rows, start, end), 5)
    assert list(answers) == ["long", "short", "empty"]
    assert answers["long"][0]["text"] == "Ann\u00a0Lee  met"
    assert answers["long"][0]["start_logit"] == 4.0
    assert answers["long"][1]["text"] == "Lee  met"
    assert answers["short"] == [
        {"text": "Ann", "start_logit": -5.0, "end_logit": -5.0, "probability": 1.0}
    ]
    assert answers["empty"][0]["text"] == ""
    assert sum(item["probability"] for item in answers["long"]) == pytest.approx(1.0)


def test_the_best_window_wins_and_texts_appear_once(rows: SquadFeatures) -> None:
    start, end = logits(rows)
    windows = [row for row in range(len(rows.lengths)) if rows.question_of(row) == 0]
    assert len(windows) > 2
    start[windows], end[windows] = 0.0, 0.0
    place = int(rows.lengths[windows[-1]]) - 4
    start[windows[-1], place], end[windows[-1], place] = 9.0, 9.0
    answers = rank_answers(rows, outputs_of(rows, start, end, n=8), 8)["long"]
    texts = [item["text"] for item in answers]
    assert answers[0]["start_logit"] == 9.0
    assert len(texts) == len(set(texts)) <= 8


def test_scoring_writes_both_files(rows: SquadFeatures, tmp_path: Path) -> None:
    start, end = logits(rows)
    start[0, 4], end[0, 5] = 4.0, 4.0
    task = Squad(rows.settings)
    scores = task.score(rows, outputs_of(rows, start, end), tmp_path)
    assert scores == pytest.approx({"exact_match": 200 / 3, "f1": 200 / 3})
    predictions = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert predictions == {"long": "Ann\u00a0Lee", "short": "Ann", "empty": ""}
    ranked = json.loads((tmp_path / "nbest_predictions.json").read_text(encoding="utf-8"))
    assert ranked["long"][0]["text"] == "Ann\u00a0Lee"
    assert set(ranked["long"][0]) == {"text", "start_logit", "end_logit", "probability"}


def test_write_json_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert not (tmp_path / "a.json").exists()


class _FixedModel(torch.nn.Module):
    """Logits that a model gives for packed rows of 6 and 4 tokens: -inf beyond their ends."""

    def __init__(self, sides: torch.Tensor) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, batch: PackedBatch[torch.Tensor]):
        width = batch.max_length
        outside = torch.arange(width) >= batch.lengths[:, None]
        return tuple(side[:, :width].masked_fill(outside, -torch.inf) for side in self.sides)


def test_the_loss_does_not_see_padding() -> None:
    torch.manual_seed(0)
    sides = torch.randn(2, 2, 9)
    ids = np.full(10, 7)
    labels = {"start_positions": np.array([1, 0]), "end_positions": np.array([3, 2])}
    losses = []
    for width in (6, 9):
        batch = PackedBatch.from_lengths(ids, 0 * ids, np.array([6, 4]), width, labels=labels)
        task = Squad(SquadSettings())
        losses.append(float(task.loss(_FixedModel(sides), batch.map(torch.from_numpy))))
    expected = sum(
        -torch.log_softmax(side[row, :length], 0)[labels[key][row]]
        for side, key in zip(sides, ("start_positions", "end_positions"))
        for row, length in enumerate((6, 4))
    )
    assert losses[0] == pytest.approx(float(expected) / 4, rel=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)
