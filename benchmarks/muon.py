#!/usr/bin/env python
"""Muon: bytes sent and time of an update next to LAMB's, DeepSpeed's own Muon, and losses on the same text.

    python benchmarks/muon.py bytes [--model bert-mini] [--ranks 2] [--tensor-parallel 1] [--stages 0,1,2,3]
        [--precision fp32] [--rounds 5]
    python benchmarks/muon.py deepspeed [--ranks 2]
    python benchmarks/muon.py curve SHARDS [--model bert-tiny] [--updates 300] [--batch 32] [--length 128]
        [--rates adamw=1e-3,3e-3 lamb=1e-2,3e-2 muon=1e-3,3e-3 deepspeed=1e-3,3e-3]

``bytes``: what a rank sends in one update for the optimizer (the busiest rank; messages to itself are none,
an all-reduce of n ranks counts 2 (n-1)/n of its size), next to the sum of the gradients; and the time of
the whole update, in rounds in which the optimizers take turns. The loss is a sum over the model's
parameters, so backward costs next to nothing.

``deepspeed``: the update of DeepSpeed's Muon against the same rule in float64 on whole matrices (its own
scale, sqrt(max(1, rows / columns))), on known gradients: the relative error of the second update of all
matrices. Exact in fp32 is 1e-4 or less.

``curve``: the mean training loss of the last tenth of the updates; every sample is seen once, and all see
the same ones. DeepSpeed's Muon runs at ZeRO 1, its rate times 0.2 sqrt(hidden size), which makes its
updates of square matrices as long as ours.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "TORCHDYNAMO_DISABLE", "1"
)  # DeepSpeed compiles its Muon; the sums are the same

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.communication import one_update, slowest
from benchmarks.steps.batches import RealBatches
from benchmarks.steps.rounds import environment, markdown_table, turns, write_json
from megabert.common.log import run_command
from megabert.config.model import model_config
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.training_engine import TrainingEngine
from megabert.engine.zero.whole_tensors import read_state
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.optim.param_groups import is_hidden_matrix, parameter_groups
from tests.helpers.distributed import run_ranks
from tests.helpers.lamb_runs import PEAK, TENSORS, Run, full_gradient, start_weight, worlds
from tests.helpers.muon_reference import MuonReference
from tests.helpers.muon_runs import MATRICES, MuonCase

RULES = ("adamw", "lamb", "muon")

# ------------------------------------------------------------------ bytes and time


class SummedModules(nn.Module):
    """A model under a loss that is the sum of its parameters, each added by the module that owns it.

    ZeRO 3 gathers a module's weights when it is called.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
        for module in self.owners:
            module.forward = partial(_sum_of_own, module)

    def forward(self) -> Tensor:
        """A scalar whose gradient is 1 for every parameter."""
        return torch.stack([module() for module in self.owners]).sum()


def _sum_of_own(module: nn.Module) -> Tensor:
    parts = [p.sum(dtype=torch.float32) for p in module.parameters(recurse=False)]
    return torch.stack(parts).sum()


def make_engine(
    world: launch.World, rule: str, stage: int, arguments: argparse.Namespace
) -> TrainingEngine:
    """An engine over the parameters of the model."""
    ranks = world.topology.data_parallel
    return build_engine(
        SummedModules(BertForPreTraining(model_config(arguments.model), world.tp)),
        world,
        OptimizerSettings(
            optimizer=rule, schedule="constant", steps=10**6, lr=1e-4, warmup_fraction=0.0
        ),
        ParallelSettings(
            zero_stage=stage, precision=arguments.precision, tensor_parallel=world.tp.size
        ),
        BatchSizes(ranks, 1, 1, ranks),
    )


class Counter:
    """Bytes that this rank sends for the optimizer's update."""

    def __init__(self, engine: TrainingEngine) -> None:
        self.norms = self.matrices = 0.0
        table = engine.optimizer.table
        sharers = engine.world.topology.world_size
        if engine.zero_stage == 0:
            sharers = engine.world.tp.size
        all_reduce = table.all_reduce
        if all_reduce is not None:

            def counted(tensor: Tensor) -> None:
                self.norms += 2 * (sharers - 1) / sharers * tensor.numel() * tensor.element_size()
                all_reduce(tensor)

            table.all_reduce = counted
        start = table.exchange.start if table.exchange is not None else None
        if start is not None:

            def started(sent: Tensor, *sizes: Sequence[int]) -> Any:
                self.matrices += sent.numel() * sent.element_size()
                return start(sent, *sizes)

            table.exchange.start = started  # type: ignore[union-attr,method-assign]


def measure_bytes(world: launch.World, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes and seconds of each optimizer at each stage."""
    rows = []
    for stage in arguments.stages:
        engines = {rule: make_engine(world, rule, stage, arguments) for rule in RULES}
        counters = {}
        times: dict[str, list[float]] = {rule: [] for rule in RULES}
        for rule, engine in engines.items():
            one_update(engine)
            counters[rule] = Counter(engine)
            one_update(engine)
        sent = {rule: slowest([c.norms, c.matrices]) for rule, c in counters.items()}
        for number in range(arguments.rounds):
            for rule in turns(RULES, number):
                times[rule].append(one_update(engines[rule])["last"])
        medians = {rule: statistics.median(slowest(each)) for rule, each in times.items()}
        local = sum(math.prod(t.shape) for p in engines["muon"].optimizer.table.partitions
                    for t in p.tensors)  # fmt: skip
        data = world.topology.data_parallel
        width = 4 if arguments.precision == "fp32" else 2
        for rule in RULES:
            rows.append(
                {
                    "stage": stage,
                    "rule": rule,
                    "norms": sent[rule][0],
                    "matrices": sent[rule][1],
                    "gradients": 2 * (data - 1) / data * local * width,
                    "milliseconds": 1e3 * medians[rule],
                    "ratio": medians[rule] / medians["lamb"],
                }
            )
        for engine in engines.values():
            engine.close()
    return rows


def bytes_rank(rank: int, port: int, arguments: argparse.Namespace, results: Any) -> None:
    """One rank; rank 0 sends what was measured."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(arguments.ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // arguments.ranks))
    world = launch.start(arguments.tensor_parallel)
    rows = measure_bytes(world, arguments)
    about = environment(world.device)
    world.close()
    if rank == 0:
        results.put({"rows": rows, "environment": about})


def bytes_command(arguments: argparse.Namespace) -> Any:
    """Measure and print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(bytes_rank, (port, arguments, results), nprocs=arguments.ranks)
    found = results.get()
    print(
        f"{arguments.model}, {arguments.precision}, {arguments.ranks} gloo ranks, tensor parallel "
        f"{arguments.tensor_parallel}\n"
    )
    header = (
        "ZeRO", "optimizer", "norms, bytes", "matrices, MB", "gradients, MB", "update, ms", "to LAMB's"
    )  # fmt: skip
    rows = [
        (r["stage"], r["rule"], round(r["norms"]), f"{r['matrices'] / 1e6:.2f}",
         f"{r['gradients'] / 1e6:.2f}", f"{r['milliseconds']:.0f}", f"{r['ratio']:.2f}")
        for r in found["rows"]
    ]  # fmt: skip
    print(markdown_table(header, rows))
    print(", ".join(f"{key} {value}" for key, value in found["environment"].items()))
    return found


# ------------------------------------------------------------------ DeepSpeed's own Muon


class TheirReference(MuonReference):
    """The rule with DeepSpeed's scale."""

    def scale(self, shape: tuple[int, ...]) -> float:
        """sqrt(max(1, rows / columns))."""
        return math.sqrt(max(1.0, shape[0] / shape[1]))


def their_muon(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """DeepSpeed's optimizer over our groups, its iteration the standard one, in fp32."""
    from deepspeed.runtime.zero.muon import original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    original_muon.ns_compute_dtype = lambda method="gram": torch.float32
    theirs = []
    for group in groups:
        for parameter in group["params"]:
            parameter.use_muon = group["matrix"]
        made = {"params": group["params"], "lr": lr, "weight_decay": group["weight_decay"]}
        if group["matrix"]:
            made |= {"use_muon": True, "momentum": 0.95, "ns_method": "standard"}
        else:
            made |= {"use_muon": False, "betas": (0.9, 0.999), "eps": 1e-6}
        theirs.append(made)
    optimizer: torch.optim.Optimizer = MuonWithAuxAdam(theirs)
    return optimizer


@dataclass(frozen=True)
class TheirCase(MuonCase):
    """DeepSpeed refuses its Muon at stage 3 unless gradients are all-reduced."""

    def config(self) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        config = super().config()
        config["zero_optimization"]["reduce_scatter"] = self.stage != 3
        return config


def their_error(world: launch.World, case: MuonCase) -> float | str:
    """Relative error of the second update of the matrices."""
    weights = {name: start_weight(name).numpy() for name in TENSORS}
    reference = TheirReference(weights, MATRICES, clip=case.clip, rule="adamw")
    try:
        run = Run(world, case, their_muon)
        for step in range(2):
            before = {name: reference.weights[name].copy() for name in MATRICES}
            old = read_state(run.engine, world.tp, keys=("weight",))
            run.train(step)
            reference.step(full_gradient(step, run.parts()), PEAK)
        new = read_state(run.engine, world.tp, keys=("weight",))
    except (AssertionError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    off = moved = 0.0
    for name in MATRICES:
        wanted = reference.weights[name] - before[name]
        found = (new[name]["weight"] - old[name]["weight"]).double().numpy()
        off += float(((found - wanted) ** 2).sum())
        moved += float((wanted**2).sum())
    run.close()
    return math.sqrt(off / moved)


def deepspeed_rank(
    rank: int, world_size: int, tensor_parallel: int, cases: list[MuonCase]
) -> list[float | str]:
    """Every case in one world."""
    sys.stdout = sys.stderr
    return [their_error(world, case) for world in worlds(tensor_parallel) for case in cases]


def deepspeed_command(arguments: argparse.Namespace) -> Any:
    """Measure and print."""
    kinds = {
        "ZeRO 0, fp32": (0, "fp32", False), "ZeRO 1, fp32": (1, "fp32", False),
        "ZeRO 1, bf16 with fp32 sums": (1, "bf16", True), "ZeRO 2, fp32": (2, "fp32", False),
        "ZeRO 3, fp32": (3, "fp32", False),
    }  # fmt: skip
    found: dict[str, list[Any]] = {name: [] for name in kinds}
    for tensor_parallel, clip, accumulation in ((1, 0.0, 1), (1, 0.0, 2), (1, 1.0, 1), (2, 0.0, 1)):
        cases = [
            TheirCase(stage, precision, accumulation, clip=clip, fp32_sums=sums)
            for stage, precision, sums in kinds.values()
        ]
        results = run_ranks(
            deepspeed_rank, arguments.ranks, tensor_parallel, cases,
            initialize=False, timeout=1800.0,
        )  # fmt: skip
        for name, values in zip(kinds, zip(*results)):
            refused = next((v for v in values if isinstance(v, str)), None)
            found[name].append(refused or f"{max(values):.1e}")
    header = ("", "no clipping", "2 micro steps", "clipped at 1.0", "tensor parallel 2")
    print(markdown_table(header, [(name, *values) for name, values in found.items()]))
    return found


# ------------------------------------------------------------------ losses


def train(
    world: launch.World, batches: RealBatches, rule: str, rate: float, arguments: argparse.Namespace
) -> list[float]:
    """Loss of each update."""
    config = batches.model(arguments.model, 0.0)
    model = BertForPreTraining(config)
    initialize_weights(model, config, 42)
    settings = OptimizerSettings(
        optimizer=rule if rule in RULES else "adamw", schedule="linear", steps=arguments.updates, lr=rate,
        warmup_fraction=0.1,
    )  # fmt: skip
    losses = []
    engine: Any
    if rule in RULES:
        engine = build_engine(
            model, world, settings, ParallelSettings(zero_stage=1, precision="fp32"),
            BatchSizes(arguments.batch, arguments.batch, 1, 1),
        )  # fmt: skip
    else:
        engine = their_engine(model, rate, config.hidden_size, arguments)
    for number in range(arguments.updates):
        batch = batches.get(number)
        output = engine(batch.packed)
        mlm = output.mlm_loss_sum / batch.work.predictions
        engine.backward(mlm + output.nsp_loss_sum / batch.work.samples)
        engine.step()
        losses.append(float(mlm.detach()))
    (engine.close if rule in RULES else engine.destroy)()
    return losses


def their_engine(model: nn.Module, rate: float, hidden: int, arguments: argparse.Namespace) -> Any:
    """DeepSpeed's engine at ZeRO 1 with its Muon."""
    import deepspeed

    optimizer = their_muon(parameter_groups(model, 0.01, matrices=is_hidden_matrix), rate)
    peaks = [
        rate * (0.2 * math.sqrt(hidden) if group["use_muon"] else 1.0)
        for group in optimizer.param_groups
    ]
    warm = 0.1 * arguments.updates

    def factor(update: int) -> float:
        done = update + 1
        return (
            done / warm if done < warm else (arguments.updates - done) / (arguments.updates - warm)
        )

    for group, peak in zip(optimizer.param_groups, peaks):
        group["lr"] = peak
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        dist_init_required=False,
        config={
            "train_batch_size": arguments.batch,
            "train_micro_batch_size_per_gpu": arguments.batch,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
        },
    )
    return engine


def curve_command(arguments: argparse.Namespace) -> Any:
    """Train and print."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    world = launch.start()
    batches = RealBatches(arguments.shards, arguments.length, arguments.batch)
    found: dict[str, list[float]] = {}
    shown = [round(share * arguments.updates) for share in (0.25, 0.5, 0.75, 1.0)]
    rows = []
    last = max(1, arguments.updates // 10)
    for text in arguments.rates:
        rule, _, rates = text.partition("=")
        for rate in map(float, rates.split(",")):
            began = time.process_time()
            losses = train(world, batches, rule, rate, arguments)
            found[f"{rule} {rate:g}"] = losses
            means = [statistics.fmean(losses[end - last : end]) for end in shown]
            seconds = time.process_time() - began
            rows.append((rule, f"{rate:g}", *(f"{m:.3f}" for m in means), f"{seconds:.0f}"))
            print(rows[-1], file=sys.stderr, flush=True)
    header = ("optimizer", "rate", *(f"at {end}" for end in shown), "CPU seconds")
    print(
        f"{arguments.model}, {arguments.updates} updates of {arguments.batch} sequences of "
        f"{arguments.length}; mean MLM loss of {last} updates\n"
    )
    print(markdown_table(header, rows))
    print(", ".join(f"{key} {value}" for key, value in environment(world.device).items()))
    world.close()
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write everything there too")
    commands = parser.add_subparsers(required=True, metavar="bytes|deepspeed|curve")
    one = commands.add_parser("bytes")
    one.set_defaults(run=bytes_command)
    one.add_argument("--model", default="bert-mini")
    one.add_argument("--ranks", type=int, default=2)
    one.add_argument("--tensor-parallel", type=int, default=1)
    one.add_argument("--stages", default="0,1,2,3")
    one.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    one.add_argument("--rounds", type=int, default=5)
    one = commands.add_parser("deepspeed")
    one.set_defaults(run=deepspeed_command)
    one.add_argument("--ranks", type=int, default=2)
    one = commands.add_parser("curve")
    one.set_defaults(run=curve_command)
    one.add_argument("shards", type=Path)
    one.add_argument("--model", default="bert-tiny")
    one.add_argument("--updates", type=int, default=300)
    one.add_argument("--batch", type=int, default=32)
    one.add_argument("--length", type=int, default=128)
    one.add_argument(
        "--rates", nargs="+",
        default=["adamw=1e-3,3e-3", "lamb=1e-2,3e-2", "muon=1e-3,3e-3", "deepspeed=1e-3,3e-3"],
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if hasattr(arguments, "stages"):
        arguments.stages = [int(stage) for stage in arguments.stages.split(",")]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    with contextlib.suppress(KeyboardInterrupt):
        write_json(arguments.json, arguments.run(arguments))
    return 0


if __name__ == "__main__":
    run_command(main)
