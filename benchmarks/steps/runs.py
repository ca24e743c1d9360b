"""Whole runs of launch/pretrain.py in a process of their own, and the figures they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ("launch/pretrain.py",)
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
"""Environment of a run that leaves the GPU alone."""
SHORT = (
    "--save-interval", "0", "--eval-interval", "0", "--trust-ratio-interval", "0",
)  # fmt: skip
"""Flags of a run that is only measured."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command of ours (without interpreter), run in the checkout.

    Raises:
        UserError: it failed; with the last line of what it said.
    """
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        raise UserError(f"{command[0]}: exit status {done.returncode}: {said}")
    return done.stdout


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pretrain(
    flags: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    script: Sequence[str] = PRETRAIN,
) -> list[dict[str, Any]]:
    """Run launch/pretrain.py, or a ``script`` with the same flags, into ``folder``; the lines of its metrics.

    Raises:
        UserError: it failed.
    """
    run([*script, *flags, "--output", str(folder)], environment)
    return read_metrics(folder)


def training_losses(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """The losses of the updates that were logged, in order."""
    return [line["loss"] for line in metrics if "loss" in line]


def last_figures(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last line about training: speed, memory, MFU."""
    return [line for line in metrics if "tokens_per_second" in line][-1]
