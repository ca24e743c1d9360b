#!/usr/bin/env python
"""Curves and a table of pretraining runs, from their metrics.jsonl."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.flags import plain_parser
from megabert.log import UserError, run_command
from megabert.naming import RUN_METRICS

DESCRIPTION = """\
Draw the loss curves of one or more runs, one after the other (phase 1, phase 2), and print a table.

  python launch/report.py runs/p1 runs/p2 --output curves.png"""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.

    Raises:
        UserError: no metrics there.
    """
    path = run / RUN_METRICS
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; name a run folder of launch/pretrain.py"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not a metrics file: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty: the run has logged nothing yet")
    return lines


def table(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """Held-out figures of every evaluation as a Markdown table."""
    rows = [
        "| run | update | held-out MLM loss | MLM accuracy | NSP accuracy |",
        "|---|---|---|---|---|",
    ]
    for name, lines in runs:
        for line in lines:
            if "eval_mlm_loss" in line:
                nsp = line.get("eval_nsp_accuracy")
                rows.append(
                    f"| {name} | {line['step']} | {line['eval_mlm_loss']:.3f} "
                    f"| {line['eval_mlm_accuracy']:.3f} | {'' if nsp is None else f'{nsp:.3f}'} |"
                )
    return "\n".join(rows)


def draw(runs: Sequence[tuple[str, list[dict[str, Any]]]], output: Path) -> None:
    """MLM loss, training and held-out, and the learning rate, over updates."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("curves need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (losses, rates) = pyplot.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    start = 0
    for name, lines in runs:
        training = [line for line in lines if "mlm_loss" in line]
        held_out = [line for line in lines if "eval_mlm_loss" in line]
        steps = [start + line["step"] for line in training]
        (curve,) = losses.plot(
            steps,
            [line["mlm_loss"] for line in training],
            linewidth=0.8,
            alpha=0.6,
            label=f"{name}, training",
        )
        losses.plot(
            [start + line["step"] for line in held_out],
            [line["eval_mlm_loss"] for line in held_out],
            marker="o", markersize=3, color=curve.get_color(), label=f"{name}, held out",
        )  # fmt: skip
        rates.plot(steps, [line["lr"] for line in training], color=curve.get_color())
        start += lines[-1]["step"]
    losses.set_ylabel("MLM loss (nats)")
    losses.legend()
    losses.grid(alpha=0.3)
    rates.set_ylabel("learning rate")
    rates.set_xlabel("updates")
    rates.grid(alpha=0.3)
    try:
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"--output {output}: {error}") from error
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, draw, print."""
    parser = plain_parser("report.py", DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, in order")
    parser.add_argument("--output", type=Path, help="picture to write (.png, .svg, .pdf)")
    arguments = parser.parse_args(argv)
    runs = [(run.name, read_metrics(run)) for run in arguments.runs]
    if arguments.output is not None:
        draw(runs, arguments.output)
    print(table(runs))
    return 0


if __name__ == "__main__":
    run_command(main)
