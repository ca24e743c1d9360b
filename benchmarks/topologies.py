#!/usr/bin/env python
"""The same training under several topologies: how far do losses and weights differ?

    python benchmarks/topologies.py --data SHARDS --output FOLDER [--model bert-mini] [--steps 20]

Runs launch/pretrain.py once per topology (same seed and global batch, fp32, dropout 0), then prints a
Markdown table: the largest relative difference of a loss, and the largest absolute difference of a
weight, from the run on one rank.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.checkpoint.merged import whole_checkpoint
from megabert.checkpoint.resume import recorded_parameters
from megabert.checkpoint.save_load import newest_checkpoint
from megabert.config.model import ModelConfig

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGIES = {
    "1 rank, ZeRO 0": (1, ["--zero-stage", "0"]),
    "1 rank, ZeRO 1": (1, ["--zero-stage", "1"]),
    "DP 2, ZeRO 0": (2, ["--zero-stage", "0"]),
    "DP 2, ZeRO 1": (2, ["--zero-stage", "1"]),
    "DP 2, ZeRO 2": (2, ["--zero-stage", "2"]),
    "DP 2, ZeRO 3": (2, ["--zero-stage", "3"]),
    "TP 2, ZeRO 1": (2, ["--zero-stage", "1", "--tensor-parallel", "2"]),
    "TP 2 x DP 2, ZeRO 2": (4, ["--zero-stage", "2", "--tensor-parallel", "2"]),
}


def losses(run: Path) -> list[float]:
    """Training loss of every update."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(run: Path) -> dict:
    """Whole fp32 weights of the run's checkpoint."""
    checkpoint = newest_checkpoint(run)
    model = ModelConfig.from_dict(checkpoint.record["model"])
    parameters = recorded_parameters(model, checkpoint.record["heads"])
    whole = whole_checkpoint(checkpoint.folder, parameters)
    return {name: tensor.clone() for name, tensor in whole.weights().items()}


def main() -> None:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--model", default="bert-mini")
    parser.add_argument("--steps", default="20")
    parser.add_argument("--global-batch-size", default="8")
    parser.add_argument("--micro-batch-size", default="4")
    arguments = parser.parse_args()
    reference_losses: list[float] = []
    reference: dict = {}
    print(
        "| topology | first loss | last loss | loss, largest relative difference | weights, largest difference |"
    )
    print("|---|---|---|---|---|", flush=True)
    for number, (name, (ranks, flags)) in enumerate(TOPOLOGIES.items()):
        run = arguments.output / f"topology-{number}"
        shutil.rmtree(run, ignore_errors=True)
        command = [
            "deepspeed", "--num_gpus", str(ranks), str(ROOT / "launch" / "pretrain.py"),
            "--model", arguments.model, "--data", arguments.data, "--output", str(run),
            "--steps", arguments.steps, "--global-batch-size", arguments.global_batch_size,
            "--micro-batch-size", arguments.micro_batch_size, "--dropout", "0", "--precision", "fp32",
            "--log-interval", "1", "--eval-interval", "0", "--save-interval", "0",
            "--eval-samples", "16", *flags,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        mine, own = losses(run), weights(run)
        if not reference:
            reference_losses, reference = mine, own
        part = max(abs(a - b) / abs(b) for a, b in zip(mine, reference_losses))
        drift = max((own[key] - reference[key]).abs().max().item() for key in reference)
        print(f"| {name} | {mine[0]:.6f} | {mine[-1]:.6f} | {part:.1e} | {drift:.1e} |", flush=True)


if __name__ == "__main__":
    main()
