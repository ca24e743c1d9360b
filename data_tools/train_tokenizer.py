"""Make a vocabulary from a dump or other text.

Reads the same inputs as shard_wiki.py. Writes a folder that shard_wiki.py --tokenizer and
transformers can load: vocab.txt (WordPiece) or spiece.model (SentencePiece), tokenizer.json and
tokenizer_config.json. [PAD], [UNK], [CLS], [SEP] and [MASK] are entries 0 to 4. With --extend, the
entries of another vocabulary come first, with their ids, and the new ones follow.

Examples:
    python data_tools/train_tokenizer.py --input enwiki-latest-pages-articles.xml.bz2 \\
        --type wordpiece --vocab-size 30522 --output data/tokenizer
    python data_tools/train_tokenizer.py --input reviews.jsonl --extend bert-base-uncased \\
        --vocab-size 34522 --output data/extended
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.log import get_logger, run_command
from megabert.common.storage import named_storage_errors, require_writable
from megabert.config.flags import plain_parser
from megabert.config.numbers import Fraction, NonNegativeInt, Processes, Size
from megabert.config.values import ValueReader
from megabert.data.prepare.train_tokenizer import (
    KINDS,
    TrainingSettings,
    input_language,
    read_sentences,
    save_tokenizer,
    train_tokenizer,
)
from megabert.data.prepare.vocabulary.extension import extend, require_extensible
from megabert.data.text.languages import check_language
from megabert.data.text.reading import add_reading_flags, rules_of
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.wordpiece import WordPieceTokenizer


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser("train_tokenizer.py", __doc__)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--input", nargs="+", required=True, type=Path, metavar="DUMP",
        help="dumps or text (files, tar archives or folders), read in this order",
    )  # fmt: skip
    what.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to create")
    what.add_argument(
        "--language",
        default="auto",
        metavar="CODE",
        help="language of the text (default: auto, the language that a dump names, and en for "
        "other text; logged)",
    )
    add_reading_flags(parser, documents=False)
    kind = parser.add_argument_group("vocabulary")
    kind.add_argument(
        "--type", choices=KINDS,
        help="BERT's wordpiece, or SentencePiece unigram or bpe (default: wordpiece)",
    )  # fmt: skip
    kind.add_argument(
        "--extend", type=Path, metavar="TOKENIZER",
        help="extend this WordPiece vocabulary (folder or vocab.txt) to --vocab-size entries by those "
        "that the text uses; its ids and its normalisation stay (default: a new vocabulary)",
    )  # fmt: skip
    kind.add_argument(
        "--vocab-size", type=ValueReader(Size), default=30522, metavar="N",
        help="number of entries, including special tokens (default: 30522)",
    )  # fmt: skip
    kind.add_argument(
        "--cased", action="store_true", help="keep capital letters (default: lower-case the text)"
    )
    kind.add_argument(
        "--alphabet", type=ValueReader(Size), metavar="N",
        help="wordpiece: number of characters that get an entry (default: 1000; for Chinese and "
        "Japanese a third of the vocabulary)",
    )  # fmt: skip
    kind.add_argument(
        "--coverage", type=ValueReader(Fraction), metavar="F",
        help="unigram, bpe: fraction of the text whose characters get an entry (default: 0.9995)",
    )  # fmt: skip
    work = parser.add_argument_group("amount of text and processes")
    work.add_argument(
        "--max-characters", type=ValueReader(NonNegativeInt), default=200_000_000, metavar="N",
        help="use the first N characters of text, 0 for all; takes about 3 bytes of memory per "
        "character (default: 200,000,000)",
    )  # fmt: skip
    work.add_argument(
        "--workers", type=ValueReader(Processes), default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes that clean text; the result does not depend on it (default: one per core)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = build_parser().parse_args(argv)
    old = _extended(args)
    settings = TrainingSettings(
        kind=args.type or "wordpiece",
        vocab_size=args.vocab_size,
        lower_case=not args.cased,
        language=check_language(args.language),
        alphabet=args.alphabet,
        coverage=TrainingSettings.coverage if args.coverage is None else args.coverage,
    )
    settings.check()
    pieces = settings.kind != "wordpiece"
    for flag, given, unused in (
        ("--alphabet", args.alphabet, pieces),
        ("--coverage", args.coverage, not pieces),
    ):
        if given is not None and unused:
            get_logger().warning("%s has no effect with --type %s", flag, settings.kind)
    if args.workers < 1 or args.max_characters < 0:
        raise UserError("--workers must be at least 1, and --max-characters 0 or more")
    with named_storage_errors(args.output):
        if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
            raise UserError(f"{args.output} exists and is not empty; choose another --output")
    require_writable(args.output)
    rules, choice = rules_of(args), settings.language
    language = input_language(args.input, rules=rules, choice=choice)
    settings = dataclasses.replace(settings, language=language)
    sentences = read_sentences(
        args.input,
        rules=rules,
        language=choice,
        max_characters=args.max_characters or None,
        workers=args.workers,
    )
    extension = None
    if old is not None:
        extension = extend(old, sentences, settings.vocab_size, settings.alphabet_size)
    tokenizer = extension.tokenizer if extension else train_tokenizer(sentences, settings)
    save_tokenizer(tokenizer, args.output)
    print(
        f"{args.output}: {tokenizer.kind}, {tokenizer.vocab_size} entries, "
        f"{'lower case' if tokenizer.lower_case else 'cased'}, from {len(sentences)} sentences"
    )
    if extension is not None:
        print("\n".join(extension.lines()))
    return 0


def _extended(args: argparse.Namespace) -> WordPieceTokenizer | None:
    """The tokenizer of --extend.

    Raises:
        UserError: it cannot be loaded or extended, it has --vocab-size entries already, or a flag
            contradicts it.
    """
    if args.extend is None:
        return None
    if args.type not in (None, "wordpiece") or args.cased:
        raise UserError(
            "--extend: kind and casing are those of the given tokenizer; remove --type and --cased"
        )
    return require_extensible(args.extend, load_tokenizer(args.extend), args.vocab_size)


if __name__ == "__main__":
    sys.exit(run_command(main))
