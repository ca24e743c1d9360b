"""Write a generated encyclopedia (MediaWiki XML) and questions about it (SQuAD v1.1)."""

from __future__ import annotations

import argparse
import bz2
import filecmp
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from megabert.common.errors import UserError
from megabert.common.files import rename, sync
from megabert.common.log import run_command
from megabert.common.processes.stopping import requests_held
from megabert.common.storage import named_storage_errors
from megabert.config.flags import plain_parser
from megabert.config.numbers import Count, Limits, NonNegativeInt
from megabert.config.values import ValueReader
from megabert.data.demo_wiki.dump import dump_xml
from megabert.data.demo_wiki.questions import question_set
from megabert.data.demo_wiki.world import InventedWorld, build_world

DUMP, TRAIN, DEV = "dump.xml.bz2", "train.json", "dev.json"


def _parser() -> argparse.ArgumentParser:
    parser = plain_parser(
        "make_sample_wiki.py",
        "Generate a small encyclopedia about an invented world: dump.xml.bz2 in MediaWiki's export "
        "format,\ntrain.json and dev.json in the format of SQuAD v1.1. The same arguments give the "
        "same bytes.",
        "The development questions use entities that have no page in the dump, and values and\n"
        "wordings that do not occur in the training questions.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--articles",
        type=ValueReader(Annotated[int, Limits(ge=20, le=10_000_000)]),
        default=2000,
        help="number of articles, at least 20 (default 2000)",
    )
    parser.add_argument(
        "--seed", type=ValueReader(NonNegativeInt), default=0, help="seed of the world (default 0)"
    )
    parser.add_argument(
        "--train-questions",
        type=ValueReader(Count),
        default=600,
        help="maximum number of training questions (default 600)",
    )
    parser.add_argument(
        "--dev-questions",
        type=ValueReader(Count),
        default=300,
        help="maximum number of development questions (default 300)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace any of the three files that exists and differs",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: a wrong argument, or a file of the output folder has other content.
    """
    args = _parser().parse_args(argv)
    # an entity gives a question if the value asked for and two others are in the split's half
    unpublished = min(3 * args.dev_questions + 8, args.articles)
    world = build_world(args.articles, unpublished, args.seed)
    write_sample(
        world,
        args.output,
        seed=args.seed,
        train_questions=args.train_questions,
        dev_questions=args.dev_questions,
        force=args.force,
    )


def write_sample(
    world: InventedWorld,
    output: Path,
    *,
    seed: int,
    train_questions: int,
    dev_questions: int,
    force: bool = False,
) -> None:
    """Write the three files of ``world`` to ``output``, each by atomic rename.

    Files that already have the same bytes stay as they are.

    Raises:
        UserError: a file has other content and ``force`` is not set; nothing is written then.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; it must be a folder")
    with named_storage_errors(output):
        _write_files(world, output, (seed, train_questions, dev_questions), force=force)
    print(f"{output}: {len(world.published)} articles")


def _write_files(
    world: InventedWorld, output: Path, numbers: tuple[int, int, int], *, force: bool
) -> None:
    seed, train_questions, dev_questions = numbers
    output.mkdir(parents=True, exist_ok=True)
    with requests_held():
        folder = tempfile.TemporaryDirectory(
            prefix=".sample-", dir=output, ignore_cleanup_errors=True
        )
    with folder as made:
        work = Path(made)
        _write_dump(dump_xml(world, seed), work / DUMP)
        sets = (
            (TRAIN, question_set(world.published, train_questions, development=False, seed=seed)),
            (DEV, question_set(world.unpublished, dev_questions, development=True, seed=seed)),
        )
        for name, questions in sets:
            (work / name).write_text(json.dumps(questions, indent=1) + "\n", encoding="utf-8")
        for name in (DUMP, TRAIN, DEV):
            there = output / name
            if not force and there.exists() and not filecmp.cmp(there, work / name, False):
                raise UserError(
                    f"{there} was made with other arguments; change --output, or set --force"
                )
        for name in (DUMP, TRAIN, DEV):
            sync(work / name)
        with requests_held():
            for name in (DUMP, TRAIN, DEV):
                rename(work / name, output / name)
            folder.cleanup()


def _write_dump(pieces: Iterator[str], path: Path) -> None:
    with bz2.open(path, "wt", encoding="utf-8", newline="\n") as stream:
        for piece in pieces:
            stream.write(piece)


if __name__ == "__main__":
    run_command(main)
