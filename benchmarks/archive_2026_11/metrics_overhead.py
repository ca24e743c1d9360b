#!/usr/bin/env python
"""What the throughput metrics cost: updates with and without them, in turn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/archive_2026_11/metrics_overhead.py SHARDS [--updates 200] [--models ...]

For each model: CPU time of an update of one micro step of 8 samples of 128 tokens, the fewest that are
of use, with its clock and its counts and without (medians); the CPU time of clock and counts alone,
called as the loop calls them; and that of a line of metrics. One rank; the collectives of two would
add two calls of the clock each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.engine.launch import start
from megabert.engine.metrics.clock import Times, UpdateClock
from megabert.engine.metrics.token_counts import Workload, workload
from megabert.pretrain import loop as pretrain_loop
from megabert.pretrain.command import prepare
from megabert.pretrain.inputs import open_inputs
from megabert.pretrain.settings import resolve_pretraining


class NoClock(UpdateClock):
    """A clock that measures nothing."""

    def _begin(self, sampled: bool) -> None:
        pass

    def _enter(self, phase: str) -> None:
        pass

    def _end(self) -> None:
        pass

    def begin(self, sampled: bool) -> None:
        """Nothing."""

    def enter(self, phase: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def read(self) -> Times:
        """Nothing."""
        return Times()


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def measure(model: str, shards: Path, updates: int, folder: Path) -> dict[str, float]:
    """Microseconds by what they were spent on."""
    argv = [
        "--model", model, "--data", str(shards), "--output", str(folder / model),
        "--global-batch-size", "8", "--micro-batch-size", "8", "--packing", "on",
        "--steps", str(10 * updates), "--eval-interval", "0", "--save-interval", "0",
    ]  # fmt: skip
    settings = resolve_pretraining(flags.parse(PretrainSettings, argv, "pretrain.py", ""))
    world = start()
    try:
        loop = prepare(settings, open_inputs(settings), world)
        clock, none = loop.clock, NoClock()
        times: dict[str, list[float]] = {"with": [], "without": []}
        for number in range(2 * updates):
            name = ("with", "without")[number % 2]
            loop.clock = clock if name == "with" else none
            pretrain_loop.workload = workload if name == "with" else lambda _: Workload()  # type: ignore
            times[name].append(seconds(loop._update))
        loop._all_finite()
        batch = loop.batches.next(more=False)[0]
        alone = [seconds(lambda: one_update(clock, batch)) for _ in range(1000)]
        line = [seconds(lambda: loop.meter.line(0.0)) for _ in range(20)]
        loop.batches.close()
        loop.metrics.close()
    finally:
        pretrain_loop.workload = workload
        world.close()
    found = {name: 1e6 * statistics.median(values[10:]) for name, values in times.items()}
    return found | {"alone": 1e6 * statistics.median(alone), "line": 1e6 * statistics.median(line)}


def one_update(clock: UpdateClock, batch: dict[str, Any]) -> None:
    """What the loop asks of clock and counts in an update of one micro step."""
    clock.begin(sampled=True)
    clock.enter("other")
    workload(batch)
    for phase in ("forward", "backward", "other", "optimizer", "other"):
        clock.enter(phase)
    clock.end()


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--updates", type=int, default=200, help="of each kind [200]")
    parser.add_argument("--models", nargs="+", default=["bert-tiny", "bert-mini"])
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; CPU time in microseconds\n")
    print("| model | update with | update without | clock and counts | share | a line |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            us = measure(model, arguments.shards, arguments.updates, Path(folder))
            share = 100 * us["alone"] / us["without"]
            print(
                f"| {model} | {us['with']:,.0f} | {us['without']:,.0f} | {us['alone']:.0f} "
                f"| {share:.2f} % | {us['line']:,.0f} |"
            )


if __name__ == "__main__":
    main()
