"""Known gradients through DeepSpeed, for tests and tables of LAMB's exactness.

The loss is linear in the weights, so that the gradients are known exactly; they, their sums and the
starting weights are representable in bf16 and fp16. All precisions must therefore reach the float64
reference's weights to fp32 rounding, and what differs is what DeepSpeed or the optimizer did wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megabert.engine import launch
from megabert.engine.launch import World
from megabert.engine.zero.fixes import prepare_engine
from megabert.engine.zero.whole_tensors import optimizer_step, read_state
from megabert.optim.base import ShardedOptimizer
from megabert.optim.curve import Curve
from megabert.optim.lamb.backend import LambOptions
from megabert.optim.lamb.optimizer import Lamb
from megabert.optim.param_groups import GroupRule, parameter_groups, with_own_moments
from megabert.optim.schedule import Schedule
from megabert.parallel.layers import TensorParallel, mark_split
from tests.helpers.lamb_reference import LambReference

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
PEAK, CLIP = 0.05, 1.0
TOLERANCE = 1e-6
OWN_GROUPS = (
    GroupRule("^up", lr_scale=0.5, beta1=0.5, eps=1e-3),
    GroupRule("^(norm|position)", 2.0, 0.02, adapt=True, beta2=0.9),
)
"""A user's own groups: other rates, decay, adaption and moments than the model's own two."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


@dataclass(frozen=True)
class Case:
    stage: int
    precision: str = "fp32"
    accumulation: int = 1
    clip: float = CLIP
    fp32_sums: bool = False
    sub_group: int = 1_000_000
    offload: bool = False
    rule: str = "lamb"
    adapt_all: bool = False
    own_groups: bool = False
    bounds: tuple[float, float] | None = None

    def __str__(self) -> str:
        said = [f"ZeRO {self.stage}", self.precision, f"accumulation {self.accumulation}"]
        said += ["summed in fp32"] * self.fp32_sums + ["offloaded"] * self.offload
        said += [self.rule] * (self.rule != "lamb") + ["own groups"] * self.own_groups
        said += ["all adapted"] * self.adapt_all + [f"bounds {self.bounds}"] * bool(self.bounds)
        said += [f"sub-groups of {self.sub_group}"] * (self.sub_group < 1000)
        return " ".join(said)

    def reference(self) -> LambReference:
        """The float64 twin at its start."""
        return LambReference(
            {name: start_weight(name).numpy() for name in TENSORS},
            clip=self.clip,
            rule=self.rule,
            adapt_all=self.adapt_all,
            bounds=self.bounds or (0.0, float("inf")),
            groups={
                name: next((r for r in OWN_GROUPS if re.search(r.match, name)), GroupRule(""))
                for name in (TENSORS if self.own_groups else ())
            },
        )

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        own = OWN_GROUPS if self.own_groups else ()
        groups = parameter_groups(model, 0.01, adapt_all=self.adapt_all, own=own)
        return with_own_moments(groups, (0.9, 0.999), 1e-6) if own else groups

    def optimizer(self, groups: list[dict[str, Any]]) -> ShardedOptimizer:
        """The optimizer under test."""
        least, most = self.bounds or (None, None)
        chosen = LambOptions(PEAK, rule=self.rule, min_trust_ratio=least, max_trust_ratio=most)  # type: ignore[arg-type]
        return Lamb(groups, chosen)

    @property
    def tolerance(self) -> float:
        """Largest difference from the reference, relative to the tensor's largest number."""
        return TOLERANCE

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clip,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": self.stage},
        }
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
        if self.precision == "fp16":
            # small enough that the known gradients stay exact and finite
            config["fp16"] = {"enabled": True, "initial_scale_power": 8}
        if self.offload:
            config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
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


class Run:
    """One engine with its counters, fed with the known gradients."""

    def __init__(self, world: World, case: Case, optimizer_class: Any = None) -> None:
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        self.world, self.case = world, case
        self.model = Toy(world.tp)
        groups = case.groups(self.model)
        if case.precision == "fp16":
            # DeepSpeed asks the device; fp16 arithmetic itself works on every CPU
            get_accelerator().is_fp16_supported = lambda: True
        if optimizer_class is None:
            self.optimizer = case.optimizer(groups)
        else:
            plain = [{k: v for k, v in group.items() if k != "adapt"} for group in groups]
            self.optimizer = optimizer_class(plain, lr=PEAK)
        self.schedule = Schedule(self.optimizer, Curve("constant", 100, PEAK, 0.0))
        self.engine, *_ = deepspeed.initialize(
            model=self.model,
            optimizer=self.optimizer,
            lr_scheduler=self.schedule,
            config=case.config(),
            mpu=world.mpu,
            dist_init_required=False,
        )
        prepare_engine(self.engine, world.tp)
        self.collectives = 0
        if optimizer_class is None and self.optimizer.table.all_reduce is not None:
            self.optimizer.table.all_reduce = self._counted(self.optimizer.table.all_reduce)

    def _counted(self, all_reduce: Any) -> Any:
        def call(tensor: Tensor) -> None:
            self.collectives += 1
            all_reduce(tensor)

        return call

    def train(self, step: int, poison: float = 0.0) -> None:
        """Update ``step``: this rank's micro batches of it."""
        topology, case = self.world.topology, self.case
        dtype = DTYPES[case.precision]
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
            "momentum": reference.m,
        }
        for name, values in state.items():
            for key, value in values.items():
                error = relative(value, wanted[key][name])
                assert error < self.case.tolerance, f"{what}: {key} of {name} is off by {error:.1e}"
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


def worlds(tensor_parallel: int) -> Iterator[World]:
    """The world of this forked rank, closed at the end."""
    world = launch.start(tensor_parallel)
    yield world
    world.close()
