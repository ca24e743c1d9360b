#!/usr/bin/env python
"""Compute one vector of each text with an encoder, for search, clustering or another program.

    python launch/embed.py --checkpoint runs/bert-large-phase2 --input texts.txt --output vectors.npy
    python launch/embed.py --checkpoint st --input a.jsonl b.jsonl --text-field body --output vectors.npy
    cat texts.txt | python launch/embed.py --checkpoint runs/sst2 --pooling cls --output vectors.npy

The output is a float32 array [texts, hidden_size] in numpy's format, one row per text in the order of the
input; numpy.load(FILE, mmap_mode="r") opens it without reading it. Vectors are those of
sentence-transformers for the folder that launch/convert.py --to sentence-transformers writes. A
pretrained model that was not trained for similarity gives features, not good similarities. All inputs are
checked before the first one is computed. It runs in one process, on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megabert.common.log import run_command
from megabert.config.command_line import add_device_flags, require_path
from megabert.config.flags import plain_parser
from megabert.config.numbers import Count, NonNegativeInt, Size
from megabert.config.values import ValueReader, utf8_path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = plain_parser("embed.py", __doc__)
    model = made.add_argument_group("model")
    model.add_argument(
        "--checkpoint",
        type=utf8_path,
        required=True,
        metavar="DIR",
        help="pretraining or fine-tuning run, checkpoint, megabert folder, Hugging Face BERT folder, or "
        "folder of sentence-transformers; a head is not used",
    )
    model.add_argument(
        "--layer",
        type=ValueReader(NonNegativeInt),
        metavar="N",
        help="take the hidden states of layer N, 0 for the embeddings (default: the last layer)",
    )
    model.add_argument(
        "--max-length",
        type=ValueReader(Size),
        metavar="N",
        help="tokens per text, at most, [CLS] and [SEP] included; the rest is cut off (default: the "
        "checkpoint's trained positions, or the length that a folder of sentence-transformers states)",
    )
    add_device_flags(model, "precision of the encoder; vectors are float32")
    model.add_argument(
        "--batch-size",
        type=ValueReader(Count),
        default=64,
        metavar="N",
        help="texts that are computed at once (default: 64)",
    )
    vectors = made.add_argument_group("vectors")
    vectors.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        help="the mean over a text's tokens, [CLS] and [SEP] included, or the state of [CLS] (default: "
        "the checkpoint's, if it is of sentence-transformers; else mean)",
    )
    vectors.add_argument(
        "--normalize",
        choices=("on", "off"),
        help="vectors of length 1 (default: the checkpoint's, if it is of sentence-transformers; else off)",
    )
    inputs = made.add_argument_group("input")
    inputs.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="files of texts, in this order, plain or compressed (.xz, .gz, .bz2); - is standard input "
        "(default: standard input, if it is not a terminal)",
    )
    inputs.add_argument(
        "--input-format",
        choices=("auto", "text", "jsonl"),
        default="auto",
        help="text: one text per line; jsonl: one object per line, or Parquet (default: auto, detected "
        "from the first line)",
    )
    inputs.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="field of an object that holds its text (default: text)",
    )
    output = made.add_argument_group("output")
    output.add_argument(
        "--output", type=utf8_path, required=True, metavar="FILE", help="the .npy file to write"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    made = parser()
    given = made.parse_args(arguments)
    require_path("--checkpoint", given.checkpoint)
    if given.input is None and sys.stdin.isatty():
        made.error("--input is missing, and standard input is a terminal")
    inputs = tuple(given.input or [Path("-")])
    for path in inputs:
        if str(path) != "-":
            require_path("--input", path)
    # torch is imported only now
    from megabert.embed.command import EmbedRequest, embed_texts
    from megabert.embed.embedder import EmbeddingOptions

    options = EmbeddingOptions(
        pooling=given.pooling,
        normalize=None if given.normalize is None else given.normalize == "on",
        layer=given.layer,
        max_length=given.max_length,
        batch_size=given.batch_size,
        device=given.device,
        precision=given.precision,
    )
    texts, width = embed_texts(
        EmbedRequest(
            given.checkpoint, inputs, given.output, options, given.input_format, given.text_field
        )
    )
    print(f"wrote {given.output}: {texts:,} vectors of {width:,} numbers, float32")
    return 0


if __name__ == "__main__":
    run_command(main)
