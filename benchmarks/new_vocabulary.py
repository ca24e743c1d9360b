#!/usr/bin/env python
"""What a model keeps when it moves to another vocabulary: loss on held-out text, before and after updates.

    python benchmarks/new_vocabulary.py RUN --new-tokenizer PATH --data SHARDS --output DIR

RUN is a run, a checkpoint or a megabert folder, SHARDS text of the new vocabulary with an evaluation
split. Three models of one shape are trained alike by launch/pretrain.py, from

    moved           RUN, moved by launch/convert.py --new-tokenizer
    random table    the same, with the word embeddings and the MLM bias as in a new model
    from scratch    all weights as in a new model

and evaluated before the first update and at the end, on the same samples and masks.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.steps.rounds import markdown_table
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.names import RUN_METRICS
from megabert.config.command_line import CommandParser
from megabert.config.flags import plain_parser
from megabert.config.numbers import NonNegativeInt, PositiveInt
from megabert.config.values import ValueReader
from megabert.model.init import initial_tensor
from megabert.model.parameters import VOCABULARY_TENSORS
from megabert.model.weights import load_weights, save_weights

ROOT = Path(__file__).resolve().parent.parent
MOVED, RANDOM, SCRATCH = "moved", "random table", "from scratch"
LOSS, ACCURACY = "eval_mlm_loss", "eval_mlm_accuracy"
DEFAULTS = (
    "--sentence-task none --optimizer adamw --lr 5e-4 --warmup-fraction 0.06 --schedule linear "
    "--weight-decay 0.01 --dropout 0 --short-sequence-fraction 0 --global-batch-size 32"
)


def parser() -> CommandParser:
    """The command's flags."""
    made = plain_parser("new_vocabulary.py", __doc__)
    made.add_argument("model", type=Path, metavar="RUN", help="the model to move")
    made.add_argument(
        "--new-tokenizer", type=Path, required=True, metavar="PATH", help="its target"
    )
    made.add_argument(
        "--data", type=Path, required=True, metavar="SHARDS", help="text, sharded with it"
    )
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to create")
    made.add_argument(
        "--steps", type=ValueReader(PositiveInt), default=200, metavar="N",
        help="updates of each model (default: 200)",
    )  # fmt: skip
    made.add_argument(
        "--seed", type=ValueReader(NonNegativeInt), default=42, metavar="N",
        help="of drawn weights (default: 42)",
    )  # fmt: skip
    made.add_argument(
        "--pretrain", default=DEFAULTS, metavar="FLAGS",
        help=f'flags of launch/pretrain.py, in quotes (default: "{DEFAULTS}")',
    )  # fmt: skip
    return made


def with_drawn(source: Path, folder: Path, names: Collection[str] | None, seed: int) -> None:
    """A copy of a megabert folder in which these tensors (None: all) are those of a new model."""
    config, tensors, info = load_weights(source)
    for name, tensor in tensors.items():
        if names is None or name in names:
            tensors[name] = initial_tensor(name, tuple(tensor.shape), config, seed)
    kept = {name: info[name] for name in ("trained_positions", "tokenizer_sha256")}
    save_weights(folder, config, tensors, source, **kept)


def evaluations(run: Path) -> list[dict[str, float]]:
    """The records of a run's evaluations, in order."""
    lines = (run / RUN_METRICS).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if LOSS in record]


def _call(script: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)]
    print(shlex.join(command), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"launch/{script} ended with exit status {status}; see its output above")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parser().parse_args(arguments)
    if args.output.exists():
        raise UserError(f"{args.output} exists; choose another --output")
    args.output.mkdir(parents=True)
    moved = args.output / "moved"
    _call(
        "convert.py", "--from", "megabert", "--input", args.model, "--to", "megabert",
        "--new-tokenizer", args.new_tokenizer, "--seed", args.seed, "--output", moved,
    )  # fmt: skip
    folders = {MOVED: moved, RANDOM: args.output / "random", SCRATCH: args.output / "scratch"}
    with_drawn(moved, folders[RANDOM], VOCABULARY_TENSORS, args.seed)
    with_drawn(moved, folders[SCRATCH], None, args.seed)
    rows = []
    for name, folder in folders.items():
        run = args.output / "runs" / folder.name
        _call(
            "pretrain.py", "--data", args.data, "--init-from", folder, "--output", run,
            "--steps", args.steps, "--eval-at-start", "on", "--eval-interval", args.steps,
            "--save-interval", 0, *shlex.split(args.pretrain),
        )  # fmt: skip
        first, *_, last = evaluations(run)
        rows.append(
            (name, *(f"{record[key]:.4f}" for key in (LOSS, ACCURACY) for record in (first, last)))
        )
    when = ("at the start", f"after {args.steps} updates")
    heads = [f"{what} {time}" for what in ("loss", "accuracy") for time in when]
    print(markdown_table(["model", *heads], rows))
    return 0


if __name__ == "__main__":
    run_command(main)
