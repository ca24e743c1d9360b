#!/usr/bin/env python
"""The losses of 20 updates of bert-tiny: on this device, on a CPU, and as they were recorded.

    python benchmarks/hour/golden.py [--write-golden] [--json FILE]

The model trains on tests/fixtures/shards (text that data_tools/make_sample_wiki.py generated) with
LAMB and ZeRO 1, in several precisions, with and without dropout. The losses of each kind of device are
in benchmarks/golden/DEVICE.json; --write-golden writes this device's (--json has the same entries). A GPU's fp32 losses are compared
with a CPU's too, which this command computes in the same call. Exit status 1: a difference is larger
than rounding explains.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import environment, markdown_table, relative_difference, write_json
from benchmarks.steps.runs import ON_CPU, ROOT, SHORT, pretrain, training_losses
from megabert.common.log import run_command

FOLDER = ROOT / "benchmarks" / "golden"
SHARDS = ROOT / "tests" / "fixtures" / "shards"
UPDATES = 20
FLAGS = (
    "--model", "bert-tiny", "--max-position-embeddings", "64", "--seq-length", "64",
    "--global-batch-size", "8", "--micro-batch-size", "4", "--steps", str(UPDATES), "--lr", "1e-2",
    "--zero-stage", "1", "--log-interval", "1", "--eval-samples", "8", *SHORT,
)  # fmt: skip
NO_DROPOUT = ", no dropout"
PRECISIONS = ("fp32", "bf16", "fp8")
GOLDEN_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3, "fp8": 1e-3}
"""Largest relative difference from recorded losses (docs/reference/benchmarks.md: how it was chosen)."""
DEVICE_TOLERANCE = {"fp32": 1e-4, "bf16": 1.5e-3, "fp8": 3e-3}
"""The same between a GPU's losses and a CPU's in fp32."""


def case_names(precisions: Sequence[str]) -> list[str]:
    """Each precision with and without dropout."""
    return [name + ending for name in precisions for ending in ("", NO_DROPOUT)]


def case_flags(case: str) -> list[str]:
    """Flags of one case."""
    precision = case.removesuffix(NO_DROPOUT)
    dropout = ["--dropout", "0"] if case.endswith(NO_DROPOUT) else []
    return [*FLAGS, "--precision", precision, *dropout]


@dataclass(frozen=True)
class Comparison:
    """The largest relative difference between the losses of two runs, and what rounding explains."""

    case: str
    against: str
    difference: float
    limit: float
    judged: bool = True

    @property
    def good(self) -> bool:
        """Whether the difference is within the limit; a nan is not."""
        return self.difference <= self.limit


def largest_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative difference of two series of losses."""
    parts = [relative_difference(one, other) for one, other in zip(found, wanted, strict=True)]
    return max(parts) if all(part == part for part in parts) else float("nan")


def golden_file(device: torch.device, folder: Path = FOLDER) -> Path:
    """Where the losses of this kind of device are recorded."""
    if device.type != "cuda":
        return folder / "cpu.json"
    name = torch.cuda.get_device_name(device).lower()
    return folder / f"{re.sub('[^a-z0-9]+', '-', name).strip('-')}.json"


def read_golden(path: Path) -> dict[str, list[float]]:
    """The recorded losses by case; none where nothing is recorded."""
    return json.loads(path.read_text(encoding="utf-8"))["losses"] if path.is_file() else {}


def train(cases: Sequence[str], shards: Path, place: Mapping[str, str]) -> dict[str, list[float]]:
    """The losses of each case, in an environment that chooses the device."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            flags = ["--data", str(shards), *case_flags(case)]
            found[case] = training_losses(pretrain(flags, Path(folder) / str(number), place))
    return found


def compare(
    found: dict[str, list[float]],
    golden: dict[str, list[float]],
    cpu: dict[str, list[float]],
    same_masks: bool = True,
) -> list[Comparison]:
    """Losses against the recorded ones, and a GPU's against a CPU's.

    Args:
        cpu: {} on a CPU.
        same_masks: whether the GPU's attention draws the dropout masks of a CPU; otherwise it is another
            training with dropout, not a fault.
    """
    made = []
    for case, losses in found.items():
        precision = case.removesuffix(NO_DROPOUT)
        if case in golden:
            difference = largest_difference(losses, golden[case])
            made.append(Comparison(case, "recorded", difference, GOLDEN_TOLERANCE[precision]))
        if cpu:
            wanted = cpu[case.replace(precision, "fp32")]
            made.append(
                Comparison(
                    case,
                    "CPU, fp32",
                    largest_difference(losses, wanted),
                    DEVICE_TOLERANCE[precision],
                    judged=same_masks or case.endswith(NO_DROPOUT),
                )
            )
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write-golden", action="store_true", help="record the losses as this device's"
    )
    parser.add_argument("--json", type=Path, help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, print; 1 if a difference is too large."""
    arguments = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else (0, 0)
    fp8, same_masks = capability >= (8, 9), capability >= (8, 0)
    found = train(case_names(PRECISIONS if fp8 else PRECISIONS[:2]), SHARDS, {})
    cpu = train(case_names(PRECISIONS[:1]), SHARDS, ON_CPU) if cuda else {}
    path = golden_file(device)
    about = environment(device)
    recorded = read_golden(path)
    if arguments.write_golden:
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"environment": about, "flags": FLAGS, "losses": found})
        print(f"recorded in {path.relative_to(ROOT)}\n")
    compared = compare(found, recorded, cpu, same_masks)
    rows = [
        (
            one.case, one.against, f"{one.difference:.1e}", f"{one.limit:.0e}",
            ("within rounding" if one.good else "too far") if one.judged
            else ("same masks" if one.good else "other masks or other rounding"),
        )
        for one in compared
    ]  # fmt: skip
    print(markdown_table(("losses", "against", "largest difference", "limit", "which means"), rows))
    if not path.is_file():
        print(f"no losses are recorded for {about['device']}; --write-golden records these")
    result: dict[str, Any] = {
        "environment": about,
        "flags": FLAGS,
        "losses": found,
        "cpu": cpu,
        "comparisons": [{**vars(one), "good": one.good} for one in compared],
    }
    write_json(arguments.json, result)
    return 0 if all(one.good for one in compared if one.judged) else 1


if __name__ == "__main__":
    run_command(main)
