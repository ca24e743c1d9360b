"""Facts about one split of a folder of shards: lengths, vocabulary, samples of an epoch.

Tokens are counted a piece of ``PIECE_TOKENS`` at a time into arrays whose sizes depend on the
vocabulary and the longest document, so memory does not grow with the corpus, but for some 8-byte
numbers a document (its end and its samples), which training keeps as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.index import SentenceTask
from megabert.data.samples.pairs import SampleSettings
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.spans import Ints, Spans
from megabert.data.tokenizers.base import Tokenizer

PIECE_TOKENS = 2**22
PIECE_DOCUMENTS = 64
SEQUENCE_LENGTHS = (128, 512)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOKEN_SHARES = (0.5, 0.9, 0.99)
PADDING_SAMPLES = 2000
FREQUENT = 20


@dataclass(frozen=True)
class LengthCounts:
    """How many things have each length: int64 [longest + 1], ``counts[n]`` of them n tokens."""

    counts: Ints

    @property
    def total(self) -> int:
        """All of them."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean length; 0 for none."""
        return float(self.counts @ np.arange(len(self.counts))) / max(1, self.total)

    @property
    def extremes(self) -> tuple[int, int]:
        """Shortest and longest; (0, 0) for none."""
        present = np.flatnonzero(self.counts)
        return (int(present[0]), int(present[-1])) if len(present) else (0, 0)

    def quantile(self, share: float) -> int:
        """The least length that at least ``share`` of them do not exceed; 0 for none."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.total))

    def share_below(self, length: int) -> float:
        """Share of those shorter than ``length``, 0 to 1."""
        return float(self.counts[:length].sum()) / max(1, self.total)

    def histogram(self) -> list[tuple[int, int, int]]:
        """(first length, first length beyond, how many), by powers of two, without empty ends."""
        bins = []
        first = 1
        while first < len(self.counts):
            bins.append((first, 2 * first, int(self.counts[first : 2 * first].sum())))
            first *= 2
        while bins and not bins[0][2]:
            bins.pop(0)
        return bins

    def as_json(self) -> dict[str, Any]:
        """All of the above as JSON values."""
        least, most = self.extremes
        return {
            "count": self.total,
            "mean": self.mean,
            "min": least,
            "max": most,
            "quantiles": {str(share): self.quantile(share) for share in QUANTILES},
            "shorter_than": {str(n): self.share_below(n) for n in SEQUENCE_LENGTHS},
            "histogram": [
                {"from": first, "below": beyond, "count": count}
                for first, beyond, count in self.histogram()
            ],
        }


@dataclass(frozen=True)
class Vocabulary:
    """How often each entry occurs: int64 [V]; which entries are special; how many words.

    ``frequent``: the most frequent entries as the vocabulary writes them, and how often.
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
        """Counts of all entries but the special ones, int64 [V - 5]."""
        return np.delete(self.counts, list(self.special))

    @property
    def entries(self) -> int:
        """Entries that are not special."""
        return len(self.ordinary)

    @property
    def seen(self) -> int:
        """Those of them that occur."""
        return int(np.count_nonzero(self.ordinary))

    @property
    def unknown_share(self) -> float:
        """Share of [UNK] among the tokens, 0 to 1."""
        return int(self.counts[self.unk]) / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float:
        """Tokens a word is cut into, on average."""
        return self.tokens / max(1, self.words)

    def entries_for(self, share: float) -> int:
        """How many of the most frequent entries make up this share of all tokens."""
        if not self.tokens:
            return 0
        return int(np.searchsorted(np.cumsum(self.by_rank()), share * self.tokens)) + 1

    def by_rank(self) -> Ints:
        """Counts of the entries that occur, the most frequent first."""
        return np.sort(self.counts[self.counts > 0])[::-1]

    def as_json(self) -> dict[str, Any]:
        """The shares and counts as JSON values."""
        return {
            "entries": self.entries,
            "seen": self.seen,
            "unseen": self.entries - self.seen,
            "coverage": self.seen / self.entries,
            "tokens": self.tokens,
            "unknown_share": self.unknown_share,
            "words": self.words,
            "tokens_per_word": self.tokens_per_word,
            "entries_for_share": {str(s): self.entries_for(s) for s in TOKEN_SHARES},
            "most_frequent": [{"token": token, "count": n} for token, n in self.frequent],
        }


@dataclass(frozen=True)
class EpochFacts:
    """Samples of one epoch at one sequence length, and the share of padding among their tokens.

    ``samples`` is None where the split gives no samples of this task, and ``reason`` says why.
    Padding is the mean over the epoch's first ``measured_on`` samples, whose order is random.
    """

    seq_length: int
    sentence_task: SentenceTask
    samples: int | None
    padding: float
    measured_on: int
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
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
    """What :func:`read_statistics` finds in one split."""

    split: str
    documents: LengthCounts
    sentences: LengthCounts
    vocabulary: Vocabulary
    shard_tokens: tuple[int, ...]
    epochs: tuple[EpochFacts, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "split": self.split,
            "document_tokens": self.documents.as_json(),
            "sentence_tokens": self.sentences.as_json(),
            "vocabulary": self.vocabulary.as_json(),
            "epochs": [facts.as_json() for facts in self.epochs],
            "shard_tokens": list(self.shard_tokens),
        }


def read_statistics(
    corpus: Corpus,
    tokenizer: Tokenizer,
    sentence_task: SentenceTask,
    report: Callable[[int, int, str], None] | None = None,
) -> Statistics:
    """Read every token of a split.

    report: called with (tokens done, tokens in all, file) after each piece.
    Raises ``ShardError`` for a missing, foreign or damaged shard.
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
        for few in np.array_split(documents, -(-len(documents) // PIECE_DOCUMENTS)):
            sentences = _added(sentences, np.bincount(_sentence_lengths(corpus, few)))
        if report is not None:
            last = int(documents[-1])
            report(int(ends[last]), corpus.num_tokens, corpus.shard_of(last)[0].name)
    return Statistics(
        corpus.split,
        LengthCounts(np.bincount(corpus.document_lengths)),
        LengthCounts(sentences),
        _vocabulary(counts, words, tokenizer),
        tuple(shard.tokens for shard in corpus.manifest.splits[corpus.split].shards),
        tuple(_epoch_facts(corpus, length, sentence_task) for length in SEQUENCE_LENGTHS),
    )


def _pieces(ends: Ints) -> Iterator[Ints]:
    """Numbers of documents that lie together, of at most ``PIECE_TOKENS`` tokens, or one alone."""
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        beyond = int(np.searchsorted(ends, before + PIECE_TOKENS, side="right"))
        beyond = max(beyond, first + 1)
        yield np.arange(first, beyond, dtype=np.int64)
        first = beyond


def _sentence_lengths(corpus: Corpus, documents: Ints) -> Ints:
    """Tokens of every sentence of these documents, in no order."""
    sentences = corpus.sentences(documents)
    # a column a document; past its end the last start stands again, a sentence of no tokens
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
    """Sum of two arrays of counts; the shorter one counts 0 beyond its end."""
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    total = longer.astype(np.int64)
    total[: len(shorter)] += shorter
    return total


def _epoch_facts(corpus: Corpus, seq_length: int, task: SentenceTask) -> EpochFacts:
    try:
        source = SampleSource(corpus, SampleSettings(seq_length, task))
    except UserError as error:
        return EpochFacts(seq_length, task, None, 0.0, 0, str(error))
    measured = min(PADDING_SAMPLES, source.samples_per_epoch)
    real = int(source.lengths(np.arange(measured, dtype=np.int64)).sum())
    padding = 1 - real / (measured * seq_length)
    return EpochFacts(seq_length, task, source.samples_per_epoch, padding, measured)
