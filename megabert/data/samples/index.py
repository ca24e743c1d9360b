"""Which samples exist, and in which order an epoch takes them, without a list of either.

A document of T tokens is divided into cells of C tokens, C being the room for text in a sequence.
All cells of a document have full size except the remainder cell, which takes the rest:
n = max(1, floor((T - C/4) / C) + 1) cells, so the remainder cell has C/4 up to 5C/4 tokens (T if n
is 1). The place of the remainder cell is drawn for each (seed, epoch, document): each epoch cuts a
document at other places, while the number of samples depends on the document's length only.

The order of an epoch is a permutation of the samples, computed place by place: a Feistel network
over Z_a x Z_a with a = max(8, ceil(sqrt(samples))) (Luby and Rackoff 1988), applied again while its
value is not a sample ("cycle walking", Black and Rogaway 2002). Nothing is stored, and sample 10**9
costs the same as the first.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal, get_args

import numpy as np

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import (
    CounterRng,
    Ints,
    Purpose,
    Streams,
    Words,
    check_seed,
    one_stream,
)
from megabert.data.shards.spans import SentenceStarts

SentenceTask = Literal["nsp", "sop", "none"]
SHORTEST_SEQUENCE = 8  # tokens
_FEISTEL_ROUNDS = 8
_MIXING = [
    (np.array([shift], np.uint64), np.array([multiplier], np.uint64))
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
]
_LAST_SHIFT = np.array([31], np.uint64)
_FEISTEL_SIDE = 8  # at least: over smaller sides a network cannot make every permutation


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What a sample is, before masking.

    Args:
        seq_length: tokens in a padded sequence, special tokens included.
        sentence_task: "nsp" next sentence prediction (Devlin et al. 2019), "sop" sentence order
            prediction (Lan et al. 2020), or "none" (one segment, as Liu et al. 2019).
        short_sequence_fraction: fraction of samples cut to a random shorter length, 0 to 1.
        seed: whole number >= 0.

    Raises:
        UserError: a value out of its range.
    """

    seq_length: int
    sentence_task: SentenceTask = "nsp"
    short_sequence_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.seq_length < SHORTEST_SEQUENCE:
            raise UserError(
                f"sequence length {self.seq_length} is too short: at least {SHORTEST_SEQUENCE}"
            )
        if self.sentence_task not in get_args(SentenceTask):
            known = ", ".join(get_args(SentenceTask))
            raise UserError(
                f"sentence task {self.sentence_task!r} is not known: use one of {known}"
            )
        if not 0 <= self.short_sequence_fraction <= 1:
            raise UserError(
                f"short sequence fraction {self.short_sequence_fraction} is not within 0 to 1"
            )

    @property
    def paired(self) -> bool:
        """Whether a sample holds two segments."""
        return self.sentence_task != "none"

    @property
    def room(self) -> int:
        """Tokens of text in a full sequence: all except [CLS] and the [SEP] of each segment."""
        return self.seq_length - (3 if self.paired else 2)

    @property
    def smallest(self) -> int:
        """Tokens of the shortest possible sample: one per segment."""
        return 2 if self.paired else 1


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of N documents, each in one epoch.

    Args:
        lengths: tokens in each document, int64 [N].
        counts: cells of each, int64 [N].
        remainder: place of each remainder cell, 0 .. count-1, int64 [N].
        size: tokens in each of the other cells.
    """

    lengths: Ints
    counts: Ints
    remainder: Ints
    size: int

    @property
    def remainder_sizes(self) -> Ints:
        """Tokens in each remainder cell, int64 [N]."""
        return self.lengths - (self.counts - 1) * self.size

    def cell_sizes(self, cells: Ints) -> Ints:
        """Tokens in one cell of each document, [..., N] -> [..., N]."""
        return np.where(cells == self.remainder, self.remainder_sizes, self.size)

    def boundaries(self, cells: Ints) -> Ints:
        """First token of one cell of each document; for cell `count` the document's length.

        [..., N] -> [..., N].
        """
        after_remainder = (cells - 1) * self.size + self.remainder_sizes
        return np.where(cells <= self.remainder, cells * self.size, after_remainder)

    def boundaries_at_sentences(
        self, cells: Ints, sentences: SentenceStarts, smallest: int
    ) -> Ints:
        """The boundaries moved to the nearest sentence starts, where these are near enough.

        [..., N] -> [..., N].

        "Near enough" is within a quarter of a full cell, and less where a neighbouring cell could be
        left with fewer than `smallest` tokens. Boundaries keep their order, and the cells of a
        document cover it exactly. Ties go to the earlier sentence.
        """
        places = self.boundaries(cells)
        thinner = np.minimum(self.cell_sizes(cells - 1), self.cell_sizes(cells))
        reach = np.minimum(self.size // 4, (thinner - smallest) // 2)
        after = sentences.search(places)
        later, earlier = sentences.at(after), sentences.at(np.maximum(after - 1, 0))
        nearest = np.where(places - earlier <= later - places, earlier, later)
        inner = (cells > 0) & (cells < self.counts)
        return np.where(inner & (np.abs(nearest - places) <= reach), nearest, places)


class SampleIndex:
    """The samples of a split: their number, their places, and their order in each epoch.

    Args:
        document_ends: int64 [D], tokens of all documents up to and including each one.
        settings: what a sample is.
        documents: the documents of several corpora and their seeds, where these are joined; each has its
            samples and its own order. None: all with the settings' seed.

    It takes one int64 per document in addition to `document_ends`, for any number of epochs.

    Attributes:
        corpora: as ``documents``, for samples.
        corpus_sizes: samples of each corpus, int64 [K].
    """

    def __init__(
        self, document_ends: Ints, settings: SampleSettings, documents: Streams | None = None
    ) -> None:
        self.settings, self.document_ends = settings, document_ends
        lengths = np.diff(document_ends, prepend=0)
        room, smallest = settings.room, settings.smallest
        smallest_odd = max(smallest, room // 4)
        counts = np.maximum((lengths - smallest_odd) // room + 1, 1)
        counts[lengths < smallest] = 0
        self._ends = np.cumsum(counts)  # [D] samples up to and including each document
        self._documents = documents or one_stream(settings.seed)
        firsts = self._documents.firsts
        self._grid = CounterRng(self._documents, Purpose.GRID)
        self.corpora = Streams(self._documents.seeds, _totals_before(self._ends, firsts))
        self.corpus_sizes = np.diff(self.corpora.firsts, append=self.num_samples)
        self._sides = _sides(self.corpus_sizes.tolist())
        self._first_tokens = _totals_before(document_ends, firsts)
        self._corpus_tokens = np.diff(self._first_tokens, append=document_ends[-1:])

    @property
    def num_samples(self) -> int:
        """Samples in one epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, samples: Ints) -> tuple[Ints, Ints]:
        """Document and cell of each sample, [N] -> ([N], [N]).

        Raises:
            IndexError: a sample number outside 0 .. num_samples-1.
        """
        samples = np.asarray(samples, dtype=np.int64)
        if len(samples) and (samples.min() < 0 or samples.max() >= self.num_samples):
            raise IndexError(f"sample outside 0 .. {self.num_samples - 1}")
        documents = self._ends.searchsorted(samples, side="right")
        return documents, samples - before(self._ends, documents)

    def cells(self, epochs: Ints, documents: Ints) -> Cells:
        """The grid of each document in each epoch, [N] and [N]."""
        counts = self._ends[documents] - before(self._ends, documents)
        draws = self._grid.rows(epochs, documents, 1)[:, 0]
        remainder = ((draws * counts.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
        lengths = self.document_ends[documents] - before(self.document_ends, documents)
        return Cells(lengths, counts, remainder, self.settings.room)

    def corpus_tokens(self, documents: Ints) -> tuple[Ints, Ints]:
        """First token and number of tokens of each document's corpus, [N] -> [N] and [N]."""
        corpora = self._documents.of(documents)
        return self._first_tokens[corpora], self._corpus_tokens[corpora]

    def order(self, corpora: Ints, epochs: Ints, places: Ints) -> Ints:
        """The samples at these places of their corpora's orders of these epochs, three [N] -> [N].

        In each epoch the order of a corpus is a permutation of its samples.
        """
        seeds, count = self.corpora.seeds, len(self.corpora.seeds)
        orders = epochs * count + corpora
        distinct = sorted(set(orders.tolist()))
        keys = np.stack(
            [_feistel_keys((seeds[o % count], o // count, int(Purpose.ORDER))) for o in distinct]
        )
        which = np.searchsorted(distinct, orders if len(distinct) > 1 else orders[:1])
        own = corpora[: len(which)]
        sizes = self.corpus_sizes[own].astype(np.uint64)
        permuted = _permuted(places, sizes, self._sides[own], keys[which].T)
        return self.corpora.firsts[corpora] + permuted


def before(ends: Ints, documents: Ints) -> Ints:
    """The total before each document, given running totals over the documents: [N] -> [N]."""
    return np.where(documents > 0, ends[documents - 1], 0)


def _totals_before(ends: Ints, firsts: Ints) -> Ints:
    return np.array([int(ends[first - 1]) if first else 0 for first in firsts.tolist()], np.int64)


def permute(places: Ints, size: int, key: list[int]) -> Ints:
    """A pseudo-random permutation of 0 .. size-1, at these places only.

    Args:
        places: int64 [N], each within 0 .. size-1.
        size: how many numbers are permuted; at least 1.
        key: whole numbers >= 0 that choose the permutation.
    """
    keys = _feistel_keys(tuple(key))[:, None]
    return _permuted(places, np.array([size], np.uint64), _sides([size]), keys)


def _permuted(places: Ints, sizes: Words, sides: Words, keys: Words) -> Ints:
    """As `permute`, with sizes [N], sides [N] and keys [8, N] of each place; or of all, with N = 1."""
    values = _feistel(places.astype(np.uint64), sides, keys)
    outside = (values >= sizes).nonzero()[0]
    while len(outside):
        own = outside if len(sizes) > 1 else np.zeros(1, np.int64)
        walked = _feistel(values[outside], sides[own], keys[:, own])
        values[outside] = walked
        outside = outside[walked >= sizes[own]]
    return values.astype(np.int64)


@functools.lru_cache(maxsize=256)
def _feistel_keys(key: tuple[int, ...]) -> Words:
    """One key per round, [8]."""
    drawn: Words = (
        np.random.SeedSequence(key).generate_state(_FEISTEL_ROUNDS, np.uint64).astype(np.uint64)
    )
    return drawn


def _sides(sizes: list[int]) -> Words:
    """The sides of the squares that hold 0 .. size-1."""
    found = [max(_FEISTEL_SIDE, math.isqrt(max(0, size - 1)) + 1) for size in sizes]
    return np.array(found, np.uint64)


def _feistel(values: Words, sides: Words, keys: Words) -> Words:
    """One application to Z_side x Z_side: (l, r) -> (r, l + F(r)), a bijection whatever F is."""
    left: Words = values // sides
    right: Words = values % sides
    for key in keys:
        summed: Words = (left + _scramble(right ^ key) % sides) % sides
        left, right = right, summed
    return left * sides + right


def _scramble(values: Words) -> Words:
    """A 64-bit mixing function (the finaliser of Steele, Lea and Flood's SplitMix, 2014)."""
    for shift, multiplier in _MIXING:
        values = (values ^ (values >> shift)) * multiplier
    return values ^ (values >> _LAST_SHIFT)
