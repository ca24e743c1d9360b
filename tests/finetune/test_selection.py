"""Which model of a fine-tuning run is kept, when it stops, and several seeds and rates in one process."""

from __future__ import annotations

import gc
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import finetune as command
from launch import report
from megabert.common.errors import UserError
from megabert.finetune.selection import Selection, evaluation_steps
from megabert.finetune.summary import collect, summary, table
from megabert.finetune.sweep import Combination
from megabert.tasks.squad.task import Squad
from tests.helpers.distributed import run_ranks
from tests.helpers.finetune_runs import in_world, losses, make_inputs, run, values, weights

FILES = ("predictions.json", "nbest_predictions.json")


class Scripted(Squad):
    """Squad whose scores are written down in advance, one a scoring."""

    script: tuple[float, ...] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.left = list(self.script)

    def score(self, *arguments: Any) -> dict[str, float]:
        super().score(*arguments)
        return {"f1": self.left.pop(0)} if self.left else {}


def scripted(rank: int, world_size: int, *jobs: tuple[tuple[float, ...], Any]) -> list[Any]:
    """One world with a run of each script and its settings."""
    import megabert.finetune.inputs as inputs
    from megabert.config import flags
    from megabert.engine.launch import start
    from megabert.finetune.command import run_all
    from megabert.finetune.settings import resolve_finetuning

    world = start(jobs[0][1].get("parallel", {}).get("tensor_parallel", 1))
    inputs.make_task = lambda name, squad, length: Scripted(squad, length)  # type: ignore[assignment]
    results = []
    for script, given_values in jobs:
        Scripted.script = script
        results.append(
            run_all(resolve_finetuning(flags.Given(flags.SettingsLayer(given_values))), world)
        )
    world.close()
    return results


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained checkpoint ``start`` and ``train.json``."""
    from tests.helpers.training_runs import import_once

    import_once()
    folder = tmp_path_factory.mktemp("selection")
    run_ranks(make_inputs, 1, folder, initialize=False)
    return folder


def wanted(place: Path, output: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run that is scored after each of its four updates."""
    sections["selection"] = {"eval_interval": "1", **sections.get("selection", {})}
    return values(place, output, **sections)


def lines(output: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    text = (output / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def same_files(one: Path, other: Path) -> bool:
    """Whether the predictions of two folders are the same."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


# ---------------------------------------------------------------- without a model


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 20),
    steps=st.integers(1, 40),
    every=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_evaluation_steps(rows: int, batch: int, steps: int, every: int) -> None:
    assert evaluation_steps("end", rows, batch, steps) == {steps}
    seen, expected = 0, {steps}
    for step in range(1, steps + 1):
        before, seen = seen, seen + batch
        if seen // rows > before // rows:
            expected.add(step)
    assert evaluation_steps("epoch", rows, batch, steps) == expected
    if every > steps:
        with pytest.raises(UserError, match=f"--eval-interval {every} is longer"):
            evaluation_steps(every, rows, batch, steps)
    else:
        assert evaluation_steps(every, rows, batch, steps) == {*range(every, steps, every), steps}


def test_the_first_of_equal_scores_is_best_and_nan_is_worst() -> None:
    selection = Selection("f1", "best", 2)
    kept = [selection.add(n, n / 2, {"f1": f1}) for n, f1 in enumerate((math.nan, 3.0, 3.0), 1)]
    assert kept == [True, True, False]
    assert not selection.out_of_patience
    selection.add(4, 2.0, {"f1": math.nan})
    assert selection.out_of_patience
    assert selection.best == {"step": 2, "epoch": 1.0, "f1": 3.0}
    assert selection.report()["last"]["step"] == 4
    assert selection.report()["f1"] == 3.0
    assert not Selection("f1", "last", 0, selection.evaluations).out_of_patience


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_summary(scores: list[float]) -> None:
    found = summary([{"f1": value, "other": 1.0} for value in scores])["f1"]
    assert found["mean"] == pytest.approx(statistics.fmean(scores), abs=1e-9)
    assert found["std"] == pytest.approx(statistics.stdev(scores), abs=1e-9)
    assert (found["min"], found["max"]) == (min(scores), max(scores))


def test_the_best_rate_has_the_best_mean_and_no_failed_run() -> None:
    def one(lr: float, seed: int, f1: float | None) -> dict[str, Any]:
        entry = {"run": Combination(lr, seed).name, "lr": lr, "seed": seed}
        return entry | ({"failed": "nan"} if f1 is None else {"scores": {"f1": f1}})

    runs = [one(2e-5, 1, 90.0), one(2e-5, 2, 50.0), one(3e-5, 1, 75.0), one(3e-5, 2, 73.0)]
    together = collect("f1", [*runs, one(1.0, 1, 99.0), one(1.0, 2, None)])
    assert together["best_lr"] == 3e-5
    assert together["best_run"] == "1.0-seed-1"
    assert together["scores"]["f1"] == {
        "mean": 74.0, "std": pytest.approx(math.sqrt(2)), "min": 73.0, "max": 75.0,
    }  # fmt: skip
    assert [rate["failed"] for rate in together["by_lr"]] == [0, 0, 1]
    text = table(together)
    assert "| 2e-5-seed-1 | 2e-05 | 1 | 90.00 |" in text
    assert "| mean ± std (best) | 3e-05 |  | 74.00 ± 1.41 |" in text
    assert "| 1.0-seed-2 | 1 | 2 | failed |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patience", "2"], "--patience needs --train and --eval"),
        (["--eval-interval", "5"], "--eval-interval needs --train and --eval"),
        (["--patience", "2", "--eval", "x", "--eval-interval", "end"], "--patience with"),
        (["--eval-interval", "0"], "--eval-interval 0: expected a whole number of 1"),
        (["--eval-interval", "often"], "--eval-interval often: expected a whole number"),
        (["--lrs", "2e-5,fast", "--eval", "x"], "--lrs 2e-5,fast: 'fast': expected a number"),
        (["--lrs", "2e-5,,3e-5", "--eval", "x"], "--lrs 2e-5,,3e-5: '': expected a number"),
        (["--lrs", "2e-5,0.00002", "--eval", "x"], "a learning rate is given twice"),
        (["--lrs", "2e-5"], "--lrs needs --eval"),
        (["--lrs", "2e-5", "--lr", "1e-5", "--eval", "x"], "--lr and --lrs are both given"),
        (["--seeds", "0"], "--seeds 0: expected a whole number from 1 to 10,000"),
        (["--keep", "most"], "--keep"),
        (["--task", "squad2", "--null-threshold", "auto"], "auto needs --eval"),
    ],
)
def test_wrong_settings_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        command.main(["--checkpoint", "none", "--train", "none", *arguments])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_flags_of_other_tasks_are_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    files = ["--checkpoint", str(tmp_path / "empty"), "--train", str(tmp_path)]
    given = {"--crf": "on", "--bad-lines": "skip", "--n-best": "3", "--null-threshold": "1"}
    for task, silent in (("squad", "n-best"), ("cola", "bad-lines"), ("conll", "crf")):
        flat = [word for pair in given.items() for word in pair]
        with pytest.raises(UserError, match="empty"):
            command.main([*files, "--task", task, *flat])
        told = capsys.readouterr().err
        names = [
            name.strip("-") for name in given if f"{name} has no effect on --task {task}" in told
        ]
        assert set(names) == {name.strip("-") for name in given} - {silent}


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in ("--eval-interval", "--patience", "--seeds 5 --lrs", "--resume auto", "RUN/test"):
        assert part in text


# ---------------------------------------------------------------- one run


def test_the_best_model_is_saved_and_patience_ends_a_run(place: Path) -> None:
    tested = {"test": str(place / "train.json")}
    last = {"keep": "last", "patience": 1}
    jobs = [
        ((1.0, 5.0, 2.0, 3.0), wanted(place, "best", task=tested)),
        ((5.0, 5.0), wanted(place, "stopped", selection=last)),
        ((), wanted(place, "unlabelled", selection={"patience": 1})),
    ]
    best, stopped, unlabelled = run_ranks(scripted, 1, *jobs, initialize=False)[0]
    assert (best["f1"], best["best"]["step"], best["last"]["f1"]) == (5.0, 2, 3.0)
    assert (best["steps"], best["stopped_early"], best["evaluations"]) == (4, False, 4)
    assert [line["eval_f1"] for line in lines(place / "best") if "eval_f1" in line] == [1, 5, 2, 3]
    # the schedule of four updates, ended after two: the weights that the first run kept
    assert (stopped["steps"], stopped["stopped_early"], stopped["f1"]) == (2, True, 5.0)
    assert weights(place / "stopped").keys() == weights(place / "best").keys()
    for name, tensor in weights(place / "stopped").items():
        assert np.array_equal(weights(place / "best")[name], tensor), name
    assert same_files(place / "best", place / "stopped")
    assert same_files(place / "best" / "test", place / "best")
    assert best["scores"] == {"f1": 5.0}
    assert not (place / "best" / "scoring.tmp").exists()
    assert (unlabelled["steps"], unlabelled["scores"]) == (4, {})
    assert len([line for line in lines(place / "unlabelled") if "loss" not in line]) == 2


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [
        (2, [{"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 1, "precision": "bf16"}]),
        (2, [{"tensor_parallel": 2, "zero_stage": 0}]),
    ],
)
def test_any_division_keeps_the_best(
    place: Path, ranks: int, parallel: list[dict[str, Any]]
) -> None:
    task = {"test": str(place / "train.json"), "dropout": 0.0}
    names = [f"best-{len(parallel)}-{number}" for number in range(len(parallel))]
    jobs = [
        ((1.0, 5.0, 2.0, 3.0), wanted(place, name, task=task, parallel=one))
        for name, one in zip(names, parallel)
    ]
    found = run_ranks(scripted, ranks, *jobs, initialize=False, timeout=240)
    for number, name in enumerate(names):
        assert {results[number]["best"]["step"] for results in found} == {2}
        # test was predicted with weights put back, the other while they were there
        assert same_files(place / name / "test", place / name)


# ---------------------------------------------------------------- several runs


def swept(rank: int, world_size: int, jobs: list[Any]) -> tuple[list[Any], int]:
    """``run``, and how many models are left of it."""
    from megabert.model.task_heads import BertForQuestionAnswering

    results = run(rank, world_size, jobs)
    gc.collect()
    return results, sum(isinstance(thing, BertForQuestionAnswering) for thing in gc.get_objects())


@pytest.fixture(scope="module")
def grid(place: Path) -> tuple[list[Any], int]:
    """Two rates and two seeds; then seeds that draw their examples."""
    some = {"max_train_examples": 5}
    grid = {"seeds": 2, "lrs": "1e-7,4e-3", "eval_interval": "end"}
    jobs = [
        values(place, "grid", selection=grid, optimizer={"lr": None, "steps": 30}),
        values(place, "drawn", selection={"seeds": 2}, task=some),
    ]
    for job in jobs:
        job["optimizer"] = {k: v for k, v in job["optimizer"].items() if v is not None}
    return run_ranks(swept, 1, jobs, initialize=False, timeout=240)[0]


def test_a_grid_finds_the_right_rate(place: Path, grid: tuple[list[Any], int]) -> None:
    results, left = grid
    assert left == 0
    found = results[0]
    written = json.loads((place / "grid" / "results.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found))
    assert found["best_lr"] == 4e-3
    assert found["best_run"].startswith("0.004-seed-4")
    names = ["1e-7-seed-42", "1e-7-seed-43", "0.004-seed-42", "0.004-seed-43"]
    assert [run["run"] for run in found["runs"]] == names
    f1 = [run["scores"]["f1"] for run in found["runs"]]
    for name, score in zip(names, f1):
        own = json.loads((place / "grid" / name / "results.json").read_text(encoding="utf-8"))
        assert own["f1"] == score
        assert (place / "grid" / name / "final" / "model.safetensors").is_file()
    assert found["by_lr"][1]["scores"]["f1"]["std"] == pytest.approx(statistics.stdev(f1[2:]))


def test_runs_of_a_grid_are_those_of_separate_calls(
    place: Path, grid: tuple[list[Any], int]
) -> None:
    end = {"eval_interval": "end"}
    pairs = [("grid/0.004-seed-43", "alone"), ("drawn/0.002-seed-43", "drawn-alone")]
    in_world(
        1,
        values(
            place, "alone", task={"seed": 43}, selection=end, optimizer={"lr": 4e-3, "steps": 30}
        ),
    )
    in_world(1, values(place, "drawn-alone", task={"seed": 43, "max_train_examples": 5}))
    for one, other in pairs:
        assert losses(place / one) == losses(place / other)
        for name, tensor in weights(place / one).items():
            assert np.array_equal(weights(place / other)[name], tensor), name
        assert same_files(place / one, place / other)
    assert losses(place / "drawn/0.002-seed-42") != losses(place / "drawn/0.002-seed-43")


def test_a_diverging_run_is_named_and_resume_makes_what_is_missing(place: Path) -> None:
    grid = {"lrs": "1e30,2e-3", "seeds": 1, "resume": "auto"}

    def asked(steps: int = 4, **changes: Any) -> dict[str, Any]:
        given_values = values(place, "failed", selection={**grid, **changes})
        given_values["optimizer"] = {"steps": steps}
        return given_values

    first, again = in_world(1, asked(), asked())
    for message in (first, again):
        assert (
            "1 of 2 runs failed, the first is 1e+30-seed-42: 50 updates in a row overflowed"
            in message
        )
    results = json.loads((place / "failed" / "results.json").read_text(encoding="utf-8"))
    assert results["best_run"] == "0.002-seed-42"
    assert "failed" in results["runs"][0]
    good = place / "failed" / "0.002-seed-42"
    stamp, before = (good / "results.json").stat().st_mtime_ns, weights(good)
    unlike, never, _ = in_world(1, asked(steps=5), asked(resume="never"), asked())
    assert "optimizer.steps = 4, not 5" in unlike
    assert "is not empty" in never
    assert (good / "results.json").stat().st_mtime_ns == stamp
    (good / "results.json").unlink()
    in_world(1, asked())
    assert (good / "results.json").stat().st_mtime_ns != stamp
    for name, tensor in weights(good).items():
        assert np.array_equal(before[name], tensor), name


def test_one_run_is_resumed_too(place: Path) -> None:
    one = values(place, "once", selection={"resume": "auto"})
    first, second = in_world(1, one, one)
    assert first["elapsed_seconds"] == second["elapsed_seconds"]
    (place / "once" / "config.yaml").unlink()
    assert "is not empty" in in_world(1, one)[0]


def test_report_prints_scores_and_seeds(
    place: Path, grid: tuple[list[Any], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(place / "grid"), str(place / "grid" / "0.004-seed-42")]) == 0
    text = capsys.readouterr().out
    assert "| run | update | epoch | exact_match | f1 |" in text
    assert "| 0.004-seed-42 | 30 | 20 |" in text
    assert table(grid[0][0]) in text
