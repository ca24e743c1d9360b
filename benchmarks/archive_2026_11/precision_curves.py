#!/usr/bin/env python
"""Loss curves of the precisions side by side.

    python benchmarks/archive_2026_11/precision_curves.py SHARDS --output FOLDER [--precisions fp32,bf16,fp8,fp8-row]
        [--reference bf16] [--windows 10] [--json FILE] [-- FLAGS OF launch/pretrain.py]

Runs launch/pretrain.py once per precision: same weights, samples, masks and dropout, with the flags given.
Prints a Markdown table: the loss averaged over equal windows of updates and its difference from the
reference's; then the largest difference of a single update, and the evaluation loss at the end.
"fp8-row" is fp8 with a scale for each row. A run that is already in FOLDER is read, not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {
    "fp32": ["--precision", "fp32"],
    "bf16": ["--precision", "bf16"],
    "fp8": ["--precision", "fp8", "--fp8-scaling", "tensor"],
    "fp8-row": ["--precision", "fp8", "--fp8-scaling", "row"],
}
ALWAYS = ["--log-interval", "1", "--save-interval", "0"]


def run(shards: str, output: Path, precision: str, flags: list[str]) -> list[dict]:
    """Lines of metrics of one run, made unless it is there."""
    folder = output / precision
    if not (folder / "results.json").exists():
        command = [
            sys.executable, str(ROOT / "launch" / "pretrain.py"), "--data", shards,
            "--output", str(folder), *ALWAYS, *flags, *FLAGS[precision],
        ]  # fmt: skip
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        print(f"{precision}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def training_losses(lines: list[dict]) -> list[float]:
    """Loss of every update."""
    return [line["loss"] for line in lines if "loss" in line]


def window_means(losses: list[float], windows: int) -> list[tuple[int, int, float]]:
    """(first update, last update, mean loss) of ``windows`` nearly equal parts, counted from 1."""
    edges = [round(number * len(losses) / windows) for number in range(windows + 1)]
    return [(a + 1, b, sum(losses[a:b]) / (b - a)) for a, b in itertools.pairwise(edges) if b > a]


def table(curves: dict[str, list[float]], reference: str, windows: int) -> str:
    """The Markdown table of the curves."""
    others = [name for name in curves if name != reference]
    names = [reference, *others]
    heads = ["updates", *names, *(f"{name} - {reference}" for name in others)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    means = {name: window_means(curves[name], windows) for name in names}
    for number, (first, last, base) in enumerate(means[reference]):
        values = [means[name][number][2] for name in names]
        cells = [f"{first}-{last}", *(f"{value:.4f}" for value in values)]
        cells += [f"{value - base:+.4f}" for value in values[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and compare."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    flags = sys.argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--precisions", default="fp32,bf16,fp8,fp8-row")
    parser.add_argument("--reference", default="bf16")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(sys.argv[1:split])
    precisions = arguments.precisions.split(",")
    unknown = sorted({arguments.reference, *precisions} - set(FLAGS))
    if unknown or arguments.reference not in precisions:
        parser.error(f"--precisions takes {', '.join(FLAGS)}, the --reference among them")
    lines = {name: run(arguments.shards, arguments.output, name, flags) for name in precisions}
    curves = {name: training_losses(one) for name, one in lines.items()}
    print(table(curves, arguments.reference, arguments.windows))
    base = curves[arguments.reference]
    print("\n| precision | largest difference of an update | held-out MLM loss |\n|---|---|---|")
    for name, curve in curves.items():
        held_out = [one["eval_mlm_loss"] for one in lines[name] if "eval_mlm_loss" in one][-1]
        part = max(abs(a - b) for a, b in zip(curve, base))
        print(f"| {name} | {part:.4f} | {held_out:.4f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
