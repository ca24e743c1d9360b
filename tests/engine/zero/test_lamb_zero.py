"""LAMB inside DeepSpeed against the float64 reference: every ZeRO stage, TP, DP and precision."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megabert.common.errors import UserError
from megabert.engine.launch import World
from megabert.engine.zero.config import check_zero_config
from megabert.engine.zero.fixes import grad_norm, prepare_engine
from megabert.engine.zero.whole_tensors import optimizer_step, read_state, write_state
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_reference import LambReference
from tests.helpers.lamb_runs import PEAK, TENSORS, Case, Run, full_gradient, worlds

STEPS = 3

CASES = [
    Case(0),
    Case(1, accumulation=4),
    Case(2),
    Case(3, sub_group=100),
    Case(0, "bf16", 4),
    Case(1, "bf16", 4, fp32_sums=True),
    Case(2, "bf16", 4),
    Case(3, "bf16", fp32_sums=True, sub_group=100),
    Case(0, accumulation=4, clip=0.0),
    Case(1, offload=True),
    Case(2, "bf16", 4, offload=True),
    Case(3, "bf16", 4, fp32_sums=True, offload=True),
    Case(0, "fp16"),
    Case(1, "fp16", 4),
    Case(3, "fp16", 4, sub_group=100),
    Case(1, own_groups=True, bounds=(0.3, 2.0)),
    Case(3, "bf16", own_groups=True, sub_group=30),
    Case(2, "bf16", adapt_all=True),
    Case(1, rule="lans"),
    Case(3, rule="lans", sub_group=30, own_groups=True),
    Case(1, "bf16", rule="adamw"),
    Case(3, rule="adamw"),
]
MORE_CASES = [
    Case(1, "bf16"),
    Case(2, "bf16", fp32_sums=True),
    Case(3, "bf16", 4),
    Case(3, accumulation=4),
    Case(1, "bf16", 4, fp32_sums=True, offload=True),
    Case(3, offload=True, sub_group=100),
    Case(2, "fp16"),
    Case(0, own_groups=True),
    Case(0, "bf16", rule="lans", adapt_all=True),
]
"""Further combinations of what CASES have, in the slow tests."""


def check_case(world: World, case: Case, carried: dict[str, dict[str, Tensor]] | None) -> Any:
    """Train from the start; then continue from the state that another stage ended with."""
    run = Run(world, case)
    reference = case.reference()
    run.check(reference, f"{case} at start")
    for step in range(STEPS):
        run.train(step)
        reference.step(full_gradient(step, run.parts()), PEAK)
        assert grad_norm(run.engine) == pytest.approx(reference.norm, rel=1e-6), str(case)
    run.check(reference, f"{case} after {STEPS} steps")
    check_collectives(run)
    state = read_state(run.engine, world.tp)
    check_overflow(run, reference)
    if carried is not None:
        blank = {name: {"weight": torch.zeros(TENSORS[name][0])} for name in TENSORS}
        write_state(run.engine, world.tp, blank, 0)
        write_state(run.engine, world.tp, carried, STEPS)
        run.check_model(carried, f"{case} after writing")
    run.train(STEPS)
    reference.step(full_gradient(STEPS, run.parts()), PEAK)
    run.check(reference, f"{case} after writing and {STEPS + 1} steps")
    run.close()
    return state


def check_collectives(run: Run) -> None:
    """One all-reduce per adapted group (sub-group in stage 3) and step, on every rank; one more in
    every group for LANS."""
    case, topology = run.case, run.world.topology
    groups = case.groups(run.model)
    if case.stage == 3:
        owner = {id(p): group for group in groups for p in group["params"]}
        sub_groups = run.engine.optimizer.fp16_groups
        assert (len(sub_groups) > len(groups)) == (case.sub_group < 1000)
        groups = [owner[id(sub_group[0])] for sub_group in sub_groups]
    each = [
        int(group["adapt"] and case.rule != "adamw") + int(case.rule == "lans") for group in groups
    ]
    sharers = topology.tensor_parallel if case.stage == 0 else topology.world_size
    assert run.collectives == (STEPS * sum(each) if sharers > 1 else 0), str(case)


def check_overflow(run: Run, reference: LambReference) -> None:
    """A NaN on one rank: no rank moves, counts, or advances the schedule."""
    last = run.world.topology.rank == run.world.topology.world_size - 1
    skipped = run.engine.skipped_steps
    run.train(9, poison=math.nan if last else 0.0)
    assert run.engine.skipped_steps == skipped + 1, f"{run.case}: not skipped"
    assert math.isinf(grad_norm(run.engine))
    assert run.schedule.applied_steps == reference.t
    run.check(reference, f"{run.case} after a skipped step")


def exact_everywhere(
    rank: int, world_size: int, tensor_parallel: int, cases: list[Case], folder: Path
) -> None:
    for world in worlds(tensor_parallel):
        check_refusals(world)
        carried: dict[Case, dict[str, dict[str, Tensor]]] = {}
        for case in cases:
            # another case of the same mathematics: its state is this one's too
            key = replace(case, stage=0, precision="", fp32_sums=False, offload=False, sub_group=0)
            carried[key] = check_case(world, case, carried.get(key))
        check_resume(world, [Case(3, sub_group=100), Case(1, "bf16", fp32_sums=True)], folder)
        if tensor_parallel == 1:
            check_adamw(world)


def check_resume(world: World, cases: list[Case], folder: Path) -> None:
    """DeepSpeed's own checkpoint keeps Lamb's state and schedule: a resumed run is bit-equal."""
    for case in cases:
        ended = []
        first, second = Run(world, case), Run(world, case)
        first.train(0)
        first.engine.save_checkpoint(str(folder), tag=f"stage{case.stage}")
        second.engine.load_checkpoint(str(folder), tag=f"stage{case.stage}")
        for run in (first, second):
            run.train(1)
            assert run.schedule.applied_steps == optimizer_step(run.engine) == 2
            ended.append(read_state(run.engine, world.tp))
            run.close()
        for name in TENSORS:
            for key, value in ended[0][name].items():
                assert torch.equal(value, ended[1][name][key]), f"{case}: {key} of {name}"


def check_refusals(world: World) -> None:
    """Wrong inputs of the state functions and of prepare_engine, each a UserError."""
    run = Run(world, Case(1))
    state = read_state(run.engine, world.tp, keys=("weight",))
    missing = {name: value for name, value in state.items() if name != "up.bias"}
    with pytest.raises(UserError, match=r"no tensor up\.bias"):
        write_state(run.engine, world.tp, missing, 0)
    state["down.weight"]["weight"] = torch.zeros(11, 28)
    with pytest.raises(UserError, match=r"down\.weight .* has shape \(11, 28\)"):
        write_state(run.engine, world.tp, state, 0)
    with pytest.raises(UserError, match="are not the"):
        # as if DeepSpeed did not know of tensor parallelism, or the reverse
        prepare_engine(
            run.engine, replace(world.tp, size=world.tp.size + 1, group=dist.group.WORLD)
        )
    del run.engine.optimizer.round_robin_bit16_offsets
    with pytest.raises(
        UserError, match=r"has no DeepSpeedZeroOptimizer\.round_robin_bit16_offsets"
    ):
        prepare_engine(run.engine, world.tp)
    run.close()


def check_adamw(world: World) -> None:
    """The start-up update of stage 0 in half precision is undone for AdamW too."""
    ended = []
    for stage in (0, 1):
        run = Run(world, Case(stage, "bf16"), torch.optim.AdamW)
        for step in range(STEPS):
            run.train(step)
        assert optimizer_step(run.engine) == STEPS
        ended.append(read_state(run.engine, world.tp))
        run.close()
    for name in TENSORS:
        for key in ended[0][name]:
            torch.testing.assert_close(ended[0][name][key], ended[1][name][key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("data_parallel", "tensor_parallel", "cases"),
    [
        (1, 1, CASES[::3]),  # alone, a rank divides nothing
        (2, 2, CASES),
        pytest.param(2, 2, MORE_CASES, marks=pytest.mark.slow),
    ],
    ids=["1-1", "2-2", "2-2-more"],
)
def test_exact(data_parallel: int, tensor_parallel: int, cases: list[Case], tmp_path: Path) -> None:
    size = data_parallel * tensor_parallel
    run_ranks(
        exact_everywhere, size, tensor_parallel, cases, tmp_path, initialize=False, timeout=300.0
    )


@pytest.mark.slow
@pytest.mark.parametrize("tensor_parallel", [1, 2])
@pytest.mark.parametrize("data_parallel", [1, 2])
def test_exact_in_every_combination(
    data_parallel: int, tensor_parallel: int, tmp_path: Path
) -> None:
    precisions = [("fp32", False), ("bf16", False), ("bf16", True)]
    cases = [
        Case(stage, precision, accumulation, fp32_sums=fp32_sums)
        for accumulation in (1, 4)
        for stage in range(4)
        for precision, fp32_sums in precisions
        if not (stage == 0 and fp32_sums)  # DeepSpeed has no such mode
    ]
    size = data_parallel * tensor_parallel
    run_ranks(
        exact_everywhere, size, tensor_parallel, cases, tmp_path, initialize=False, timeout=900.0
    )


@pytest.mark.parametrize(
    "zero",
    [
        {"stage": 2, "offload_optimizer": {"device": "nvme"}},
        {"stage": 0, "offload_optimizer": {"device": "cpu"}},
        {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}},
        {"stage": 3, "offload_param": {"device": "cpu"}},
        {"stage": 3, "zero_quantized_gradients": True},
        {"stage": 3, "zero_hpz_partition_size": 2},
        {"stage": 2, "zenflow": {"topk_ratio": 0.1}},
        {"stage": 2, "compute_grad_norm": False},
        {"stage": 2, "cpu_offload": True},
        {"stage": 3, "mics_shard_size": 2},
        {"stage": 2, "round_robin_gradients": True},
        {"stage": 1, "elastic_checkpoint": True},
        {"stage": 1, "load_from_fp32_weights": False},
    ],
    ids=str,
)
def test_zero_settings_refused(zero: dict) -> None:
    with pytest.raises(UserError, match=list(zero)[1]):
        check_zero_config({"zero_optimization": zero})


def test_zero_settings_accepted() -> None:
    check_zero_config({})
    check_zero_config({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}})
    with pytest.raises(UserError, match=r"checkpoint\.load_universal is not supported"):
        check_zero_config({"checkpoint": {"load_universal": True}})
    with pytest.raises(UserError, match="bf16_optimizer_states"):
        check_zero_config({"bf16": {"enabled": True, "bf16_optimizer_states": True}})
    check_zero_config({"zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}})
