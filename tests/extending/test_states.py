"""Optimizer states of any number and name, per group: under every ZeRO stage, saved, merged, moved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from megabert.config.model import model_config
from megabert.config.training import OptimizerSettings
from megabert.engine.zero.whole_tensors import read_state, write_state
from megabert.optim.registry import StateLayout
from megabert.planner.parameters import local_parameters
from megabert.planner.states import Sharding, state_bytes
from tests.extending.three_states import STATES, THREE_STATES, ThreeStates
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_runs import TENSORS, Case, Run, worlds
from tests.helpers.resume_runs import assert_tensors, go_on, options, state_after, train
from tests.helpers.training_runs import make_shards, whole_weights

SLOW = pytest.mark.slow
OPTIONS = ["--optimizer", THREE_STATES.name, "--lr", "1e-2", "--dropout", "0"]


def _states(name: str) -> set[str]:
    return set(STATES[1:2]) if re.search("bias|norm", name) else set(STATES)


class _Plain:
    """The same rule on whole tensors, by torch alone."""

    def __init__(self, start: dict[str, dict[str, torch.Tensor]]) -> None:
        self.weights = {n: torch.nn.Parameter(v["weight"].clone()) for n, v in start.items()}
        groups: list[dict[str, Any]] = [
            {
                "params": [p for n, p in self.weights.items() if len(_states(n)) == k],
                "weight_decay": d,
            }
            for k, d in ((3, 0.01), (1, 0.0))
        ]
        self.optimizer = ThreeStates(groups, OptimizerSettings(), StateLayout())

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: {"weight": p.detach(), **{k: self.optimizer.state[p][k] for k in _states(name)}}
            for name, p in self.weights.items()
        }

    def step(self, gradients: dict[str, Any], lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in self.weights.items():
            parameter.grad = torch.from_numpy(gradients[name]).float()
        self.optimizer.step()


def _every_stage(rank: int, world_size: int, tensor_parallel: int) -> None:
    from tests.helpers.lamb_runs import PEAK, full_gradient

    for world in worlds(tensor_parallel):
        saved: dict[str, dict[str, torch.Tensor]] = {}
        for case in (Case(0), Case(1, "bf16"), Case(2), Case(3, sub_group=100), Case(0, "bf16")):
            run = Run(world, Case(**{**vars(case), "clip": 0.0}), _make)
            if saved:  # the state of the stage before, bit for bit
                write_state(run.engine, world.tp, saved, 2)
                assert_tensors(read_state(run.engine, world.tp), saved)
                run.close()
                run = Run(world, Case(**{**vars(case), "clip": 0.0}), _make)
            start = read_state(run.engine, world.tp)
            assert {name: set(values) - {"weight"} for name, values in start.items()} == {
                name: _states(name) for name in TENSORS
            }
            plain = _Plain(start)
            for step in range(2):
                run.train(step)
                plain.step(full_gradient(step, run.parts()), PEAK)
            saved = read_state(run.engine, world.tp)
            for name, values in plain.state().items():
                for key, wanted in values.items():
                    torch.testing.assert_close(
                        saved[name][key], wanted, rtol=1e-5, atol=1e-6, msg=f"{case} {name} {key}"
                    )
            run.check_model(saved, str(case))
            run.close()


def _make(groups: list[dict[str, Any]], lr: float) -> ThreeStates:
    return ThreeStates(groups, OptimizerSettings(), StateLayout())


@SLOW
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_every_stage_has_the_rules_state(tensor_parallel: int) -> None:
    run_ranks(_every_stage, 2, tensor_parallel, initialize=False, timeout=240.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.mark.parametrize(
    ("ranks", "before", "after"),
    [
        pytest.param(2, options(2, 1), [(2, options(1, 3)), (1, options(1, 0))], marks=SLOW),
        pytest.param(
            2, options(1, 2, "bf16"), [(2, options(2, 0)), (1, options(1, 1))], marks=SLOW
        ),
        pytest.param(
            2, options(1, 3), [(2, options(2, 2)), (1, options(1, 0, "bf16"))], marks=SLOW
        ),
        pytest.param(1, options(1, 0, "bf16"), [(2, options(1, 3, "bf16"))], marks=SLOW),
        pytest.param(1, options(1, 0), [(2, options(2, 3))], marks=SLOW),
    ],
)
def test_resumed_on_any_layout(
    ranks: int, before: list[str], after: list[tuple[int, list[str]]], shards: Path, tmp_path: Path
) -> None:
    """Every state bit for bit on other layouts; on its own the run goes on as if never stopped."""
    run = tmp_path / "run"
    train(shards, run, *OPTIONS, *before, "--stop-after", "2", ranks=ranks)
    expected = whole_weights(run)
    for name, values in expected.items():
        assert set(values) == {"weight", *_states(name)}
        assert all(bool(values[key].any()) for key in _states(name))
    config = ["--config", str(run / "config.yaml"), "--output", str(run), "--resume", "auto"]
    for number, arguments in after:
        assert_tensors(state_after(number, *config, *arguments)["tensors"], expected)
    go_on(run, *before, "--stop-after", "3", ranks=ranks)
    straight = tmp_path / "straight"
    train(shards, straight, *OPTIONS, *before, "--stop-after", "3", ranks=ranks)
    assert_tensors(whole_weights(run), whole_weights(straight))


def test_saved_merged_and_moved(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(shards, run, *OPTIONS, *options(2, 1), "--stop-after", "1", ranks=2)
    expected = whole_weights(run)
    assert {k: set(v) for k, v in expected.items()} == {
        name: {"weight", *_states(name)} for name in expected
    }
    config = ["--config", str(run / "config.yaml"), "--output", str(run), "--resume", "auto"]
    assert_tensors(state_after(1, *config, *options(1, 0))["tensors"], expected)


def test_planner_counts_the_states_of_layers_matrices() -> None:
    n = local_parameters(model_config("bert-tiny"), 1, True)
    found = state_bytes(n, Sharding(0, "fp32", 1, optimizer=THREE_STATES.name), micro_steps=1)
    assert found["update"]["moments"] == pytest.approx(4 * n.total + 8 * n.matrices)
    # bert-tiny: 2 layers, each with 4 matrices of 128 x 128 and 2 of 128 x 512
    assert n.matrices == 2 * (4 * 128 * 128 + 2 * 128 * 512)
