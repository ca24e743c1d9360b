#!/usr/bin/env python
"""Convert a checkpoint to another format, and prove that the result computes the same.

    python launch/convert.py --from megabert --input runs/bert-large-phase2 --to huggingface --output hf
    python launch/convert.py --from huggingface --input hf --to megabert --output megabert-folder

The output appears only after both sides have been loaded and their outputs compared on sample text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.flags import plain_parser
from megabert.log import run_command

FORMATS = ("megabert", "huggingface", "google-tf", "nvidia", "mindspore")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = plain_parser("convert.py", __doc__)
    source = made.add_argument_group("input")
    source.add_argument(
        "--from", dest="source", choices=FORMATS, required=True, help="format of the input"
    )
    source.add_argument(
        "--input",
        type=Path,
        required=True,
        help="megabert: a run (its newest checkpoint), a checkpoint folder of any ZeRO stage and "
        "topology, or a megabert folder; huggingface: the folder with config.json",
    )
    source.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of tokenizer files (default: those beside the input)",
    )
    target = made.add_argument_group("output")
    target.add_argument(
        "--to",
        dest="target",
        choices=("huggingface", "megabert", "google-tf"),
        required=True,
        help="format of the output",
    )
    target.add_argument("--output", type=Path, required=True, help="folder to make")
    target.add_argument(
        "--force",
        action="store_true",
        help="replace an output folder that an earlier conversion made (default: refuse)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    from megabert.convert.run import Request, convert

    result = convert(
        Request(
            given.source,
            given.input,
            given.target,
            given.output,
            tokenizer=given.tokenizer,
            force=given.force,
        )
    )
    if result.unchanged:
        print(f"{result.output} already holds this conversion, unharmed")
        return 0
    print(f"{result.model.head} model, {len(result.model.tensors)} tensors, {result.model.origin}")
    if result.comparison is not None:
        print("\n".join(result.comparison.lines()))
    print(f"wrote {result.output}")
    return 0


if __name__ == "__main__":
    run_command(main)
