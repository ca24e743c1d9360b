#!/usr/bin/env python
"""Convert a checkpoint to another format, and prove that the result computes the same.

    python launch/convert.py --from megabert --input runs/bert-large-phase2 --to huggingface --output hf
    python launch/convert.py --from huggingface --input hf --to megabert --output megabert-folder
    python launch/convert.py --from google-tf --input bert_model.ckpt --to huggingface --output hf

The output appears only after it has been read back, its tensors compared with the source's bit for
bit, and both sides' outputs compared on sample text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.config.flags import plain_parser

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
        "topology, or a megabert folder; huggingface: the folder with config.json (or "
        "bert_config.json); google-tf: a folder with a checkpoint, or its prefix "
        "(.../bert_model.ckpt); nvidia: the .pt file; mindspore: the .ckpt file",
    )
    source.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of tokenizer files, or vocab.txt (default: those beside the input); its size "
        "tells the true vocabulary of a checkpoint with padding rows",
    )
    source.add_argument(
        "--model-config",
        type=Path,
        help="JSON with the encoder's shape, in the field names of bert_config.json, for weights "
        "that lie without one (default: the file beside the input)",
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
            model_config=given.model_config,
        )
    )
    if result.unchanged:
        print(f"{result.output} already holds this conversion, unharmed")
        return 0
    print(f"{result.model.head}: {len(result.model.tensors)} tensors, {result.model.origin}")
    print(*result.left_out(), sep="\n", end="\n" if result.model.left_out else "")
    if result.comparison is not None:
        print("\n".join(result.comparison.lines()))
    print(f"wrote {result.output}")
    return 0


if __name__ == "__main__":
    run_command(main)
