"""Write a generated encyclopedia (MediaWiki XML) and questions on it (SQuAD v1.1)."""

from __future__ import annotations

import argparse
import bz2
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.config.flags import plain_parser
from megabert.data.demo_wiki.dump import dump_xml
from megabert.data.demo_wiki.questions import question_set
from megabert.data.demo_wiki.world import World, build_world

DUMP, TRAIN, DEV = "dump.xml.bz2", "train.json", "dev.json"


def _parser() -> argparse.ArgumentParser:
    parser = plain_parser(
        "make_sample_wiki.py",
        "Generate a small encyclopedia about an invented world: dump.xml.bz2 in MediaWiki's export "
        "format,\ntrain.json and dev.json in SQuAD v1.1's format. The same arguments give the same bytes.",
        "Development questions are about entities without a page in the dump, about values that no\n"
        "training question shows, and in wordings that no training question uses.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--articles", type=int, default=2000, help="articles, at least 20 (default 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default 0)")
    parser.add_argument(
        "--train-questions", type=int, default=600, help="most training questions (default 600)"
    )
    parser.add_argument(
        "--dev-questions", type=int, default=300, help="most development questions (default 300)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the three files where they exist and differ"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and run; raises UserError on a wrong argument or an output folder with other content."""
    args = _parser().parse_args(argv)
    for name, least in (("articles", 20), ("train_questions", 1), ("dev_questions", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
    # an entity gives a question if its asked value and two more are of the split's half
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
    world: World,
    output: Path,
    *,
    seed: int,
    train_questions: int,
    dev_questions: int,
    force: bool = False,
) -> None:
    """Write the three files of ``world`` into ``output``, each by atomic rename.

    Files that are there already with the same bytes are left alone. Raises UserError when one has
    other content and ``force`` is not set; nothing is written then.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: name a folder")
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".sample-", dir=output))
    try:
        _write_dump(dump_xml(world, seed), work / DUMP)
        sets = (
            (TRAIN, question_set(world.published, train_questions, held_out=False, seed=seed)),
            (DEV, question_set(world.held_out, dev_questions, held_out=True, seed=seed)),
        )
        for name, questions in sets:
            (work / name).write_text(json.dumps(questions, indent=1) + "\n", encoding="utf-8")
        for name in (DUMP, TRAIN, DEV):
            there = output / name
            if not force and there.exists() and there.read_bytes() != (work / name).read_bytes():
                raise UserError(
                    f"{there} was made with other arguments: name another --output or give --force"
                )
        for name in (DUMP, TRAIN, DEV):
            _sync(work / name)
            (work / name).replace(output / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{output}: {len(world.published)} articles")


def _write_dump(pieces: Iterator[str], path: Path) -> None:
    with bz2.open(path, "wt", encoding="utf-8", newline="\n") as stream:
        for piece in pieces:
            stream.write(piece)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


if __name__ == "__main__":
    run_command(main)
