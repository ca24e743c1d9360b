"""The fine-tuning loop on a model small enough for a test: divisions, scores, wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabert.engine.broadcast import rank_batches
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import WORDS, in_world, losses, make_inputs, run, values, weights


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained checkpoint ``start``, ``train.json`` and wrong inputs."""
    folder = tmp_path_factory.mktemp("finetune")
    run_ranks(make_inputs, 1, folder, initialize=False)
    return folder


@pytest.fixture(scope="module")
def single(place: Path) -> list[Any]:
    """One world of one rank: the reference, its repetition with dropout, and a run to the end."""
    still = {"dropout": 0.0}
    long = {"steps": 60, "lr": 4e-3}
    six = {"global_batch_size": 6, "micro_batch_size": 6}
    return in_world(
        1,
        values(place, "one", task=still),
        values(place, "again-1"),
        values(place, "again-2"),
        values(
            place,
            "long",
            task={**still, "log_interval": 60},
            selection={"eval_interval": "end"},
            optimizer=long,
            batch={"global_batch_size": 8, "micro_batch_size": 8},
        ),
        values(place, "scored", task={"checkpoint": str(place / "long" / "final"), "train": None}),
        values(place, "random", task={**still, "random_init": True}),
        values(place, "half", task=still, parallel={"precision": "bf16"}),
        values(place, "one-of-6", task=still, batch=six),
        values(
            place,
            "random-scheme",
            task={**still, "random_init": True},
            initial_weights={"init_scheme": "width-aware"},
        ),
    )


def test_a_run_learns_scores_and_can_be_scored_again(place: Path, single: list[Any]) -> None:
    long, scored = single[3], single[4]
    assert long["exact_match"] == long["f1"] == 100.0
    assert scored["exact_match"] == 100.0
    names = ("predictions.json", "nbest_predictions.json")
    for name in names:
        first = (place / "long" / name).read_text(encoding="utf-8")
        assert set(json.loads(first)) == {f"q{number}" for number in range(8)}
    assert json.loads((place / "scored" / names[0]).read_text(encoding="utf-8")) == {
        f"q{number}": WORDS[number] for number in range(8)
    }
    results = json.loads((place / "long" / "results.json").read_text(encoding="utf-8"))
    assert results["train"]["questions"] == 8
    assert results["train"]["rows"] > 8
    assert results["steps"] == 60
    assert results["train_samples_per_second"] > 0
    assert results["settings"]["optimizer"]["lr"] == 4e-3
    assert not (place / "scored" / "final").exists()


def test_the_run_folder_can_be_repeated_from_its_own_config(place: Path, single: list[Any]) -> None:
    from megabert.config import flags
    from megabert.finetune.settings import finetune_settings

    config = flags.read_yaml(place / "one" / "config.yaml", finetune_settings())
    settings = flags.build(finetune_settings(), config)
    assert settings.batch.gradient_accumulation_steps == 4
    assert settings.task.dropout == 0.0
    for name in ("ds_config.json", "metrics.jsonl", "tensorboard", "final/vocab.txt"):
        assert (place / "one" / name).exists()


def test_dropout_is_reproducible_and_random_weights_differ(place: Path, single: list[Any]) -> None:
    assert losses(place / "again-1") == losses(place / "again-2")
    assert losses(place / "again-1") != losses(place / "one")
    assert losses(place / "random") != losses(place / "one")
    assert losses(place / "random-scheme") != losses(place / "random")
    assert losses(place / "half") == pytest.approx(losses(place / "one"), rel=2e-2)


@pytest.mark.parametrize(
    ("name", "ranks", "reference", "parallel", "batch"),
    [
        ("dp2", 2, "one", {"zero_stage": 2}, {}),
        ("tp2", 2, "one", {"tensor_parallel": 2, "zero_stage": 0}, {"micro_batch_size": 8}),
        ("dp3", 3, "one-of-6", {"zero_stage": 3}, {"global_batch_size": 6}),
    ],
)
def test_any_division_gives_the_same_run(
    place: Path,
    single: list[Any],
    name: str,
    ranks: int,
    reference: str,
    parallel: dict[str, Any],
    batch: dict[str, Any],
) -> None:
    assert len(single) == 9
    settings = values(place, name, task={"dropout": 0.0}, parallel=parallel, batch=batch)
    assert in_world(ranks, settings)[0]["world_size"] == ranks
    assert losses(place / name) == pytest.approx(losses(place / reference), rel=2e-6)
    expected, got = weights(place / reference), weights(place / name)
    assert set(got) == set(expected)
    for key, tensor in expected.items():
        if key.endswith((".key.bias", "qa.classifier.bias")):
            continue  # the softmax does not see them: Adam scales up rounding of a zero gradient
        np.testing.assert_allclose(got[key], tensor, atol=2e-5, err_msg=key)
    assert (place / name / "predictions.json").read_text(encoding="utf-8") == (
        place / reference / "predictions.json"
    ).read_text(encoding="utf-8")


def test_wrong_inputs_are_one_line_and_leave_nothing(place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "config.yaml").write_text("x", encoding="utf-8")
    cases = {
        "does not exist": {"task": {"checkpoint": str(place / "none")}},
        "has no tokenizer": {"task": {"checkpoint": str(place / "no-tokenizer")}},
        "bert.layers.1.mlp.up.weight": {"task": {"checkpoint": str(place / "truncated")}},
        "missing": {"task": {"checkpoint": str(place / "prefixed")}},
        "no list 'data'": {"task": {"train": str(place / "wrong.json")}},
        "none.json: no such file": {"task": {"eval": str(place / "none.json")}},
        "longer than the position table": {"task": {"max_length": 65}},
        "is not empty": {"task": {"output": str(place / "taken")}},
        "don't multiply out": {"batch": {"global_batch_size": 7}},
        "--checkpoint is missing": {"task": {"checkpoint": None}},
        "there is nothing to do": {"task": {"train": None, "eval": None}},
        "has no head for --task squad (its head: pretraining)": {"task": {"train": None}},
        "--init-local-heads is for random weights": {"initial_weights": {"init_local_heads": 0.5}},
        "needs a model with relative positions": {
            "task": {"random_init": True},
            "initial_weights": {"init_local_heads": 0.5},
        },
        "is a file; name a new folder": {"task": {"output": str(place / "train.json")}},
    }
    messages = in_world(1, *(values(place, "wrong", **case) for case in cases.values()))
    for expected, message in zip(cases, messages):
        assert isinstance(message, str), expected
        assert expected in message
        assert "\n" not in message
    assert not (place / "wrong").exists()
    assert [path.name for path in (place / "taken").iterdir()] == ["config.yaml"]


def test_a_wrong_input_of_the_main_rank_reaches_every_rank(place: Path) -> None:
    given = values(place, "wrong", task={"checkpoint": str(place / "truncated")})
    messages = run_ranks(run, 2, [given], initialize=False, timeout=240)
    assert messages[0] == messages[1]
    assert "bert.layers.1.mlp.up.weight" in messages[0][0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_portions_hold_every_row_once(ranks: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 23)
    parts = [list(rank_batches(lengths, 4, rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    rows = np.concatenate([rows for part in parts for rows, counts in part if counts])
    assert sorted(rows.tolist()) == list(range(23))
