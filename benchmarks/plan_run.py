#!/usr/bin/env python
"""A real run on one device compared with its plan: peak memory, seconds per update, MFU, idle time.

    python benchmarks/plan_run.py SHARDS [--model bert-large] [--phases 1,2] [--precisions bf16]
        [--micro-tokens N] [--update-tokens 262144] [--updates 12] [--profile 2] [--json FILE]

Runs launch/pretrain.py for some packed updates, with dropout and ZeRO 1, and launch/plan.py with the
same flags for this device. Figures of the run are those of its last line of metrics (half the updates).
Without --micro-tokens the run chooses its micro batch, as a user's would. --profile N profiles N updates
of the first half: the fraction of them in which the GPU is idle, its launches and synchronisations, and
its most expensive kernels.
Memory on a GPU is what torch has handed out at most, and the plan's figure is given without its constant
for what lies outside torch; on a CPU it is the process's largest resident size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.device_trace import DeviceTrace, read_trace
from benchmarks.steps.rounds import environment, markdown_table, write_json
from benchmarks.steps.runs import SHORT, last_figures, pretrain, run
from megabert.common.errors import UserError
from megabert.common.hardware import find_accelerator
from megabert.common.log import run_command
from megabert.config.recipes import RECIPES
from megabert.data.shards.manifest import load_manifest


def device_name() -> str:
    """This device as launch/plan.py calls it.

    Raises:
        UserError: a GPU that it does not know.
    """
    if not torch.cuda.is_available():
        return "cpu"
    name = torch.cuda.get_device_name()
    accelerator = find_accelerator(name)
    if accelerator is None:
        raise UserError(
            f"{name}: launch/plan.py knows no such device; see megabert/common/hardware.py"
        )
    return accelerator.name


def planned_bytes(plan: dict[str, Any], cuda: bool) -> float:
    """The plan's peak; of a GPU without what lies outside torch's allocator."""
    memory = plan["memory"]
    outside = next(iter(memory["instants"].values()))["framework"] if cuda else 0.0
    return memory["peak_bytes"] - outside


def beside_plan(arguments: argparse.Namespace, phase: int, precision: str) -> dict[str, Any]:
    """Run and plan of one phase."""
    length = RECIPES[phase].seq_length
    total = max(1, arguments.update_tokens // length)
    shared = [
        "--model", arguments.model, "--phase", str(phase), "--precision", precision,
        "--packing", "on", "--global-batch-size", str(total), "--steps", str(arguments.updates),
    ]  # fmt: skip
    own = [
        "--data", str(arguments.shards), "--zero-stage", "1", "--lr", "1e-4",
        "--log-interval", str(max(1, arguments.updates // 2)), "--eval-samples", "16", *SHORT,
    ]  # fmt: skip
    if arguments.micro_tokens:
        own += ["--micro-batch-size", str(max(1, arguments.micro_tokens // length))]
    if arguments.profile:
        own += ["--profile", str(arguments.profile)]
    trace: DeviceTrace | None = None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        lines = pretrain([*shared, *own], output)
        batch = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))["batch"]
        if arguments.profile:
            trace = read_trace(output / "profile" / "rank0.json.gz")
    metrics = last_figures(lines)
    profiles = [line for line in lines if line.get("event") == "profile"]
    vocabulary = load_manifest(arguments.shards).tokenizer.vocab_size
    device = ["--gpu", device_name(), "--gpus", "1", "--zero", "1"]
    sizes = [
        "--vocab-size", str(vocabulary), "--micro-batch-size", str(batch["micro_batch_size"]),
    ]  # fmt: skip
    plan = json.loads(run(["launch/plan.py", *shared, *device, *sizes, "--json"]))
    return {
        "model": arguments.model,
        "phase": phase,
        "precision": precision,
        "vocabulary": vocabulary,
        "micro_batch_size": batch["micro_batch_size"],
        "accumulation": batch["gradient_accumulation_steps"],
        "peak_memory_bytes": metrics["peak_memory_bytes"],
        "planned_memory_bytes": planned_bytes(plan, torch.cuda.is_available()),
        "update_seconds": metrics["update_seconds_p50"],
        "planned_update_seconds": plan["time"]["step_seconds"],
        "planned_time": plan["time"],
        "mfu": metrics["mfu"],
        "planned_mfu": plan["mfu"],
        "metrics": metrics,
        "profile": profiles[0] if profiles else None,
        "trace": trace.to_dict() if trace else None,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-large", help="preset (bert-large)")
    parser.add_argument("--phases", default="1,2", help="recipes, with commas (1,2)")
    parser.add_argument("--precisions", default="bf16", help="with commas (bf16)")
    parser.add_argument(
        "--micro-tokens", type=int, help="tokens per micro step, padded (the run chooses)"
    )
    parser.add_argument(
        "--update-tokens", type=int, default=2**18, help="tokens per update, padded (262144)"
    )
    parser.add_argument("--updates", type=int, default=12, help="of each run (12)")
    parser.add_argument("--profile", type=int, metavar="N", help="profile N of the updates")
    parser.add_argument("--json", type=Path, help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    found = []
    for phase in map(int, arguments.phases.split(",")):
        for precision in arguments.precisions.split(","):
            found.append(beside_plan(arguments, phase, precision))
    header = (
        "model", "phase", "precision", "micro batch", "peak memory, GB", "planned", "ratio",
        "update, s", "planned", "real tokens/s", "MFU", "planned", "GPU idle", "waiting for data",
    )  # fmt: skip
    rows = [
        (
            one["model"], one["phase"], one["precision"], one["micro_batch_size"],
            one["peak_memory_bytes"] / 1e9, one["planned_memory_bytes"] / 1e9,
            one["peak_memory_bytes"] / one["planned_memory_bytes"],
            one["update_seconds"], one["planned_update_seconds"],
            float(one["metrics"]["tokens_per_second"]), one["mfu"], one["planned_mfu"],
            one["trace"] and one["trace"]["idle_fraction"], one["metrics"]["data_wait_fraction"],
        )
        for one in found
    ]  # fmt: skip
    print(markdown_table(header, rows))
    for one in found:
        where = f"{one['model']}, phase {one['phase']}, {one['precision']}"
        planned = one["planned_time"]["parts_seconds"].items()
        parts = ", ".join(f"{name} {seconds:.4g} s" for name, seconds in planned if seconds)
        print(f"\n{where}, planned: {parts}")
        if one["profile"]:
            shares = ", ".join(
                f"{kind} {part:.1%}" for kind, part in one["profile"]["shares"].items()
            )
            print(f"{where}, time by kind: {shares}")
        if one["trace"]:
            print("\n".join(DeviceTrace(**one["trace"]).lines()))
    about = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    write_json(arguments.json, {"environment": about, "cases": found})
    return 0


if __name__ == "__main__":
    run_command(main)
