#!/usr/bin/env python
"""What NEZHA's relative positions cost: a step of nezha-X over one of bert-X, on the same samples.

    python benchmarks/relative_positions.py SHARDS [--sizes mini] [--lengths 128,512] [--rounds 9]
        [--tokens 2048] [--precision fp32] [--threads 1] [--clock cpu]

A step is forward, backward, and the gradients dropped, of a packed micro batch. The two models take
turns round by round; times are medians, the ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step import DTYPES
from benchmarks.steps.batches import RealBatches
from benchmarks.steps.peers import PACKED, Contestant, our_loss, our_model
from benchmarks.steps.rounds import (
    CLOCKS,
    choose_device,
    environment,
    markdown_table,
    paired_ratio,
    timed,
    turns,
)
from megabert.common.log import run_command

FAMILIES = "bert", "nezha"
HEADER = ("size", "length", "samples", "bert ms", "nezha ms", "nezha / bert")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--sizes", default="mini", help="of presets, with commas: mini,base")
    parser.add_argument("--lengths", default="128,512", help="tokens of the longest sample")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each model (9)")
    parser.add_argument("--tokens", type=int, default=2048, help="places of a micro batch (2048)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu", help="cpu: all threads'")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    given = parse(argv)
    device = choose_device(given.threads)
    rows = []
    for length in map(int, given.lengths.split(",")):
        batches = RealBatches(given.shards, length, max(1, given.tokens // length), device)
        for size in given.sizes.split(","):
            field = {}
            for family in FAMILIES:
                model = our_model(batches.model(f"{family}-{size}", 0.1))
                model.to(device=device, dtype=DTYPES[given.precision])
                field[family] = Contestant(PACKED, model, our_loss(model, packed=True))
            times: dict[str, list[float]] = {family: [] for family in FAMILIES}
            for number in range(given.rounds + 1):
                batch = batches.get(number)
                for family in turns(FAMILIES, number):
                    seconds, _ = timed(partial(field[family].step, batch), device, given.clock)
                    if number:  # the first round warms up
                        times[family].append(seconds)
            medians = [statistics.median(times[family]) * 1e3 for family in FAMILIES]
            ratio = paired_ratio(times["nezha"], times["bert"])
            rows.append((size, length, batches.size, *medians, ratio))
    print(markdown_table(HEADER, rows))
    print(", ".join(f"{key} {value}" for key, value in environment(device).items()))
    return 0


if __name__ == "__main__":
    run_command(main)
