"""Convert text of any kind, a Wikipedia dump or your own, into HDF5 shards for pretraining.

It has two names, shard_wiki.py and shard_text.py, and reads MediaWiki XML, wikiextractor output (<doc>
or JSON), plain text, JSON, JSON Lines, CSV, TSV, Parquet, Arrow and folders of the datasets library, as
a file, a tar archive or a folder, compressed or not (.bz2, .gz, .xz, .zst). It selects the articles of a
wiki (or takes all documents), cleans them, splits them into sentences, encodes them, drops copies (also
near copies, and languages that are not wanted, on request), separates an evaluation split, and writes
shards of equal size with a manifest. The log says how each input was read. See docs/reference/text.md for
the rules and docs/reference/shards.md for the format of shards.

Examples:
    python data_tools/shard_wiki.py --input enwiki-latest-pages-articles.xml.bz2 \\
        --tokenizer bert-base-uncased-vocab.txt --output data/wiki --workers 16
    mpirun -n 8 python data_tools/shard_wiki.py --input enwiki-latest-pages-articles.xml.bz2 \\
        --tokenizer bert-base-uncased-vocab.txt --output data/wiki --workers 16
    python data_tools/shard_wiki.py --input novels/ --documents file \\
        --tokenizer bert-base-uncased-vocab.txt --output data/novels
    python data_tools/shard_wiki.py --input reviews.csv --text-field review --bad-lines skip \\
        --tokenizer bert-base-uncased-vocab.txt --output data/reviews
    python data_tools/shard_wiki.py --input saved_dataset/ --split train --deduplicate near \\
        --keep-languages en --tokenizer bert-base-uncased-vocab.txt --output data/web
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megabert.common.log import human_duration, run_command
from megabert.common.processes.stopping import stop_watch
from megabert.config.flags import plain_parser
from megabert.config.numbers import NonNegativeInt, PositiveInt, Probability, Processes, ShardCount
from megabert.config.values import ValueReader
from megabert.data.prepare.filters.choices import add_filter_flags, filters_of
from megabert.data.prepare.job import ShardingOptions, ShardingReport, shard
from megabert.data.prepare.notices.duplicates import MANY, WHAT
from megabert.data.shards.manifest import Manifest
from megabert.data.text.counts import language_lines, markup_lines
from megabert.data.text.languages import check_language
from megabert.data.text.reading import add_reading_flags

PROGRAM = "shard_wiki.py"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser(
        program, (__doc__ or "").replace(f"data_tools/{PROGRAM}", f"data_tools/{program}")
    )
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--input", nargs="+", required=True, type=Path, metavar="DUMP",
        help="dumps or other text: files, tar archives, folders of them, folders of the datasets "
        "library; read in this order",
    )  # fmt: skip
    what.add_argument(
        "--tokenizer", required=True, type=Path, metavar="FILE",
        help="vocab.txt, SentencePiece .model, tokenizer.json, or a folder with one of them",
    )  # fmt: skip
    what.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to create")
    what.add_argument(
        "--language", default="auto", metavar="CODE",
        help="language of the text, as in the wiki's address: en, zh, de (default: auto, the "
        "language that a dump names, and en for other text; logged)",
    )  # fmt: skip
    casing = what.add_mutually_exclusive_group()
    casing.add_argument(
        "--lower-case", dest="lower_case", action="store_true", default=None,
        help="lower-case the text; only for a bare vocab.txt (default: detected from it)",
    )  # fmt: skip
    casing.add_argument(
        "--cased", dest="lower_case", action="store_false", default=None,
        help="keep capitals; only for a bare vocab.txt (default: detected from it)",
    )  # fmt: skip
    add_reading_flags(parser, documents=True)
    content = parser.add_argument_group("selection and division of the documents")
    content.add_argument(
        "--shards", type=ValueReader(ShardCount), metavar="N",
        help="number of training shards (default: one per 33.5 million tokens)",
    )  # fmt: skip
    content.add_argument(
        "--eval-fraction", type=ValueReader(Probability), default=0.01, metavar="F",
        help="fraction of documents in the evaluation split, chosen by a hash; 0 for none "
        "(default: 0.01)",
    )  # fmt: skip
    content.add_argument(
        "--min-document-tokens", type=ValueReader(NonNegativeInt), default=32, metavar="N",
        help="drop documents with fewer tokens; 0 keeps all (default: 32)",
    )  # fmt: skip
    content.add_argument(
        "--max-pages", type=ValueReader(PositiveInt), metavar="N",
        help="stop after N documents of the input (of a wiki: N pages), for a trial run (default: "
        "read all)",
    )  # fmt: skip
    content.add_argument(
        "--word-boundaries", choices=("auto", "tokens", "jieba"), default="auto",
        help="words for whole-word masking: by the tokenizer's rule (tokens), or Chinese words as "
        "found by jieba (default: auto, which is jieba for zh)",
    )  # fmt: skip
    content.add_argument(
        "--seed",
        type=ValueReader(NonNegativeInt),
        default=0,
        metavar="N",
        help="seed of the evaluation split (default: 0)",
    )
    add_filter_flags(parser)
    work = parser.add_argument_group("execution (no flag here changes a byte of the result)")
    work.add_argument(
        "--workers", type=ValueReader(Processes), metavar="N",
        help="worker processes, per rank under mpirun, with less than 1 GiB of memory each "
        "(default: one per core; the ranks of a host share its cores)",
    )  # fmt: skip
    work.add_argument(
        "--resume", action="store_true",
        help="continue a stopped job in --output; if this run fails, keep its finished work",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command and return its exit status."""
    args = build_parser(program).parse_args(argv)
    options = ShardingOptions(
        inputs=tuple(args.input),
        tokenizer=args.tokenizer,
        output=args.output,
        input_format=args.input_format,
        documents=args.documents,
        line_breaks=args.line_breaks,
        line_marks=args.line_marks,
        text_field=args.text_field,
        bad_lines=args.bad_lines,
        language=check_language(args.language),
        lower_case=args.lower_case,
        shards=args.shards,
        eval_fraction=args.eval_fraction,
        min_document_tokens=args.min_document_tokens,
        max_pages=args.max_pages,
        seed=args.seed,
        word_boundaries=args.word_boundaries,
        workers=args.workers,
        resume=args.resume,
        split=args.split,
        filters=filters_of(args),
    )
    stop_watch().resumable("; continue with --resume")
    report = shard(options)
    if report is not None:
        print(summary(report, args.output))
    return 0


def dropped_counts(manifest: Manifest) -> str:
    """Documents dropped, by reason; many copies also as a share of all documents that were compared."""
    parts = []
    copies = sum(count for reason, count in manifest.dropped.items() if reason in WHAT)
    for reason, count in manifest.dropped.items():
        share = count / (copies + manifest.articles_kept)
        many = reason in WHAT and share > MANY
        parts.append(f"{count} {reason}" + (f" ({share:.1%})" if many else ""))
    return ", ".join(parts) or "none"


def summary(report: ShardingReport, output: Path) -> str:
    """The result in a few lines."""
    manifest = report.manifest
    lines = [
        f"{output}: {manifest.kept_of_read}, language {manifest.language}",
        f"dropped: {dropped_counts(manifest)}",
    ]
    lines += [
        f"given twice and read once: {info.repeated} file{'s' * (info.repeated != 1)} of {info.name}"
        for info in manifest.inputs
        if info.repeated
    ]
    lines += language_lines(manifest.languages)
    lines += markup_lines(manifest.markup, manifest.unknown_templates)
    lines += [
        f"{name}: {split.documents} documents, {split.sentences} sentences, "
        f"{split.tokens} tokens in {len(split.shards)} shard{'s' * (len(split.shards) != 1)}"
        for name, split in manifest.splits.items()
    ]
    sentences = sum(split.sentences for split in manifest.splits.values())
    tokens = sum(split.tokens for split in manifest.splits.values())
    documents = max(1, manifest.articles_kept)
    lines.append(
        f"mean length of a document: {sentences / documents:.1f} sentences, "
        f"{tokens / documents:.0f} tokens"
    )
    if report.batches:
        speed = report.text_bytes / 1e6 / max(report.worker_seconds, 1e-9)
        lines.append(
            f"time: {human_duration(report.seconds)}, {report.text_bytes / 1e6:.1f} MB of text, "
            f"{speed:.2f} MB/s per core"
            + (f", {report.reused} of {report.batches} batches reused" if report.reused else "")
        )
        lines.append(
            f"memory: at most {report.worker_memory >> 20} MiB in each of {report.workers} "
            f"workers, {report.main_memory >> 20} MiB in the main process"
        )
    else:
        lines.append("the job was already finished: no shard to write")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
