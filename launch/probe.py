#!/usr/bin/env python
"""Probe every kept checkpoint of runs by small fine-tunings and pseudo-perplexity: table, files, plot.

    python launch/probe.py runs/p1 --tasks probes.yaml --output probes/p1
    python launch/probe.py runs/a runs/b bert-base-uncased/ --tasks probes.yaml --output probes/ab --with-random

Each checkpoint of a run, and each megabert or Hugging Face folder, goes through every task of the file, with fixed
seeds. What is done is not done again: the same command continues after an interruption, and adds the checkpoints
that a run has written since. The output holds probe.json, probe.csv and probe.png. It runs as one process, on a GPU
if there is one. docs/guide/probe.md describes the file of tasks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.common.processes.cuda_environment import set_cuda_variables
from megabert.common.processes.stopping import stop_watch
from megabert.config.command_line import require_path
from megabert.config.flags import plain_parser
from megabert.config.values import utf8_path
from megabert.probe.task_file import read_tasks


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = plain_parser("probe.py", __doc__)
    made.add_argument(
        "models",
        nargs="+",
        type=utf8_path,
        metavar="RUN",
        help="pretraining run (all its checkpoints), one checkpoint, megabert folder, or Hugging Face BERT folder",
    )
    made.add_argument(
        "--tasks", type=utf8_path, required=True, metavar="FILE", help="YAML list of probes"
    )
    made.add_argument(
        "--output", type=utf8_path, required=True, metavar="DIR", help="folder of the results"
    )
    made.add_argument(
        "--with-random",
        action="store_true",
        help="also probe random weights of each run's shape: what does pretraining give?",
    )
    made.add_argument(
        "--over",
        choices=("tokens", "updates"),
        default="tokens",
        help="horizontal axis of the plot (default: tokens)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    stop_watch().resumable("before its end; the same command continues")
    given = parser().parse_args(arguments)
    for path in given.models:
        require_path("RUN", path)
    tasks = read_tasks(given.tasks)
    set_cuda_variables(os.environ, 1)
    # torch is imported only now
    from megabert.probe.command import ProbeRequest, probe

    probe(ProbeRequest(given.models, tasks, given.output, given.with_random, given.over))
    return 0


if __name__ == "__main__":
    run_command(main)
