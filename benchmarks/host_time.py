#!/usr/bin/env python
"""What an update costs the host alone: Python, DeepSpeed and dispatching every operator.

    python benchmarks/host_time.py [--layers 12,24] [--rounds 15] [--json FILE]

The real engine (ZeRO 1, bf16, LAMB, accumulation 4, one rank, one thread) trains a model that has
BERT-large's layers and tensors, but tiny widths (hidden 16) and micro batches of 16 tokens, so that
arithmetic takes no time. A GPU runs the same Python code; what its driver takes to launch a kernel is not
in the figures, but the CPU's tiny kernels are. The planner's constants (megabert/planner/timing.py) are
those of 24 layers, divided by 24. An update's end is the last micro step's ``engine.step()`` less that of the others. Times are this
process's CPU time, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.json_file import json_file
from benchmarks.steps.rounds import environment, markdown_table, write_json
from megabert.common.log import run_command
from megabert.common.packed_batch import PackedBatch
from megabert.config.flags import plain_parser
from megabert.config.model import model_config
from megabert.config.numbers import Count, LayerCount
from megabert.config.training import OptimizerSettings, ParallelSettings
from megabert.config.values import ValueReader
from megabert.engine.build import build_engine
from megabert.engine.config import BatchSizes
from megabert.engine.launch import World, start
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.parallel.rng import DropoutSeeds

ACCUMULATION, SEQUENCES, LENGTH, VOCABULARY = 4, 2, 8, 512
WARM_UP = 3
PARTS = ("forward", "backward", "step", "micro step", "update end")


def micro_batch() -> PackedBatch[torch.Tensor]:
    """A few random tokens, with one masked position per sequence."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (SEQUENCES * LENGTH,), generator=generator)
    lengths = torch.full((SEQUENCES,), LENGTH)
    labels = {
        "masked_positions": (torch.arange(SEQUENCES) * LENGTH + 1).numpy(),
        "masked_labels": ids[:SEQUENCES].numpy(),
        "next_sentence_labels": torch.zeros(SEQUENCES, dtype=torch.int64).numpy(),
    }
    made = PackedBatch.from_lengths(
        ids.numpy(), torch.zeros_like(ids).numpy(), lengths.numpy(), LENGTH,
        torch.arange(SEQUENCES).numpy(), labels,
    )  # fmt: skip
    return made.map(torch.from_numpy)


def measure(layers: int, rounds: int, world: World) -> dict[str, float]:
    """Part -> median milliseconds over ``rounds`` updates of a model of this depth."""
    config = replace(
        model_config("bert-large"), hidden_size=16, num_attention_heads=2, intermediate_size=64,
        num_hidden_layers=layers, vocab_size=VOCABULARY, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = BertForPreTraining(config, world.tp, DropoutSeeds(0), sentence_task=True)
    initialize_weights(model, config, 0)
    engine = build_engine(
        model,
        world,
        OptimizerSettings(schedule="constant", steps=10**6, lr=1e-4, warmup_fraction=0.0),
        ParallelSettings(precision="bf16", zero_stage=1),
        BatchSizes(SEQUENCES * ACCUMULATION, SEQUENCES, ACCUMULATION, 1),
    )
    batch, found = micro_batch(), {part: [0.0] * 0 for part in PARTS}
    for number in range(WARM_UP + rounds):
        times: list[list[float]] = []
        for _ in range(ACCUMULATION):
            marks = [time.process_time()]
            output = engine(batch)
            marks.append(time.process_time())
            engine.backward((output.mlm_loss_sum + output.nsp_loss_sum) / SEQUENCES)
            marks.append(time.process_time())
            engine.step()
            marks.append(time.process_time())
            times.append([1e3 * (after - before) for before, after in itertools.pairwise(marks)])
        if number < WARM_UP:
            continue
        forward, backward, step = (statistics.median(part) for part in zip(*times[:-1]))
        values = forward, backward, step, forward + backward + step, times[-1][2] - step
        for part, value in zip(PARTS, values, strict=True):
            found[part].append(value)
    engine.close()
    return {part: statistics.median(values) for part, values in found.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a wrong value.
    """
    parser = plain_parser("host_time.py", __doc__)
    depths = ValueReader(tuple[LayerCount, ...])
    parser.add_argument("--layers", type=depths, default=(12, 24), help="depths (12,24)")
    parser.add_argument(
        "--rounds", type=ValueReader(Count), default=15, help="timed updates of each (15)"
    )
    parser.add_argument("--json", type=json_file, help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    depths = sorted(set(arguments.layers))
    world = start()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed reports its memory there
            found = {layers: measure(layers, arguments.rounds, world) for layers in depths}
    finally:
        world.close()
    rows: list[list[Any]] = [[f"{n} layers", *found[n].values()] for n in depths]
    result = {"milliseconds": found, "environment": environment(world.device)}
    if len(depths) > 1:
        few, many = depths[0], depths[-1]
        layer = {p: (found[many][p] - found[few][p]) / (many - few) for p in PARTS}
        rest = {p: found[many][p] - many * layer[p] for p in PARTS}
        rows += [["per layer", *layer.values()], ["the rest", *rest.values()]]
        result |= {"per_layer": layer, "rest": rest}
    print(markdown_table(("milliseconds", *PARTS), rows))
    print("\n" + ", ".join(f"{key} {value}" for key, value in result["environment"].items()))
    write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    run_command(main)
