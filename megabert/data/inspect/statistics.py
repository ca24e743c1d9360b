"""Statistics of one split of a folder of shards: lengths, vocabulary, samples of an epoch.

Tokens are counted in pieces of ``PIECE_TOKENS``, into arrays whose sizes depend on the vocabulary
and the longest document. So memory does not grow with the corpus, except for a few 8-byte numbers
per document (its end and its samples), which training needs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.index import SampleSettings, SentenceTask
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.spans import Ints, Spans
from megabert.data.tokenizers.base import Tokenizer

PIECE_TOKENS = 2**22
PIECE_DOCUMENTS = 64
SEQUENCE_LENGTHS = (128, 512)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOKEN_FRACTIONS = (0.5, 0.9, 0.99)
PADDING_SAMPLES = 2000
FREQUENT = 20


@dataclass(frozen=True)
class LengthCounts:
    """A histogram of lengths: ``counts[n]`` documents (or sentences) have n tokens, int64."""

    counts: Ints

    @property
    def total(self) -> int:
        """Number of documents (or sentences)."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean length; 0 if there are none."""
        return float(self.counts @ np.arange(len(self.counts))) / max(1, self.total)

    @property
    def extremes(self) -> tuple[int, int]:
        """Smallest and largest length; (0, 0) if there are none."""
        present = np.flatnonzero(self.counts)
        return (int(present[0]), int(present[-1])) if len(present) else (0, 0)

    def quantile(self, fraction: float) -> int:
        """The smallest length that at least this fraction do not exceed; 0 if there are none."""
        return int(np.searchsorted(np.cumsum(self.counts), fraction * self.total))

    def fraction_below(self, length: int) -> float:
        """Fraction that is shorter than ``length``, 0 to 1."""
        return float(self.counts[:length].sum()) / max(1, self.total)

    def histogram(self) -> list[tuple[int, int, int]]:
        """(first length, end (exclusive), count) per bin, by powers of two, without empty ends."""
        bins = []
        first = 1
        while first < len(self.counts):
            bins.append((first, 2 * first, int(self.counts[first : 2 * first].sum())))
            first *= 2
        while bins and not bins[0][2]:
            bins.pop(0)
        return bins

    def as_json(self) -> dict[str, Any]:
        """All of these as JSON values."""
        least, most = self.extremes
        return {
            "count": self.total,
            "mean": self.mean,
            "min": least,
            "max": most,
            "quantiles": {str(q): self.quantile(q) for q in QUANTILES},
            "shorter_than": {str(n): self.fraction_below(n) for n in SEQUENCE_LENGTHS},
            "histogram": [
                {"from": first, "below": beyond, "count": count}
                for first, beyond, count in self.histogram()
            ],
        }


@dataclass(frozen=True)
class Vocabulary:
    """How often each entry of the vocabulary occurs.

    Attributes:
        counts: occurrences of each entry, int64 [V].
        special: ids of the special tokens.
        unk: id of [UNK].
        words: words counted.
        frequent: the most frequent entries, as the vocabulary writes them, with their counts.
    """

    counts: Ints
    special: tuple[int, ...]
    unk: int
    words: int
    frequent: tuple[tuple[str, int], ...]

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return int(self.counts.sum())

    @property
    def ordinary(self) -> Ints:
        """Counts of all entries except the special ones, int64 [V - 5]."""
        return np.delete(self.counts, list(self.special))

    @property
    def entries(self) -> int:
        """Number of entries that are not special."""
        return len(self.ordinary)

    @property
    def seen(self) -> int:
        """Number of these entries that occur."""
        return int(np.count_nonzero(self.ordinary))

    @property
    def unknown_fraction(self) -> float:
        """Fraction of [UNK] among the tokens, 0 to 1."""
        return int(self.counts[self.unk]) / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float:
        """Mean number of tokens per word."""
        return self.tokens / max(1, self.words)

    def entries_for(self, fraction: float) -> int:
        """How many of the most frequent entries cover this fraction of all tokens."""
        if not self.tokens:
            return 0
        return int(np.searchsorted(np.cumsum(self.by_rank()), fraction * self.tokens)) + 1

    def by_rank(self) -> Ints:
        """Counts of the entries that occur, in descending order."""
        return np.sort(self.counts[self.counts > 0])[::-1]

    def as_json(self) -> dict[str, Any]:
        """The fractions and counts as JSON values."""
        return {
            "entries": self.entries,
            "seen": self.seen,
            "unseen": self.entries - self.seen,
            "coverage": self.seen / self.entries,
            "tokens": self.tokens,
            "unknown_share": self.unknown_fraction,
            "words": self.words,
            "tokens_per_word": self.tokens_per_word,
            "entries_for_share": {str(f): self.entries_for(f) for f in TOKEN_FRACTIONS},
            "most_frequent": [{"token": token, "count": n} for token, n in self.frequent],
        }


@dataclass(frozen=True)
class EpochStatistics:
    """Samples of one epoch at one sequence length, and the fraction of padding in them.

    ``samples`` is None if the split gives no samples for this task; ``reason`` says why. Padding is
    the mean over the epoch's first ``measured_on`` samples, whose order is random.
    """

    seq_length: int
    sentence_task: SentenceTask
    samples: int | None
    padding: float
    measured_on: int
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        body = {
            "seq_length": self.seq_length,
            "sentence_task": self.sentence_task,
            "samples": self.samples,
        }
        if self.samples is None:
            return body | {"reason": self.reason}
        return body | {"padding_share": self.padding, "padding_measured_on": self.measured_on}


@dataclass(frozen=True)
class Statistics:
    """The result of :func:`read_statistics` for one split."""

    split: str
    documents: LengthCounts
    sentences: LengthCounts
    vocabulary: Vocabulary
    shard_tokens: tuple[int, ...]
    epochs: tuple[EpochStatistics, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "split": self.split,
            "document_tokens": self.documents.as_json(),
            "sentence_tokens": self.sentences.as_json(),
            "vocabulary": self.vocabulary.as_json(),
            "epochs": [epoch.as_json() for epoch in self.epochs],
            "shard_tokens": list(self.shard_tokens),
        }


def read_statistics(
    corpus: Corpus,
    tokenizer: Tokenizer,
    sentence_task: SentenceTask,
    report: Callable[[int, int, str], None] | None = None,
) -> Statistics:
    """Compute the statistics of a split; this reads every token.

    Args:
        report: called with (tokens done, tokens in total, file) after each piece.

    Raises:
        ShardError: a shard is missing, damaged, or belongs to another set.
    """
    ends = corpus.document_ends
    sentences = np.zeros(1, np.int64)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    words = 0
    for documents in _pieces(ends):
        lengths = corpus.document_lengths[documents]
        spans = Spans(documents, np.zeros_like(documents), lengths)
        counts += np.bincount(corpus.read_tokens(spans), minlength=len(counts))
        words += int(np.count_nonzero(corpus.read_word_starts(spans)))
        for part in np.array_split(documents, -(-len(documents) // PIECE_DOCUMENTS)):
            sentences = _added(sentences, np.bincount(_sentence_lengths(corpus, part)))
        if report is not None:
            last = int(documents[-1])
            report(int(ends[last]), corpus.num_tokens, corpus.shard_of(last)[0].name)
    return Statistics(
        corpus.split,
        LengthCounts(np.bincount(corpus.document_lengths)),
        LengthCounts(sentences),
        _vocabulary(counts, words, tokenizer),
        tuple(shard.tokens for shard in corpus.manifest.splits[corpus.split].shards),
        tuple(_epoch_statistics(corpus, length, sentence_task) for length in SEQUENCE_LENGTHS),
    )


def _pieces(ends: Ints) -> Iterator[Ints]:
    """Consecutive document numbers with at most ``PIECE_TOKENS`` tokens, or one longer document."""
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        beyond = int(np.searchsorted(ends, before + PIECE_TOKENS, side="right"))
        beyond = max(beyond, first + 1)
        yield np.arange(first, beyond, dtype=np.int64)
        first = beyond


def _sentence_lengths(corpus: Corpus, documents: Ints) -> Ints:
    """Tokens of every sentence of these documents, in no particular order."""
    sentences = corpus.sentences(documents)
    # One column per document, padded by its last start, which gives sentences of 0 tokens.
    numbers = np.minimum(np.arange(sentences.counts.max())[:, None], sentences.counts - 1)
    lengths = np.diff(sentences.at(numbers), axis=0)
    return lengths[lengths > 0]


def _vocabulary(counts: Ints, words: int, tokenizer: Tokenizer) -> Vocabulary:
    ranked = np.argsort(-counts, kind="stable")[:FREQUENT]
    ranked = ranked[counts[ranked] > 0]
    frequent = tuple(zip(tokenizer.tokens(ranked), counts[ranked].tolist()))
    special = tokenizer.special
    return Vocabulary(counts, special.values(), special.unk, words, frequent)


def _added(left: Ints, right: Ints) -> Ints:
    """Sum of two arrays of counts; the shorter one is padded with zeros."""
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    total = longer.astype(np.int64)
    total[: len(shorter)] += shorter
    return total


def _epoch_statistics(corpus: Corpus, seq_length: int, task: SentenceTask) -> EpochStatistics:
    try:
        source = SampleSource(corpus, SampleSettings(seq_length, task))
    except UserError as error:
        return EpochStatistics(seq_length, task, None, 0.0, 0, str(error))
    measured = min(PADDING_SAMPLES, source.samples_per_epoch)
    real = int(source.lengths(np.arange(measured, dtype=np.int64)).sum())
    padding = 1 - real / (measured * seq_length)
    return EpochStatistics(seq_length, task, source.samples_per_epoch, padding, measured)
