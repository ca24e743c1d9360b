"""Show what a folder of shards holds, and check that it is whole.

Examples:
    python data_tools/inspect_shards.py data/wiki
    python data_tools/inspect_shards.py data/wiki --verify
    python data_tools/inspect_shards.py data/wiki --show 3
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from megabert import naming
from megabert.data.schema import Manifest, load_manifest
from megabert.data.shards import Corpus
from megabert.data.tokenization import Tokenizer, load_tokenizer
from megabert.data.verification import verify_folder
from megabert.flags import plain_parser
from megabert.log import Progress, UserError, run_command


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = plain_parser("inspect_shards.py", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder made by shard_wiki.py")
    parser.add_argument(
        "--verify", action="store_true",
        help="check every byte of every shard, the tokenizer's files and the manifest",
    )  # fmt: skip
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the text of N random articles"
    )
    parser.add_argument(
        "--sentences", type=int, default=8, metavar="N",
        help="with --show: at most N sentences of each article, 0 for all (default: 8)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=naming.SPLITS, default=naming.TRAIN,
        help="with --show: from which split (default: train)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="with --show: which articles (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = build_parser().parse_args(argv)
    if args.show < 0 or args.sentences < 0:
        raise UserError("--show and --sentences: expected 0 or more")
    manifest = load_manifest(args.folder)
    if args.verify:
        progress = Progress("verifying", 1.0)
        verify_folder(
            args.folder,
            lambda done, total, file: progress.update(done / total, f"{done / 1e6:.0f} MB  {file}"),
        )
    else:
        for name, split in manifest.splits.items():
            if split.shards:
                Corpus.open(args.folder, name)  # every file is there and as long as it should be
    samples = _samples(args) if args.show else []
    if args.json:
        print(json.dumps(as_json(manifest, args.verify, samples), indent=2, ensure_ascii=False))
    else:
        print(as_text(args.folder, manifest, args.verify, samples))
    return 0


def as_json(manifest: Manifest, verified: bool, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals, splits, dropped articles by reason, and the tokenizer as JSON values."""
    splits = manifest.splits
    content = manifest.content()
    body = {
        "documents": manifest.articles_kept,
        "sentences": sum(split.sentences for split in splits.values()),
        "tokens": sum(split.tokens for split in splits.values()),
        "shards": sum(len(split.shards) for split in splits.values()),
        "splits": {
            name: {
                "documents": split.documents,
                "sentences": split.sentences,
                "tokens": split.tokens,
                "shards": len(split.shards),
            }
            for name, split in splits.items()
        },
        "dropped": dict(manifest.dropped),
        "tokenizer": content["tokenizer"],
        "articles_read": manifest.articles_read,
        "repeated_sentence_share": manifest.repeated_sentence_share,
        "language": manifest.language,
        "seed": manifest.seed,
        "inputs": content["inputs"],
        "options": content["options"],
        "fingerprint": manifest.fingerprint,
        "verified": verified,
    }
    return body | ({"samples": samples} if samples else {})


def as_text(folder: Path, manifest: Manifest, verified: bool, samples: list[dict[str, Any]]) -> str:
    """The same for people."""
    tokenizer = manifest.tokenizer
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
    lines = [
        f"{folder}: {manifest.articles_kept} articles of {manifest.articles_read} pages, "
        f"language {manifest.language}",
        f"dropped: {dropped or 'none'}",
        f"repeated sentences: {100 * manifest.repeated_sentence_share:.1f} %",
        f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size} entries, "
        f"{'lower case' if tokenizer.lower_case else 'cased'}, {tokenizer.sha256[:16]}",
    ]
    lines += [f"input: {i.name}, {i.bytes} bytes, {i.sha256[:16]}" for i in manifest.inputs]
    for name, split in manifest.splits.items():
        lines.append(
            f"{name}: {split.documents} documents, {split.sentences} sentences, "
            f"{split.tokens} tokens in {len(split.shards)} shards"
        )
        if len(split.shards) > 1:
            sizes = [info.tokens for info in split.shards]
            lines.append(f"  tokens a shard: {min(sizes)} to {max(sizes)}")
    if verified:
        lines.append("verified: every byte of every shard is as it was written")
    for sample in samples:
        lines += ["", f"--- {sample['split']} page {sample['page_id']} ({sample['tokens']} tokens)"]
        lines += sample["sentences"]
    return "\n".join(lines)


def _samples(args: argparse.Namespace) -> list[dict[str, Any]]:
    corpus = Corpus.open(args.folder, args.split)
    tokenizer = load_tokenizer(args.folder / naming.TOKENIZER_FOLDER)
    chosen = random.Random(args.seed).sample(
        range(corpus.num_documents), min(args.show, corpus.num_documents)
    )
    return [_sample(corpus, tokenizer, number, args) for number in chosen]


def _sample(
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


if __name__ == "__main__":
    sys.exit(run_command(main))
