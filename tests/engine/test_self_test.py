"""The self-test: it agrees in all layouts, finds what it must find, and leaves nothing behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.config.training import OptimizerSettings, ParallelSettings
from tests.helpers.distributed import run_ranks
from tests.helpers.resume_runs import _allow_fp16
from tests.helpers.training_runs import import_once, losses, make_shards, train

Case = tuple[dict[str, Any], str, str]
"""Settings of parallelism and precision, optimizer, positions."""


def _test(tensor_parallel: int, cases: Sequence[Case], plant: Callable[[], None]) -> list[str]:
    """The messages of self-tests in one world; "" where they agree."""
    from megabert.engine import self_test
    from megabert.engine.launch import start

    world = start(tensor_parallel)
    plant()
    said = []
    for parallel, optimizer, positions in cases:
        settings = ParallelSettings(tensor_parallel=tensor_parallel, **parallel)
        model = ModelConfig(position_embeddings=positions)
        run = self_test.TestedRun(model, OptimizerSettings(optimizer=optimizer), settings, {})
        try:
            self_test.self_test(run, world)
            said.append("")
        except UserError as error:
            said.append(str(error))
    world.close()
    return said


def _sound(rank: int, world_size: int, tensor_parallel: int, cases: Sequence[Case]) -> list[str]:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    said = _test(tensor_parallel, cases, lambda: None)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    return said


@pytest.mark.parametrize(
    ("ranks", "tensor_parallel", "cases"),
    [
        (1, 1, [({"zero_stage": 0, "precision": "bf16"}, "lamb", "absolute"),
                ({"zero_stage": 1, "precision": "fp32"}, "lamb", "relative"),
                ({"zero_stage": 1, "precision": "fp8"}, "adamw", "absolute")]),
        (2, 1, [({"zero_stage": 0, "precision": "fp32"}, "lans", "absolute"),
                ({"zero_stage": 1, "precision": "bf16"}, "lamb", "absolute"),
                ({"zero_stage": 2, "precision": "bf16"}, "muon", "absolute"),
                ({"zero_stage": 3, "precision": "fp32"}, "lamb", "relative")]),
        (2, 2, [({"zero_stage": 1, "precision": "fp32", "sequence_parallel": True}, "lamb", "absolute"),
                ({"zero_stage": 3, "precision": "bf16", "activation_checkpointing": True}, "lamb", "relative"),
                ({"zero_stage": 3, "precision": "fp32"}, "muon", "absolute")]),
    ],
)  # fmt: skip
def test_it_agrees(ranks: int, tensor_parallel: int, cases: list[Case]) -> None:
    import_once()
    said = run_ranks(_sound, ranks, tensor_parallel, cases, initialize=False)
    assert said == [[""] * len(cases)] * ranks


def _in_fp16(rank: int, world_size: int) -> list[str]:
    _allow_fp16()
    stages = [
        ({"zero_stage": stage, "precision": "fp16"}, "lamb", "absolute") for stage in range(4)
    ]
    return _test(1, stages, lambda: None)


def test_it_agrees_in_fp16() -> None:
    """DeepSpeed is made to believe that a CPU is a device for fp16."""
    import_once()
    assert run_ranks(_in_fp16, 2, initialize=False) == [[""] * 4] * 2


# ---------------------------------------------------------------- faults


def _double_gradients() -> None:
    from deepspeed.runtime.engine import DeepSpeedEngine

    backward = DeepSpeedEngine.backward
    DeepSpeedEngine.backward = lambda self, loss, **named: backward(self, 2 * loss, **named)


def _keep_weights() -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    DeepSpeedZeroOptimizer._optimizer_step = lambda *_: None


def _sum_nothing() -> None:
    from deepspeed.runtime.zero import stage_1_and_2

    stage_1_and_2.dist.all_reduce = lambda *_, **__: None


def _wrong_kernel() -> None:
    from megabert.kernels import cpu, reference

    def bias_gelu_backward(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        grad_x, grad_bias = reference.bias_gelu_backward(*inputs)
        return 1.1 * grad_x, grad_bias

    cpu.bias_gelu_backward = bias_gelu_backward  # type: ignore[assignment]


FAULTS: dict[str, tuple[Callable[[], None], int, str]] = {
    "double": (_double_gradients, 1, "gradient norm 8.1"),
    "no update": (_keep_weights, 1, "loss afterwards "),
    "no sum": (_sum_nothing, 2, "gradient norm "),
    "kernel": (_wrong_kernel, 1, "gradient norm "),
}
"""Name -> what is planted, on how many ranks, what the message says."""


def _planted(rank: int, world_size: int, name: str) -> list[str]:
    case: Case = ({"zero_stage": 1, "precision": "fp32"}, "lamb", "absolute")
    return _test(1, [case], FAULTS[name][0])


@pytest.mark.parametrize("name", FAULTS)
def test_it_finds(name: str) -> None:
    import_once()
    _, ranks, words = FAULTS[name]
    said = run_ranks(_planted, ranks, name, initialize=False)
    assert said == [said[0]] * ranks, "all ranks say the same"
    assert words in said[0][0]
    assert said[0][0].startswith("self-test: DeepSpeed 0.19.")
    assert f"torch {torch.__version__} compute another update" in said[0][0]


def test_a_run_is_the_same_with_it(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    on, off = (
        losses(train(shards, tmp_path / word, "--self-test", word)) for word in ("on", "off")
    )
    assert on == off
