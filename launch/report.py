#!/usr/bin/env python
"""Curves and tables of pretraining and fine-tuning runs, from their metrics.jsonl and results.json."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.errors import UserError, printable
from megabert.common.files import limited_lines, new_file, output_file
from megabert.common.json_text import parse_json, read_json
from megabert.common.log import run_command
from megabert.common.names import RUN_METRICS, RUN_RESULTS
from megabert.common.storage import named_storage_errors
from megabert.config.flags import plain_parser
from megabert.finetune.summary import table as table_of_seeds

DESCRIPTION = """\
Draw the loss curves of one or more runs, one after the other (phase 1, phase 2), and print tables: evaluation
results of pretraining, scores of fine-tuning, mean and standard deviation of a run with --seeds or --lrs.

  python launch/report.py runs/p1 runs/p2 --output curves.png
  python launch/report.py runs/squad runs/rte-5-seeds"""

_BY_CORPUS = "eval_mlm_loss/"
_SHOWN = ("step", "epoch", "loss", "mlm_loss", "lr")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; half a line at the end (the run was killed, or writes now) is left out.

    Raises:
        UserError: no metrics there.
    """
    path = run / RUN_METRICS
    lines: list[dict[str, Any]] = []
    try:
        with named_storage_errors(path, "cannot be read"):
            for number, text in enumerate(limited_lines(path), 1):
                if text.endswith(b"\n"):
                    lines.append(_shown(parse_json(text, of_data=True), path, number))
    except UserError as error:
        if path.exists():
            raise
        raise UserError(
            f"{path} does not exist; name a run folder of launch/pretrain.py or launch/finetune.py"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not a metrics file: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty: the run has logged nothing yet")
    return lines


def _shown(line: Any, path: Path, number: int) -> dict[str, Any]:
    """What is drawn or listed of a line, which may also hold norms of every tensor."""
    if not _is_metrics(line):
        raise UserError(
            f"{path} line {number} has no metrics of a run; name a run folder of launch/pretrain.py or "
            "launch/finetune.py"
        )
    return {k: line[k] for k in line if k in _SHOWN or k.startswith("eval_")}


def _is_metrics(line: Any) -> bool:
    """Whether a line has a step, and numbers where numbers are drawn or listed."""
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    shown = {
        "loss": ["lr", *({"mlm_loss"} & line.keys())],
        "eval_mlm_loss": ["eval_mlm_accuracy"],
        "eval_ema_mlm_loss": ["eval_ema_mlm_accuracy"],
    }
    needed = [name for first in shown if first in line for name in (first, *shown[first])]
    scores = [
        name for name, value in line.items() if name.startswith("eval_") and value is not None
    ]
    return all(isinstance(line.get(name), int | float) for name in (*needed, *scores))


def _evaluations(
    runs: Sequence[tuple[str, list[dict[str, Any]]]],
) -> list[tuple[str, dict[str, Any]]]:
    """Name and values of every evaluation of pretraining; those of averaged weights are a run of their own."""
    found = []
    for name, lines in runs:
        found += [(name, line) for line in lines if "eval_mlm_loss" in line]
        for line in (line for line in lines if "eval_ema_mlm_loss" in line):
            values = {k.replace("_ema", "", 1): line[k] for k in line if k.startswith("eval_ema_")}
            found.append((f"{name}, averaged weights", {"step": line["step"], **values}))
    return found


def table(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """Results of every evaluation as a Markdown table; with several corpora, a column for each loss."""
    found = _evaluations(runs)
    keys = [key for _, line in found for key in line if key.startswith(_BY_CORPUS)]
    corpora = list(dict.fromkeys(keys))
    names = [printable(key.removeprefix(_BY_CORPUS)) for key in corpora]
    head = ["run", "update", "evaluation MLM loss", "MLM accuracy", "NSP accuracy"]
    head += [f"MLM loss: {name}" if n == 0 else name for n, name in enumerate(names)]
    rows = [head, ["---"] * len(head)]
    for name, line in found:
        keys = ["eval_mlm_loss", "eval_mlm_accuracy", "eval_nsp_accuracy", *corpora]
        values = ["" if line.get(key) is None else f"{line[key]:.3f}" for key in keys]
        rows.append([name, str(line["step"]), *values])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join(rows[1])}|", *lines[2:]])


def table_of_scores(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    """The scores of every evaluation of fine-tuning runs as a Markdown table; "" if there are none."""
    scored = [
        (name, line)
        for name, lines in runs
        for line in lines
        if any(key.startswith("eval_") for key in line)
        and not {"eval_mlm_loss", "eval_ema_mlm_loss"} & line.keys()
    ]
    names = list(dict.fromkeys(k for _, line in scored for k in line if k.startswith("eval_")))
    rows = [["run", "update", "epoch", *(name.removeprefix("eval_") for name in names)]]
    rows.append(["---"] * len(rows[0]))
    for run, line in scored:
        scores = ["" if line.get(name) is None else f"{line[name]:.2f}" for name in names]
        rows.append([run, str(line["step"]), f"{line.get('epoch', 0):g}", *scores])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) if scored else ""


def seeds_of(run: Path) -> dict[str, Any] | None:
    """The results of a folder with several fine-tuning runs; None for any other folder."""
    try:
        results = read_json(run / RUN_RESULTS, of_data=True)
    except (OSError, UserError):
        return None
    return results if isinstance(results, dict) and "by_lr" in results else None


def _table_of_seeds(run: Path, results: dict[str, Any]) -> str:
    try:
        return f"{run.name}\n\n{table_of_seeds(results)}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run / RUN_RESULTS} does not hold the results of several runs ({type(error).__name__}: {error}); "
            "name a run folder of launch/finetune.py"
        ) from error


def draw(runs: Sequence[tuple[str, list[dict[str, Any]]]], output: Path) -> None:
    """Training loss (pretraining: of the MLM, with its evaluations) and learning rate, over updates."""
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
        training = [line for line in lines if "loss" in line]
        steps = [start + line["step"] for line in training]
        (curve,) = losses.plot(
            steps,
            [line.get("mlm_loss", line["loss"]) for line in training],
            linewidth=0.8,
            alpha=0.6,
            label=f"{name}, training",
        )
        by_name: dict[str, list[dict[str, Any]]] = {}
        for kind, line in _evaluations([(name, lines)]):
            by_name.setdefault(kind, []).append(line)
        for kind, evaluations in by_name.items():
            losses.plot(
                [start + line["step"] for line in evaluations],
                [line["eval_mlm_loss"] for line in evaluations],
                marker="o" if kind == name else "s", markersize=3, color=curve.get_color(),
                label=f"{kind}, evaluation",
            )  # fmt: skip
        rates.plot(steps, [line["lr"] for line in training], color=curve.get_color())
        start += lines[-1]["step"]
    losses.set_ylabel("loss (pretraining: MLM; nats)")
    losses.legend()
    losses.grid(alpha=0.3)
    rates.set_ylabel("learning rate")
    rates.set_xlabel("updates")
    rates.grid(alpha=0.3)
    form = output.suffix.lower().removeprefix(".") or "png"
    try:
        with named_storage_errors(output), new_file(output_file(output), unique=True) as temporary:
            figure.savefig(temporary, dpi=110, format=form)
    except ValueError as error:
        raise UserError(f"--output {output}: {error}") from error
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, draw, print."""
    parser = plain_parser("report.py", DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, in order")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="plot to write (.png, .svg or .pdf)"
    )
    arguments = parser.parse_args(argv)
    if arguments.output is not None:
        with named_storage_errors(arguments.output):
            output_file(arguments.output)
    seeds = {run: results for run in arguments.runs if (results := seeds_of(run)) is not None}
    runs = [(printable(run.name), read_metrics(run)) for run in arguments.runs if run not in seeds]
    if arguments.output is not None:
        draw(runs, arguments.output)
    pretraining = [run for run in runs if any("mlm_loss" in line for line in run[1])]
    tables = [table(pretraining)] if pretraining else []
    tables += [text for text in (table_of_scores(runs),) if text]
    tables += [_table_of_seeds(run, results) for run, results in seeds.items()]
    print("\n\n".join(tables))
    return 0


if __name__ == "__main__":
    run_command(main)
