#!/usr/bin/env python
"""What data-parallel communication costs on this machine: collectives by size, updates by bucket size.

    python benchmarks/communication.py [--ranks 2] [--models bert-mini,bert-base] [--stages 1,2]
        [--precision fp32] [--buckets 1,5,20,50,200] [--accumulation 2] [--rounds 5] [--json FILE]

The ranks are processes of this machine (gloo). First table: all-reduce, reduce-scatter and all-gather of
one fp32 tensor, alone. Second: micro steps and updates through DeepSpeed and our LAMB, for each
reduce_bucket_size in millions of elements. The module there has the model's parameters, and its loss is
a sum over them, so that backward costs next to nothing and what is timed is the reduction, the optimizer
and the gathering of weights. Wall time, the slowest rank's; medians over rounds, in which the bucket
sizes take turns.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.rounds import environment, markdown_table, write_json
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.config.model import model_config
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.engine import launch
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.training_engine import TrainingEngine
from megabert.model.heads import BertForPreTraining
from megabert.parallel.mappings import (
    start_all_gather,
    start_all_reduce,
    start_reduce_scatter,
    wait,
)
from megabert.parallel.topology import TensorParallel

SIZES = [2**power for power in (10, 14, 17, 20, 22, 24, 26)]
"""Bytes of the whole tensor."""


class Gradients(nn.Module):
    """A model's parameters under a loss that needs no arithmetic of the model: their sum."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        """A scalar whose gradient is 1 for every parameter."""
        parts = [parameter.sum(dtype=torch.float32) for parameter in self.model.parameters()]
        return torch.stack(parts).sum()


def slowest(seconds: list[float]) -> list[float]:
    """Each time on the rank that took longest."""
    times = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.tolist()


def measure_collectives(world: launch.World, rounds: int) -> list[dict[str, float]]:
    """Median milliseconds of each collective at each size."""
    topology = world.topology
    ranks = TensorParallel(topology.data_parallel_rank, topology.data_parallel, world.groups.data)
    rows = []
    for size in SIZES:
        whole = torch.ones(size // 4)
        part = torch.ones(size // 4 // ranks.size)
        calls = {
            "all-reduce": lambda whole=whole: wait(start_all_reduce(whole, ranks)),
            "reduce-scatter": lambda whole=whole: wait(start_reduce_scatter(whole, ranks)[1]),
            "all-gather": lambda part=part: wait(start_all_gather(part, ranks)[1]),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 1):
            for name, call in calls.items():
                whole.fill_(1.0)
                dist.barrier()
                start = time.perf_counter()
                call()
                if number:
                    times[name].append(time.perf_counter() - start)
        medians = {name: 1e3 * statistics.median(slowest(each)) for name, each in times.items()}
        rows.append({"bytes": size, **medians})
    return rows


def make_engine(
    world: launch.World, model: str, stage: int, bucket: int, arguments: argparse.Namespace
) -> TrainingEngine:
    """An engine over the parameters of ``model``; ``bucket``: elements."""
    ranks = world.topology.data_parallel
    return build_engine(
        Gradients(BertForPreTraining(model_config(model))),
        world,
        OptimizerSettings(schedule="constant", steps=10**6, lr=1e-4, warmup_fraction=0.0),
        ParallelSettings(zero_stage=stage, precision=arguments.precision),
        BatchSizes(arguments.accumulation * ranks, 1, arguments.accumulation, ranks),
        {"zero_optimization": {"reduce_bucket_size": bucket}},
    )


def one_update(engine: TrainingEngine) -> dict[str, float]:
    """Seconds of one update: its micro steps before the last, and the last with the optimizer."""
    seconds = {"before": 0.0, "last": 0.0}
    updated = False
    while not updated:
        loss = engine() / (engine.batch.accumulation * engine.batch.data_parallel)
        dist.barrier()
        start = time.perf_counter()
        engine.backward(loss)
        updated = engine.step()
        seconds["last" if updated else "before"] += time.perf_counter() - start
    return seconds


def measure_updates(
    world: launch.World, model: str, stage: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Median milliseconds for each bucket size."""
    times: dict[int, list[dict[str, float]]] = {bucket: [] for bucket in arguments.buckets}
    for number in range(arguments.rounds):
        turn = number % len(arguments.buckets)
        for bucket in arguments.buckets[turn:] + arguments.buckets[:turn]:
            engine = make_engine(world, model, stage, bucket * 10**6, arguments)
            one_update(engine)
            for _ in range(2):
                times[bucket].append(one_update(engine))
            engine.close()
            del engine
    micro_steps = max(arguments.accumulation - 1, 1)
    return [
        {
            "model": model,
            "stage": stage,
            "bucket": bucket,
            "micro_step_ms": 1e3
            / micro_steps
            * statistics.median(slowest([each["before"] for each in found])),
            "last_ms": 1e3 * statistics.median(slowest([each["last"] for each in found])),
        }
        for bucket, found in times.items()
    ]


def run_rank(rank: int, port: int, arguments: argparse.Namespace, results: Any) -> None:
    """One rank; rank 0 sends what was measured."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(arguments.ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // arguments.ranks))
    world = launch.start()
    collectives = measure_collectives(world, arguments.rounds)
    updates = [
        row
        for model in arguments.models
        for stage in arguments.stages
        for row in measure_updates(world, model, stage, arguments)
    ]
    world.close()
    if rank == 0:
        about = environment(world.device)
        results.put({"collectives": collectives, "updates": updates, "environment": about})


def show(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Both tables as Markdown."""
    print(f"{arguments.ranks} gloo ranks of one machine, {arguments.rounds} rounds\n")
    kinds = ("all-reduce", "reduce-scatter", "all-gather")
    header = ("tensor, KiB", *(f"{kind}, ms" for kind in kinds), "all-reduce, GB/s")
    rows = [
        (
            row["bytes"] // 1024,
            *(row[kind] for kind in kinds),
            row["bytes"] / row["all-reduce"] / 1e6,
        )
        for row in found["collectives"]
    ]
    print(markdown_table(header, rows))
    print(f"\n{arguments.precision}, accumulation {arguments.accumulation}\n")
    header = (
        "model", "ZeRO", "bucket, million elements", "earlier micro steps, ms each",
        "last micro step and update, ms",
    )  # fmt: skip
    print(markdown_table(header, [tuple(row.values()) for row in found["updates"]]))
    print(", ".join(f"{key} {value}" for key, value in found["environment"].items()))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a number that is not positive, or a stage that has no buckets.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--models", default="bert-mini,bert-base", help="presets, with commas")
    parser.add_argument("--stages", default="1,2", help="ZeRO stages: 1, 2")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--buckets", default="1,5,20,50,200", help="millions of elements")
    parser.add_argument("--accumulation", type=int, default=2, help="micro steps per update")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args(argv)
    arguments.models = arguments.models.split(",")
    for name in ("stages", "buckets"):
        setattr(arguments, name, [int(number) for number in getattr(arguments, name).split(",")])
    if not set(arguments.stages) <= {1, 2}:
        raise UserError(f"--stages {arguments.stages}: bucket sizes are measured at stages 1 and 2")
    if min(arguments.ranks, arguments.rounds, arguments.accumulation, *arguments.buckets) < 1:
        raise UserError("--ranks, --rounds, --accumulation and --buckets must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(run_rank, (port, arguments, results), nprocs=arguments.ranks)
    found = results.get()
    show(found, arguments)
    write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    run_command(main)
