#!/usr/bin/env python
"""What one loader process gives: samples per second, opening time, and memory over an epoch.

python benchmarks/loader.py SHARDS [--batch 64] [--seconds 3] [--json]
python benchmarks/loader.py SHARDS --waiting 3 [--json]
python benchmarks/loader.py SHARDS --mixed OTHER [--weights 0.7 0.3] [--json]

Speeds are by CPU time of this process, the best of three runs, after the data was read once, so
that all of it is in the operating system's cache and checked; the first reading is measured by
itself. Opening and the memory of an epoch are measured in fresh processes, without imports.

--waiting measures what an update waits for its samples, with 0, 1, 2 and 4 worker processes, when the model
takes this many seconds (it sleeps): packed, 16 micro steps of 512 x 128 tokens on one rank of eight.

--mixed measures a mixture of two corpora and each of them alone, alternately, in CPU time per sample: packed windows of 2,048 samples
on one rank, one rank's part of a window of eight ranks, a window of 64, and padded batches of 64.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.names import TRAIN
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.mixture import (
    MixturePlan,
    Stage,
    corpus_seed,
    mix,
    whole_weights,
)
from megabert.data.samples.packing import Window, choose_window, window_batches
from megabert.data.samples.source import SampleArrays, SampleSource
from megabert.data.shards.corpus import Corpus

LENGTHS = (128, 512)
TASKS = ("nsp", "sop", "none")
MASKINGS = ("token", "whole-word", "ngram")
FAR = 10**8
RUNS = 3
ROUNDS = 15
MEMORY_STEPS = 10


def throughput(corpus: Corpus, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Speed for every length, task and masking, in samples and real tokens per second of CPU time."""
    rows = []
    for length in LENGTHS:
        _read_all(corpus, length)
        for task in TASKS:
            for masking in MASKINGS:
                source = SampleSource(
                    corpus, SampleSettings(length, sentence_task=task), MaskSettings(masking)
                )
                speed, real = _speed(
                    lambda n, s=source: s.samples(np.arange(n, n + batch)), batch, seconds
                )
                planning, _ = _speed(
                    lambda n, s=source: s.lengths(np.arange(n, n + 4096)), 4096, seconds / RUNS
                )
                rows.append(
                    {
                        "length": length,
                        "task": task,
                        "masking": masking,
                        "samples_per_second": round(speed),
                        "real_tokens_per_second": round(speed * real),
                        "padding": round(1 - real / length, 4),
                        "lengths_per_second": round(planning),
                    }
                )
    return rows


def _speed(make: Callable[[int], Any], count: int, seconds: float) -> tuple[float, float]:
    """Samples a second of the best run, and real tokens of a sample."""
    best, first, tokens, samples = 0.0, 0, 0, 0
    for _ in range(RUNS):
        began, done = time.process_time(), 0
        while time.process_time() - began < seconds / RUNS:
            made = make(first)
            first, done = first + count, done + count
            if isinstance(made, SampleArrays):
                tokens += int(made.lengths.sum())
        best = max(best, done / (time.process_time() - began))
        samples += done
    return best, tokens / samples


def waiting(corpus: Corpus, model_seconds: float, updates: int = 5) -> list[dict[str, Any]]:
    """Seconds that updates wait for their samples, by number of workers; the median leaves out the first."""
    micro, steps, ranks = 512, 16, 8
    source = SampleSource(corpus, SampleSettings(128))
    rows = []
    for workers in (0, 1, 2, 4):
        options = LoaderOptions(
            num_workers=workers, prefetch=steps, window=choose_window(micro, steps, ranks)
        )
        batches = MicroBatches(source, MicroSteps(micro, 0, ranks), options)
        seconds = []
        for _ in range(updates):
            before = batches.seconds_waited
            for _ in range(steps):
                next(batches)
            seconds.append(batches.seconds_waited - before)
            time.sleep(model_seconds)
        batches.close()
        rows.append(
            {
                "workers": workers,
                "first_update": round(seconds[0], 3),
                "median_update": round(statistics.median(seconds[1:]), 3),
            }
        )
    return rows


def mixed(corpora: list[Corpus], weights: list[str], seconds: float) -> list[dict[str, Any]]:
    """CPU time of a sample of a mixture, over the mean of its corpora's alone by their shares.

    Of all rounds the medians, and the middle half of the ratios.
    """
    plan = MixturePlan([Stage(whole_weights([Fraction(weight) for weight in weights]), None)])
    rows = []
    for length in LENGTHS:
        sources: list[Any] = [
            SampleSource(corpus, SampleSettings(length, seed=corpus_seed(0, number)))
            for number, corpus in enumerate(corpora)
        ]
        for corpus in corpora:
            _read_all(corpus, length)
        sources.append(mix(sources, plan))
        for name, batch, make in _WAYS:
            cost: list[list[float]] = [[] for _ in sources]
            for turn in range(ROUNDS):  # alternately: all of them meet the same noise of other work
                for number, source in enumerate(sources):
                    cost[number].append(_cost(source, make, batch, turn, seconds / ROUNDS))
            shares = np.array(plan.stages[0].weights) / sum(plan.stages[0].weights)
            of_rounds = cost[-1] / (shares @ np.array(cost[:-1]))
            alone = [statistics.median(part) for part in cost[:-1]]
            both = statistics.median(cost[-1])
            rows.append(
                {
                    "length": length,
                    "way": name,
                    "alone_us": [round(1e6 * part, 1) for part in alone],
                    "mixed_us": round(1e6 * both, 1),
                    "time_over_mean": round(both / float(shares @ alone), 3),
                    "middle_half": np.quantile(of_rounds, (0.25, 0.75)).round(3).tolist(),
                }
            )
    return rows


def _cost(source: Any, make: Any, batch: int, turn: int, seconds: float) -> float:
    """CPU seconds of a sample, over at least this time."""
    began, done, first = time.process_time(), 0, turn * 1_000_000
    while time.process_time() - began < seconds:
        make(source, first + done, batch)
        done += batch
    return (time.process_time() - began) / done


def _window_of(source: Any, first: int, ranks: int) -> None:
    window = Window(2048 // ranks // 64, ranks)
    window_batches(source, np.arange(first, first + 2048), window, 0)


def _packed(source: Any, first: int) -> None:
    window_batches(source, np.arange(first, first + 64), Window(4, 1), 0)


_WAYS: list[tuple[str, int, Callable[[Any, int, int], Any]]] = [
    ("packed, one rank", 2048, lambda source, first, _: _window_of(source, first, 1)),
    ("packed, rank 0 of 8", 256, lambda source, first, _: _window_of(source, 8 * first, 8)),
    ("packed, 64", 64, lambda source, first, _: _packed(source, first)),
    (
        "padded, 64",
        64,
        lambda source, first, count: source.samples(np.arange(first, first + count)),
    ),
]
"""Name, samples made at once, and how."""


def _read_all(corpus: Corpus, length: int) -> None:
    """Reads some hundred thousand tokens per second until an epoch or two minutes are over."""
    source = SampleSource(corpus, SampleSettings(length), MaskSettings("whole-word"))
    began = time.monotonic()
    for first in range(0, source.samples_per_epoch, 1024):
        source.samples(np.arange(first, first + 1024))
        if time.monotonic() - began > 120:
            return


def first_reading(shards: Path, batch: int) -> dict[str, Any]:
    """Speed while blocks are read and checked for the first time: the first 8,192 samples."""
    corpus = Corpus.open(shards, TRAIN)
    source = SampleSource(corpus, SampleSettings(128))
    began, count = time.process_time(), 8192
    for first in range(0, count, batch):
        source.samples(np.arange(first, first + batch))
    return {"samples_per_second": round(count / (time.process_time() - began))}


def opening(shards: Path, batch: int) -> dict[str, Any]:
    """Seconds from nothing to the first batch, at sample 0 or far into a run."""
    found: dict[str, Any] = {}
    for name, first in (("from_0", 0), ("from_100_million", FAR)):
        wall, cpu = time.perf_counter(), time.process_time()
        corpus = Corpus.open(shards, TRAIN)
        SampleSource(corpus, SampleSettings(128)).samples(np.arange(first, first + batch))
        found[f"{name}_seconds"] = round(time.perf_counter() - wall, 3)
        found[f"{name}_cpu_seconds"] = round(time.process_time() - cpu, 3)
    return found | {"shards": len(corpus.manifest.splits[TRAIN].shards)}


def memory(shards: Path, batch: int) -> dict[str, Any]:
    """Private memory in MB after the first batch, and ten times over one epoch at length 128."""
    source = SampleSource(Corpus.open(shards, TRAIN), SampleSettings(128), MaskSettings("ngram"))
    source.samples(np.arange(batch))
    start = _private_megabytes()
    marks, epoch = [], source.samples_per_epoch
    for step in range(MEMORY_STEPS):
        for first in range(step * epoch // MEMORY_STEPS, (step + 1) * epoch // MEMORY_STEPS, batch):
            source.samples(np.arange(first, first + batch))
        marks.append(_private_megabytes())
    return {"samples": epoch, "first_batch_mb": start, "over_the_epoch_mb": marks}


def _private_megabytes() -> float:
    """Memory that belongs to this process alone: pages of the file cache are not counted."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return round(sum(kilobytes) / 1024, 1)


def _waiting_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| workers | first update, s | median of the others, s |", "|---:|---:|---:|"]
    lines += [
        f"| {row['workers']} | {row['first_update']} | {row['median_update']} |" for row in rows
    ]
    return "\n".join(lines)


def _mixed_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| length | batches | µs alone | mixed | over the mean of both | middle half |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for row in rows:
        alone = ", ".join(map(str, row["alone_us"]))
        half = " to ".join(map(str, row["middle_half"]))
        lines.append(
            f"| {row['length']} | {row['way']} | {alone} | {row['mixed_us']} | {row['time_over_mean']} | {half} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure everything and print Markdown or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line of the table")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--waiting", type=float, metavar="SECONDS", help="see above; nothing else")
    parser.add_argument("--mixed", type=Path, metavar="OTHER", help="see above; nothing else")
    parser.add_argument("--weights", nargs=2, default=["0.7", "0.3"], help="with --mixed")
    arguments = parser.parse_args()
    if arguments.mixed is not None:
        both = [Corpus.open(place, TRAIN) for place in (arguments.shards, arguments.mixed)]
        rows = mixed(both, arguments.weights, arguments.seconds)
        print(json.dumps(rows, indent=2) if arguments.json else _mixed_table(rows))
        return
    if arguments.waiting is not None:
        rows = waiting(Corpus.open(arguments.shards, TRAIN), arguments.waiting)
        print(json.dumps(rows, indent=2) if arguments.json else _waiting_table(rows))
        return
    fresh = {}
    for measure in (opening, first_reading, memory):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            fresh[measure.__name__] = pool.apply(measure, (arguments.shards, arguments.batch))
    corpus = Corpus.open(arguments.shards, TRAIN)
    result = {
        "tokens": corpus.num_tokens,
        "batch": arguments.batch,
        **fresh,
        "throughput": throughput(corpus, arguments.batch, arguments.seconds),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("| length | task | masking | samples/s | real tokens/s | padding | lengths/s |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row in result["throughput"]:
        print(
            f"| {row['length']} | {row['task']} | {row['masking']} "
            f"| {row['samples_per_second']:,} | {row['real_tokens_per_second']:,} "
            f"| {row['padding']:.1%} | {row['lengths_per_second']:,} |"
        )
    for name, found in fresh.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
