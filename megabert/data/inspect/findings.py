"""What ``inspect_shards.py`` shows in addition to the totals, as JSON and as text."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from megabert.data.inspect.report import statistics_lines, total_lines, totals_as_json
from megabert.data.inspect.shown_samples import ShownSample, TokenKind
from megabert.data.inspect.statistics import Statistics
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest
from megabert.data.tokenizers.base import Tokenizer

COLOURS: dict[TokenKind, str] = {"mask": "33", "random": "31", "kept": "32"}
"""ANSI colours of predicted tokens."""


@dataclass(frozen=True)
class ShownArticle:
    """A document: its length in tokens and its first sentences, decoded."""

    split: str
    page_id: int
    tokens: int
    sentences: list[str]


@dataclass(frozen=True)
class Findings:
    """What the flags asked for in addition to the totals."""

    verified: bool = False
    statistics: Statistics | None = None
    articles: list[ShownArticle] = field(default_factory=list)
    samples: list[ShownSample] = field(default_factory=list)
    plot: Path | None = None


def random_articles(
    corpus: Corpus, tokenizer: Tokenizer, count: int, sentences: int, seed: int
) -> list[ShownArticle]:
    """``count`` random documents of a corpus, with at most ``sentences`` sentences (0: all)."""
    chosen = random.Random(seed).sample(
        range(corpus.num_documents), min(count, corpus.num_documents)
    )
    return [_article(corpus, tokenizer, number, sentences) for number in chosen]


def _article(
    corpus: Corpus, tokenizer: Tokenizer, document: int, most_sentences: int
) -> ShownArticle:
    ids = corpus.tokens(document)
    bounds = list(pairwise(corpus.sentence_starts(document)))
    shown = bounds[:most_sentences] if most_sentences else bounds
    sentences = [tokenizer.decode(ids[start:stop]) for start, stop in shown]
    if len(shown) < len(bounds):
        sentences.append(f"... {len(bounds) - len(shown)} more sentences")
    return ShownArticle(corpus.split, corpus.document_id(document), len(ids), sentences)


def findings_as_json(manifest: Manifest, found: Findings) -> dict[str, Any]:
    """The totals and the findings as JSON values."""
    body = totals_as_json(manifest) | {"verified": found.verified}
    if found.articles:
        body["samples"] = [vars(article) for article in found.articles]
    if found.samples:
        body["training_samples"] = [sample.as_json() for sample in found.samples]
    if found.statistics is not None:
        body["statistics"] = found.statistics.as_json()
    if found.plot is not None:
        body["plot"] = str(found.plot)
    return body


def findings_lines(folder: Path, manifest: Manifest, found: Findings, colour: bool) -> list[str]:
    """The totals and the findings as text; ``colour`` marks predicted tokens by ANSI colours."""
    lines = total_lines(folder, manifest)
    if found.verified:
        lines.append(
            "verified: no byte of any shard has changed since it was written, and no token is a special one"
        )
    if found.plot is not None:
        lines.append(f"plot: {found.plot}")
    if found.statistics is not None:
        lines += ["", *statistics_lines(found.statistics)]
    noun = "page" if manifest.of_wikis else "document"
    for article in found.articles:
        lines += [
            "",
            f"--- {article.split} {noun} {article.page_id} ({article.tokens} tokens)",
            *article.sentences,
        ]
    if found.samples:
        lines += [
            "",
            "predicted tokens: [MASK→x] x is masked, [y→x] a random y replaces x, "
            "[=x] x is unchanged",
        ]
    for sample in found.samples:
        lines += ["", *_sample_lines(sample, colour)]
    return lines


def _sample_lines(sample: ShownSample, colour: bool) -> list[str]:
    def paint(text: str, kind: TokenKind) -> str:
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
