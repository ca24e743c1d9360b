#!/usr/bin/env python
"""Whole updates on real samples: megabert's engine compared with transformers with DeepSpeed and plain torch.

    python benchmarks/training.py SHARDS [--model bert-mini] [--length 128] [--precision fp32]
        [--micro-batch-size 8] [--accumulation 4] [--rounds 5]
    deepspeed --num_gpus 2 benchmarks/training.py SHARDS ...

    megabert       its training engine: ZeRO 1, LAMB, clipping; samples packed, and padded
    transformers   BertForPreTraining in DeepSpeed, ZeRO 1, torch's fused AdamW, clipping
    plain torch    benchmarks/steps/plain_bert.py, gradients summed over ranks tensor by tensor,
                   clipping, LAMB in a loop over tensors (float32, as benchmarks/lamb.py has it)

All start from the same weights, in one process group, and see the same global batches interleaved. bf16
is that of DeepSpeed for the first two (fp32 master weights) and torch.autocast for the last; with fp8
the peers stay at bf16. An update ends when the slowest rank is done. Updates are small
(learning rate 1e-4) but real.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.batches import RealBatches, Work
from benchmarks.steps.rounds import (
    choose_device,
    environment,
    markdown_table,
    paired_ratio,
    peak_memory,
    timed,
    turns,
    write_json,
)
from benchmarks.steps.trainers import GlobalBatch, Update, our_updates, plain_update, their_update
from megabert.common.log import run_command
from megabert.data.samples.packing import Window, window_batches
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World, start

OURS, OURS_PADDED = "megabert packed, ZeRO 1, LAMB", "megabert padded, ZeRO 1, LAMB"
THEIRS, PLAIN = "transformers, DeepSpeed ZeRO 1, AdamW", "plain torch, LAMB loop"


def global_batch(batches: RealBatches, batch: BatchSizes, world: World, number: int) -> GlobalBatch:
    """Global batch ``number``: padded in the order of the samples, packed all together."""
    ranks, rank = world.topology.data_parallel, world.topology.data_parallel_rank
    steps = range(number * batch.accumulation, (number + 1) * batch.accumulation)
    padded = [batches.get(step * ranks + rank) for step in steps]
    numbers = np.arange(number * batch.global_size, (number + 1) * batch.global_size)
    packed = window_batches(batches.source, numbers, Window(batch.accumulation, ranks), rank)
    counts = torch.zeros(5, dtype=torch.float64, device=batches.device)
    for micro in padded:
        counts += torch.tensor(micro.work.values(), dtype=torch.float64, device=batches.device)
    dist.all_reduce(counts)
    work = Work(*(int(count) for count in counts.tolist()))
    return GlobalBatch(padded, [batches.on_device(one) for one in packed], work)


def run_rounds(
    field: dict[str, Update], batches: Sequence[GlobalBatch], device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and losses of each update after the first, by name."""
    times: dict[str, list[float]] = {name: [] for name in field}
    losses: dict[str, list[float]] = {name: [] for name in field}
    for number, one in enumerate(batches):
        for name in turns(list(field), number):
            dist.barrier()

            def whole(name: str = name, one: GlobalBatch = one) -> torch.Tensor:
                loss = field[name](one)
                dist.all_reduce(loss)
                return loss / dist.get_world_size()

            seconds, loss = timed(whole, device)
            losses[name].append(float(loss))
            if number:
                times[name].append(seconds)
    return times, losses


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-mini", help="preset (bert-mini)")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of the longest sample (128)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp8"), default="fp32")
    parser.add_argument(
        "--micro-batch-size", type=int, default=8, help="samples per micro step (8)"
    )
    parser.add_argument("--accumulation", type=int, default=4, help="micro steps per update (4)")
    parser.add_argument("--rounds", type=int, default=5, help="timed updates of each (5)")
    parser.add_argument("--dropout", type=float, default=0.1, help="hidden and attention (0.1)")
    parser.add_argument("--threads", type=int, help="CPU threads per rank (torch's own)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher's
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    """All contestants over the same updates; the results as for JSON."""
    ranks = world.topology.data_parallel
    batch = BatchSizes(
        arguments.micro_batch_size * arguments.accumulation * ranks,
        arguments.micro_batch_size,
        arguments.accumulation,
        ranks,
    )
    batches = RealBatches(arguments.shards, arguments.length, batch.micro_size, world.device)
    theirs = "bf16" if arguments.precision == "fp8" else arguments.precision
    config = batches.model(arguments.model, arguments.dropout)
    ours, padded, tensors = our_updates(config, batch, world, arguments.precision)
    field = {
        OURS: ours,
        OURS_PADDED: padded,
        THEIRS: their_update(config, tensors, batch, world, theirs),
        PLAIN: plain_update(config, tensors, batch, world, theirs),
    }
    updates = [global_batch(batches, batch, world, n) for n in range(arguments.rounds + 1)]
    times, losses = run_rounds(field, updates, world.device)
    rows = []
    for name, own in times.items():
        rates = [one.work.flops(config) / t for one, t in zip(updates[1:], own, strict=True)]
        tokens = [one.work.tokens / t for one, t in zip(updates[1:], own, strict=True)]
        rows.append(
            {
                "name": name,
                "ms": statistics.median(own) * 1e3,
                "samples_per_second": batch.global_size / statistics.median(own),
                "tokens_per_second": statistics.median(tokens),
                "gflops_a_rank": statistics.median(rates) / ranks / 1e9,
                "times_transformers": paired_ratio(times[THEIRS], own),
                "first_loss": losses[name][0],
                "last_loss": losses[name][-1],
                "all_ms": [seconds * 1e3 for seconds in own],
            }
        )
    return {
        "model": arguments.model,
        "length": arguments.length,
        "precision": arguments.precision,
        "ranks": ranks,
        "micro_batch_size": batch.micro_size,
        "accumulation": batch.accumulation,
        "rounds": arguments.rounds,
        "dropout": arguments.dropout,
        "peak_memory_bytes_all": peak_memory(world.device),
        "environment": environment(world.device),
        "contestants": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, on rank 0."""
    arguments = parse(argv)
    choose_device(arguments.threads)
    world = start()
    try:
        result = measure(arguments, world)
    finally:
        world.close()
    if world.is_main:
        names = (
            "name", "ms", "samples_per_second", "tokens_per_second", "gflops_a_rank",
            "times_transformers", "first_loss", "last_loss",
        )  # fmt: skip
        print(
            f"{result['model']}, length {result['length']}, {result['precision']}, ranks "
            f"{result['ranks']}, updates of {result['accumulation']} x {result['micro_batch_size']} "
            "samples per rank\n"
        )
        header = (
            "update", "ms", "samples/s", "real tokens/s", "GFLOP/s a rank", "x transformers",
            "first loss", "last loss",
        )  # fmt: skip
        print(
            markdown_table(header, [[row[name] for name in names] for row in result["contestants"]])
        )
        print("\n" + ", ".join(f"{key} {value}" for key, value in result["environment"].items()))
        write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    run_command(main)
