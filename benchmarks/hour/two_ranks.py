#!/usr/bin/env python
"""Tensor parallelism of two ranks on one device, compared with one rank.

    python benchmarks/hour/two_ranks.py SHARDS [--model bert-base] [--updates 10] [--json FILE]

NCCL refuses two ranks on one GPU. What is tried instead: both ranks use the GPU and communicate by
gloo, which copies through the host; to the run they look like two hosts of one GPU each. Dropout is on:
its masks do not depend on the number of ranks. The speed says nothing. Exit status 1: the losses differ
by more than rounding explains, or the ranks failed.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import environment, relative_difference, write_json
from benchmarks.steps.runs import ROOT, SHORT, pretrain, read_metrics, training_losses
from megabert.common.errors import UserError
from megabert.common.log import run_command

LIMITS = {"fp32": 1e-4, "bf16": 5e-3}
"""Largest relative difference of a loss that rounding explains."""
AS_RANK = "--as-rank"


def as_rank(flags: Sequence[str]) -> None:
    """One of the two ranks: launch/pretrain.py with gloo in place of NCCL."""
    import deepspeed

    init = deepspeed.init_distributed

    def by_gloo(**options: Any) -> Any:
        return init(**{**options, "dist_backend": "gloo"})

    deepspeed.init_distributed = by_gloo
    from launch import pretrain as command

    run_command(lambda _: command.main(flags))


def run_two(flags: Sequence[str], folder: Path) -> list[float]:
    """The losses of a run of two ranks.

    Raises:
        UserError: a rank failed; with the last line of what it said.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, __file__, AS_RANK, *flags, "--output", str(folder / "run")]
    children, logs = [], []
    for rank in range(2):
        place = {
            "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }  # fmt: skip
        logs.append(folder / f"rank{rank}.log")
        with logs[-1].open("wb") as log:
            children.append(
                subprocess.Popen(
                    command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **place}
                )
            )
    statuses = [child.wait() for child in children]
    for rank, (status, log) in enumerate(zip(statuses, logs, strict=True)):
        if status:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
            raise UserError(f"rank {rank}: exit status {status}; its output is above")
    return training_losses(read_metrics(folder / "run"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run both, compare; 1 if they differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-base", help="preset (bert-base)")
    parser.add_argument("--precisions", default="fp32,bf16", help="with commas (fp32,bf16)")
    parser.add_argument("--global-batch-size", default="32", help="(32)")
    parser.add_argument("--updates", default="10", help="of each run (10)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    given = parser.parse_args(argv)
    cases: dict[str, Any] = {}
    for precision in given.precisions.split(","):
        flags = [
            "--model", given.model, "--precision", precision, "--data", str(given.shards),
            "--global-batch-size", given.global_batch_size, "--steps", given.updates, "--lr", "1e-3",
            "--log-interval", "1", "--eval-samples", "16", *SHORT,
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            one = training_losses(pretrain(flags, Path(folder) / "one"))
            two = run_two([*flags, "--tensor-parallel", "2"], Path(folder))
        difference = max(relative_difference(a, b) for a, b in zip(two, one, strict=True))
        cases[precision] = {
            "difference": difference,
            "limit": LIMITS[precision],
            "losses": [one, two],
        }
        print(f"{precision}: largest relative difference of {len(one)} losses {difference:.1e}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write_json(given.json, {"environment": environment(device), "cases": cases})
    return int(not all(case["difference"] <= case["limit"] for case in cases.values()))


if __name__ == "__main__":
    if AS_RANK in sys.argv[1:2]:
        as_rank(sys.argv[2:])
    else:
        run_command(main)
