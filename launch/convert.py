#!/usr/bin/env python
"""Convert a checkpoint to another format, and verify that the result computes the same.

    python launch/convert.py --from megabert --input runs/phase2 --to huggingface --output hf
    python launch/convert.py --from huggingface --input hf --to megabert --output megabert-folder
    python launch/convert.py --from google-tf --input bert_model.ckpt --to huggingface --output hf
    python launch/convert.py --from huggingface --input hf --new-tokenizer tokens --to megabert --output moved
    python launch/convert.py --from megabert --input runs/phase2 --average 5 --to huggingface --output mean
    python launch/convert.py --from megabert --input runs/phase2 --ema --to huggingface --output ema
    python launch/convert.py --from megabert --input runs/phase2 --to sentence-transformers --output st
    python launch/convert.py --from megabert --input runs/sst2 --to onnx --output onnx

The output folder appears only after it has been read back, its tensors have been compared with the
input's bit for bit, and the outputs of both models have been compared on sample text.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.config.command_line import require_path
from megabert.config.flags import plain_parser
from megabert.config.numbers import Count, NonNegativeInt, PositiveInt, Size
from megabert.config.values import ValueReader, utf8_path
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
        nargs="+",
        required=True,
        metavar="PATH",
        help=f"{input_help()}; several of them only with --average",
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
    source.add_argument(
        "--ema",
        action="store_true",
        help="take the moving average of the weights of a megabert checkpoint that was trained with "
        "--ema-decay (default: the trained weights)",
    )
    change = made.add_argument_group("changes of the model (default: none)")
    change.add_argument(
        "--average",
        type=ValueReader(PositiveInt),
        nargs="?",
        const=0,
        metavar="N",
        help="take the mean of the newest N complete checkpoints of the run (without N: of all), or "
        "of several inputs",
    )
    change.add_argument(
        "--new-tokenizer",
        type=utf8_path,
        metavar="PATH",
        help="move the model to this tokenizer, a folder or a file: rows of common tokens are "
        "copied, those of new ones are the mean of their old pieces",
    )
    change.add_argument(
        "--position-rows",
        type=ValueReader(Size),
        metavar="N",
        help="extend the model to N positions: the trained rows of its table are repeated (an "
        "encoder without a table, as NEZHA, only gets the new limit)",
    )
    change.add_argument(
        "--seed",
        type=ValueReader(NonNegativeInt),
        default=0,
        metavar="N",
        help="of the rows that --new-tokenizer draws, for tokens without any known piece "
        "(default: 0)",
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
    vectors = made.add_argument_group("output of sentence-transformers")
    vectors.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        help="one vector of a text: the mean over its tokens, or the state of [CLS] (default: the "
        "input's, if it is a folder of sentence-transformers; else mean)",
    )
    vectors.add_argument(
        "--normalize",
        choices=("on", "off"),
        help="vectors of length 1 (default: the input's; else off)",
    )
    onnx = made.add_argument_group("output of onnx")
    onnx.add_argument(
        "--opset",
        type=ValueReader(Count),
        metavar="N",
        help="version of ONNX's operators (default: 18)",
    )
    card = made.add_argument_group(
        "model card", "README.md of huggingface, sentence-transformers and onnx"
    )
    card.add_argument(
        "--license",
        type=license_name,
        metavar="NAME",
        help="license, as hubs name it: apache-2.0, mit, cc-by-sa-4.0, other (default: unknown)",
    )
    card.add_argument(
        "--language",
        type=language_code,
        nargs="+",
        metavar="CODE",
        help="language of the model's text: en, zh, ... (default: unknown)",
    )
    card.add_argument(
        "--model-name", metavar="NAME", help="title of the card (default: the model's)"
    )
    return made


def license_name(text: str) -> str:
    """A license as hubs name it, in lower case."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a license, as apache-2.0")
    return text.lower()


def language_code(text: str) -> str:
    """A code of ISO 639, or one with a region or script."""
    if re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the code of a language, as en or zh")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    first, *others = given.input
    for path in given.input:
        if not any(path.parent.glob(f"{path.name}.*")):  # a prefix of file names
            require_path("--input", path)
    if others and given.average is None:
        raise UserError(
            f"--input names {len(given.input)} models: set --average to convert their mean, or "
            "convert one after the other"
        )
    for flag in ("tokenizer", "model_config", "new_tokenizer"):
        if (path := getattr(given, flag)) is not None:
            require_path("--" + flag.replace("_", "-"), path)
    # torch is imported only now
    from megabert.convert.changes.request import ModelChanges
    from megabert.convert.format import OutputOptions
    from megabert.convert.run import ConversionRequest, convert

    result = convert(
        ConversionRequest(
            given.source,
            first,
            given.target,
            given.output,
            tokenizer=given.tokenizer,
            force=given.force,
            model_config=given.model_config,
            averaged=given.ema,
            changes=ModelChanges(
                given.average, tuple(others), given.new_tokenizer, given.position_rows, given.seed
            ),
            options=OutputOptions(
                pooling=given.pooling,
                normalize=None if given.normalize is None else given.normalize == "on",
                opset=given.opset,
                license=given.license,
                language=None if given.language is None else tuple(given.language),
                model_name=given.model_name,
            ),
        )
    )
    if result.unchanged:
        print(f"{result.output} already holds this conversion, and its files are intact")
        return 0
    print(f"{result.model.head}: {len(result.model.tensors)} tensors, {result.model.origin}")
    for line in result.changed():
        print(line)
    print(*result.left_out(), sep="\n", end="\n" if result.model.left_out else "")
    if result.comparison is not None:
        print("\n".join(result.comparison.lines()))
    print(f"wrote {result.output}")
    return 0


if __name__ == "__main__":
    run_command(main)
