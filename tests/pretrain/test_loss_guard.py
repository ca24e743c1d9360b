"""Spikes and NaN: the guard itself, samples left out, and whole runs with planted faults."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.common.processes.stopping import StopWatch
from megabert.config import flags
from megabert.config.sections.run import RunSettings
from megabert.config.training import PretrainSettings
from megabert.data.samples.course import Course, CourseStage
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.skip import (
    GlobalBatches,
    after_skipped,
    already_trained,
    merge_ranges,
    parse_ranges,
    show_ranges,
)
from megabert.pretrain import loss_guard
from megabert.pretrain.inputs import open_inputs
from megabert.pretrain.loss_guard import LossGuard, RunGuard, Sums, Update
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import TINY, losses, make_shards, metrics, settings_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


# ---------------------------------------------------------------- the guard


@given(
    st.floats(0.1, 20.0),
    st.floats(0.0, 5.0),
    st.lists(st.floats(-1.0, 1.0), min_size=40, max_size=300),
)
def test_noise_around_a_falling_loss_is_not_a_spike(
    floor: float, height: float, noise: list[float]
) -> None:
    """Up to 9 % of noise either way, however arranged: 24 % above the median are never reached."""
    guard = LossGuard(12.0)
    for number, share in enumerate(noise):
        level = floor + height * 0.97**number
        assert guard.spike(level * (1 + 0.09 * share)) is None


@given(
    st.lists(st.floats(0.8, 1.2), min_size=loss_guard.ACTIVE_AFTER, max_size=300),
    st.floats(9.0, 1e6),
)
def test_a_spike_is_found_and_not_remembered(calm: list[float], factor: float) -> None:
    guard = LossGuard(12.0)
    for loss in calm:
        assert guard.spike(loss) is None or max(calm) > 1.2 * min(calm)
    before = guard.window
    reason = guard.spike(factor)
    assert reason is not None
    assert "robust standard deviations above the median" in reason
    assert guard.window == before
    assert guard.spike(factor) is not None, "the first one hid the second"
    assert LossGuard(None, before).spike(factor) is None


def test_the_guard_waits_for_enough_losses_and_looks_up_only() -> None:
    guard = LossGuard(12.0)
    for _ in range(loss_guard.ACTIVE_AFTER - 1):
        assert guard.spike(1.0) is None
    assert guard.spike(100.0) is None
    assert guard.spike(100.0) is not None
    assert guard.spike(1e-3) is None
    assert LossGuard(12.0, [0.0] * 40).spike(1.0) is not None, "a median of 0"


@given(st.lists(st.floats(1e-3, 1e3), max_size=400), st.integers(0, 400))
def test_state_round_trip(values: list[float], cut: int) -> None:
    """A guard restored from its window, through JSON, judges the rest as the first one does."""
    guard = LossGuard(3.0)
    for loss in values[:cut]:
        guard.spike(loss)
    restored = LossGuard(3.0, json.loads(json.dumps(guard.window)))
    assert len(guard.window) <= loss_guard.WINDOW
    for loss in values[cut:]:
        assert restored.spike(loss) == guard.spike(loss)
    assert restored.window == guard.window


def test_what_is_a_fault() -> None:
    guard = RunGuard(RunSettings())
    guard.restore([5.0] * loss_guard.ACTIVE_AFTER)
    applied, left_out = Update(7, (48, 56), True), Update(6, (48, 56), False)
    assert guard.fault(applied, 5.1, 1.0) is None
    assert guard.fault(left_out, 5.0, math.inf) is None
    assert "loss is nan at step 6" in str(guard.fault(left_out, math.nan, math.inf))
    assert str(guard.fault(applied, math.nan, math.nan)) == (
        "loss is nan at step 7 (samples 48 to 55)"
    )
    assert "grad_norm is inf at step 7" in str(guard.fault(applied, 5.0, math.inf))
    assert "loss is 9 at step 7, a spike: 40.0 robust" in str(guard.fault(applied, 9.0, 1.0))
    assert guard.window == [5.0] * loss_guard.ACTIVE_AFTER + [5.1]
    ignoring = RunGuard(RunSettings(on_spike="ignore"))
    ignoring.restore(guard.window)
    assert ignoring.fault(applied, 1e9, 1.0) is None
    assert ignoring.fault(applied, math.inf, 1.0) is not None


def test_returns_are_counted_until_the_run_has_got_past() -> None:
    guard = RunGuard(RunSettings(on_spike="rollback", max_rollbacks=2))

    def bad(step: int) -> loss_guard.Fault:
        fault = guard.fault(Update(step, (0, 8), True), math.nan, 1.0)
        assert fault is not None
        return fault

    assert guard.may_go_back(bad(9))
    assert guard.may_go_back(bad(8))
    assert guard.fault(Update(8, (0, 8), True), 1.0, 1.0) is None
    assert not guard.may_go_back(bad(9)), "step 9 was not passed"
    assert "2 returns to a checkpoint" in str(guard.stopped(bad(9), "step-0000005", "0:8"))
    assert guard.fault(Update(9, (0, 8), True), 1.0, 1.0) is None
    assert guard.may_go_back(bad(10))
    assert not RunGuard(RunSettings()).may_go_back(bad(1))


def test_sums_leave_out_what_is_not_finite() -> None:
    update = Sums(20.0, 1.0, 4.0, 3.0, 1.0, 2.0, 100.0)
    assert update.loss == 6.5
    both = Sums().plus(update).plus(Sums(math.nan, 0.0, 4.0, 1.0, 1.0, 2.0, 50.0))
    assert both == Sums(20.0, 1.0, 4.0, 3.0, 1.0, 2.0, 150.0)
    with_z = both.plus(Sums(masked=4.0, z_loss=2.0))
    assert with_z.metrics()["z_loss"] == 0.25
    assert with_z.loss == with_z.metrics()["mlm_loss"] + 1.5 + 0.25
    assert both.metrics()["loss"] == 6.5
    assert Sums(4.0, 0.0, 4.0).metrics()["nsp_loss"] is None


# ---------------------------------------------------------------- samples left out


EIGHT = Course.constant_of(8, 32)


def test_ranges_are_read_and_merged() -> None:
    assert parse_ranges(None, EIGHT) == []
    assert parse_ranges("16:24", EIGHT) == [(16, 24)]
    assert parse_ranges("64:80, 16:24,24:40,32:40", EIGHT) == [(16, 40), (64, 80)]
    assert show_ranges([(16, 40), (64, 80)]) == "16:40,64:80"
    assert [after_skipped(n, [(16, 40), (64, 80)]) for n in (0, 16, 32, 40, 64, 80)] == [
        0, 40, 40, 40, 80, 80,
    ]  # fmt: skip
    assert already_trained([(0, 8), (16, 24), (32, 40)], [(0, 16)], 24) == [(16, 24)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("16", "'16' is not A:B"),
        ("", "'' is not A:B"),
        ("a:b", "an example with this global batch: 8:24"),
        ("-8:8", "is not A:B"),
        ("8:16:24", "is not A:B"),
        ("16:16", "'16:16' is empty"),
        ("24:16", "A must be below B"),
        ("8:16,20:29", r"'20:29' cuts a global batch of 8; .* multiples of it: 16:32"),
    ],
)
def test_wrong_ranges(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_ranges(text, EIGHT)
    assert "\n" not in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12))
def test_merged_ranges_hold_the_same_samples(pairs: list[tuple[int, int]]) -> None:
    ranges = [(first, first + length) for first, length in pairs]
    merged = merge_ranges(ranges)
    held = {n for first, stop in ranges for n in range(first, stop)}
    assert {n for first, stop in merged for n in range(first, stop)} == held
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    assert after_skipped(0, merged) == next(n for n in range(100) if n not in held)


class _Numbers:
    """In place of MicroBatches: each micro batch is the number of its first sample."""

    def __init__(self, consumed_samples: int, stop: int | None) -> None:
        self.place, self.stop, self.seconds_waited = consumed_samples, stop, 0.0

    def __next__(self) -> int:
        assert self.stop is None or self.place < self.stop
        self.place, self.seconds_waited = self.place + 2, self.seconds_waited + 1.0
        return self.place - 2

    def close(self) -> None:
        pass


def test_batches_pass_over_ranges() -> None:
    opened: list[tuple[int, int | None]] = []

    def open_at(*, consumed_samples: int, stop: int | None) -> Any:
        opened.append((consumed_samples, stop))
        return _Numbers(consumed_samples, stop)

    batches = GlobalBatches(open_at, Course.constant_of(4, 32), lambda stage: 2)
    batches.move(4, [(0, 4), (8, 16), (24, 28)])
    assert [batches.next() for _ in range(4)] == [[4, 6], [16, 18], [20, 22], [28, 30]]
    assert batches.position == 32
    assert opened == [(4, 8), (16, 24), (28, None)]
    assert batches.seconds_waited == 8.0
    batches.move(20, [])
    assert batches.next() == [20, 22]
    assert batches.seconds_waited == 10.0


def test_batches_of_a_course_pass_over_its_borders() -> None:
    """Updates of 4 samples up to sample 8, then of 8; new batches are opened at each border."""
    course = Course([CourseStage(4, 16, 2), CourseStage(8, 16)])
    assert parse_ranges("4:16", course) == [(4, 16)]
    with pytest.raises(UserError, match=r"'4:12' cuts a global batch of 8; .* borders: 4:16"):
        parse_ranges("4:12", course)
    opened: list[tuple[int, int | None]] = []

    def open_at(*, consumed_samples: int, stop: int | None) -> Any:
        opened.append((consumed_samples, stop))
        return _Numbers(consumed_samples, stop)

    batches = GlobalBatches(open_at, course, lambda stage: stage.batch // 2)
    assert [batches.next() for _ in range(3)] == [[0, 2], [4, 6], [8, 10, 12, 14]]
    batches.move(0, [(4, 16)])
    assert [batches.next() for _ in range(2)] == [[0, 2], [16, 18, 20, 22]]
    assert batches.position == 24
    assert opened == [(0, 8), (8, None), (0, 4), (16, None)]


def test_batches_of_a_loader_process(shards: Path, tmp_path: Path) -> None:
    """The same batches with and without a loader process that is ended at each range."""
    arguments = [*TINY, "--data", str(shards), "--output", str(tmp_path)]
    settings = settings_of(arguments)
    source = open_inputs(settings).train
    taken = []
    for workers in (0, 1):

        def open_at(consumed_samples: int, stop: int | None, workers: int = workers) -> Any:
            steps = MicroSteps(2, 0, 1, consumed_samples)
            return MicroBatches(source, steps, LoaderOptions(workers), stop)

        batches = GlobalBatches(open_at, Course.constant_of(4, 32), lambda stage: 2)
        batches.move(0, [(4, 8), (12, 20)])
        taken.append([batch for _ in range(3) for batch in batches.next()])
        batches.close()
    assert [batch.first_sample for batch in taken[0]] == [0, 2, 8, 10, 20, 22]
    for one, other in zip(*taken):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.labels["masked_labels"], other.labels["masked_labels"])


# ---------------------------------------------------------------- whole runs

BAD = (88, 96)
"""Samples of update 12: after the checkpoint of step 10, looked at with the line of step 14."""
LONG = ["--steps", "14", "--save-interval", "5", "--log-interval", "7", "--keep-last", "9"]
ROLLBACK = ["--on-spike", "rollback"]
SKIP = ["--skip-samples", "88:96"]


@dataclass(frozen=True)
class Job:
    """A run in a folder; with what is planted in it."""

    name: str
    arguments: list[str]
    kind: str = ""
    samples: tuple[int, int] = BAD


@contextlib.contextmanager
def _planted(job: Job) -> Iterator[None]:
    """A fault in the forward of the job's samples; the guard is active after 8 losses."""
    from megabert.model.heads import BertForPreTraining

    def forward(self: Any, batch: Any) -> Any:
        output = real_forward(self, batch)
        place = int(batch.sample_numbers.min())
        if job.kind and self.training and job.samples[0] <= place < job.samples[1]:
            loss = output.mlm_loss_sum
            if job.kind == "gradient":
                # adds 0 with an infinite slope
                return output._replace(mlm_loss_sum=loss + (loss * 0).sqrt())
            return output._replace(mlm_loss_sum=loss * float(job.kind))
        return output

    with pytest.MonkeyPatch.context() as patch:
        real_forward = BertForPreTraining.forward
        patch.setattr(BertForPreTraining, "forward", forward)
        patch.setattr(loss_guard, "ACTIVE_AFTER", 8)
        if job.name.startswith("return-"):
            _disturb_the_return(job, patch)
        yield


def _disturb_the_return(job: Job, patch: pytest.MonkeyPatch) -> None:
    from megabert.pretrain import loop

    real = loop.return_to_checkpoint

    def damaged(engine: Any, run: Path, step: int) -> Any:
        path = sorted((run / "checkpoints" / f"step-{step:07d}").glob("*.pt"))[0]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return real(engine, run, step)

    def stopped(engine: Any, run: Path, step: int) -> Any:
        found = real(engine, run, step)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    wanted = damaged if job.name == "return-damaged" else stopped
    patch.setattr(loop, "return_to_checkpoint", wanted)


def _run_jobs(rank: int, ranks: int, shards: Path, base: Path, jobs: list[Job]) -> dict[str, str]:
    """All jobs in one world; how each that stopped said so."""
    from megabert.engine import launch
    from megabert.pretrain.command import prepare

    world = launch.start()
    stopped = {}
    for job in jobs:
        argv = [*TINY, *LONG, "--data", str(shards), "--output", str(base / job.name)]
        settings = settings_of([*argv, *job.arguments])
        with _planted(job):
            try:
                with StopWatch():
                    prepare(settings, open_inputs(settings), world).run()
            except (TrainingStopped, StoppedOnRequest, UserError) as error:
                stopped[job.name] = str(error)
    world.close()
    return stopped


# stage 3 comes last: DeepSpeed then puts another F.linear into the process, which rounds otherwise
STAGES = ["1", "2", "3"]


@pytest.fixture(scope="module")
def pairs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on two ranks with two micro steps per update: each stage with a spike, and without."""
    base = tmp_path_factory.mktemp("pairs")
    jobs = [
        Job("overflow", ["--zero-stage", "1"], "gradient"),
        Job("nan", ["--zero-stage", "1"], "nan"),
        Job("rollback-nan", ["--zero-stage", "1", *ROLLBACK], "nan"),
    ]
    for stage in STAGES:
        jobs.append(Job(f"spike-{stage}", ["--zero-stage", stage, *ROLLBACK], "50"))
        jobs.append(Job(f"skip-{stage}", ["--zero-stage", stage, *SKIP]))
    stopped = run_ranks(_run_jobs, 2, shards, base, jobs, initialize=False, timeout=240.0)[0]
    assert set(stopped) == {"nan"}
    assert (
        "loss is nan at step 12 (samples 88 to 95); the last checkpoint is step-0000010"
        in stopped["nan"]
    )
    return base


@dataclass(frozen=True)
class Singles:
    """Where the runs of one rank are, and how those ended that stopped."""

    base: Path
    stopped: dict[str, str]


@pytest.fixture(scope="module")
def singles(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Singles:
    base = tmp_path_factory.mktemp("singles")
    plain = ["--zero-stage", "0"]
    # DeepSpeed leaves out updates that are not finite, unless the check is switched off
    (base / "blind.json").write_text(
        '{"bf16": {"enabled": true, "check_grad_overflow": false},'
        ' "zero_optimization": {"stage": 2}}'
    )
    blind = ["--deepspeed_config", str(base / "blind.json")]
    jobs = [
        Job("skip", [*plain, *SKIP]),
        Job("stop", plain, "50"),
        Job("rollback", [*plain, *ROLLBACK], "50"),
        Job("rollback-for-ever", [*plain, *ROLLBACK, "--max-rollbacks", "2"], "50", (88, 9999)),
        Job("ignore", [*plain, "--on-spike", "ignore"], "50"),
        Job("return-damaged", [*plain, *ROLLBACK], "50"),
        Job("return-stopped", [*plain, *ROLLBACK, "--log-interval", "1"], "50"),
        Job("wrong", [*plain, "--skip-samples", "4:12"]),
        Job("skip-blind", [*blind, *SKIP]),
        Job("stop-nan", [*blind, "--on-spike", "ignore"], "nan"),
        Job("stop-gradient", blind, "gradient"),
        Job("rollback-nan", [*blind, *ROLLBACK], "nan"),
        Job("rollback-early", [*blind, *ROLLBACK], "nan", (0, 8)),
    ]
    stopped = run_ranks(_run_jobs, 1, shards, base, jobs, initialize=False, timeout=240.0)[0]
    assert "step-0000011" in stopped["return-stopped"]
    before = record(base / "return-stopped", 11)
    assert before["skipped_ranges"] == [list(BAD)]
    assert before["consumed_samples"] == 88
    shutil.copytree(base / "skip", base / "resumed")
    more = [
        Job("stop", [*plain, "--resume", "auto", *SKIP]),
        Job("return-stopped", [*plain, "--resume", "auto"]),
        Job("resumed", [*plain, "--resume", "step-0000005"]),
    ]
    assert run_ranks(_run_jobs, 1, shards, base, more, initialize=False, timeout=240.0)[0] == {}
    return Singles(base, stopped)


def record(run: Path, step: int = 14) -> dict[str, Any]:
    path = run / "checkpoints" / f"step-{step:07d}" / "megabert.json"
    return json.loads(path.read_text(encoding="utf-8"))


def same_state(run: Path, other: Path) -> None:
    """All tensors of the last checkpoints: weights, masters, moments; bit for bit."""

    def tensors(content: Any, place: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(content, torch.Tensor):
            yield place, content
        elif isinstance(content, (dict, list, tuple)):
            items = content.items() if isinstance(content, dict) else enumerate(content)
            for key, value in items:
                yield from tensors(value, f"{place}.{key}")

    files = [sorted((folder / "checkpoints/step-0000014").glob("*.pt")) for folder in (run, other)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for paths in zip(*files):
        mine, its = (dict(tensors(torch.load(path, weights_only=False), "")) for path in paths)
        assert mine.keys() == its.keys()
        assert any("exp_avg_sq" in name for name in mine) or len(files[0]) > 1
        for name, tensor in mine.items():
            assert torch.equal(tensor, its[name]), f"{paths[0].name}{name}"


def same_course(run: Path, other: Path) -> None:
    """The same training: weights, moments, data position, what the guard knows, metrics."""
    same_state(run, other)
    mine, its = record(run), record(other)
    for key in ("consumed_samples", "tokens", "guard", "skipped_ranges", "unlogged"):
        assert mine[key] == its[key], key

    def lines(folder: Path) -> list[dict[str, Any]]:
        timed = ("per_second", "fraction", "seconds", "mfu", "peak_")
        return [
            {key: value for key, value in line.items() if not any(word in key for word in timed)}
            for line in metrics(folder)
            if "event" not in line
        ]

    assert lines(run) == lines(other)


@pytest.mark.parametrize("stage", STAGES)
def test_rollback_is_as_if_the_samples_had_been_left_out(stage: str, pairs: Path) -> None:
    run = pairs / f"spike-{stage}"
    same_course(run, pairs / f"skip-{stage}")
    (event,) = [line for line in metrics(run) if "event" in line]
    reason = event.pop("reason")
    assert event == {
        "step": 10, "event": "rollback", "from_step": 12, "skipped_samples": [88, 95],
    }  # fmt: skip
    assert "at step 12, a spike" in reason
    assert [line["step"] for line in metrics(run) if "loss" in line] == [7, 14]
    assert record(run)["consumed_samples"] == 15 * 8
    assert record(run)["skipped_ranges"] == [list(BAD)]
    results = json.loads((run / "results.json").read_text())
    assert results["consumed_samples"] == 15 * 8
    assert results["finished"]


def test_rollback_of_a_nan_that_was_not_applied(pairs: Path) -> None:
    """ZeRO leaves the update of a NaN out; the run goes back all the same, and passes it over."""
    same_state(pairs / "rollback-nan", pairs / "skip-1")


def test_an_update_that_was_not_applied_is_not_a_fault(pairs: Path) -> None:
    """ZeRO leaves out the update of an infinite gradient: the same course as without its samples."""
    run = pairs / "overflow"
    same_state(run, pairs / "skip-1")
    last = metrics(run)[-2]
    assert last["skipped_steps"] == 1
    assert last["consumed_samples"] == 15 * 8
    assert all(math.isfinite(loss) for loss in losses(metrics(run)))
    assert len(losses(metrics(run))) == 2
    assert record(run)["guard"] == record(pairs / "skip-1")["guard"]


def test_a_spike_stops_the_run(singles: Singles) -> None:
    message = singles.stopped["stop"]
    assert "\n" not in message
    for part in (
        "at step 12, a spike: ",
        "robust standard deviations above the median of the last 11 updates",
        "(samples 88 to 95); the last checkpoint is step-0000010; ",
        "--resume auto and --skip-samples 88:96 (--on-spike rollback does both)",
    ):
        assert part in message
    # and what it says to do does it
    same_course(singles.base / "stop", singles.base / "skip")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (
            "stop-nan",
            "loss is nan at step 12 (samples 88 to 95); the last checkpoint is step-0000010",
        ),
        ("stop-gradient", "grad_norm is inf at step 12 (samples 88 to 95); the last checkpoint"),
        ("rollback-early", "at step 1 (samples 0 to 7); there is no complete checkpoint"),
    ],
)
def test_what_is_not_finite_stops_the_run(name: str, what: str, singles: Singles) -> None:
    """Where DeepSpeed has applied it; even if spikes are ignored."""
    assert what in singles.stopped[name]
    early = "early" in name
    assert [line["step"] for line in metrics(singles.base / name)] == ([] if early else [7])
    checkpoints = {path.name for path in (singles.base / name / "checkpoints").iterdir()}
    assert checkpoints == (set() if early else {"latest", "step-0000005", "step-0000010"})


@pytest.mark.parametrize(
    ("name", "reference", "step"),
    [
        ("rollback", "skip", 10),
        ("rollback-nan", "skip-blind", 10),
        ("return-damaged", "skip", 5),
    ],
)
def test_rollback_on_one_rank(name: str, reference: str, step: int, singles: Singles) -> None:
    run = singles.base / name
    same_course(run, singles.base / reference)
    (event,) = [line for line in metrics(run) if "event" in line]
    assert event["step"] == step
    assert event["skipped_samples"] == [88, 95]


def test_a_run_does_not_go_back_for_ever(singles: Singles) -> None:
    message = singles.stopped["rollback-for-ever"]
    assert "2 returns to a checkpoint (--max-rollbacks) did not get past step 12" in message
    assert "--skip-samples 88:112" in message
    events = [line for line in metrics(singles.base / "rollback-for-ever") if "event" in line]
    assert [event["skipped_samples"] for event in events] == [[88, 95], [96, 103]]


def test_spikes_can_be_ignored(singles: Singles) -> None:
    run = singles.base / "ignore"
    assert losses(metrics(run))[1] > 30.0
    assert record(run)["consumed_samples"] == 112
    assert max(record(run)["guard"]) > 100.0


def test_a_resumed_run_still_leaves_them_out(singles: Singles) -> None:
    """Stopped after the checkpoint that it went back to and before the samples; no flags after."""
    run = singles.base / "return-stopped"
    same_state(run, singles.base / "skip")
    assert record(run)["skipped_ranges"] == [list(BAD)]
    assert record(run)["guard"] == record(singles.base / "skip")["guard"]
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert steps == [*range(1, 12), 14]


def test_resume_between_two_lines(singles: Singles) -> None:
    """From a checkpoint that fell between two lines of metrics: the next line is whole."""
    same_course(singles.base / "resumed", singles.base / "skip")


def test_wrong_settings(singles: Singles) -> None:
    assert "'4:12' cuts a global batch of 8" in singles.stopped["wrong"]
    assert not (singles.base / "wrong" / "config.yaml").exists()
    for arguments, message in (
        (["--on-spike", "panic"], "--on-spike panic: expected one of stop, rollback, ignore"),
        (["--spike-threshold", "0"], "--spike-threshold 0: expected a number above 0"),
        (["--max-rollbacks", "0"], "--max-rollbacks 0: expected a whole number of 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            settings_of(arguments)


def test_ranges_survive_the_settings_file(tmp_path: Path) -> None:
    """YAML reads 112:30 as a number of base 60 unless it is quoted."""
    given = flags.parse(PretrainSettings, ["--skip-samples", "112:30"], "pretrain.py", "")
    path = tmp_path / "config.yaml"
    path.write_text(flags.to_yaml(flags.build(PretrainSettings, given.flags)))
    layer = flags.read_yaml(path, PretrainSettings)
    assert flags.build(PretrainSettings, layer).run.skip_samples == "112:30"
    with pytest.raises(UserError, match=r"x\.yaml: run\.skip_samples 6750: .* in quotes"):
        flags.build(
            PretrainSettings, flags.SettingsLayer({"run": {"skip_samples": 6750}}, "x.yaml")
        )
