"""The speedrun: the lowest loss of an encoder on fixed text within a fixed budget (docs/speedrun/rules.md).

    python -m benchmarks.speedrun prepare --text enwiki simplewiki --data DATA
    python -m benchmarks.speedrun run ENTRY --track cpu-1h --seed 0 --data DATA --output FOLDER
    python -m benchmarks.speedrun score RUN --data DATA
    python -m benchmarks.speedrun board

ENTRY is the name of a file in benchmarks/speedrun/entries/, or a path. A run that was stopped continues with
the same command. Exit status: 0 finished, 1 a fault or over the budget, 2 wrong input, 3 stopped on request.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

from benchmarks.speedrun.fit import FITTED_SHARE
from megabert.common.errors import UserError
from megabert.config.flags import plain_parser
from megabert.config.numbers import Limits, NonNegativeInt, PositiveInt, Size
from megabert.config.values import ValueReader, utf8_path

Scale = Annotated[float, Limits(gt=0.0, le=1.0)]
Fraction = Annotated[float, Limits(gt=0.0, lt=1.0)]
Minutes = Annotated[float, Limits(gt=0.0)]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of one of the commands.

    Raises:
        UserError: a wrong command, flag or value.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if words else 2)
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"{name}: expected one of {', '.join(COMMANDS)}; --help explains them")
    what, add_flags = COMMANDS[name]
    parser = plain_parser(f"python -m benchmarks.speedrun {name}", what)
    add_flags(parser)
    given = parser.parse_args(words[1:])
    given.command = name
    return given


def _data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=utf8_path, required=True, metavar="FOLDER", help="folder of prepare"
    )


def _prepare_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=utf8_path, nargs="+", required=True, metavar="DUMP",
        help="what shard_wiki.py --input takes: the unpacked folders, or a whole dump",
    )  # fmt: skip
    _data_flag(parser)
    parser.add_argument(
        "--vocab-size", type=ValueReader(Size), default=8192, metavar="N",
        help="entries of the vocabulary; call it again for another one (default: 8192, which the rules fix)",
    )  # fmt: skip
    parser.add_argument(
        "--eval-fraction", type=ValueReader(Fraction), default=0.01, metavar="F",
        help="fraction of the articles that is held out; larger only to try small texts (default: 0.01)",
    )  # fmt: skip


def _run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("entry", metavar="ENTRY", help="name of an entry, or its file")
    parser.add_argument("--track", required=True, help="cpu-1h, cpu-10min, gpu-1h or gpu-10min")
    parser.add_argument(
        "--seed", type=ValueReader(NonNegativeInt), default=0, metavar="N",
        help="of weights, samples, masks and dropout; a record has 0, 1 and 2 (default: 0)",
    )  # fmt: skip
    _data_flag(parser)
    parser.add_argument(
        "--output", type=utf8_path, required=True, metavar="FOLDER", help="of this run, new"
    )
    parser.add_argument(
        "--steps", type=ValueReader(PositiveInt), metavar="N",
        help="updates (default: the entry's for the track)",
    )  # fmt: skip
    parser.add_argument(
        "--fit", type=ValueReader(Scale), nargs="?", const=FITTED_SHARE, metavar="SHARE",
        help="measure the speed first and set the updates so that this share of the budget is used; on a shared "
        f"machine, where updates become slower, give less (default: {FITTED_SHARE:g})",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=ValueReader(Scale), default=1.0, metavar="F",
        help="use this fraction of the budget, to try an entry; makes no record (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--max-minutes", type=ValueReader(Minutes), metavar="X",
        help="stop after this time with a checkpoint; the same command continues (default: no limit)",
    )  # fmt: skip
    parser.add_argument(
        "--keep", action="store_true", help="keep the checkpoints that the curve is made of"
    )
    parser.add_argument(
        "--records", type=utf8_path, metavar="FOLDER",
        help="where the record is written (default: benchmarks/speedrun/records)",
    )  # fmt: skip


def _score_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=utf8_path, metavar="RUN", help="run, checkpoint or folder")
    _data_flag(parser)
    parser.add_argument(
        "--weights", choices=("trained", "ema"), default="trained",
        help="the trained weights, or their moving average (default: trained)",
    )  # fmt: skip


def _board_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the page is not up to date"
    )  # fmt: skip


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "prepare": ("Make tokenizer, shards and held-out passages of the fixed text.", _prepare_flags),
    "run": ("Train an entry within a track's budget, score it, and write its record.", _run_flags),
    "score": ("Print the score of any run, checkpoint or folder with weights.", _score_flags),
    "board": ("Write docs/speedrun/leaderboard.md from all records.", _board_flags),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands."""
    given = parse(argv)
    if given.command == "prepare":
        from benchmarks.speedrun.prepared import prepare

        prepared = prepare(given.text, given.data, given.vocab_size, given.eval_fraction)
        print(
            f"{given.data}: {prepared.record['passages']:,} passages with {prepared.record['words']:,} scored words"
        )
        for name, value in prepared.checksums(given.vocab_size).items():
            print(f"  {name:10}{value}")
        return 0
    if given.command == "run":
        from benchmarks.speedrun.race import race

        return race(given)
    if given.command == "score":
        from benchmarks.speedrun.score import print_score

        print_score(given.model, given.data, given.weights)
        return 0
    from benchmarks.speedrun.board import write_board

    return write_board(check=given.check)
