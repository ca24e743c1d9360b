#!/usr/bin/env python
"""What packing saves and what it costs, on a folder of shards.

    python benchmarks/packing.py SHARDS [--samples 65536] [--seconds 3] [--model bert-mini]

Four tables for sequences of 128 and of 512 tokens; times are CPU times of one process:

    padding by the size of the window, and the time of planning it
    padding and balance of whole updates, for global batches on 1, 8 and 64 data-parallel ranks: how
        much more the busiest rank gets than the mean, max / mean - 1
    samples a second that a loader process makes, padded and packed
    forward and backward of the same samples, padded and packed, without dropout
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.config import model_config
from megabert.data.loader import SampleSource
from megabert.data.packing import Window, choose_window, packed_batches, plan_window
from megabert.data.pairs import SampleSettings
from megabert.data.sample_source import Arrays
from megabert.data.shards import Corpus
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.naming import TRAIN

LENGTHS = (128, 512)
MICRO_TOKENS = 8192
WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096, 16384, 65536)
GLOBAL_BATCHES = (64, 256, 1024, 4096, 32768, 65536)
RANKS = (1, 8, 64)
ROUNDS = 3


def seconds_a_call(call: Callable[[], object], least: float) -> float:
    """CPU seconds of a call, over at least `least` seconds, after one call to warm up."""
    call()
    began, calls = time.process_time(), 0
    while time.process_time() - began < least:
        call()
        calls += 1
    return (time.process_time() - began) / calls


def lengths_of(source: SampleSource, samples: int) -> np.ndarray:
    """Lengths of the first samples, int64 [samples]."""
    parts = [np.arange(first, min(first + 4096, samples)) for first in range(0, samples, 4096)]
    return np.concatenate([source.lengths(part) for part in parts])


def windows_table(lengths: np.ndarray, seq_length: int, budget: int) -> None:
    """Padding by window, with micro batches of `MICRO_TOKENS`, in rows of `budget` tokens."""
    micro = MICRO_TOKENS // seq_length
    for size in (size for size in WINDOWS if micro <= size <= len(lengths)):
        windows = [lengths[i : i + size] for i in range(0, len(lengths) - size + 1, size)][:256]
        began = time.process_time()
        rows = sum(int(plan_window(window, budget, size // micro).rows.sum()) for window in windows)
        planning = (time.process_time() - began) / (len(windows) * size)
        real = sum(int(window.sum()) for window in windows)
        print(
            f"| {seq_length} | {budget} | {size} "
            f"| {1 - real / (len(windows) * size * seq_length):.2%} "
            f"| {1 - real / (rows * budget):.2%} | {rows / (len(windows) * size):.3f} "
            f"| {planning * 1e6:.2f} |"
        )


def one_update(
    lengths: np.ndarray, budget: int, shape: tuple[int, int, int], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and real tokens of each micro batch of a global batch, [accumulation, ranks] each."""
    accumulation, ranks, _ = shape
    rows = np.zeros((accumulation, ranks))
    tokens = np.zeros((accumulation, ranks))
    by_micro_batch = lengths.reshape(shape)
    for step in range(0, accumulation, window.micro_steps):
        for rank in range(0, ranks, window.ranks):
            here = slice(step, step + window.micro_steps), slice(rank, rank + window.ranks)
            own = by_micro_batch[here].ravel()
            plan = plan_window(own, budget, window.micro_batches)
            rows[here] = plan.rows.reshape(window)
            tokens[here] = np.bincount(plan.batch, own, window.micro_batches).reshape(window)
    return rows, tokens


def excess(loads: np.ndarray) -> float:
    """max / mean - 1 over the last axis, averaged over the others."""
    return float((loads.max(axis=-1) / loads.mean(axis=-1) - 1).mean())


def layouts_table(lengths: np.ndarray, budget: int) -> None:
    """Padding and balance of updates."""
    for batch in (batch for batch in GLOBAL_BATCHES if batch <= len(lengths)):
        for ranks in (ranks for ranks in RANKS if batch // ranks > 1):
            micro = min(MICRO_TOKENS // budget, batch // ranks)
            shape = batch // ranks // micro, ranks, micro
            window = choose_window(micro, shape[0], ranks)
            updates = min(64, len(lengths) // batch)
            parts = [
                one_update(lengths[i * batch : (i + 1) * batch], budget, shape, window)
                for i in range(updates)
            ]
            rows, tokens = (np.stack(part) for part in zip(*parts))  # [updates, steps, ranks]
            print(
                f"| {budget} | {batch} | {ranks} | {micro} x {shape[0]} "
                f"| {window.micro_steps} x {window.ranks} "
                f"| {1 - tokens.sum() / (rows.sum() * budget):.2%} | {excess(tokens.sum(axis=1)):.2%} "
                f"| {excess(rows.sum(axis=1)):.2%} | {excess(rows):.2%} |"
            )


def loader_table(source: SampleSource, budget: int, seconds: float) -> None:
    """Samples a second of one process."""
    micro = MICRO_TOKENS // budget
    count = 1024
    numbers = np.arange(count)

    def show(name: str, samples: int, call: Callable[[], object]) -> None:
        print(f"| {budget} | {name} | {samples / seconds_a_call(call, seconds):,.0f} |", flush=True)

    show("padded", micro, lambda: source.batch(0, micro))
    alone = Window(count // micro, 1)
    show("packed, one rank", count, lambda: packed_batches(source, numbers, budget, alone, 0))
    eight = Window(count // micro // 8 or 1, 8)
    own = eight.micro_steps * micro
    numbers_of_eight = np.arange(8 * own)
    show(
        "packed, a rank of eight",
        own,
        lambda: packed_batches(source, numbers_of_eight, budget, eight, 3),
    )
    each = seconds_a_call(lambda: source.lengths(numbers), seconds) / count
    print(f"| {budget} | lengths alone | {1 / each:,.0f} |")


def model_table(source: SampleSource, budget: int, name: str) -> None:
    """Forward and backward of one window, micro batch by micro batch; the best of `ROUNDS`."""
    config = model_config(
        name,
        vocab_size=source.corpus.manifest.tokenizer.vocab_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForPreTraining(config)
    initialize_weights(model, config, 0)
    micro, steps = MICRO_TOKENS // budget, 4
    numbers = np.arange(micro * steps)
    padded = [source.samples(part) for part in np.split(numbers, steps)]
    packed = packed_batches(source, numbers, budget, Window(steps, 1), 0)

    def train(batches: list[Arrays]) -> float:
        began = time.process_time()
        for arrays in batches:
            output = model(**{key: torch.from_numpy(array) for key, array in arrays.items()})
            (output.mlm_loss_sum + output.nsp_loss_sum).backward()
        model.zero_grad(set_to_none=True)
        return time.process_time() - began

    rounds = [(train(padded), train(packed)) for _ in range(ROUNDS)]
    times = [min(column) for column in zip(*rounds)]
    rows = sum(len(batch["input_ids"]) for batch in packed)
    print(
        f"| {budget} | {len(numbers) / times[0]:,.1f} | {len(numbers) / times[1]:,.1f} "
        f"| {times[0] / times[1]:.3f} | {len(numbers) / rows:.3f} |",
        flush=True,
    )


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--samples", type=int, default=65536, help="samples looked at (65536)")
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU time of each timing (3)")
    parser.add_argument("--model", default="bert-mini", help="shape of the encoder (bert-mini)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(arguments.shards, TRAIN)
    sources = {length: SampleSource(corpus, SampleSettings(length)) for length in LENGTHS}
    lengths = {length: lengths_of(sources[length], arguments.samples) for length in LENGTHS}
    print("| length | budget | samples a window | padding, padded | packed", end=" ")
    print("| rows a sample | planning us |")
    print("|---|---|---|---|---|---|---|")
    for length in LENGTHS:
        for budget in (length, 2 * length):
            windows_table(lengths[length], length, budget)
    print(
        "\n| length | global batch | ranks | micro batch x steps | window: steps x ranks", end=" "
    )
    print("| padding | tokens, update | rows, update | rows, micro step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for length in LENGTHS:
        layouts_table(lengths[length], length)
    print("\n| length | loader | samples/s |\n|---|---|---|")
    for length in LENGTHS:
        loader_table(sources[length], length, arguments.seconds)
    print("\n| length | padded samples/s | packed samples/s | ratio | samples a row |")
    print("|---|---|---|---|---|")
    for length in LENGTHS:
        model_table(sources[length], length, arguments.model)


if __name__ == "__main__":
    main()
