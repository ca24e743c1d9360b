"""What passes from layout to layout: weights and moments unchanged, counters, batch, loss scale."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megabert.checkpoint.save_load import newest_checkpoint
from megabert.common.errors import UserError
from megabert.config.training import BatchSettings
from megabert.engine.config import resolve_batch
from tests.helpers.distributed import run_ranks
from tests.helpers.resume_runs import (
    LARGE_SCALE,
    assert_tensors,
    deepspeed_file,
    go_on,
    options,
    state_after,
    train,
)
from tests.helpers.training_runs import (
    TINY,
    import_once,
    losses,
    make_shards,
    metrics,
    settings_of,
    whole_weights,
)

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


SOURCES: dict[str, tuple[int, list[str]]] = {
    "fp32 ZeRO 0": (1, options(1, 0)),
    "fp32 ZeRO 1 TP 2 DP 2": (4, options(2, 1)),
    "fp32 ZeRO 3 TP 2": (2, options(2, 3)),
    "bf16 ZeRO 0 TP 2": (2, options(2, 0, "bf16")),
    "bf16 ZeRO 1": (2, options(1, 1, "bf16")),
    "bf16 ZeRO 3": (2, options(1, 3, "bf16")),
    "fp16 ZeRO 1": (2, options(1, 1, "fp16")),
}


@pytest.fixture(scope="module")
def source(
    shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A short run of a layout, and its whole weights and moments; made when first asked for."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in made:
            ranks, arguments = SOURCES[name]
            folder = tmp_path_factory.mktemp("source")
            run = folder / "run"
            if "fp16" in name:
                arguments = [*arguments, *deepspeed_file(folder, LARGE_SCALE)]
            train(shards, run, *arguments, "--stop-after", "2", ranks=ranks)
            made[name] = (run, whole_weights(run))
        return made[name]

    return make


PAIRS = [
    ("fp32 ZeRO 0", 2, options(1, 3)),
    ("fp32 ZeRO 3 TP 2", 1, options(1, 0)),
    ("bf16 ZeRO 1", 1, options(1, 0)),
    ("fp16 ZeRO 1", 1, options(1, 0, "fp16")),
]
MORE_PAIRS = [
    ("fp32 ZeRO 0", 1, options(1, 1, "bf16")),
    ("fp32 ZeRO 0", 2, options(2, 0)),
    ("fp32 ZeRO 0", 4, options(2, 2, "bf16")),
    ("fp32 ZeRO 1 TP 2 DP 2", 1, options(1, 3, "bf16")),
    ("fp32 ZeRO 1 TP 2 DP 2", 4, options(1, 2)),
    ("fp32 ZeRO 1 TP 2 DP 2", 2, options(2, 0, "bf16")),
    ("fp32 ZeRO 3 TP 2", 4, options(2, 3)),
    ("fp32 ZeRO 3 TP 2", 2, options(1, 2)),
    ("bf16 ZeRO 0 TP 2", 1, options(1, 0, "bf16")),
    ("bf16 ZeRO 0 TP 2", 2, options(1, 1, "bf16")),
    ("bf16 ZeRO 0 TP 2", 2, options(1, 3)),
    ("bf16 ZeRO 1", 2, options(2, 3)),
    ("bf16 ZeRO 1", 2, options(1, 2, "bf16")),
    ("bf16 ZeRO 3", 2, options(2, 1, "bf16")),
    ("bf16 ZeRO 3", 1, options(1, 0)),
    ("fp16 ZeRO 1", 2, options(2, 2, "fp16")),
    ("fp16 ZeRO 1", 2, options(1, 3, "fp16")),
    ("fp16 ZeRO 1", 1, options(1, 1, "bf16")),
    ("fp32 ZeRO 0", 2, options(1, 1, "fp16")),
]
TABLE = [
    pytest.param(
        name,
        ranks,
        arguments,
        id=f"{name} to {ranks} ranks {' '.join(arguments[1::2])}",
        marks=SLOW if (name, ranks, arguments) in MORE_PAIRS else (),
    )
    for name, ranks, arguments in PAIRS + MORE_PAIRS
]


@pytest.mark.parametrize(("name", "ranks", "arguments"), TABLE)
def test_state_passes_unchanged(
    name: str,
    ranks: int,
    arguments: list[str],
    source: Any,
    shards: Path,
    tmp_path: Path,
) -> None:
    """Every fp32 weight and moment bit for bit, and all counters; resumed, and into phase 2."""
    run, expected = source(name)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = ["--config", str(copy / "config.yaml"), "--output", str(copy), "--resume", "auto"]
    record = newest_checkpoint(run).record
    skipped = record["skipped_steps"]
    assert (skipped > 0) == ("fp16" in name)
    state = state_after(ranks, *config, *arguments)
    assert_tensors(state["tensors"], expected)
    assert (state["optimizer step"], state["schedule"], state["steps done"]) == (2, 2, 2)
    assert state["counters"] == (2 + skipped, 16 + 8 * skipped, skipped)
    assert state["position"] == record["consumed_samples"] == 16 + 8 * skipped
    if "fp16" in name and "fp16" in arguments:
        assert state["loss scale"] == record["loss_scale"] < 2**24
    batch = state["batch"]
    assert batch.micro_size * batch.accumulation * batch.data_parallel == 8
    second = [*TINY, "--data", str(shards), "--output", str(tmp_path / "p2"), "--phase", "2"]
    state = state_after(ranks, *second, "--init-from", str(run), *arguments)
    assert_tensors(state["tensors"], expected)
    assert (state["optimizer step"], state["schedule"], state["steps done"]) == (0, 0, 0)


def _save_at_once(rank: int, world_size: int, argv: list[str]) -> None:
    from megabert.engine.launch import start
    from megabert.pretrain.command import prepare
    from megabert.pretrain.inputs import open_inputs

    settings = settings_of(argv)
    world = start(settings.parallel.tensor_parallel)
    prepare(settings, open_inputs(settings), world)._save()
    world.close()


@pytest.mark.parametrize(
    ("ranks", "before", "after"),
    [
        (1, options(1, 1), [(1, options(1, 0))]),
        pytest.param(2, options(1, 1), [(2, options(1, 1)), (1, options(1, 0))], marks=SLOW),
        pytest.param(2, options(2, 3), [(2, options(2, 3)), (2, options(1, 2))], marks=SLOW),
        pytest.param(1, options(1, 0), [(1, options(1, 0)), (2, options(2, 3))], marks=SLOW),
        pytest.param(2, options(1, 1, "bf16"), [(2, options(1, 1, "bf16"))], marks=SLOW),
        pytest.param(1, options(1, 0, "bf16"), [(2, options(2, 1))], marks=SLOW),
    ],
)
def test_checkpoint_without_moments(
    ranks: int,
    before: list[str],
    after: list[tuple[int, list[str]]],
    shards: Path,
    tmp_path: Path,
) -> None:
    """Saved before the first update: the same weights on any topology, moments zero."""
    import_once()
    argv = [*TINY, "--data", str(shards), "--output", str(tmp_path / "run"), "--dropout", "0"]
    run_ranks(_save_at_once, ranks, [*argv, *before], initialize=False, timeout=240.0)
    expected = whole_weights(tmp_path / "run")
    assert all(not values["exp_avg"].any() for values in expected.values())
    for number, arguments in after:
        state = state_after(number, *argv, *arguments, "--resume", "auto")
        assert_tensors(state["tensors"], expected)
        assert (state["optimizer step"], state["schedule"], state["position"]) == (0, 0, 0)
    lines = train(shards, tmp_path / "fresh", "--dropout", "0", "--precision", "fp32")
    go_on(tmp_path / "run", *after[-1][1], ranks=after[-1][0])
    tolerance = 1e-4 if "fp32" in before + after[-1][1] else 2e-2
    assert losses(metrics(tmp_path / "run")) == pytest.approx(losses(lines), rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            {},
            {"zero_optimization": {"sub_group_size": 5000}},
            "other parameter groups or sub-groups",
        ),
        ({}, {"optimizer": {"type": "AdamW"}}, r"optimizer \w+ \(lamb\) -> .*"),
    ],
)
def test_other_optimizer_on_the_same_ranks(
    before: dict[str, Any],
    after: dict[str, Any],
    words: str,
    shards: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """DeepSpeed's files would not fit, or fit wrongly: the state goes through whole tensors."""
    run, folder = tmp_path / "run", tmp_path / "after"
    folder.mkdir()
    arguments = [*options(1, 3), "--dropout", "0"]
    train(shards, run, *arguments, *deepspeed_file(tmp_path, before), "--stop-after", "2", ranks=2)
    expected = whole_weights(run)
    argv = [
        *TINY, "--data", str(shards), "--output", str(run), *arguments, "--resume", "auto",
        *deepspeed_file(folder, after),
    ]  # fmt: skip
    state = state_after(2, *argv)
    assert_tensors(state["tensors"], expected)
    place = r"TP 1 x DP 2, ZeRO 3, fp32"
    line = rf"resumed from step-0000002 \({place}\) on {place}; {words}\n"
    assert re.search(line, capfd.readouterr().err)


# ---------------------------------------------------------------- batch and counters


@pytest.mark.parametrize(
    ("micro", "accumulation", "ranks", "expected"),
    [
        (2, 2, 4, (2, 2)),  # as it was
        (2, 2, 1, (2, 8)),
        (2, 2, 8, (2, 1)),
        (2, 2, 16, (1, 1)),
        (8, 1, 16, (1, 1)),
        (3, 1, 4, (2, 2)),
        (None, None, 2, (8, 1)),
        (None, 4, 2, (2, 4)),
        (4, None, 2, (4, 2)),
    ],
)
def test_batch_of_a_resumed_run(
    micro: int | None, accumulation: int | None, ranks: int, expected: tuple[int, int]
) -> None:
    batch = resolve_batch(BatchSettings(16, micro, accumulation), ranks, 64, divided_before=16)
    assert (batch.global_size, batch.micro_size, batch.accumulation) == (16, *expected)
    alone = resolve_batch(BatchSettings(None, micro, accumulation), ranks, 64, divided_before=16)
    assert alone == batch


def test_batch_that_ranks_cannot_share() -> None:
    with pytest.raises(UserError, match="16 cannot be divided among 3 data-parallel ranks"):
        resolve_batch(BatchSettings(16, 2, 2), 3, 64, divided_before=16)
    with pytest.raises(UserError, match="don't multiply out"):
        resolve_batch(BatchSettings(16, 2, 2), 8, 64)


@pytest.mark.parametrize("dynamic", [True, False])
def test_loss_scale_of_fp16(dynamic: bool) -> None:
    """Taken over where it is dynamic; never one that the user has fixed, nor to bf16."""
    from megabert.checkpoint.layout import counters, restore_counters
    from megabert.engine.training_engine import TrainingEngine

    def inner(scale: float) -> Any:
        return SimpleNamespace(
            optimizer=SimpleNamespace(loss_scale=scale),
            dynamic_loss_scale=lambda: dynamic,
            lr_scheduler=SimpleNamespace(load_state_dict=lambda state: None),
            train_batch_size=lambda: 8,
            skipped_steps=3,
        )

    def engine(inner: Any, precision: str) -> TrainingEngine:
        unused: Any = None
        return TrainingEngine(inner, unused, unused, unused, precision, {})

    record = {"step": 5, **counters(engine(inner(1024.0), "fp16"))}
    assert record == {"step": 5, "skipped_steps": 3, "loss_scale": 1024.0}
    resumed = engine(inner(65536.0), "fp16")
    restore_counters(resumed, record)
    assert resumed.loss_scale == (1024.0 if dynamic else 65536.0)
    assert (resumed.attempted_steps, resumed.attempted_samples) == (8, 64)
    other = inner(1.0)
    half = engine(other, "bf16")
    restore_counters(half, record)
    assert other.optimizer.loss_scale == 1.0
    assert "loss_scale" not in counters(half)
