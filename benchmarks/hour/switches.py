#!/usr/bin/env python
"""What each choice gives in a whole run: the same run with one of them undone.

    python benchmarks/hour/switches.py SHARDS [--set main] [--model bert-large] [--phase 1]
        [--updates 8] [--seconds 450] [--json FILE]

A choice is undone by a public flag, a section of a DeepSpeed file, or an environment variable, and otherwise
by benchmarks/hour/without.py. One that this version does not have, or that changes nothing here,
is listed as not available. The run as it is
comes first and last, so that the two show how far times vary. Of the two sets, "main" holds the choices
that a GPU was expected to need, "more" those that a user can make. No run begins after --seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.device_trace import read_trace
from benchmarks.steps.rounds import environment, markdown_table, write_json
from benchmarks.steps.runs import PRETRAIN, ROOT, SHORT, last_figures, pretrain
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.config.recipes import RECIPES

AS_IS, AGAIN = "as it is", "as it is, again"


@dataclass(frozen=True)
class Switch:
    """One choice undone.

    Args:
        flags: of launch/pretrain.py.
        sections: of a DeepSpeed file.
        environment: variables that megabert or torch reads.
        without: "module:function" for benchmarks/hour/without.py.
    """

    name: str
    flags: tuple[str, ...] = ()
    sections: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    without: str = ""

    @property
    def script(self) -> tuple[str, ...]:
        """The command that takes the flags."""
        return ("benchmarks/hour/without.py", self.without) if self.without else PRETRAIN


def switches(length: int, samples: int) -> dict[str, list[Switch]]:
    """Both sets, the most telling first; updates of ``samples`` sequences of ``length`` tokens."""
    micro = max(1, min(samples, 8192 // length))
    main = [
        Switch("micro batch of 8,192 tokens", ("--micro-batch-size", str(micro))),
        Switch(
            "immediate_grad_update off",
            sections={"bf16": {"enabled": True, "immediate_grad_update": False}},
        ),
        Switch(
            "DeepSpeed's throughput timer on",
            sections={"timers": {"throughput": {"enabled": True}}},
        ),
        Switch("attention by flash kernels", ("--attention", "flash")),
        Switch(
            "query, key and value as three products", without="megabert.kernels.joined:end_to_end"
        ),
        Switch(
            "dW added by an operator of its own", without="megabert.parallel.products:adds_to_fp32"
        ),
        Switch("batches made in the training process", ("--loader-workers", "0")),
        Switch(
            "expandable segments off",
            environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
        ),
    ]
    more = [
        Switch("padded rows", ("--packing", "off")),
        Switch("LAMB by torch operators", ("--lamb-backend", "torch")),
        Switch("gradients summed in bf16", sections={"data_types": {"grad_accum_dtype": "bf16"}}),
        Switch("ZeRO 0", ("--zero-stage", "0")),
        Switch("ZeRO 2", ("--zero-stage", "2")),
    ]
    return {"main": main, "more": more}


def read_by_the_package(name: str) -> bool:
    """Whether a file of megabert names this environment variable."""
    return any(name in path.read_text("utf-8") for path in (ROOT / "megabert").rglob("*.py"))


def missing(switch: Switch, flags: Sequence[str]) -> str | None:
    """Why this version does not have the switch; None if it does."""
    for name in switch.environment:
        if not read_by_the_package(name):
            return f"nothing reads {name}"
        if name.startswith("PYTORCH_CUDA") and not torch.cuda.is_available():
            return f"{name} is about a GPU"
    command = [sys.executable, *switch.script, *flags, "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stderr.strip().splitlines() or ["refused"])[-1] if done.returncode else None


def configuration(run: Path) -> tuple[Any, Any]:
    """The settings and DeepSpeed's configuration of a run, without the names of its files."""
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["run"].pop("output")
    settings["parallel"].pop("deepspeed_config", None)
    engine = json.loads((run / "ds_config.json").read_text(encoding="utf-8"))
    return settings, engine


def measure(
    switch: Switch, shared: Sequence[str], folder: Path, usual: tuple[Any, Any] | None
) -> tuple[dict[str, Any], tuple[Any, Any] | None]:
    """The row of one run, and its configuration; ``usual``: that of the run as it is."""
    flags = [*shared]
    for flag, value in zip(switch.flags[::2], switch.flags[1::2], strict=True):
        if flag in flags:
            flags[flags.index(flag) + 1] = value
        else:
            flags += [flag, value]
    if switch.sections:
        file = folder / "deepspeed.json"
        file.write_text(json.dumps(switch.sections), encoding="utf-8")
        flags += ["--deepspeed_config", str(file)]
    row: dict[str, Any] = {"name": switch.name, "outcome": "done"}
    if reason := missing(switch, flags):
        return row | {"outcome": f"not available: {reason}"}, None
    run = folder / "run"
    try:
        lines = pretrain(flags, run, switch.environment, switch.script)
    except UserError as error:
        return row | {"outcome": f"failed: {error}"}, None
    found = configuration(run)
    by_settings = not switch.environment and not switch.without and switch.name != AGAIN
    if by_settings and found == usual:
        return row | {"outcome": "not available: it changes nothing here"}, found
    figures = last_figures(lines)
    trace = read_trace(run / "profile" / "rank0.json.gz")
    return row | {
        "update_seconds": figures["update_seconds_p50"],
        "tokens_per_second": float(figures["tokens_per_second"]),
        "mfu": figures["mfu"],
        "peak_memory_bytes": figures["peak_memory_bytes"],
        "data_wait_fraction": figures["data_wait_fraction"],
        "trace": trace.to_dict() if trace else None,
        "loss": figures["loss"],
    }, found


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown table, and the lines of what is not available."""
    measured = [row for row in rows if "update_seconds" in row]
    header = (
        "undone", "update, s", "x as it is", "real tokens/s", "MFU", "peak memory, GB",
        "waiting for data", "GPU idle", "launches", "synchronisations", "loss",
    )  # fmt: skip
    table = []
    for row in measured:
        trace = row["trace"] or {}
        table.append(
            (
                row["name"], row["update_seconds"],
                row["update_seconds"] / measured[0]["update_seconds"], row["tokens_per_second"],
                row["mfu"], row["peak_memory_bytes"] / 1e9, row["data_wait_fraction"],
                trace.get("idle_fraction"), trace.get("launches"), trace.get("waits"), row["loss"],
            )
        )  # fmt: skip
    others = [f"- {row['name']}: {row['outcome']}" for row in rows if row["outcome"] != "done"]
    return "\n".join([markdown_table(header, table), "", *others])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-large", help="preset (bert-large)")
    parser.add_argument("--phase", type=int, choices=(1, 2), default=1, help="recipe (1)")
    parser.add_argument("--precision", default="bf16", help="(bf16)")
    parser.add_argument("--update-tokens", type=int, default=2**18, help="padded (262144)")
    parser.add_argument("--updates", type=int, default=8, help="of each run (8)")
    parser.add_argument("--seconds", type=float, default=450, help="begin no run after these (450)")
    parser.add_argument("--set", choices=("main", "more"), default="main", help="(main)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one after the other; 1 if one of them failed."""
    arguments = parse(argv)
    length = RECIPES[arguments.phase].seq_length
    samples = max(1, arguments.update_tokens // length)
    todo = switches(length, samples)[arguments.set]
    shared = [
        "--model", arguments.model, "--phase", str(arguments.phase),
        "--precision", arguments.precision, "--data", str(arguments.shards), "--zero-stage", "1",
        "--global-batch-size", str(samples),
        "--steps", str(arguments.updates), "--lr", "1e-4", "--eval-samples", "16",
        "--log-interval", str(arguments.updates // 2), "--profile", "1", *SHORT,
    ]  # fmt: skip
    deadline = time.monotonic() + arguments.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = environment(device)
    rows: list[dict[str, Any]] = []
    usual: tuple[Any, Any] | None = None
    for switch in [Switch(AS_IS), *todo, Switch(AGAIN)]:
        if time.monotonic() > deadline:
            rows.append({"name": switch.name, "outcome": "no time left"})
            continue
        with tempfile.TemporaryDirectory() as folder:
            row, found = measure(switch, shared, Path(folder), usual)
        usual = usual or found
        rows.append(row)
        print(f"{switch.name}: {row['outcome']}", file=sys.stderr, flush=True)
        write_json(arguments.json, {"environment": about, "rows": rows})
    print(show(rows))
    return int(any(row["outcome"].startswith("failed") for row in rows))


if __name__ == "__main__":
    run_command(main)
