#!/usr/bin/env python
"""What packing saves and what it costs, on a folder of shards.

    python benchmarks/packing.py SHARDS [--samples 65536] [--seconds 3] [--model bert-mini]

Three tables for sequences of 128 and of 512 tokens; times are CPU times of one process, on one thread:

    how samples are distributed, for global batches on 1, 8 and 64 data-parallel ranks: the share of padding
        that padded batches have; how much more the largest micro batch and the busiest rank of an
        update get than the mean, max / mean - 1, in tokens and in FLOPs of the model; and the time per
        sample of distributing them
    samples per second that a loader process makes, padded and packed
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

from megabert.common.names import TRAIN
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig, model_config
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.packing import (
    Window,
    choose_window,
    distribute_window,
    pad_samples,
    window_batches,
)
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.model.flops import pretraining_flops
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights

LENGTHS = (128, 512)
MICRO_TOKENS = 8192
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


def excess(loads: np.ndarray) -> float:
    """max / mean - 1 over the last axis, averaged over the others."""
    return float((loads.max(axis=-1) / loads.mean(axis=-1) - 1).mean())


def one_update(lengths: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The lengths in each micro batch, and the CPU seconds of distributing them.

    Args:
        lengths: of a global batch, int64 [accumulation, ranks, micro batch size].
        window: its layout.

    Returns:
        int64 [accumulation, ranks, micro batch size], and the seconds.
    """
    distributed, seconds = np.empty_like(lengths), 0.0
    for step in range(0, lengths.shape[0], window.micro_steps):
        for rank in range(0, lengths.shape[1], window.ranks):
            here = slice(step, step + window.micro_steps), slice(rank, rank + window.ranks)
            own = lengths[here].ravel()
            began = time.process_time()
            places = distribute_window(own, window)
            seconds += time.process_time() - began
            distributed[here] = own[places]
    return distributed, seconds


def balance_table(lengths: np.ndarray, seq_length: int, config: ModelConfig) -> None:
    """Balance of updates."""
    for batch in (batch for batch in GLOBAL_BATCHES if batch <= len(lengths)):
        for ranks in (ranks for ranks in RANKS if batch // ranks > 1):
            micro = min(MICRO_TOKENS // seq_length, batch // ranks)
            shape = batch // ranks // micro, ranks, micro
            window = choose_window(micro, shape[0], ranks)
            updates = min(64, len(lengths) // batch)
            parts = [
                one_update(lengths[i * batch : (i + 1) * batch].reshape(shape), window)
                for i in range(updates)
            ]
            distributed = np.stack([part for part, _ in parts]).astype(float)
            tokens, squares = (
                distributed.sum(axis=-1),
                (distributed**2).sum(axis=-1),
            )  # [updates, steps, ranks]
            flops = pretraining_flops(config, tokens, squares, 0)
            microseconds = 1e6 * sum(seconds for _, seconds in parts) / (updates * batch)
            print(
                f"| {seq_length} | {batch} | {ranks} | {micro} x {shape[0]} "
                f"| {window.micro_steps} x {window.ranks} | {1 - distributed.mean() / seq_length:.2%} "
                f"| {excess(tokens.reshape(updates, -1)):.2%} | {excess(tokens):.2%} "
                f"| {excess(tokens.sum(axis=1)):.2%} | {excess(flops.reshape(updates, -1)):.2%} "
                f"| {excess(flops.sum(axis=1)):.2%} | {microseconds:.2f} |"
            )


def loader_table(source: SampleSource, length: int, seconds: float) -> None:
    """Samples a second of one process."""
    micro = MICRO_TOKENS // length
    count = 2048

    def show(name: str, samples: int, call: Callable[[], object]) -> None:
        print(f"| {length} | {name} | {samples / seconds_a_call(call, seconds):,.0f} |", flush=True)

    numbers = np.arange(count)
    parts = np.split(numbers, count // micro)
    show("padded", count, lambda: [source.samples(part) for part in parts])
    alone = Window(count // micro, 1)
    show("packed, one rank", count, lambda: window_batches(source, numbers, alone, 0))
    eight = Window(count // micro // 8, 8)
    show(
        "packed, a rank of eight",
        count // 8,
        lambda: window_batches(source, numbers, eight, 3),
    )
    show("lengths alone", count, lambda: source.lengths(numbers))


def model_table(source: SampleSource, length: int, config: ModelConfig) -> None:
    """Forward and backward of one window, micro batch by micro batch; the best of `ROUNDS`."""
    model = BertForPreTraining(config)
    initialize_weights(model, config, 0)
    micro, steps = MICRO_TOKENS // length, 4
    numbers = np.arange(micro * steps)
    parts = np.split(numbers, steps)
    padded = [pad_samples(source.samples(part)) for part in parts]
    packed = window_batches(source, numbers, Window(steps, 1), 0)
    tokens = sum(batch.input_ids.size for batch in packed)

    def train(batches: list[PackedBatch[np.ndarray]]) -> float:
        began = time.process_time()
        for batch in batches:
            output = model(batch.map(torch.from_numpy))
            (output.mlm_loss_sum + output.nsp_loss_sum).backward()
        model.zero_grad(set_to_none=True)
        return time.process_time() - began

    rounds = [(train(padded), train(packed)) for _ in range(ROUNDS)]
    times = [min(column) for column in zip(*rounds)]
    print(
        f"| {length} | {len(numbers) / times[0]:,.1f} | {len(numbers) / times[1]:,.1f} "
        f"| {times[0] / times[1]:.3f} | {len(numbers) * length / tokens:.3f} |",
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
    parser.add_argument("--model", default="bert-mini", help="shape of the model (bert-mini)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(arguments.shards, TRAIN)
    sources = {length: SampleSource(corpus, SampleSettings(length)) for length in LENGTHS}
    config = model_config(
        arguments.model,
        vocab_size=corpus.manifest.tokenizer.vocab_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    print("| length | global batch | ranks | micro batch x steps | window: steps x ranks", end=" ")
    print("| padding if padded | tokens: micro batch | micro step | update", end=" ")
    print("| FLOPs: micro batch | update | us a sample |")
    print("|" + "---|" * 12)
    for length in LENGTHS:
        balance_table(lengths_of(sources[length], arguments.samples), length, config)
    print("\n| length | loader | samples/s |\n|---|---|---|")
    for length in LENGTHS:
        loader_table(sources[length], length, arguments.seconds)
    print("\n| length | padded samples/s | packed samples/s | ratio | 1 / share of real tokens |")
    print("|---|---|---|---|---|")
    for length in LENGTHS:
        model_table(sources[length], length, config)


if __name__ == "__main__":
    main()
