#!/usr/bin/env python
"""What the figures are measured on: commit, driver, GPU, versions; and what Triton needs to compile.

    python benchmarks/hour/machine.py [--json FILE]

Triton builds a small C module at its first launch. Exit status 1: the GPU's kernels cannot work here,
because there is no C compiler or no Python.h.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.steps.rounds import environment, write_json
from benchmarks.steps.runs import ROOT
from megabert.common.log import run_command

PACKAGES = ("triton", "deepspeed", "numpy", "flash_attn", "apex")


def said(*command: str) -> str | None:
    """The first line that a program prints; None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def version(package: str) -> str | None:
    """Its installed version; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, with "+" if files differ from it; $COMMIT where there is no git."""
    found = said("git", "rev-parse", "HEAD")
    if found is None:
        return os.environ.get("COMMIT")
    return f"{found}+" if said("git", "status", "--porcelain", "--untracked-files=no") else found


def describe(device: torch.device) -> dict[str, Any]:
    """Everything by name."""
    about: dict[str, Any] = {"commit": commit(), **environment(device)}
    about |= {package: version(package) for package in PACKAGES}
    about["cores"] = os.cpu_count()
    if device.type == "cuda":
        shown = torch.cuda.get_device_properties(device)
        about["driver"] = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        about["cuda"] = torch.version.cuda
        about["compute capability"] = f"{shown.major}.{shown.minor}"
        about["memory, GB"] = shown.total_memory / 1e9
        about["multiprocessors"] = shown.multi_processor_count
    about["C compiler"] = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    about["Python.h"] = str(header) if header.is_file() else None
    return about


def main(argv: Sequence[str] | None = None) -> int:
    """Print all of it; 1 if Triton cannot compile on this GPU machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write everything there too")
    arguments = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    about = describe(torch.device("cuda" if cuda else "cpu"))
    for name, value in about.items():
        print(f"- {name}: {'-' if value is None else value}")
    write_json(arguments.json, about)
    missing = [name for name in ("C compiler", "Python.h") if about[name] is None]
    if cuda and missing:
        print(f"Triton cannot compile: no {' and no '.join(missing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
