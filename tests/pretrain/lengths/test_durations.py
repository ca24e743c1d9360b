"""Durations in updates: the run's length, warm-up and decay, and when an event is due."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.sections.duration import read_duration
from megabert.planner.recipe import planned_course, planned_run
from megabert.planner.settings import PlanFlags, plan_settings, read_flags
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.lengths.durations import (
    Interval,
    curve_of,
    derived,
    last_part,
    last_update,
)
from tests.helpers.training_runs import losses, make_shards, metrics, settings_of, train

SMALL = ("--seq-length", "32", "--global-batch-size", "8", "--lr", "1e-2")  # 256 tokens per update


class Growing(NamedTuple):
    """A run whose n-th update has n tokens."""

    def tokens(self, update: int) -> int:
        return update * (update + 1) // 2

    def updates_for_tokens(self, tokens: int) -> int:
        return next(n for n in range(tokens + 1) if self.tokens(n) >= tokens)


def test_a_run_in_tokens(tmp_path: Path) -> None:
    made = settings_of(
        [*SMALL, "--train-tokens", "1e6", "--warmup", "1e5 tokens", "--print-config"]
    )
    assert made.optimizer.steps == 3907  # of 1,000,192 tokens
    assert made.optimizer.warmup_fraction == 391 / 3907
    curve = curve_of(made, partial(course_of, made))
    assert (curve.warmup_steps, curve.rate(390), curve.rate(391) < 1e-2) == (
        391, 1e-2 * 390 / 391, True,
    )  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(flags.to_yaml(made, derived=derived(made)))
    recorded = yaml.safe_load(config.read_text())
    assert recorded["optimizer"]["steps"] is recorded["optimizer"]["warmup_fraction"] is None
    assert settings_of(["--config", str(config)]) == made
    longer = settings_of(["--config", str(config), "--global-batch-size", "16"])
    assert longer.optimizer.steps == 1954
    replaced = settings_of(["--config", str(config), "--steps", "10", "--warmup-fraction", "0.5"])
    assert (replaced.schedule.train_tokens, replaced.schedule.warmup) == (None, None)
    assert (replaced.optimizer.steps, replaced.optimizer.warmup_fraction) == (10, 0.5)
    planned = flags.parse(PlanFlags, ["--config", str(config), "--gpu", "h200"], "plan.py", "")
    asked = plan_settings(read_flags(planned))
    assert planned_run(asked, planned_course(asked).final).steps == 3907


def test_a_plan_has_the_ramps_of_a_longer_run() -> None:
    """``--ramp-duration``: half of 1,000 updates, in the run and in its plan."""
    given = [*SMALL, "--steps", "10000", "--batch-ramp", "4 for 50%", "--ramp-duration", "1000"]
    planned = flags.parse(PlanFlags, [*given, "--gpu", "h200"], "plan.py", "")
    course = planned_course(plan_settings(read_flags(planned)))
    assert course.stages == course_of(settings_of(given)).stages
    assert course.stages[0].updates == 500


@pytest.mark.parametrize("text", ["28.43%", "28.43 %"])
def test_a_share_is_the_fraction(text: str) -> None:
    by_share, by_fraction = (
        settings_of([*SMALL, "--steps", "7038", *given])
        for given in (["--warmup", text], ["--warmup-fraction", "0.2843"])
    )
    one, two = (curve_of(made, partial(course_of, made)) for made in (by_share, by_fraction))
    assert one == two


@pytest.mark.parametrize(
    ("duration", "updates"),
    [("10%", 98), ("100%", 977), ("0.001%", 1), ("5", 5), ("2000", 977), ("1 tokens", 1),
     ("256 tokens", 1), ("257 tokens", 2), ("1e9 tokens", 977)],
)  # fmt: skip
def test_last_part(duration: str, updates: int) -> None:
    made = settings_of([*SMALL, "--train-tokens", "250000"])
    assert last_part(read_duration(duration), 977, partial(course_of, made)) == updates


@pytest.mark.parametrize("decay", ["101", "2000000 tokens"])
def test_a_decay_longer_than_the_run(decay: str) -> None:
    given = [*SMALL, "--steps", "100", "--schedule", "wsd", "--warmup", "0", "--decay-duration"]
    with pytest.raises(UserError, match=f"--decay-duration {decay}: the run has only"):
        settings_of([*given, decay])
    assert settings_of([*given, "100"]).schedule.decay_duration == 100


def test_wsd_in_settings() -> None:
    made = settings_of(
        [*SMALL, "--steps", "100", "--schedule", "wsd", "--decay", "linear", "--warmup", "10",
         "--decay-duration", "20%", "--final-lr-fraction", "0.5", "--stop-after", "2561 tokens"]
    )  # fmt: skip
    curve = curve_of(made, partial(course_of, made))
    assert [curve.rate(step) for step in (5, 10, 80, 90, 100)] == [5e-3, 1e-2, 1e-2, 7.5e-3, 5e-3]
    assert last_update(made, partial(course_of, made)) == 11


@given(every=st.integers(1, 400))
@settings(deadline=None)
def test_an_event_is_due_at_the_first_update_past_each_multiple(every: int) -> None:
    interval, course = Interval(f"{every} tokens", Growing), Growing()
    due = [step for step in range(1, 41) if interval.due(step)]
    reached = {
        course.updates_for_tokens(k * every) for k in range(1, course.tokens(40) // every + 1)
    }
    assert due == sorted(reached)


@given(every=st.integers(0, 50), step=st.integers(1, 10**6))
def test_an_interval_in_updates(every: int, step: int) -> None:
    assert Interval(every, Growing).due(step) == bool(every and step % every == 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--steps 10 --train-tokens 1e6", "--train-tokens and --steps say the same in two ways"),
        ("--warmup 5 --warmup-fraction 0.1", "--warmup and --warmup-fraction say the same"),
        ("--steps 10 --warmup 10", "--warmup 10: the run has 10 updates, and all of them"),
        ("--warmup 100%", "--warmup 100%: the run has"),
        ("--train-tokens 0", "--train-tokens 0: expected a number of tokens of 1 or more"),
        ("--train-tokens 10%", "expected a number of tokens of 1 or more, as 2e9"),
        ("--log-interval 0", "--log-interval 0: expected a duration: 500 or 2e9 tokens, above 0"),
        ("--stop-after 10%", "--stop-after 10%: expected a duration: 500 or 2e9 tokens"),
        ("--decay linear", "--decay is the decay of --schedule wsd, and the schedule is poly"),
        ("--final-lr-fraction 0.1", "--final-lr-fraction 0.1 has no effect with --schedule poly"),
        ("--schedule wsd --steps 10 --warmup 5 --decay-duration 6",
         "a warm-up of 5 updates and a decay of 6 do not fit into a run of 10"),
    ],
)  # fmt: skip
def test_refused(given: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        settings_of([*SMALL, *given.split()])
    assert message in str(error.value)


def test_intervals_in_tokens_are_those_in_updates_and_resume(tmp_path: Path) -> None:
    """Batches of 256 tokens: lines after updates 3, 5, 8, 10; a resumed run writes the same."""
    shards = make_shards(tmp_path / "shards")
    usual = (
        "--steps", "10", "--schedule", "wsd", "--warmup", "2", "--decay-duration", "40%",
        "--log-interval", "640 tokens", "--eval-interval", "1280 tokens",
    )  # fmt: skip
    train(shards, tmp_path / "whole", *usual)
    split = tmp_path / "split"
    train(shards, split, *usual, "--stop-after", "1793 tokens")  # in the decay
    assert metrics(split)[-1]["step"] == 8
    lines = train(shards, split, *usual, "--resume", "auto")
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [3, 5, 8, 10]
    assert [line["step"] for line in lines if "eval_mlm_loss" in line] == [
        5,
        8,
        10,
    ]  # at each end, too
    assert [line["lr"] for line in trained][:2] == [1e-2, 1e-2]
    assert trained[2]["lr"] == 1e-2 * (1 - 0.5**0.5)
    assert losses(lines) == losses(metrics(tmp_path / "whole"))
