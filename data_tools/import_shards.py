"""Convert masked pretraining shards of other projects into our own, by recovering their text.

The command reads NVIDIA's HDF5 (fixed and variable length) and BERT TFRecords. It restores the
predicted tokens, makes one document from segments A and B of a consecutive pair and one document
from every other segment, leaves out text that later samples repeat under other masks, and splits
the decoded text into sentences.

Such shards do not record which text was one article and in which order, the text that was cut off
to make segments fit, and capitals and accents if the tokenizer removed them: these cannot be
recovered. Shards with masked tokens without a label are rejected. To train on the samples
unchanged, give them to launch/pretrain.py --data instead. See docs/guide/foreign-shards.md.

Example:
    python data_tools/import_shards.py --input hdf5_lower_case_1_seq_len_128 \\
        --tokenizer bert-base-uncased-vocab.txt --output data/imported
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megabert.common.log import human_duration, run_command
from megabert.config.flags import plain_parser
from megabert.config.numbers import NonNegativeInt, Probability, ShardCount
from megabert.config.values import ValueReader
from megabert.data.foreign.importing import ImportOptions, ImportReport, import_shards
from megabert.data.text.languages import check_language, page_language


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser("import_shards.py", __doc__)
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--input", nargs="+", required=True, type=Path, metavar="PATH",
        help="shard files, or folders of them; in a folder, files whose names contain the word "
        "eval, test, dev or valid go into the evaluation split",
    )  # fmt: skip
    what.add_argument(
        "--tokenizer", required=True, type=Path, metavar="FILE",
        help="the tokenizer that made the shards: vocab.txt, SentencePiece .model, tokenizer.json, "
        "or a folder with one of them",
    )  # fmt: skip
    what.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to create")
    what.add_argument(
        "--language", default="en", metavar="CODE",
        help="language code of the text, for splitting it into sentences: en, zh, de (default: en)",
    )  # fmt: skip
    content = parser.add_argument_group("selection and division of the documents")
    content.add_argument(
        "--shards", type=ValueReader(ShardCount), metavar="N",
        help="number of training shards (default: one per 33.5 million tokens)",
    )  # fmt: skip
    content.add_argument(
        "--eval-fraction", type=ValueReader(Probability), metavar="F",
        help="fraction of documents in the evaluation split, chosen by a hash; 0 for none "
        "(default: 0.01, or 0 if there are files for evaluation)",
    )  # fmt: skip
    content.add_argument(
        "--min-document-tokens", type=ValueReader(NonNegativeInt), default=8, metavar="N",
        help="drop documents with fewer tokens; 0 keeps all (default: 8)",
    )  # fmt: skip
    content.add_argument(
        "--seed",
        type=ValueReader(NonNegativeInt),
        default=0,
        metavar="N",
        help="seed of the evaluation split (default: 0)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = build_parser().parse_args(argv)
    report = import_shards(
        ImportOptions(
            inputs=tuple(args.input),
            tokenizer=args.tokenizer,
            output=args.output,
            language=page_language(check_language(args.language), ""),
            shards=args.shards,
            eval_fraction=args.eval_fraction,
            min_document_tokens=args.min_document_tokens,
            seed=args.seed,
        )
    )
    print(summary(report, args.output))
    return 0


def summary(report: ImportReport, output: Path) -> str:
    """The result, and what could not be recovered, in a few lines."""
    manifest, counts = report.manifest, report.counts
    repeated = 100 * report.repeated_tokens / max(1, report.tokens)
    same = 100 * counts.respelled / max(1, counts.sentences)
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
    lines = [
        f"{output}: {manifest.articles_kept} documents from {report.samples} samples "
        f"({report.layout})",
        f"repeated text left out: {report.repeated_tokens} of {report.tokens} tokens "
        f"({repeated:.1f} %)",
        f"dropped: {dropped or 'none'}",
    ]
    lines += [
        f"{name}: {split.documents} documents, {split.sentences} sentences, "
        f"{split.tokens} tokens in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    ]
    lines += [
        f"sentences: {counts.sentences} in the decoded text, {same:.1f} % of which encode to the "
        f"same ids; {counts.unaligned} sentence boundaries inside a token were ignored",
        "not recoverable: original documents and their order, text cut off at the ends of segments"
        + (", capitals and accents" if manifest.tokenizer.lower_case else ""),
        f"time: {human_duration(report.seconds)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
