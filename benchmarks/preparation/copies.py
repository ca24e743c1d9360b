"""Time, memory and yield of leaving out near copies and other languages, on real text.

Copies of some documents, with words replaced at random, are written as a second input. The same text is
sharded with --deduplicate tokens, with near, and with --keep-languages, round by round; CPU seconds are
those of all processes. Of each planted copy the Jaccard similarity with its document is computed from
the shingles themselves, and compared with whether it was left out.

    python benchmarks/preparation/copies.py --input DUMP --tokenizer FILE --work DIR
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from megabert.data.prepare.filters.shingles import shingle_hashes, word_hashes
from megabert.data.shards.manifest import load_manifest
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages

RATES = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)  # words that are replaced
FIRST_ID = 10**12
STEPS = (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.01)


def plant(inputs: list[Path], target: Path, every: int, language: str) -> dict[int, float]:
    """Write the planted copies; return the similarity of each by its id."""
    draw = random.Random(0)
    similarity: dict[int, float] = {}
    with target.open("w", encoding="utf-8") as file:
        for number, page in enumerate(page for path in inputs for page in iter_pages(path)):
            if number % every:
                continue
            cleaned = page_to_sentences(page, language)
            words = " ".join(s for p in cleaned.paragraphs for s in p).split(" ")
            if len(words) < 100:
                continue
            rate = RATES[len(similarity) % len(RATES)]
            changed = [draw.choice(words) if draw.random() < rate else word for word in words]
            sets = [
                set(shingle_hashes(word_hashes(" ".join(text)), 5).tolist())
                for text in (words, changed)
            ]
            place = FIRST_ID + len(similarity)
            similarity[place] = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
            file.write(json.dumps({"id": place, "text": " ".join(changed)}) + "\n")
    return similarity


def run(command: list[str]) -> tuple[float, int]:
    """CPU seconds of a command and its processes, and the peak memory of the largest one in MiB."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss >> 10


def kept_ids(folder: Path) -> set[int]:
    """Ids of the documents of a folder."""
    found: set[int] = set()
    for path in folder.glob("*.h5"):
        with h5py.File(path) as shard:
            found.update(np.asarray(shard["document_ids"]).tolist())
    return found


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", nargs="+", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--every", type=int, default=20, help="plant a copy of one page in N")
    parser.add_argument("--language", default="en")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    planted = args.work / "planted.jsonl"
    similarity = plant(args.input, planted, args.every, args.language)
    script = Path(__file__).parents[2] / "data_tools" / "shard_text.py"
    base = [sys.executable, str(script), "--tokenizer", str(args.tokenizer), "--workers", "1"]
    base += ["--language", args.language]
    base += ["--input", *map(str, args.input), str(planted)]
    ways = {
        "tokens": [],
        "exact": ["--deduplicate", "exact"],
        "near": ["--deduplicate", "near"],
        "languages": ["--keep-languages", args.language],
    }
    used: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for number in range(args.rounds):
        for name, flags in ways.items():
            output = args.work / f"{name}-{number}"
            used[name].append(run([*base, *flags, "--output", str(output)]))
    print(
        "| run | CPU s | ratio | MiB of the largest process | dropped |\n|---|---:|---:|---:|---|"
    )
    for name, runs in used.items():
        ratio = median(own[0] / plain[0] for own, plain in zip(runs, used["tokens"]))
        manifest = load_manifest(args.work / f"{name}-0")
        dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        print(
            f"| {name} | {median(own[0] for own in runs):.1f} | {ratio:.2f} | "
            f"{max(own[1] for own in runs)} | {dropped} |"
        )
    languages = load_manifest(args.work / "languages-0").languages
    print(f"\nlanguages: {dict(sorted(languages.items(), key=lambda item: -item[1]))}\n")
    kept = kept_ids(args.work / "near-0")
    print("| similarity | planted | left out |\n|---|---:|---:|")
    for low, high in pairwise(STEPS):
        ids = [place for place, share in similarity.items() if low <= share < high]
        out = sum(place not in kept for place in ids)
        print(f"| {low:.2f} to {min(high, 1.0):.2f} | {len(ids)} | {out} |")


if __name__ == "__main__":
    main()
