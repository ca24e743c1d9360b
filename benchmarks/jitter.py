#!/usr/bin/env python
"""Does the step stay the same? Compilations and jitter over many micro steps of real data.

    python benchmarks/jitter.py SHARDS [--model bert-mini] [--length 128] [--steps 200]

Forward and backward of our model, packed and padded, over consecutive micro batches; after the warm-up
each step is timed. Counted while timing:

    torch.compile   graphs that dynamo has compiled
    Triton          kernels that its JIT has compiled
    native          builds of the CPU operators, or loads from their cache

Packed micro batches hold different numbers of tokens, so their steps differ by the work in them:
"per token" is the spread of seconds divided by the micro batch's real tokens. Exit status 1 if anything
was compiled after the warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.batches import RealBatches
from benchmarks.steps.peers import contestants, parse_peers
from benchmarks.steps.rounds import (
    CLOCKS,
    choose_device,
    environment,
    markdown_table,
    percentile,
    timed,
    write_json,
)
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.kernels import cpu

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@contextlib.contextmanager
def compilations() -> Iterator[Callable[[], Counter[str]]]:
    """Gives a function that returns how often each of the three has compiled so far."""
    from torch._dynamo.utils import counters

    found: Counter[str] = Counter()
    graphs = counters["stats"]["unique_graphs"]

    def counts() -> Counter[str]:
        found["torch.compile"] = counters["stats"]["unique_graphs"] - graphs
        return Counter(found)

    def compiled(*_: Any, **__: Any) -> None:
        found["Triton"] += 1

    def build(*inputs: Any, **named: Any) -> Any:
        found["native"] += 1
        return real_build(*inputs, **named)

    real_build = cpu.build_library
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(cpu, "build_library", build))
        with contextlib.suppress(
            ImportError
        ):  # Triton: on CUDA machines, and where it is installed
            from triton import knobs

            stack.enter_context(mock.patch.object(knobs.runtime, "jit_post_compile_hook", compiled))
        yield counts


def measure(
    arguments: argparse.Namespace, batches: RealBatches, device: torch.device
) -> list[dict[str, Any]]:
    """One row a contestant: compilations in warm-up and after, and the spread of the steps."""
    config = batches.model(arguments.model, arguments.dropout)
    dtype = DTYPES[arguments.precision]
    rows = []
    with compilations() as counts:
        for one in contestants(config, device, dtype, parse_peers(arguments.peers)):
            torch.compiler.reset()
            before = counts()
            for number in range(arguments.warm_up):
                one.step(batches.get(number))
            warm = counts()
            times, a_token = [], []
            for number in range(arguments.warm_up, arguments.warm_up + arguments.steps):
                batch = batches.get(number)
                seconds, _ = timed(partial(one.step, batch), device, arguments.clock)
                times.append(seconds)
                a_token.append(seconds / batch.work.tokens)
            after = counts()
            p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
            rows.append(
                {
                    "name": one.name,
                    "compiled_in_warm_up": dict(warm - before),
                    "compiled_after": dict(after - warm),
                    "p50_ms": p50 * 1e3,
                    "p95_ms": p95 * 1e3,
                    "p95_over_p50": p95 / p50,
                    "p95_over_p50_a_token": percentile(a_token, 0.95) / percentile(a_token, 0.5),
                    "max_ms": max(times) * 1e3,
                }
            )
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: no steps.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-mini", help="preset (bert-mini)")
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of the longest sample (128)"
    )
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--micro-batch-size", type=int, default=8, help="samples per step (8)")
    parser.add_argument("--steps", type=int, default=200, help="timed micro steps (200)")
    parser.add_argument("--warm-up", type=int, default=10, help="micro steps before them (10)")
    parser.add_argument("--dropout", type=float, default=0.1, help="hidden and attention (0.1)")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's own)")
    parser.add_argument(
        "--peers", default="none", help="transformers,compiled,plain, or none (none)"
    )
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: of all threads"
    )
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1 or arguments.warm_up < 1:
        raise UserError("--steps and --warm-up: at least 1 each")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    device = choose_device(arguments.threads)
    batches = RealBatches(arguments.shards, arguments.length, arguments.micro_batch_size, device)
    rows = measure(arguments, batches, device)
    header = (
        "micro steps", "compiled in warm-up", "compiled after", "p50 ms", "p95 ms", "p95/p50",
        "p95/p50 per token", "max ms",
    )  # fmt: skip
    print(
        f"{arguments.model}, length {arguments.length}, {arguments.precision}, "
        f"{arguments.micro_batch_size} samples, {arguments.steps} steps\n"
    )

    def told(compiled: dict[str, int]) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in compiled.items()) or "nothing"

    cells = [
        (
            row["name"],
            told(row["compiled_in_warm_up"]),
            told(row["compiled_after"]),
            *list(row.values())[3:],
        )
        for row in rows
    ]
    print(markdown_table(header, cells))
    about = environment(device)
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    write_json(arguments.json, {"environment": about, "arguments": _plain(arguments), "rows": rows})
    return (
        1 if any(row["compiled_after"] for row in rows if row["name"].startswith("megabert")) else 0
    )


def _plain(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
    }


if __name__ == "__main__":
    run_command(main)
