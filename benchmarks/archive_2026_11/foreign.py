#!/usr/bin/env python
"""Samples per second from foreign shards, by layout and sequence length.

Writes a shard of random samples in each published layout, and reads batches of 64 in a run's order,
in one process. Times are CPU seconds.

    python benchmarks/archive_2026_11/foreign.py [--samples 20000] [--seconds 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.data.foreign.files import open_foreign
from megabert.data.foreign.source import ForeignSource
from megabert.data.samples.index import SampleSettings
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
from tests.helpers.foreign_shards import random_samples, write_fixed, write_tfrecord, write_variable

BATCH = 64
VOCAB = 30522
INFO = TokenizerInfo("wordpiece", "0" * 64, VOCAB, True, SpecialIds(0, 1, 2, 3, 4))
WRITERS = {
    "HDF5 fixed, gzip": write_fixed,
    "HDF5 fixed, uncompressed": partial(write_fixed, compression=None),
    "HDF5 variable": write_variable,
    "TFRecord": write_tfrecord,
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    print("| length | layout | MB | opened in s | samples/s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for length in (128, 512):
            samples = random_samples(arguments.samples, longest=length, vocab=VOCAB)
            for layout, write in WRITERS.items():
                path = write(Path(folder) / "shard", samples, length, length // 6)
                began = time.process_time()
                files = open_foreign([path]).train
                opened = time.process_time() - began
                source = ForeignSource(files, SampleSettings(length), INFO)
                began, done = time.process_time(), 0
                while time.process_time() - began < arguments.seconds:
                    source.batch(done, BATCH)
                    done += BATCH
                rate = done / (time.process_time() - began)
                size = path.stat().st_size / 1e6
                files[0].close()
                print(
                    f"| {length} | {layout} | {size:.0f} | {opened:.2f} | {rate:,.0f} |", flush=True
                )


if __name__ == "__main__":
    main()
