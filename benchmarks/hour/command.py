#!/usr/bin/env python
"""The first hour on a GPU, scripted in calls of less than ten minutes each.

    bash benchmarks/first_gpu_hour.sh PART SHARDS OUTPUT [--small] [--write-golden] [--squad TRAIN]
    bash benchmarks/first_gpu_hour.sh --list

PART is a number; --list shows them, the most valuable first. OUTPUT is one folder for all parts:

    hour.md, hour.json     every question with its answer, and below it what each command printed
    NAME.log, .err, .json  of each step: what it printed, what it said, its figures

Each step is a command with a time limit; one that fails or takes too long does not stop the others, and
makes the exit status 1 at the end. A part that is run again repeats only what has not ended well.
--from FOLDER takes over the results of earlier calls into another folder, for machines that keep none.
SHARDS that do not exist yet are made from a generated sample whose vocabulary is filled up to BERT's
size. --small uses the smallest model, on any machine; --dry-run prints the commands only.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.hour.parts import PARTS, Plan, machine
from benchmarks.hour.report import PAGE, RECORD, Report
from benchmarks.hour.steps import Outcome, Step, run_steps
from benchmarks.steps.runs import run
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.names import MANIFEST, TOKENIZER_FOLDER
from megabert.common.storage import require_writable
from megabert.config.command_line import CommandParser
from megabert.config.numbers import Limits
from megabert.config.values import ValueReader, utf8_path

SECONDS = 540.0
"""For one call."""
CallSeconds = Annotated[float, Limits(ge=30.0)]
VOCABULARY, WORDS = 30522, 1000
"""Entries of the generated vocabulary: the size of BERT's, and how many of them are used."""


class HourParser(CommandParser):
    """Several earlier calls may be named."""

    repeatable = (*CommandParser.repeatable, "--from")


def making(shards: Path, small: bool) -> list[list[str]]:
    """The commands that make shards of a generated sample; its few words are filled up with unused entries."""
    work = source_of(shards)
    text, tokenizer = work / "text", work / TOKENIZER_FOLDER
    dump, words = str(text / "dump.xml.bz2"), str(tokenizer / "vocab.txt")
    fill = f'writelines(f"[unused{{n}}]\\n" for n in range({VOCABULARY - WORDS}))'
    return [
        [
            "data_tools/make_sample_wiki.py", "--output", str(text), "--articles",
            "300" if small else "6000",
        ],
        [
            "data_tools/train_tokenizer.py", "--input", dump, "--type", "wordpiece",
            "--vocab-size", str(WORDS), "--output", str(tokenizer),
        ],
        ["-c", f'import sys; open(sys.argv[1], "a").{fill}', words],
        [
            "data_tools/shard_wiki.py", "--input", dump, "--tokenizer", words, "--output", str(shards),
        ],
    ]  # fmt: skip


def source_of(shards: Path) -> Path:
    """Folder of the sample that shards are made of."""
    return shards.with_name(f"{shards.name}-source")


def exist(shards: Path) -> bool:
    """Whether there are shards."""
    return (shards / MANIFEST).is_file()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a wrong value, a part or file that does not exist, a folder of other files, no GPU.
    """
    parser = HourParser("first_gpu_hour.sh", __doc__)
    parser.add_argument("part", nargs="?", type=int, help=f"{min(PARTS)} to {max(PARTS)}")
    parser.add_argument(
        "shards", nargs="?", type=utf8_path, help="folder of shards, or where to make it"
    )
    parser.add_argument(
        "output", nargs="?", type=utf8_path, help="folder for the results of all parts"
    )
    parser.add_argument("--list", action="store_true", help="show the parts and their questions")
    parser.add_argument("--small", action="store_true", help="smallest sizes, on any machine")
    parser.add_argument("--write-golden", action="store_true", help="record this device's losses")
    parser.add_argument("--squad", type=Path, help="training file in SQuAD's format, for part 6")
    parser.add_argument(
        "--from", type=Path, action="append", default=[], dest="earlier", metavar="FOLDER",
        help="OUTPUT of an earlier call; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=ValueReader(CallSeconds), default=SECONDS,
        help="for the whole call, at least 30 (540)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    given = parser.parse_args(argv)
    if given.list:
        return given
    if given.output is None:
        raise UserError("PART, SHARDS and OUTPUT are needed; --list shows the parts")
    if given.part not in PARTS:
        raise UserError(f"part {given.part}: there are {min(PARTS)} to {max(PARTS)}; see --list")
    if given.squad is not None and not given.squad.is_file():
        raise UserError(f"--squad {given.squad}: no such file")
    for folder in given.earlier:
        if not (folder / RECORD).is_file():
            raise UserError(
                f"--from {folder}: no {RECORD} there; name the OUTPUT of an earlier call"
            )
    given.shards, given.output = given.shards.resolve(), given.output.resolve()
    check_folders(given.shards, given.output)
    if not (given.small or given.dry_run or torch.cuda.is_available()):
        raise UserError(
            "torch finds no GPU here; --small tries the same steps with the smallest model on a CPU"
        )
    return given


def check_folders(shards: Path, output: Path) -> None:
    """Whether SHARDS can be read or made, and OUTPUT written.

    Raises:
        UserError: not.
    """
    if output == shards or shards in output.parents:
        raise UserError(f"OUTPUT {output} is in the folder of the shards; name another folder")
    if not exist(shards):
        if holds_files(shards):
            raise UserError(
                f"SHARDS {shards} exists and has no {MANIFEST}; name a folder of shards or a new one"
            )
        if holds_files(source_of(shards)):
            raise UserError(
                f"{source_of(shards)} is left from making shards that are not there; remove it or name "
                "other SHARDS"
            )
        require_writable(shards)
    if holds_files(output) and not (output / RECORD).is_file():
        raise UserError(f"{output} holds other files; name a new folder")
    require_writable(output)


def holds_files(path: Path) -> bool:
    """Whether this is a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def show_parts() -> None:
    """The parts and their questions."""
    plan = Plan(Path("SHARDS"), squad=Path("TRAIN"))
    for number, (title, steps) in PARTS.items():
        print(f"{number}  {title}")
        for step in steps(plan):
            print(f"     {step.name}: {step.question}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part; 1 if a step did not end well."""
    given = parse(argv)
    if given.list:
        show_parts()
        return 0
    title, steps = PARTS[given.part]
    squad = given.squad.resolve() if given.squad else None
    shards, output = given.shards, given.output
    todo = [machine(), *steps(Plan(shards, given.small, given.write_golden, squad))]
    first = [] if exist(shards) else making(shards, given.small)
    if given.dry_run:
        for command in first:
            print(shlex.join(["python", *command]))
        for step in todo:
            print(shlex.join(["python", *step.command]), f"# at most {step.limit:.0f} s")
        return 0
    for command in first:
        run(command)
    output.mkdir(parents=True, exist_ok=True)
    report = Report(output, given.earlier)

    def keep(step: Step, outcome: Outcome) -> None:
        report.add(f"Part {given.part}, {title}.", step, outcome)

    left = [step for step in todo if step.name == "machine" or not report.ended_well(step.name)]
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the step's processes end too
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    good = run_steps(left, output, given.seconds, keep)
    print(output / PAGE)
    return 0 if good else 1


if __name__ == "__main__":
    run_command(main)
