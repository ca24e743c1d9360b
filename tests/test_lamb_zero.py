"""LAMB inside DeepSpeed against the float64 reference: every ZeRO stage, TP, DP and precision.

The loss is linear in the weights, so that the gradients are known exactly; they, their sums and the
starting weights are representable in bf16. All precisions must therefore reach the reference's
weights to fp32 rounding, and what differs is what DeepSpeed or the optimizer did wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabert.engine import launch
from megabert.engine.launch import World
from megabert.engine.whole_state import optimizer_step, read_state, write_state
from megabert.engine.zero_segments import attach_lamb, check_zero_config, grad_norm
from megabert.log import UserError
from megabert.optim.lamb import Lamb
from megabert.optim.param_groups import parameter_groups
from megabert.optim.schedule import Schedule
from megabert.parallel.layers import TensorParallel, mark_split
from tests.distributed import run_ranks
from tests.lamb_reference import LambReference

# name: full shape, dimension of the tensor-parallel split
TENSORS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "embed.weight": ((24, 11), 0),
    "position.weight": ((7, 11), None),
    "up.weight": ((14, 11), 0),
    "up.bias": ((14,), 0),
    "down.weight": ((11, 14), 1),
    "down.bias": ((11,), None),
    "norm.weight": ((11,), None),
    "norm.bias": ((11,), None),
    "decoder.bias": ((24,), 0),
}
PEAK, CLIP, STEPS = 0.05, 1.0, 3
TOLERANCE = 1e-6


class Holder(nn.Module):
    """Parameters ``weight`` and ``bias`` as asked for; their inner product with given tensors."""

    def __init__(self, name: str, tp: TensorParallel) -> None:
        super().__init__()
        for full_name, (_, dim) in TENSORS.items():
            owner, last = full_name.split(".")
            if owner == name:
                parameter = nn.Parameter(tp.cut(start_weight(full_name), dim).clone())
                self.register_parameter(
                    last, parameter if dim is None else mark_split(parameter, dim)
                )

    def forward(self, factors: dict[str, Tensor]) -> Tensor:
        return torch.stack([(getattr(self, n) * f).sum() for n, f in factors.items()]).sum()


class Toy(nn.Module):
    """Split, copied and tied tensors of sizes that no partition border respects."""

    def __init__(self, tp: TensorParallel) -> None:
        super().__init__()
        for name in ("embed", "position", "up", "down", "norm", "decoder"):
            setattr(self, name, Holder(name, tp))
        # tied
        decoder = self.get_submodule("decoder")
        decoder.register_parameter("weight", self.get_parameter("embed.weight"))

    def forward(self, factors: dict[str, dict[str, Tensor]]) -> Tensor:
        losses = [getattr(self, name)(values) for name, values in factors.items()]
        return torch.stack(losses).sum()


def drawn(name: str, seed: int, scale: float) -> Tensor:
    """Multiples of 1/16 of at most half: sums of eight are exact in bf16."""
    shape, _ = TENSORS[name]
    generator = torch.Generator().manual_seed(1000 * seed + sorted(TENSORS).index(name))
    return torch.randint(-8, 9, shape, generator=generator) * (scale / 16)


def start_weight(name: str) -> Tensor:
    return drawn(name, 1, 4.0 if name == "up.weight" else 1.0).float()


def micro_gradients(step: int, part: int) -> dict[str, Tensor]:
    """Gradient of one micro batch (``part`` of the update); ``decoder.weight`` is the tied use."""
    seed = 10 + 100 * step + part
    gradients = {name: drawn(name, seed, 1.0) for name in TENSORS}
    gradients["decoder.weight"] = drawn("embed.weight", seed + 50, 1.0)
    return gradients


def full_gradient(step: int, parts: int) -> dict[str, np.ndarray]:
    """Mean over the update's micro batches, the tied tensor's two uses added."""
    total: dict[str, np.ndarray] = {}
    for part in range(parts):
        for name, value in micro_gradients(step, part).items():
            key = "embed.weight" if name == "decoder.weight" else name
            total[key] = total.get(key, 0) + value.double().numpy() / parts
    return total


def make_reference(clip: float = CLIP) -> LambReference:
    return LambReference({name: start_weight(name).numpy() for name in TENSORS}, clip=clip)


@dataclass(frozen=True)
class Case:
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clip: float = CLIP
    fp32_sums: bool = False
    sub_group: int = 1_000_000

    def __str__(self) -> str:
        sums = " summed in fp32" if self.fp32_sums else ""
        return f"ZeRO {self.stage} {self.precision}{sums} accumulation {self.accumulation}"

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clip,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": self.stage},
        }
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
        if self.fp32_sums:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        if self.stage == 3:
            # some parameters stay whole, some are partitioned; buckets smaller than the model
            config["zero_optimization"].update(
                stage3_param_persistence_threshold=80,
                sub_group_size=self.sub_group,
                reduce_bucket_size=500,
            )
        return config


CASES = [
    Case(0),
    Case(1, accumulation=4),
    Case(2),
    Case(3, sub_group=100),
    Case(0, "bf16", 4),
    Case(1, "bf16"),
    Case(1, "bf16", 4, fp32_sums=True),
    Case(2, "bf16", 4),
    Case(2, "bf16", fp32_sums=True),
    Case(3, "bf16", 4),
    Case(3, "bf16", fp32_sums=True, sub_group=100),
    Case(0, accumulation=4, clip=0.0),
    Case(3, accumulation=4),
]


class Run:
    """One engine with its counters, fed with the known gradients."""

    def __init__(self, world: World, case: Case, optimizer_class: Any = Lamb) -> None:
        import deepspeed

        self.world, self.case = world, case
        self.model = Toy(world.tp)
        groups = parameter_groups(self.model, 0.01)
        if optimizer_class is not Lamb:
            for group in groups:
                group.pop("adapt")
        self.optimizer = optimizer_class(groups, lr=PEAK)
        self.schedule = Schedule(self.optimizer, "constant", 100, PEAK, 0.0)
        self.engine, *_ = deepspeed.initialize(
            model=self.model,
            optimizer=self.optimizer,
            lr_scheduler=self.schedule,
            config=case.config(),
            mpu=world.mpu,
            dist_init_required=False,
        )
        attach_lamb(self.engine, world.tp)
        self.collectives = 0
        if optimizer_class is Lamb and self.optimizer.table.all_reduce is not None:
            self.optimizer.table.all_reduce = self._counted(self.optimizer.table.all_reduce)

    def _counted(self, all_reduce: Any) -> Any:
        def call(tensor: Tensor) -> None:
            self.collectives += 1
            all_reduce(tensor)

        return call

    def train(self, step: int, poison: float = 0.0) -> None:
        """Update ``step``: this rank's micro batches of it."""
        topology, case = self.world.topology, self.case
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        for micro in range(case.accumulation):
            part = micro * topology.data_parallel + topology.data_parallel_rank
            factors: dict[str, dict[str, Tensor]] = {}
            for name, value in micro_gradients(step, part).items():
                owner, last = name.split(".")
                dim = 0 if name == "decoder.weight" else TENSORS[name][1]
                local = self.world.tp.cut(value, dim).to(dtype)
                factors.setdefault(owner, {})[last] = local + poison
            self.engine.backward(self.engine(factors))
            self.engine.step()

    def parts(self) -> int:
        return self.case.accumulation * self.world.topology.data_parallel

    def check(self, reference: LambReference, what: str) -> None:
        """Masters, moments and the model's weights are the reference's."""
        state = read_state(self.engine, self.world.tp)
        assert sorted(state) == sorted(TENSORS), what
        wanted = {
            "weight": reference.weights,
            "exp_avg": reference.m,
            "exp_avg_sq": reference.v,
        }
        for name, values in state.items():
            for key, value in values.items():
                error = relative(value, wanted[key][name])
                assert error < TOLERANCE, f"{what}: {key} of {name} is off by {error:.1e}"
        self.check_model(state, what)
        assert optimizer_step(self.engine) == reference.t, what
        steps = {int(s["step"]) for s in self.optimizer.state.values()}
        assert steps <= {reference.t}, what

    def check_model(self, state: dict[str, dict[str, Tensor]], what: str) -> None:
        """What the model computes with is the rounded master, on every rank."""
        import deepspeed

        for name, parameter in self.model.named_parameters():
            whole = state[name]["weight"]
            local = self.world.tp.cut(whole, TENSORS[name][1]).to(parameter.dtype)
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.case.stage == 3):
                assert torch.equal(parameter.detach(), local), f"{what}: {name} is not its master"

    def close(self) -> None:
        self.engine.destroy()


def relative(found: Tensor, wanted: np.ndarray) -> float:
    scale = max(float(np.abs(wanted).max()), 1e-30)
    return float(np.abs(found.double().numpy() - wanted).max()) / scale


def check_case(world: World, case: Case, carried: dict[str, dict[str, Tensor]] | None) -> Any:
    """Train from the start; then go on from the state that another stage ended with."""
    run = Run(world, case)
    reference = make_reference(case.clip)
    run.check(reference, f"{case} at start")
    for step in range(STEPS):
        run.train(step)
        reference.step(full_gradient(step, run.parts()), PEAK)
        assert grad_norm(run.engine) == pytest.approx(reference.norm, rel=1e-6), str(case)
    run.check(reference, f"{case} after {STEPS} steps")
    check_collectives(run)
    state = read_state(run.engine, world.tp)
    if not (case.stage == 0 and case.precision == "fp32"):
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
    """One all-reduce an adapted group (a sub-group in stage 3) and step, on every rank."""
    case, topology = run.case, run.world.topology
    expected = STEPS
    if case.stage == 3:
        decayed = {id(run.model.get_parameter(n)) for n in parameter_groups_names(run.model)}
        groups = run.engine.optimizer.fp16_groups
        expected *= sum(id(group[0]) in decayed for group in groups)
        assert (len(groups) > 2) == (case.sub_group < 1000)
    sharers = topology.tensor_parallel if case.stage == 0 else topology.world_size
    assert run.collectives == (expected if sharers > 1 else 0), str(case)


def parameter_groups_names(model: nn.Module) -> list[str]:
    return parameter_groups(model, 0.01)[0]["names"]


def check_overflow(run: Run, reference: LambReference) -> None:
    """A NaN on one rank: no rank moves, counts, or advances the schedule."""
    last = run.world.topology.rank == run.world.topology.world_size - 1
    skipped = run.engine.skipped_steps
    run.train(9, poison=math.nan if last else 0.0)
    assert run.engine.skipped_steps == skipped + 1, f"{run.case}: not skipped"
    assert math.isinf(grad_norm(run.engine))
    assert run.schedule.applied_steps == reference.t
    run.check(reference, f"{run.case} after a skipped step")


def worlds(rank: int, world_size: int, tensor_parallel: int) -> Iterator[World]:
    world = launch.start(tensor_parallel)
    yield world
    world.close()


def exact_everywhere(
    rank: int, world_size: int, tensor_parallel: int, cases: list[Case], folder: Path
) -> None:
    for world in worlds(rank, world_size, tensor_parallel):
        check_refusals(world)
        carried: dict[str, dict[str, dict[str, Tensor]]] = {}
        for case in cases:
            # the same batch and clipping: another case's state is this one's too
            key = f"{case.accumulation} {case.clip}"
            carried[key] = check_case(world, case, carried.get(key))
        check_resume(world, [Case(3, sub_group=100), Case(1, "bf16", fp32_sums=True)], folder)
        if tensor_parallel == 1:
            check_adamw(world)


def check_resume(world: World, cases: list[Case], folder: Path) -> None:
    """DeepSpeed's own checkpoint keeps Lamb's state and schedule: going on is bit-equal."""
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
    """Wrong inputs of the state functions and of attach_lamb, each a UserError."""
    run = Run(world, Case(1))
    state = read_state(run.engine, world.tp, keys=("weight",))
    missing = {name: value for name, value in state.items() if name != "up.bias"}
    with pytest.raises(UserError, match=r"no tensor up\.bias"):
        write_state(run.engine, world.tp, missing, 0)
    state["down.weight"]["weight"] = torch.zeros(11, 28)
    with pytest.raises(UserError, match=r"down\.weight .* is \(11, 28\)"):
        write_state(run.engine, world.tp, state, 0)
    with pytest.raises(UserError, match="are not the"):
        # as if tensor parallelism had not been told to DeepSpeed, or the other way round
        attach_lamb(run.engine, replace(world.tp, size=world.tp.size + 1, group=dist.group.WORLD))
    del run.engine.optimizer.round_robin_bit16_offsets
    with pytest.raises(
        UserError, match=r"has no DeepSpeedZeroOptimizer\.round_robin_bit16_offsets"
    ):
        attach_lamb(run.engine, world.tp)
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


@pytest.mark.parametrize(("data_parallel", "tensor_parallel"), [(1, 1), (2, 2)], ids="{}".format)
def test_exact(data_parallel: int, tensor_parallel: int, tmp_path: Path) -> None:
    size = data_parallel * tensor_parallel
    run_ranks(
        exact_everywhere, size, tensor_parallel, CASES, tmp_path, initialize=False, timeout=300.0
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
        {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        {"stage": 3, "offload_param": {"device": "nvme"}},
        {"stage": 3, "mics_shard_size": 2},
        {"stage": 2, "round_robin_gradients": True},
    ],
    ids=str,
)
def test_zero_settings_refused(zero: dict) -> None:
    with pytest.raises(UserError, match=list(zero)[1]):
        check_zero_config({"zero_optimization": zero})


def test_zero_settings_accepted() -> None:
    check_zero_config({})
    check_zero_config({"zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}})
