"""Runs that are stopped, changed and resumed, for tests of resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import (
    TINY,
    _train,
    import_once,
    make_shards,
    metrics,
    settings_of,
)


def _allow_fp16() -> None:
    """DeepSpeed and the settings ask the device for fp16; its arithmetic works on every CPU."""
    from deepspeed.accelerator import get_accelerator

    from megabert.engine import build
    from megabert.pretrain import command

    get_accelerator().is_fp16_supported = lambda: True
    resolve = build.resolve_precision

    def resolved(precision: str, cuda: bool) -> str:
        return precision if precision == "fp16" else resolve(precision, cuda)

    for module in (command, build):
        module.resolve_precision = resolved  # type: ignore[attr-defined]


def _start(rank: int, world_size: int, argv: list[str]) -> None:
    _allow_fp16()
    _train(rank, world_size, argv)


def train(shards: Path, output: Path, *arguments: str, ranks: int = 1) -> list[dict[str, Any]]:
    """A run at the tiny size; the lines of its metrics."""
    import_once()
    argv = [*TINY, "--data", str(shards), "--output", str(output), *arguments]
    run_ranks(_start, ranks, argv, initialize=False, timeout=300.0)
    return metrics(output)


def stopped_runs(folder: Path) -> Path:
    """Two runs in ``folder`` that stopped after two updates, with their shards.

    ``stage0`` is of ZeRO stage 0 on one rank, ``stage1`` of stage 1 on two.
    """
    shards = make_shards(folder / "shards")
    for stage, ranks in ((0, 1), (1, 2)):
        train(
            shards, folder / f"stage{stage}", *options(1, stage), "--stop-after", "2", ranks=ranks
        )
    return folder


def stopped(run: Path, copy: Path, step: int) -> Path:
    """A copy of a run as it was after ``step``; lines of later updates are still in its metrics."""
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").glob("step-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    (copy / "checkpoints" / "latest").write_text(f"step-{step:07d}\n")
    return copy


def go_on(run: Path, *arguments: str, ranks: int) -> list[dict[str, Any]]:
    """Resume a run from its own config.yaml; the lines of its metrics."""
    import_once()
    argv = ["--config", str(run / "config.yaml"), "--output", str(run), "--resume", "auto"]
    run_ranks(_start, ranks, [*argv, *arguments], initialize=False, timeout=300.0)
    return metrics(run)


def options(tensor_parallel: int, stage: int, precision: str = "fp32") -> list[str]:
    return [
        "--tensor-parallel", str(tensor_parallel), "--zero-stage", str(stage),
        "--precision", precision,
    ]  # fmt: skip


LARGE_SCALE = {"fp16": {"initial_scale_power": 24, "hysteresis": 1}}
"""A loss scale under which the first updates overflow and are skipped."""


def deepspeed_file(folder: Path, sections: dict[str, Any]) -> list[str]:
    path = folder / "ds.json"
    path.write_text(json.dumps(sections))
    return ["--deepspeed_config", str(path)]


def _state_after(rank: int, world_size: int, argv: list[str]) -> dict[str, Any]:
    """What a run holds before its first update: whole tensors and counters."""
    from megabert.engine.launch import start
    from megabert.pretrain.command import prepare
    from megabert.pretrain.inputs import open_inputs

    _allow_fp16()
    settings = settings_of(argv)
    world = start(settings.parallel.tensor_parallel)
    loop = prepare(settings, open_inputs(settings), world)
    engine = loop.engine
    state = {
        "tensors": dict(engine.whole_tensors()),
        "optimizer step": engine.optimizer_steps,
        "schedule": engine.scheduled_steps,
        "steps done": engine.steps_done,
        "counters": (engine.attempted_steps, engine.attempted_samples, engine.skipped_steps),
        "rate": engine.learning_rate,
        "batch": engine.batch,
        "position": loop.batches.position,
        "loss scale": engine.loss_scale,
    }
    world.close()
    return state if rank == 0 else {}


def state_after(ranks: int, *argv: str) -> dict[str, Any]:
    import_once()
    return run_ranks(_state_after, ranks, list(argv), initialize=False, timeout=240.0)[0]


def assert_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        for key, tensor in values.items():
            assert torch.equal(tensor, expected[name][key]), f"{name} {key}"
