#!/usr/bin/env python
"""Damages a folder of shards in many places, one at a time, and sees what notices.

python benchmarks/archive_2026_11/corruption.py SHARDS [--flips 1000] [--cuts 100] [--seed 0] [--json]

A flip changes one byte, a cut takes the end of a file away; files are those of the whole folder:
shards, manifest, tokenizer. For each, one epoch of both splits is read as training reads it, and
the folder is verified as `inspect_shards.py --verify` does. Each of the samples read must be what it
was, or reading must stop with an error; --verify must stop in any case. Both must name the file,
and the bytes within a shard. Works on a copy, in a temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.common.errors import UserError
from megabert.data.inspect.verify import verify_folder
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import load_manifest

SEQ_LENGTH = 128
BATCH = 256


@dataclass(frozen=True)
class Fault:
    """A byte of a file to be changed by `change` (exclusive or), or, if that is 0, where to cut."""

    file: Path
    place: int
    change: int

    def apply(self, good: bytes) -> bytes:
        """The damaged content of a file."""
        if not self.change:
            return good[: self.place]
        changed = bytes([good[self.place] ^ self.change])
        return good[: self.place] + changed + good[self.place + 1 :]


@dataclass(frozen=True)
class Outcome:
    """What noticed a fault: the messages of a training read and of a verification, if any.

    `silent`: the training read gave other samples than before, without an error.
    """

    fault: Fault
    read: str | None
    verified: str | None
    silent: bool

    @property
    def found(self) -> bool:
        """Whether the fault was found and named as it should be."""
        named = all(_names(message, self.fault) for message in (self.read, self.verified))
        return self.verified is not None and named and not self.silent


def make_faults(folder: Path, flips: int, cuts: int, seed: int) -> list[Fault]:
    """Random faults; each file of the folder is as likely, and each byte of a file."""
    draw = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    faults = []
    for number in range(flips + cuts):
        file = draw.choice(files)
        place = draw.randrange(file.stat().st_size)
        faults.append(Fault(file, place, draw.randint(1, 255) if number < flips else 0))
    return faults


def try_faults(folder: Path, faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Damages the folder by each fault in turn, and undoes it."""
    expected = read_epoch(folder)
    verify_folder(folder)
    for fault in faults:
        good = fault.file.read_bytes()
        fault.file.write_bytes(fault.apply(good))
        read = verified = None
        silent = False
        try:
            silent = read_epoch(folder) != expected
        except UserError as error:
            read = str(error)
        try:
            verify_folder(folder)
        except UserError as error:
            verified = str(error)
        fault.file.write_bytes(good)
        yield Outcome(fault, read, verified, silent)


def read_epoch(folder: Path) -> str:
    """Digest of all samples of one epoch of each split, by whole words, so that all is read."""
    content = hashlib.sha256()
    for split in load_manifest(folder).splits:
        settings = SampleSettings(SEQ_LENGTH, "nsp")
        source = SampleSource(Corpus.open(folder, split), settings, MaskSettings("whole-word"))
        for first in range(0, source.samples_per_epoch, BATCH):
            samples = source.samples(np.arange(first, first + BATCH))
            for name, array in vars(samples).items():
                if array is not None and name != "numbers":
                    content.update(array.tobytes())
    return content.hexdigest()


def _names(message: str | None, fault: Fault) -> bool:
    """Whether a message, if there is one, is one line that names the file and the place."""
    if message is None:
        return True
    if "\n" in message or fault.file.name not in message:
        return False
    places = re.findall(r"\(bytes (\d+) to (\d+)\)", message)
    return all(int(first) <= fault.place < int(stop) for first, stop in places)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Counts by kind of fault: how many, found by what, and not found."""
    counts: dict[str, Counter[str]] = {"flips": Counter(), "cuts": Counter()}
    for outcome in outcomes:
        kind = counts["flips" if outcome.fault.change else "cuts"]
        kind["made"] += 1
        kind["found_by_training_read"] += outcome.read is not None
        kind["found_by_verify"] += outcome.verified is not None
        kind["trained_on_silently"] += outcome.silent
        kind["not_found_or_not_named"] += not outcome.found
    return {kind: dict(found) for kind, found in counts.items()}


def main() -> None:
    """Try all faults and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "shards"
        shutil.copytree(arguments.shards, copy)
        faults = make_faults(copy, arguments.flips, arguments.cuts, arguments.seed)
        outcomes = list(try_faults(copy, faults))
    counts = summarise(outcomes)
    if arguments.json:
        print(json.dumps(counts, indent=2))
    else:
        for kind, found in counts.items():
            print(f"{kind}: " + ", ".join(f"{n} {name}" for name, n in found.items()))
    for outcome in outcomes:
        if not outcome.found:
            print(outcome, file=sys.stderr)
    sys.exit(any(not outcome.found for outcome in outcomes))


if __name__ == "__main__":
    main()
