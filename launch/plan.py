#!/usr/bin/env python
"""What a pretraining run needs and takes, before it is started: memory, micro batch, hours."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.config import flags
from megabert.planner.settings import PlanFlags, hidden_flags, plan_settings, read_flags

DESCRIPTION = """\
Plan a pretraining run: memory per rank, the largest micro batch, communication, and time.

  python launch/plan.py --model bert-large --gpus 8 --gpu h200 --phase 1
  python launch/plan.py --model bert-3.9b --gpus 64 --gpu h100 --phase 2 --recommend
  python launch/plan.py --config runs/p1/config.yaml --gpus 16 --gpu a100-80
  python launch/plan.py --recipe crammed-24h --gpus 1 --gpu a100-80
  python launch/plan.py --model bert-base --gpus 2 --gpu cpu --seq-length 128 --global-batch-size 256 --steps 1000

All flags of launch/pretrain.py are accepted; those that do not change the plan are not listed here.
A plan that DOES NOT FIT is an answer too (exit status 0); --recommend ends with 2 if no layout fits.
Figures for GPUs are computed from published ones (--verbose lists them), not measured."""

SWITCHES = {
    "json": "print one JSON object; sizes in bytes, times in seconds",
    "recommend": "plan the fastest layout of ZeRO 0-3, tensor parallel 1-8 and checkpointing on or off",
    "verbose": "also print every constant that the plan uses",
    "table": "print the tables of docs/results/2026-11/planning.md instead (takes minutes)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, compute, print."""
    parser = flags.make_parser(
        PlanFlags,
        "plan.py",
        DESCRIPTION,
        hidden=hidden_flags(),
        config_flags=("--config", "--recipe"),
    )
    output = parser.add_argument_group("Output")
    for name, words in SWITCHES.items():
        output.add_argument(f"--{name}", action="store_true", help=words)
    given = flags.parse_with(parser, PlanFlags, argv)
    chosen, switches = read_flags(given), given.options
    if given.print_config:
        print(flags.to_yaml(chosen), end="")
        return 0
    settings = plan_settings(chosen)

    from megabert.planner import report, scale
    from megabert.planner.machine import make_machine
    from megabert.planner.plan import Planner

    if switches["table"]:
        print(scale.tables(settings))
        return 0
    planner = Planner(settings, make_machine(settings.machine))
    found = planner.candidates()
    best = found[0] if found else None
    if switches["recommend"] and best is None:
        raise UserError(report.advice(planner.plan(settings.layout), None).removeprefix("advice: "))
    plan = best if switches["recommend"] and best is not None else planner.plan(settings.layout)
    if switches["json"]:
        print(json.dumps(report.as_json(plan, best), indent=1))
        return 0
    print(report.as_text(plan, best))
    if switches["verbose"]:
        print("\n" + report.verbose(plan.model))
    return 0


if __name__ == "__main__":
    run_command(main)
