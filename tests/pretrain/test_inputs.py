"""The micro batch that a run takes when none is set."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megabert.config.model import model_config
from megabert.engine.broadcast import least_of_ranks
from megabert.pretrain.inputs import divide_batch, micro_limit
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import settings_of
from tests.planner.test_plan import plan

GB = 10**9


def _sizes(monkeypatch: pytest.MonkeyPatch, memory: float, *argv: str) -> tuple[int, int]:
    """Micro batch and accumulation of a run on one GPU of a fake machine."""
    properties = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    world = SimpleNamespace(
        device=torch.device("cuda", 0), topology=SimpleNamespace(world_size=1, rank=0)
    )
    model = model_config(argv[1])
    settings = settings_of([*argv, "--data", "none"])
    limit = micro_limit(settings, model, world)  # type: ignore[arg-type]
    _, sizes = divide_batch(settings, 1, limit)
    return sizes.micro_size, sizes.accumulation


@pytest.mark.parametrize(
    ("memory", "argv", "expected"),
    [
        (141 * GB, ("--model", "bert-large"), (512, 128)),  # 65,536 tokens
        (141 * GB, ("--model", "bert-large", "--phase", "2"), (128, 256)),
        (24 * GB, ("--model", "bert-large"), (128, 512)),  # what fits
        (16 * GB, ("--model", "bert-base", "--phase", "2", "--activation-checkpointing", "on"), (128, 256)),
        (141 * GB, ("--model", "bert-large", "--global-batch-size", "300"), (300, 1)),
        (141 * GB, ("--model", "bert-large", "--global-batch-size", "1100"), (275, 4)),
        (8 * GB, ("--model", "bert-large"), (1, 65536)),  # nothing fits
        (141 * GB, ("--model", "bert-large", "--micro-batch-size", "64"), (64, 1024)),
    ],
)  # fmt: skip
def test_a_gpu_run_takes_the_planner_s_micro_batch(
    monkeypatch: pytest.MonkeyPatch, memory: float, argv: tuple[str, ...], expected: tuple[int, int]
) -> None:
    assert _sizes(monkeypatch, memory, *argv) == expected
    names = {141 * GB: "h200", 24 * GB: "a30", 16 * GB: "v100-16"}
    if memory in names:
        batch = plan(*argv, "--gpus", "1", "--gpu", names[memory], "--precision", "fp16").batch
        assert (batch.micro_size, batch.accumulation) == expected


def test_states_in_the_memory_of_the_host_leave_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ds.json"
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    path.write_text(json.dumps({"zero_optimization": zero}))
    argv = ("--model", "bert-3.9b", "--precision", "bf16", "--zero-stage", "2")
    assert _sizes(monkeypatch, 40 * GB, *argv)[0] == 1
    assert _sizes(monkeypatch, 40 * GB, *argv, "--deepspeed_config", str(path))[0] > 8


def test_a_plan_takes_accumulation_as_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = (
        "--model",
        "bert-large",
        "--gradient-accumulation-steps",
        "64",
        "--global-batch-size",
        "4096",
    )
    assert _sizes(monkeypatch, 141 * GB, *argv) == (64, 64)
    batch = plan(*argv, "--gpus", "1", "--gpu", "h200").batch
    assert (batch.micro_size, batch.accumulation) == (64, 64)
    argv = (
        "--model",
        "bert-large",
        "--micro-batch-size",
        "64",
        "--gradient-accumulation-steps",
        "4",
    )
    assert plan(*argv, "--gpus", "8", "--gpu", "h200").batch.global_size == 2048


def test_a_cpu_run_takes_8192_tokens() -> None:
    world = SimpleNamespace(device=torch.device("cpu"))
    for argv, expected in ((("--phase", "1"), 64), (("--phase", "2"), 16)):
        settings = settings_of(["--model", "bert-large", *argv, "--data", "none"])
        assert micro_limit(settings, model_config("bert-large"), world) == expected  # type: ignore[arg-type]


def _least(rank: int, world_size: int) -> float:
    world = SimpleNamespace(
        device=torch.device("cpu"), topology=SimpleNamespace(world_size=world_size)
    )
    return least_of_ranks(world, 80.0 - rank)  # type: ignore[arg-type]


def test_the_smallest_memory_counts(tmp_path: Path) -> None:
    assert run_ranks(_least, 2) == [79.0, 79.0]
