"""Show what a folder of shards holds, and check that it is whole.

The totals come from the manifest and take no time. --statistics and --plot read every token of a
split, some 40 million a second on one core; --verify reads every byte of every file.

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
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.log import run_command
from megabert.common.progress import Progress
from megabert.config.flags import plain_parser
from megabert.data.foreign.files import is_foreign
from megabert.data.inspect.plot import check_plot, write_plot
from megabert.data.inspect.report import statistics_lines, total_lines, totals_as_json
from megabert.data.inspect.shown_samples import Kind, ShownSample, show_samples
from megabert.data.inspect.statistics import Statistics, read_statistics
from megabert.data.inspect.verify import verify_folder
from megabert.data.samples.index import SampleSettings, SentenceTask
from megabert.data.samples.masking import Masking, MaskSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest, ShardError, load_manifest
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer

COLOURS: dict[Kind, str] = {"mask": "33", "random": "31", "kept": "32"}


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser("inspect_shards.py", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder made by shard_wiki.py")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--split", choices=names.SPLITS, default=names.TRAIN,
        help="what the flags below read, but for --verify, which checks all (default: train)",
    )  # fmt: skip
    whole = parser.add_argument_group("over the whole split (takes time, see above)")
    whole.add_argument(
        "--verify", action="store_true",
        help="check every byte of every shard, the tokenizer's files and the manifest",
    )  # fmt: skip
    whole.add_argument(
        "--statistics", action="store_true",
        help="lengths of documents and sentences, how much of the vocabulary occurs, and the "
        "samples and padding of an epoch at 128 and 512",
    )  # fmt: skip
    whole.add_argument(
        "--plot", type=Path, metavar="FILE.png",
        help="draw document lengths, tokens of each shard and token frequency (needs matplotlib)",
    )  # fmt: skip
    articles = parser.add_argument_group("articles")
    articles.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the text of N random articles"
    )
    articles.add_argument(
        "--sentences", type=int, default=8, metavar="N",
        help="at most N sentences of each article, 0 for all (default: 8)",
    )  # fmt: skip
    training = parser.add_argument_group("training samples")
    training.add_argument(
        "--samples", type=int, default=0, metavar="N",
        help="print the first N samples of a run, with the predicted tokens marked",
    )  # fmt: skip
    training.add_argument(
        "--seq-length", type=int, default=128, metavar="N", help="tokens a sample (default: 128)"
    )
    training.add_argument(
        "--masking", choices=get_args(Masking), default="token",
        help="what is masked together (default: token)",
    )  # fmt: skip
    training.add_argument(
        "--sentence-task", choices=get_args(SentenceTask), default="nsp",
        help="how segments are paired; also for --statistics (default: nsp)",
    )  # fmt: skip
    training.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="seed of the run; with --show: which articles (default: 0)",
    )  # fmt: skip
    return parser


@dataclass
class Findings:
    """What was asked for beyond the totals."""

    verified: bool = False
    statistics: Statistics | None = None
    articles: list[dict[str, Any]] = field(default_factory=list)
    samples: list[ShownSample] = field(default_factory=list)
    plot: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = build_parser().parse_args(argv)
    for name in ("show", "sentences", "samples", "seed"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: expected 0 or more")
    sample_settings = SampleSettings(args.seq_length, args.sentence_task, seed=args.seed)
    if args.plot is not None:
        check_plot(args.plot)
    if args.folder.is_dir() and is_foreign(args.folder):
        raise ShardError(
            f"{args.folder}: these are shards of another program; data_tools/import_shards.py "
            "turns them into a folder that this command reads"
        )
    manifest = load_manifest(args.folder)
    found = _find(args, manifest, sample_settings)
    if args.json:
        print(json.dumps(as_json(manifest, found), indent=2, ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(as_lines(args.folder, manifest, found, colour)))
    return 0


def _find(args: argparse.Namespace, manifest: Manifest, settings: SampleSettings) -> Findings:
    if args.verify:
        _verify(args.folder)
    else:
        for name, split in manifest.splits.items():
            if split.shards:
                Corpus.open(args.folder, name)  # every file is there and as long as it should be
    found = Findings(verified=args.verify)
    if not (args.show or args.samples or args.statistics or args.plot):
        return found
    corpus = Corpus.open(args.folder, args.split)
    tokenizer = load_tokenizer(args.folder / names.TOKENIZER_FOLDER)
    if args.show:
        found.articles = _articles(args, corpus, tokenizer)
    if args.samples:
        source = SampleSource(corpus, settings, MaskSettings(args.masking))
        found.samples = show_samples(source, corpus, tokenizer, args.samples)
    if args.statistics or args.plot:
        statistics = _statistics(corpus, tokenizer, args.sentence_task)
        if args.statistics:
            found.statistics = statistics
        if args.plot:
            write_plot(args.plot, f"{args.folder.resolve().name}, {args.split}", statistics)
            found.plot = args.plot
    return found


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


def _articles(
    args: argparse.Namespace, corpus: Corpus, tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    chosen = random.Random(args.seed).sample(
        range(corpus.num_documents), min(args.show, corpus.num_documents)
    )
    return [_article(corpus, tokenizer, number, args) for number in chosen]


def _article(
    corpus: Corpus, tokenizer: Tokenizer, document: int, args: argparse.Namespace
) -> dict[str, Any]:
    starts = corpus.sentence_starts(document)
    ids = corpus.tokens(document)
    pairs = list(pairwise(starts))
    shown = pairs[: args.sentences] if args.sentences else pairs
    sentences = [tokenizer.decode(ids[a:b]) for a, b in shown]
    if len(shown) < len(pairs):
        sentences.append(f"... {len(pairs) - len(shown)} more sentences")
    return {
        "split": args.split,
        "page_id": corpus.document_id(document),
        "tokens": len(ids),
        "sentences": sentences,
    }


# --- as JSON ---------------------------------------------------------------------------------


def as_json(manifest: Manifest, found: Findings) -> dict[str, Any]:
    """Totals, splits, dropped articles by reason and the tokenizer, and what was asked for."""
    body = totals_as_json(manifest) | {"verified": found.verified}
    if found.articles:
        body["samples"] = found.articles
    if found.samples:
        body["training_samples"] = [sample.as_json() for sample in found.samples]
    if found.statistics is not None:
        body["statistics"] = found.statistics.as_json()
    if found.plot is not None:
        body["plot"] = str(found.plot)
    return body


# --- as text ---------------------------------------------------------------------------------


def as_lines(folder: Path, manifest: Manifest, found: Findings, colour: bool) -> list[str]:
    """The same for people; ``colour`` sets off predicted tokens by ANSI colours."""
    lines = total_lines(folder, manifest)
    if found.verified:
        lines.append("verified: every byte of every shard is as it was written")
    if found.plot is not None:
        lines.append(f"plot: {found.plot}")
    if found.statistics is not None:
        lines += ["", *statistics_lines(found.statistics)]
    for article in found.articles:
        lines += [
            "",
            f"--- {article['split']} page {article['page_id']} ({article['tokens']} tokens)",
            *article["sentences"],
        ]
    if found.samples:
        lines += [
            "",
            "predicted tokens: [MASK→x] x is masked, [y→x] x is replaced by a random y, "
            "[=x] x is kept",
        ]
    for sample in found.samples:
        lines += ["", *_sample_lines(sample, colour)]
    return lines


def _sample_lines(sample: ShownSample, colour: bool) -> list[str]:
    def paint(text: str, kind: Kind) -> str:
        return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m" if colour else text

    head = (
        f"--- sample {sample.number}: {sample.length} tokens of {sample.seq_length}, "
        f"{len(sample.predicted)} predicted"
    )
    if sample.label is not None:
        head += f", {sample.sentence_task} label {sample.label}: {sample.label_text}"
    lines = [head]
    for name, page, text in zip("AB", sample.page_ids, sample.texts(paint)):
        lines.append(f"{name} (page {page}): {text}")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
