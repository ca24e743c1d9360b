#!/usr/bin/env python
"""Forward and backward of real micro batches: ours packed and padded, transformers, plain torch.

    python benchmarks/step.py SHARDS [--models bert-mini,bert-base] [--lengths 128,512]
        [--precisions fp32,bf16] [--micro-batch-size 8] [--rounds 5] [--threads 1]

All start from the same weights and see the same samples, interleaved round by round, in one process;
each round has a micro batch of its own. A step is forward, backward, and the gradients dropped. Times
are medians; ratios are medians over the rounds' own ratios.

"transformers" computes the vocabulary product at every position, as its users do; "plain torch" is
benchmarks/steps/plain_bert.py. Losses without dropout are compared before anything is timed, and with
--dropout 0 those of every timed step: a difference beyond 1e-4 (fp32), 2e-2 (bf16) or 5e-2 (fp8)
fails the command. So does one beyond 1e-4 between gradients, packed and padded, in fp32.

bf16: weights, gradients and activations. fp8: bf16 with our encoder's matrix products in float8; the
peers stay at bf16 and are not compiled again.

GFLOP/s count real tokens and predicted positions only (megabert/model/flops.py). MFU is their share of
the ceiling, the best rate of a matrix product of the model's own shapes, measured here; "bound" is the
time that those products alone would take, and "of bound" its share of the step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.batches import MicroBatch, RealBatches, Work
from benchmarks.steps.ceiling import Ceiling, measure_ceiling
from benchmarks.steps.peers import (
    COMPILED,
    PACKED,
    Contestant,
    contestants,
    gradient_difference,
    parse_peers,
)
from benchmarks.steps.rounds import (
    CLOCKS,
    choose_device,
    environment,
    markdown_table,
    paired_ratio,
    relative_difference,
    timed,
    turns,
    write_json,
)
from benchmarks.steps.shares import time_shares
from megabert.common.errors import UserError
from megabert.common.hardware import find_accelerator
from megabert.common.log import run_command
from megabert.config.model import ModelConfig
from megabert.kernels.float8 import use_float8

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "fp8": 5e-2}
"""Largest relative difference of two losses that rounding explains."""
GRADIENT_TOLERANCE = 1e-4
"""The same of gradients, packed and padded, in fp32."""

HEADER = (
    "model", "length", "precision", "batch", "contestant", "ms", "samples/s", "real tokens/s",
    "GFLOP/s", "MFU", "of bound", "x transformers", "x packed", "loss difference",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One table's worth of settings."""

    model: str
    length: int
    precision: str
    rounds: int
    clock: str
    dropout: float
    profile: bool


def losses_agree(losses: dict[str, float], precision: str, where: str) -> dict[str, float]:
    """Relative difference of each loss from ours, packed.

    Raises:
        UserError: one is beyond what rounding explains.
    """
    differences = {name: relative_difference(loss, losses[PACKED]) for name, loss in losses.items()}
    for name, part in differences.items():
        if not part <= TOLERANCES[precision]:
            raise UserError(
                f"{where}: the loss of {name} is {losses[name]:.6f}, ours packed "
                f"{losses[PACKED]:.6f}: relative difference {part:.1e}, allowed "
                f"{TOLERANCES[precision]:.0e}"
            )
    return differences


def first_losses(field: Sequence[Contestant], batch: MicroBatch) -> dict[str, float]:
    """Losses without dropout; the compiled model is the eager one and is not asked again."""
    return {one.name: float(one.evaluate(batch)) for one in field if one.name != COMPILED}


def run_rounds(
    field: Sequence[Contestant], batches: Sequence[MicroBatch], case: Case, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]], float | None]:
    """Seconds and losses of every round by name, and seconds of the compiled model's first step."""
    named = {one.name: one for one in field}
    times: dict[str, list[float]] = {name: [] for name in named}
    losses: dict[str, list[float]] = {name: [] for name in named}
    compiling = None
    for name, one in named.items():
        seconds, _ = timed(partial(one.step, batches[0]), device)
        if name == COMPILED:
            compiling = seconds
            one.step(batches[0])
    for number in range(case.rounds):
        batch = batches[1 + number]
        for name in turns(list(named), number):
            seconds, loss = timed(partial(named[name].step, batch), device, case.clock)
            times[name].append(seconds)
            losses[name].append(float(loss))
    return times, losses, compiling


def measure(case: Case, batches: RealBatches, peers: list[str], device: torch.device) -> dict:
    """One case: a dictionary for JSON with one row a contestant."""
    config = batches.model(case.model, case.dropout)
    where = f"{case.model}, length {case.length}, {case.precision}"
    dtype = DTYPES[case.precision]
    field = contestants(config, device, dtype, peers)
    if case.precision == "fp8":
        use_float8(field[0].model)
    micro = [batches.get(number) for number in range(case.rounds + 1)]
    differences = losses_agree(first_losses(field, micro[0]), case.precision, where)
    apart = None
    if case.precision == "fp32":
        apart = gradient_difference(field[0], field[1], micro[0])
        if not apart <= GRADIENT_TOLERANCE:
            raise UserError(f"{where}: gradients of packed and padded part by {apart:.1e}")
    times, losses, compiling = run_rounds(field, micro, case, device)
    if case.dropout == 0.0:
        for number in range(case.rounds):
            at = {name: values[number] for name, values in losses.items()}
            for name, part in losses_agree(at, case.precision, f"{where}, round {number}").items():
                differences[name] = max(differences.get(name, 0.0), part)
    work = Work(0, 0, 0, 0, 0)
    for batch in micro[1:]:
        work = work + batch.work
    typical = micro[1 + case.rounds // 2].work
    ceiling = measure_ceiling(config, typical, dtype, device, case.clock)
    result: dict[str, Any] = {
        "model": case.model,
        "length": case.length,
        "precision": case.precision,
        "micro_batch_size": batches.size,
        "rounds": case.rounds,
        "clock": case.clock,
        "dropout": case.dropout,
        "padding": work.padding,
        "gradient_difference": apart,
        "compile_seconds": compiling,
        "ceiling_gflops": ceiling.best / 1e9,
        "bound_ms": ceiling.bound * 1e3,
        "products_gflops": {name: rate / 1e9 for name, rate in ceiling.rates.items()},
        "published_peak_gflops": published_peak(case.precision, device),
        "contestants": [
            row(name, times, micro[1:], config, ceiling, typical, differences) for name in times
        ],
    }
    if case.profile:
        result["shares"] = {
            one.name: time_shares(partial(one.step, micro[0]), 2, device) for one in field
        }
    return result


def published_peak(precision: str, device: torch.device) -> float | None:
    """GFLOP/s that the GPU's maker states; None on a CPU and where it is not known."""
    if device.type != "cuda":
        return None
    accelerator = find_accelerator(torch.cuda.get_device_name(device))
    peak = accelerator.peak_flops(precision) if accelerator else None
    return peak / 1e9 if peak else None


def row(
    name: str,
    times: dict[str, list[float]],
    batches: Sequence[MicroBatch],
    config: ModelConfig,
    ceiling: Ceiling,
    typical: Work,
    differences: dict[str, float],
) -> dict[str, Any]:
    """The figures of one contestant."""
    own = times[name]

    def median(values: list[float]) -> float:
        return statistics.median(value / t for value, t in zip(values, own, strict=True))

    rate = median([batch.work.flops(config) for batch in batches])
    bound = ceiling.bound / typical.flops(config)  # seconds a FLOP
    return {
        "name": name,
        "ms": statistics.median(own) * 1e3,
        "samples_per_second": median([batch.work.samples for batch in batches]),
        "tokens_per_second": median([batch.work.tokens for batch in batches]),
        "gflops": rate / 1e9,
        "mfu": rate / ceiling.best,
        "of_bound": rate * bound,
        "times_transformers": _ratio(times, "transformers", name),
        "times_packed": paired_ratio(times[PACKED], own),
        "loss_difference": differences.get(name),
        "all_ms": [seconds * 1e3 for seconds in own],
    }


def _ratio(times: dict[str, list[float]], slow: str, fast: str) -> float | None:
    return paired_ratio(times[slow], times[fast]) if slow in times else None


def peers_of(precision: str, peers: list[str]) -> list[str]:
    """The peers of ours: in fp8 they would repeat bf16, and compiling takes long."""
    return [name for name in peers if precision != "fp8" or name != COMPILED]


def show(result: dict[str, Any], header: bool) -> None:
    """The case's lines of the Markdown table, what it was measured against, and its shares."""
    rows = [
        (
            result["model"], result["length"], result["precision"], result["micro_batch_size"],
            one["name"], one["ms"], one["samples_per_second"], one["tokens_per_second"],
            one["gflops"], f"{one['mfu']:.1%}", f"{one['of_bound']:.1%}",
            one["times_transformers"], one["times_packed"],
            None if one["loss_difference"] is None else f"{one['loss_difference']:.0e}",
        )
        for one in result["contestants"]
    ]  # fmt: skip
    lines = markdown_table(HEADER, rows).splitlines()
    print("\n".join(lines if header else lines[2:]), flush=True)


def notes(result: dict[str, Any]) -> list[str]:
    """Lines about one case that have no place in the table."""
    where = f"{result['model']}, {result['length']}, {result['precision']}"
    text = (
        f"{where}: padding {result['padding']:.1%}; ceiling {result['ceiling_gflops']:,.1f} GFLOP/s, "
        f"bound {result['bound_ms']:,.2f} ms per micro batch"
    )
    if result["published_peak_gflops"]:
        packed = result["contestants"][0]["gflops"] / result["published_peak_gflops"]
        text += f"; packed at {packed:.1%} of the published peak"
    if result["gradient_difference"] is not None:
        text += f"; gradients packed and padded within {result['gradient_difference']:.0e}"
    if result["compile_seconds"] is not None:
        text += f"; first step of the compiled model {result['compile_seconds']:.1f} s"
    lines = [text]
    for name, shares in result.get("shares", {}).items():
        parts = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
        lines.append(f"{where}, time of {name}: {parts}")
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: an unknown precision, no rounds.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--models", default="bert-mini,bert-base", help="presets, with commas")
    parser.add_argument("--lengths", default="128,512", help="tokens of the longest sample")
    parser.add_argument("--precisions", default="fp32,bf16", help="of weights and activations")
    parser.add_argument(
        "--micro-batch-size", type=int, help="samples per step (4096 tokens' worth)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contestant (5)")
    parser.add_argument("--dropout", type=float, default=0.1, help="hidden and attention (0.1)")
    parser.add_argument("--threads", type=int, help="CPU threads of all contestants (torch's)")
    parser.add_argument(
        "--peers", default="transformers,compiled,plain", help="with commas, or none"
    )
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: of all threads"
    )
    parser.add_argument("--profile", action="store_true", help="shares of the time by kind of work")
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args(argv)
    for precision in arguments.precisions.split(","):
        if precision not in DTYPES:
            raise UserError(f"--precisions {precision!r}: known are {', '.join(DTYPES)}")
    if arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds}: at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    peers = parse_peers(arguments.peers)
    device = choose_device(arguments.threads)
    about = environment(device)
    found: list[dict[str, Any]] = []
    for length in map(int, arguments.lengths.split(",")):
        size = arguments.micro_batch_size or max(1, 4096 // length)
        batches = RealBatches(arguments.shards, length, size, device)
        for model in arguments.models.split(","):
            for precision in arguments.precisions.split(","):
                case = Case(
                    model, length, precision, arguments.rounds, arguments.clock,
                    arguments.dropout, arguments.profile,
                )  # fmt: skip
                result = measure(case, batches, peers_of(precision, peers), device)
                show(result, header=not found)
                found.append(result)
                write_json(arguments.json, {"environment": about, "cases": found})
                torch.compiler.reset()
    print("\n" + "\n".join(line for result in found for line in notes(result)))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    return 0


if __name__ == "__main__":
    run_command(main)
