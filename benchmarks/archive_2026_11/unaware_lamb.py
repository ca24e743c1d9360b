#!/usr/bin/env python
"""The same training twice: our LAMB, and one that does not know of ZeRO's slices.

    python benchmarks/archive_2026_11/unaware_lamb.py --data SHARDS --output DIR [--model bert-mini] [--ranks 2]
        [--steps 300] [--zero-stage 1] [-- further flags of launch/pretrain.py]

Both runs have the same data, weights, seed, rule and settings; the second one's optimizer gets no
segment table, so that it does with a slice what every LAMB does with a tensor: one norm of it, one
trust ratio for all that lies in it, and none of what other ranks hold. DeepSpeed runs such an optimizer
without an error. Prints the ratios of a few tensors next to the slice's, and the losses; writes both
runs' metrics and a plot (where matplotlib is installed).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megabert.config import flags
from megabert.config.training import PretrainSettings
from tests.helpers.distributed import run_ranks


def train(rank: int, world_size: int, argv: list[str], aware: bool) -> None:
    """One rank of ``launch/pretrain.py``, with or without the segment table."""
    from megabert.engine import build
    from megabert.optim.flat_segments import PartitionTable
    from megabert.pretrain.command import pretrain
    from megabert.pretrain.settings import resolve_pretraining

    prepare = build.prepare_engine

    def attach_nothing(engine: Any, tp: Any) -> None:
        prepare(engine, tp)
        engine.basic_optimizer.attach(PartitionTable((), None))

    if not aware:
        build.prepare_engine = attach_nothing
    sys.stdout = sys.stderr
    pretrain(resolve_pretraining(flags.parse(PretrainSettings, argv, "pretrain.py", "")))


def read(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Training lines, evaluation lines, and lines with trust ratios."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (
        [line for line in lines if "loss" in line],
        [line for line in lines if "eval_mlm_loss" in line],
        [line for line in lines if "trust_ratio" in line],
    )


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, lines in runs.items():
        axes.plot(
            [line["step"] for line in lines], [line["mlm_loss"] for line in lines], label=name
        )
    axes.set(xlabel="update", ylabel="masked language model loss")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--output", type=Path, required=True, help="new folder for both runs")
    parser.add_argument("--model", default="bert-mini", help="preset [bert-mini]")
    parser.add_argument("--ranks", type=int, default=2, help="data-parallel ranks [2]")
    parser.add_argument("--zero-stage", default="1", help="ZeRO stage [1]")
    parser.add_argument("--steps", default="300", help="updates of each run [300]")
    parser.add_argument("--lr", default="5e-3", help="peak learning rate [5e-3]")
    parser.add_argument("more", nargs="*", help="further flags of launch/pretrain.py, after --")
    parser.add_argument("--global-batch-size", default="32", help="sequences per update [32]")
    arguments = parser.parse_args()
    found = {}
    for name, aware in (("ours", True), ("unaware", False)):
        run = arguments.output / name
        argv = [
            "--model", arguments.model, "--data", str(arguments.data), "--output", str(run),
            "--zero-stage", arguments.zero_stage, "--steps", arguments.steps, "--lr", arguments.lr,
            "--global-batch-size", arguments.global_batch_size, "--warmup-fraction", "0.1",
            "--precision", "fp32", "--log-interval", "5", "--trust-ratio-interval", "50",
            "--save-interval", "0", "--eval-interval", "100", "--eval-samples", "512",
            *arguments.more,
        ]  # fmt: skip
        run_ranks(train, arguments.ranks, argv, aware, initialize=False, timeout=7200.0)
        found[name] = read(run)
    ratios = {name: lines[2] for name, lines in found.items()}
    print(f"ZeRO {arguments.zero_stage}, {arguments.ranks} ranks, {arguments.model}\n")
    print(
        "| update | our ratios: smallest, median, largest | the unaware slice's (rank 0) "
        "| a tensor's step, times what it should be |\n|---|---|---|---|"
    )
    for ours, other in zip(ratios["ours"], ratios["unaware"]):
        values = sorted(ours["trust_ratio"].values())
        (theirs,) = other["trust_ratio"].values()
        middle = values[len(values) // 2]
        print(
            f"| {ours['step']} | {values[0]:.3f}, {middle:.3f}, {values[-1]:.3f} | {theirs:.3f} "
            f"| {theirs / values[-1]:.2f} to {theirs / values[0]:.2f} |"
        )
    print(
        "\n| update | MLM loss, ours | unaware | held out, ours | unaware |\n|---|---|---|---|---|"
    )
    held = {n: {line["step"]: line["eval_mlm_loss"] for line in f[1]} for n, f in found.items()}
    for ours, other in zip(found["ours"][0], found["unaware"][0]):
        step = ours["step"]
        if step in held["ours"] or step in (5, 25, 50):
            evaluated = [f"{held[n][step]:.3f}" if step in held[n] else "" for n in held]
            print(
                f"| {step} | {ours['mlm_loss']:.3f} | {other['mlm_loss']:.3f} | {' | '.join(evaluated)} |"
            )
    plot({name: lines[0] for name, lines in found.items()}, arguments.output / "losses.png")


if __name__ == "__main__":
    main()
