#!/usr/bin/env python
"""Convert a checkpoint to another format, and verify that the result computes the same.

    python launch/convert.py --from megabert --input runs/phase2 --to huggingface --output hf
    python launch/convert.py --from huggingface --input hf --to megabert --output megabert-folder
    python launch/convert.py --from google-tf --input bert_model.ckpt --to huggingface --output hf

The output folder appears only after it has been read back, its tensors have been compared with the
input's bit for bit, and the outputs of both models have been compared on sample text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.config.command_line import require_path
from megabert.config.flags import plain_parser
from megabert.config.values import utf8_path
from megabert.convert.formats import input_help, read_formats, written_formats


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = plain_parser("convert.py", __doc__)
    source = made.add_argument_group("input")
    source.add_argument(
        "--from",
        dest="source",
        choices=read_formats(),
        required=True,
        help="format of the input",
    )
    source.add_argument(
        "--input",
        type=utf8_path,
        required=True,
        metavar="PATH",
        help=input_help(),
    )
    source.add_argument(
        "--tokenizer",
        type=utf8_path,
        metavar="PATH",
        help="folder of tokenizer files, or vocab.txt (default: the files next to the input); its "
        "size determines the true vocabulary of a checkpoint with padding rows",
    )
    source.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="JSON with the encoder's shape, with the field names of bert_config.json, for weights "
        "that have none (default: the file next to the input)",
    )
    target = made.add_argument_group("output")
    target.add_argument(
        "--to",
        dest="target",
        choices=written_formats(),
        required=True,
        help="format of the output",
    )
    target.add_argument(
        "--output", type=utf8_path, required=True, metavar="DIR", help="folder to create"
    )
    target.add_argument(
        "--force",
        action="store_true",
        help="replace an output folder that an earlier conversion made (default: an error)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    if not any(given.input.parent.glob(f"{given.input.name}.*")):  # a prefix of file names
        require_path("--input", given.input)
    for flag, path in (("--tokenizer", given.tokenizer), ("--model-config", given.model_config)):
        if path is not None:
            require_path(flag, path)
    # torch is imported only now
    from megabert.convert.run import ConversionRequest, convert

    result = convert(
        ConversionRequest(
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
        print(f"{result.output} already holds this conversion, and its files are intact")
        return 0
    print(f"{result.model.head}: {len(result.model.tensors)} tensors, {result.model.origin}")
    print(*result.left_out(), sep="\n", end="\n" if result.model.left_out else "")
    if result.comparison is not None:
        print("\n".join(result.comparison.lines()))
    print(f"wrote {result.output}")
    return 0


if __name__ == "__main__":
    run_command(main)
