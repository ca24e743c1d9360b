"""Resumed runs: on the same layout bit for bit, on any other with the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.kill_and_resume import checkpoint_differences
from tests.helpers.resume_runs import LARGE_SCALE, deepspeed_file, go_on, options, stopped, train
from tests.helpers.training_runs import losses, make_shards, metrics

STOP, STEPS = 6, 26
"""The elastic runs change their topology after update 6, and make 20 more."""

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


# ---------------------------------------------------------------- another topology


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TP 2 x DP 2, ZeRO 1, with a checkpoint every 6 updates."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(
        shards, run, *options(2, 1), "--dropout", "0", "--steps", str(STEPS),
        "--save-interval", str(STOP), "--keep-last", "9", ranks=4,
    )  # fmt: skip
    return run


def assert_same_course(run: Path, expected: Path) -> None:
    lines = [line for line in metrics(run) if "loss" in line]
    wanted = [line for line in metrics(expected) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3), ("lr", 0.0)):
        assert [line[name] for line in lines] == pytest.approx(
            [line[name] for line in wanted], rel=tolerance
        ), name
    for name in ("consumed_samples", "tokens", "skipped_steps"):
        assert [line[name] for line in lines] == [line[name] for line in wanted], name


OTHERS = [
    pytest.param(1, options(1, 0), "TP 1 x DP 1, ZeRO 0, fp32", id="TP1-DP1-ZeRO0"),
    pytest.param(2, options(1, 2), "TP 1 x DP 2, ZeRO 2, fp32", id="TP1-DP2-ZeRO2"),
    pytest.param(2, options(1, 3), "TP 1 x DP 2, ZeRO 3, fp32", id="TP1-DP2-ZeRO3", marks=SLOW),
    pytest.param(2, options(2, 1), "TP 2 x DP 1, ZeRO 1, fp32", id="TP2-DP1-ZeRO1", marks=SLOW),
    pytest.param(4, options(1, 2), "TP 1 x DP 4, ZeRO 2, fp32", id="TP1-DP4-ZeRO2", marks=SLOW),
]


@pytest.mark.parametrize(("ranks", "arguments", "words"), OTHERS)
def test_resume_on_another_topology(
    ranks: int,
    arguments: list[str],
    words: str,
    uninterrupted: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The same losses for 20 updates; then a native resume of what was saved, bit for bit."""
    run = stopped(uninterrupted, tmp_path / "run", STOP)
    go_on(run, *arguments, ranks=ranks)
    line = f"resumed from step-0000006 (TP 2 x DP 2, ZeRO 1, fp32) on {words}\n"
    assert line in capfd.readouterr().err
    assert_same_course(run, uninterrupted)
    assert not (run / "merging.tmp").exists()
    again = stopped(run, tmp_path / "again", 2 * STOP)
    go_on(again, *arguments, ranks=ranks)
    assert f"resumed from step-0000012 ({words})\n" in capfd.readouterr().err
    assert losses(metrics(again)) == losses(metrics(run))
    last = f"checkpoints/step-{STEPS:07d}"
    assert checkpoint_differences(again / last, run / last) == []


CHAINS = [
    [(4, options(2, 3)), (2, options(1, 1)), (2, options(2, 2))],
    [(2, options(1, 0)), (2, options(1, 2)), (1, options(1, 3))],
]


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS, ids=["from-ZeRO3-TP2", "from-ZeRO0"])
def test_chain_of_topologies(
    chain: list[tuple[int, list[str]]], uninterrupted: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ranks, arguments = chain[0]
    train(
        shards, run, *arguments, "--dropout", "0", "--steps", str(STEPS),
        "--stop-after", str(STOP), ranks=ranks,
    )  # fmt: skip
    go_on(run, *chain[1][1], "--stop-after", str(2 * STOP), ranks=chain[1][0])
    go_on(run, *chain[2][1], "--stop-after", str(STEPS), ranks=chain[2][0])
    assert_same_course(run, uninterrupted)


# ---------------------------------------------------------------- the same topology


EXACT = [
    ("fp32", 1, 2, 1, None),
    ("bf16", 1, 2, 1, "fp32"),
]
MORE_EXACT = [
    *(("fp32", stage, 2, tp, None) for stage in (0, 2, 3) for tp in (1, 2)),
    ("fp32", 1, 2, 2, None),
    *(("bf16", stage, 2, tp, "bf16") for stage in (0, 1, 2, 3) for tp in (1, 2)),
    *(("bf16", stage, 2, tp, "fp32") for stage in (1, 2, 3) for tp in (1, 2)),
    *(("fp16", stage, 2, tp, None) for stage in (0, 1, 2, 3) for tp in (1, 2)),
    ("bf16", 1, 4, 2, "fp32"),
    ("fp32", 2, 4, 2, None),
]
EXACT_TABLE = [
    *(pytest.param(*case, id="-".join(map(str, case))) for case in EXACT),
    *(
        pytest.param(*case, id="-".join(map(str, case)), marks=SLOW)
        for case in MORE_EXACT
        if case not in EXACT
    ),
]


@pytest.mark.parametrize(("precision", "stage", "ranks", "tp", "accumulation"), EXACT_TABLE)
def test_resume_is_exact(
    precision: str,
    stage: int,
    ranks: int,
    tp: int,
    accumulation: str | None,
    shards: Path,
    tmp_path: Path,
) -> None:
    """Dropout on: updates 3 to 6 after a stop are those of the undisturbed run, bit for bit."""
    arguments = [*options(tp, stage, precision), "--steps", "6", "--micro-batch-size", "2"]
    if accumulation is not None:
        sections = {"data_types": {"grad_accum_dtype": accumulation}}
        arguments += deepspeed_file(tmp_path, sections)
    if precision == "fp16":
        arguments += deepspeed_file(tmp_path, LARGE_SCALE)
    whole = tmp_path / "whole"
    train(shards, whole, *arguments, "--save-interval", "2", "--keep-last", "9", ranks=ranks)
    half = stopped(whole, tmp_path / "half", 2)
    go_on(half, ranks=ranks)
    assert losses(metrics(half)) == losses(metrics(whole))
    for step in (4, 6):
        tag = f"checkpoints/step-{step:07d}"
        assert checkpoint_differences(half / tag, whole / tag) == []


OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloaded_state(stage: int, shards: Path, tmp_path: Path) -> None:
    """ZeRO-Offload: resumed bit for bit, then without it, then with it on other ranks."""
    whole, arguments = tmp_path / "whole", options(1, stage)
    offload = deepspeed_file(tmp_path, OFFLOAD)
    train(
        shards, whole, *arguments, *offload, "--steps", "6", "--save-interval", "2",
        "--keep-last", "9", "--dropout", "0", ranks=2,
    )  # fmt: skip
    half = stopped(whole, tmp_path / "half", 2)
    go_on(half, ranks=2)
    assert losses(metrics(half)) == losses(metrics(whole))
    last = "checkpoints/step-0000006"
    assert checkpoint_differences(half / last, whole / last) == []
    without = stopped(whole, tmp_path / "without", 2)
    (tmp_path / "none").mkdir()
    go_on(without, *deepspeed_file(tmp_path / "none", {}), "--stop-after", "4", ranks=2)
    go_on(without, *offload, *options(2, stage), ranks=2)
    assert losses(metrics(without)) == pytest.approx(losses(metrics(whole)), rel=1e-5)


def test_settings_given_on_resume_are_in_force(shards: Path, tmp_path: Path) -> None:
    """DeepSpeed would silently continue with the checkpoint's weight decay and clipping."""
    run = tmp_path / "run"
    train(shards, run, "--dropout", "0", "--stop-after", "2")
    native = stopped(run, tmp_path / "native", 2)
    other = stopped(run, tmp_path / "other", 2)
    given = ["--weight-decay", "0.5", "--beta2", "0.9", "--gradient-clipping", "0.1"]
    go_on(native, *given, ranks=1)
    go_on(other, *given, "--zero-stage", "2", ranks=1)
    go_on(run, ranks=1)
    assert losses(metrics(native)) == pytest.approx(losses(metrics(other)), rel=1e-6)
    assert losses(metrics(native))[-1] != pytest.approx(losses(metrics(run))[-1], rel=1e-4)
