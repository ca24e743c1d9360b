#!/usr/bin/env python
"""Samples a second that one loader process makes from a folder of shards.

python benchmarks/loader.py SHARDS [--batch 64] [--seconds 5]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.data.masking import MaskSettings
from megabert.data.pairs import SampleSettings
from megabert.data.sample_source import SampleSource
from megabert.data.shards import Corpus
from megabert.naming import TRAIN


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.shards, TRAIN)
    print("| length | task, masking | samples/s | real tokens/s | padding |")
    print("|---|---|---|---|---|")
    for length in (128, 512):
        for task, masking in (("nsp", "token"), ("nsp", "whole-word"), ("none", "token")):
            source = SampleSource(
                corpus, SampleSettings(length, sentence_task=task), MaskSettings(masking)
            )
            source.batch(0, arguments.batch)
            began, done, tokens = time.process_time(), 0, 0
            while time.process_time() - began < arguments.seconds:
                batch = source.batch(done, arguments.batch)
                done += arguments.batch
                tokens += int(batch["attention_mask"].sum())
            seconds = time.process_time() - began
            print(
                f"| {length} | {task}, {masking} | {done / seconds:,.0f} | {tokens / seconds:,.0f} "
                f"| {1 - tokens / (done * length):.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
