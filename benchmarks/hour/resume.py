#!/usr/bin/env python
"""A run that is killed and resumed, compared bit for bit with one that was left alone.

    python benchmarks/hour/resume.py SHARDS [--model bert-base] [--updates 40] [--json FILE]

The second run is ended by SIGKILL between two checkpoints, then by SIGTERM, and resumed each time
with --resume auto. Losses of all updates and the tensors of the last checkpoint must be the same bits.
Exit status 1: they are not.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import environment, write_json
from benchmarks.steps.runs import ROOT, pretrain, read_metrics, training_losses
from megabert.checkpoint.save_load import newest_checkpoint
from megabert.common.errors import EXIT_STOPPED, UserError
from megabert.common.log import run_command
from tests.helpers.kill_and_resume import checkpoint_differences

PATIENCE = 240.0
"""Seconds after which a run that has not reached the wanted update is given up."""


def last_update(run: Path) -> int:
    """The last update in the metrics; 0 before the first, and while a line is being written."""
    try:
        return max((line.get("step", 0) for line in read_metrics(run) if "loss" in line), default=0)
    except (OSError, ValueError):
        return 0


def interrupt(flags: Sequence[str], run: Path, update: int, number: signal.Signals) -> int:
    """Start or resume the run, send a signal after ``update``; its exit status.

    Raises:
        UserError: it ended before that update, or did not get there.
    """
    command = [sys.executable, "launch/pretrain.py", *flags, "--output", str(run)]
    with (run.parent / f"{number.name}.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while last_update(run) < update:
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                said = Path(log.name).read_text(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"update {update} was not reached: {' '.join(said)}")
            time.sleep(0.002)
        os.kill(child.pid, number)
        return child.wait(timeout=PATIENCE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, kill, resume, compare; 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="bert-base", help="preset (bert-base)")
    parser.add_argument("--precision", default="bf16", help="(bf16)")
    parser.add_argument("--global-batch-size", default="256", help="(256)")
    parser.add_argument("--updates", type=int, default=40, help="of the run (40)")
    parser.add_argument("--json", type=Path, help="write everything there too")
    given = parser.parse_args(argv)
    every = max(1, given.updates // 4)
    flags = [
        "--model", given.model, "--precision", given.precision, "--data", str(given.shards),
        "--global-batch-size", given.global_batch_size, "--steps", str(given.updates),
        "--lr", "1e-3", "--log-interval", "1", "--eval-interval", "0", "--eval-samples", "16",
        "--trust-ratio-interval", "0", "--save-interval", str(every), "--keep-last", "9",
        "--resume", "auto",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        wanted = training_losses(pretrain(flags, alone))
        statuses = {
            number.name: interrupt(flags, killed, update, number)
            for number, update in (
                (signal.SIGKILL, every + every // 2), (signal.SIGTERM, 2 * every + every // 2),
            )
        }  # fmt: skip
        found = training_losses(pretrain(flags, killed))
        apart = checkpoint_differences(
            newest_checkpoint(killed).folder, newest_checkpoint(alone).folder
        )
    other = [n for n, (a, b) in enumerate(zip(found, wanted), 1) if a != b]
    clean = statuses["SIGTERM"] == EXIT_STOPPED
    result: dict[str, Any] = {
        "environment": environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "updates": given.updates,
        "statuses": statuses,
        "same_losses": not other and len(found) == len(wanted),
        "first_other_loss": other[0] if other else None,
        "other_tensors": len(apart),
        "first_other_tensors": apart[:5],
    }
    write_json(given.json, result)
    print(f"exit status after SIGKILL {statuses['SIGKILL']}, after SIGTERM {statuses['SIGTERM']}")
    print(
        f"losses of {len(found)} updates: "
        + (f"other from update {other[0]}" if other else "same bits")
    )
    print(f"last checkpoint: {f'{len(apart)} differences, {apart[0]}' if apart else 'same bits'}")
    return 0 if clean and result["same_losses"] and not apart else 1


if __name__ == "__main__":
    run_command(main)
