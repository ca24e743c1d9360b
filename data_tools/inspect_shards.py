"""Show what a folder of shards holds, and check that it is complete and undamaged.

The totals come from the manifest and take no time. --statistics and --plot read every token of a
split, about 40 million per second on one core; --verify reads every byte of every file.

Examples:
    python data_tools/inspect_shards.py data/wiki
    python data_tools/inspect_shards.py data/wiki --verify
    python data_tools/inspect_shards.py data/wiki --show 3
    python data_tools/inspect_shards.py data/wiki --samples 4 --masking whole-word
    python data_tools/inspect_shards.py data/wiki --statistics --plot wiki.png
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from megabert.common import names
from megabert.common.log import run_command
from megabert.common.progress import Progress
from megabert.config.flags import plain_parser
from megabert.config.numbers import NonNegativeInt, Size
from megabert.config.values import ValueReader
from megabert.data.foreign.files import is_foreign
from megabert.data.inspect.findings import (
    Findings,
    findings_as_json,
    findings_lines,
    random_articles,
)
from megabert.data.inspect.plot import check_plot, write_plot
from megabert.data.inspect.shown_samples import ShownSample, show_samples
from megabert.data.inspect.statistics import Statistics, read_statistics
from megabert.data.inspect.verify import verify_folder
from megabert.data.samples.index import SampleSettings, SentenceTask
from megabert.data.samples.masking import Masking, MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest, ShardError, load_manifest
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser("inspect_shards.py", __doc__)
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of shards, as made by shard_wiki.py"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--split", choices=names.SPLITS, default=names.TRAIN,
        help="split that the flags below read; --verify checks all splits (default: train)",
    )  # fmt: skip
    whole = parser.add_argument_group("the whole split (takes time, see above)")
    whole.add_argument(
        "--verify", action="store_true",
        help="check every byte of every shard, the tokenizer's files and the manifest",
    )  # fmt: skip
    whole.add_argument(
        "--statistics", action="store_true",
        help="lengths of documents and sentences, use of the vocabulary, and samples and padding "
        "of one epoch at sequence lengths 128 and 512",
    )  # fmt: skip
    whole.add_argument(
        "--plot", type=Path, metavar="FILE.png",
        help="plot document lengths, tokens per shard and token frequency (needs matplotlib)",
    )  # fmt: skip
    articles = parser.add_argument_group("documents")
    articles.add_argument(
        "--show",
        type=ValueReader(NonNegativeInt),
        default=0,
        metavar="N",
        help="print the text of N random documents",
    )
    articles.add_argument(
        "--sentences", type=ValueReader(NonNegativeInt), default=8, metavar="N",
        help="at most N sentences per document, 0 for all (default: 8)",
    )  # fmt: skip
    training = parser.add_argument_group("training samples")
    training.add_argument(
        "--samples", type=ValueReader(NonNegativeInt), default=0, metavar="N",
        help="print the first N samples of a run, with the predicted tokens marked",
    )  # fmt: skip
    training.add_argument(
        "--seq-length",
        type=ValueReader(Size),
        default=128,
        metavar="N",
        help="tokens per sample (default: 128)",
    )
    training.add_argument(
        "--masking", choices=get_args(Masking), default="token",
        help="unit that is masked as a whole (default: token)",
    )  # fmt: skip
    training.add_argument(
        "--sentence-task", choices=get_args(SentenceTask), default="nsp",
        help="sentence task that pairs the segments; also for --statistics (default: nsp)",
    )  # fmt: skip
    training.add_argument(
        "--seed", type=ValueReader(NonNegativeInt), default=0, metavar="N",
        help="seed of the run; with --show, of the choice of documents (default: 0)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = build_parser().parse_args(argv)
    sample_settings = SampleSettings(args.seq_length, args.sentence_task, seed=args.seed)
    if args.plot is not None:
        check_plot(args.plot)
    if args.folder.is_dir() and is_foreign(args.folder):
        raise ShardError(
            f"{args.folder}: these are shards of another program; data_tools/import_shards.py "
            "converts them into a folder that this command reads"
        )
    manifest = load_manifest(args.folder)
    found = _find(args, manifest, sample_settings)
    if args.json:
        print(json.dumps(findings_as_json(manifest, found), indent=2, ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(findings_lines(args.folder, manifest, found, colour)))
    return 0


def _find(args: argparse.Namespace, manifest: Manifest, settings: SampleSettings) -> Findings:
    if args.verify:
        _verify(args.folder)
    else:
        for name, split in manifest.splits.items():
            if split.shards:
                Corpus.open(args.folder, name)  # checks that every file exists and its size
    if not (args.show or args.samples or args.statistics or args.plot):
        return Findings(verified=args.verify)
    corpus = Corpus.open(args.folder, args.split)
    tokenizer = load_tokenizer(args.folder / names.TOKENIZER_FOLDER)
    articles = random_articles(corpus, tokenizer, args.show, args.sentences, args.seed)
    samples: list[ShownSample] = []
    if args.samples:
        source = SampleSource(corpus, settings, MaskSettings(args.masking))
        samples = show_samples(source, corpus, tokenizer, args.samples)
    statistics = None
    if args.statistics or args.plot:
        statistics = _statistics(corpus, tokenizer, args.sentence_task)
        if args.plot:
            write_plot(args.plot, f"{args.folder.resolve().name}, {args.split}", statistics)
    shown = statistics if args.statistics else None
    return Findings(args.verify, shown, articles, samples, args.plot)


def _verify(folder: Path) -> None:
    progress = Progress("verifying", 1.0)
    verify_folder(
        folder,
        lambda done, total, file: progress.update(done / total, f"{done / 1e6:.0f} MB  {file}"),
    )
    progress.close("done")


def _statistics(corpus: Corpus, tokenizer: Tokenizer, task: SentenceTask) -> Statistics:
    progress = Progress("reading tokens", 1.0)
    statistics = read_statistics(
        corpus,
        tokenizer,
        task,
        lambda done, total, file: progress.update(done / total, f"{done / 1e6:.0f} M  {file}"),
    )
    progress.close(f"{statistics.vocabulary.tokens / 1e6:.0f} M")
    return statistics


if __name__ == "__main__":
    sys.exit(run_command(main))
