"""The moving average of the weights: right, free of copies, and evaluated without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from megabert.engine.zero.averaged import averaged_weights
from megabert.engine.zero.whole_tensors import read_state, write_state
from megabert.optim.base import EMA
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_runs import TENSORS, Case, Run, micro_gradients, worlds
from tests.helpers.resume_runs import assert_tensors

DECAY = 0.75
CASES = [Case(1, "bf16"), Case(3, sub_group=100)]
MORE_CASES = [
    Case(0),
    Case(0, "bf16"),
    Case(0, "fp16"),
    Case(1, "bf16", fp32_sums=True, rule="lans"),
    Case(2, "fp16", rule="adamw"),
    Case(2, offload=True),
    Case(3, "bf16", own_groups=True),
]


def _forward(run: Run) -> Tensor:
    """The loss, which is linear in the weights, of fixed factors."""
    from tests.helpers.lamb_runs import DTYPES

    factors: dict[str, dict[str, Tensor]] = {}
    for name, value in micro_gradients(9, 0).items():
        owner, last = name.split(".")
        dim = 0 if name == "decoder.weight" else TENSORS[name][1]
        local = run.world.tp.cut(value, dim).to(DTYPES[run.case.precision])
        factors.setdefault(owner, {})[last] = local
    with torch.no_grad():
        found: Tensor = run.engine(factors)
    return found


def _with(state: dict[str, dict[str, Tensor]], key: str) -> dict[str, dict[str, Tensor]]:
    return {name: {"weight": values[key]} for name, values in state.items()}


def _fail_with_averaged(run: Run) -> None:
    with averaged_weights(run.engine, run.world.tp):
        _forward(run)
        raise ArithmeticError


def _train(run: Run, alone: Run) -> None:
    """Three updates of both, one of which is skipped, and evaluations of the average between."""
    average: dict[str, Tensor] = {}
    for step, poison in enumerate((0.0, float("nan"), 0.0)):
        if not average:
            start = read_state(run.engine, run.world.tp)
            assert all(torch.equal(values["weight"], values[EMA]) for values in start.values())
            average = {name: values["weight"] for name, values in start.items()}
        for one in (run, alone):
            one.train(step, poison)
        state = read_state(run.engine, run.world.tp)
        for name, values in state.items():
            if not poison:
                average[name] = average[name] + (1.0 - DECAY) * (values["weight"] - average[name])
            what = f"{run.case}: {name} after update {step}"
            torch.testing.assert_close(values[EMA], average[name], rtol=1e-6, atol=1e-7, msg=what)
        trained = _forward(run)
        with averaged_weights(run.engine, run.world.tp):
            run.check_model(_with(state, EMA), f"{run.case}: averaged")
            _forward(run)
        run.check_model(state, f"{run.case}: back")
        assert torch.equal(_forward(run), trained)
        with pytest.raises(ArithmeticError):
            _fail_with_averaged(run)
        assert torch.equal(_forward(run), trained), f"{run.case}: back after an error"
        assert_tensors(read_state(run.engine, run.world.tp), state)
    without = read_state(alone.engine, alone.world.tp)
    for name, values in read_state(run.engine, run.world.tp).items():
        for key, value in without[name].items():
            assert torch.equal(values[key], value), (
                f"{run.case}: the average changed {key} of {name}"
            )


def _average(rank: int, world_size: int, tensor_parallel: int, cases: list[Case]) -> None:
    for world in worlds(tensor_parallel):
        saved: dict[str, dict[str, Tensor]] = {}
        for case in cases:
            run, alone = Run(world, case), Run(world, case)
            run.optimizer.keep_average(DECAY)
            if saved:  # the average of another stage, bit for bit; begun anew where there is none
                write_state(run.engine, world.tp, saved, 2)
                assert_tensors(read_state(run.engine, world.tp), saved)
                write_state(alone.engine, world.tp, saved, 2)
                bare: Any = {n: {k: v for k, v in t.items() if k != EMA} for n, t in saved.items()}
                write_state(run.engine, world.tp, bare, 2)
            _train(run, alone)
            saved = read_state(run.engine, world.tp)
            run.close()
            alone.close()


@pytest.mark.parametrize(
    ("tensor_parallel", "cases"),
    [
        (2, CASES),
        pytest.param(1, CASES, marks=pytest.mark.slow),
        pytest.param(1, MORE_CASES, marks=pytest.mark.slow),
        pytest.param(2, MORE_CASES, marks=pytest.mark.slow),
    ],
)
def test_average_and_its_evaluation(tensor_parallel: int, cases: list[Case]) -> None:
    run_ranks(_average, 2, tensor_parallel, cases, initialize=False, timeout=400.0)
