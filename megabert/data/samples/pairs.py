"""The text of samples: which sentences are in segments A and B, and how the two are related.

A sample is a cell of its document (see `index`). Its text starts at the cell's boundary and extends
to the next boundary, and further to the first sentence end at which the cell's size is reached, so
that sequences are full although boundaries were moved to sentences. A fraction of the samples (one
in ten by default) is short: the text starts at a random sentence of the cell and takes whole
sentences until a random length is reached.

- "nsp": A is the first part of the text, up to a random sentence end. In half of the samples B is
  the rest. In the other half B comes from another document of the whole corpus, chosen with a
  probability proportional to its length. It starts at a random sentence there and takes whole
  sentences to about the length of the rest, so that the length does not reveal the label. Label 0:
  B is the rest ("is next"); label 1: B is random.
- "sop": A and B are the two parts of the text; label 1: they are swapped.
- "none": one segment.

Text of a single sentence is split before a random word, and a random B then starts within a
sentence, too. If both segments together are too long, the longer one loses tokens, one by one,
each at its front or its back at random, as in Devlin et al. (2019).

The texts of a batch are planned together: a `PairPlan` holds for each sample which tokens of which
documents it takes. Planning reads sentence starts, and word starts where text of a single sentence
is split, but no tokens.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megabert.common.errors import UserError
from megabert.data.samples.counter_rng import (
    CounterRng,
    Ints,
    Purpose,
    Streams,
    Words,
    below64,
    below64_wide,
)
from megabert.data.samples.index import Cells, SampleIndex, SampleSettings, before
from megabert.data.shards.spans import Flags, SentenceStarts, Spans

Tokens = npt.NDArray[np.integer[Any]]

_SHORT, _SHORT_LENGTH, _SHORT_START, _PART, _LABEL, _OTHER, _SENTENCE, _INSIDE, _TRIM = range(9)
_DRAW_BITS = 64
_HERE_AND_NEXT = np.array([[0], [1]])


class CorpusLike(Protocol):
    """What the loader reads of a split of a corpus; documents are numbered over all its shards."""

    @property
    def manifest(self) -> Any:
        """The corpus's manifest; `.tokenizer` holds vocabulary size and special ids."""

    @property
    def document_ends(self) -> Ints:
        """Tokens of all documents up to and including each one, int64 [D]."""

    def sentences(self, documents: Ints) -> SentenceStarts:
        """The sentence starts of these documents, [N]."""

    def read_tokens(self, spans: Spans) -> Tokens:
        """Token ids of the spans, concatenated, integers [sum of lengths]."""

    def read_word_starts(self, spans: Spans) -> Flags:
        """Whether each token of the spans starts a word, bool [sum of lengths]."""

    def shard_of(self, document: int) -> tuple[Any, int]:
        """The file that holds a document, and the document's number in it."""


@dataclasses.dataclass(frozen=True)
class PairPlan:
    """Which text N samples hold, without special tokens.

    Args:
        first: segment A; at least one token each.
        second: segment B; at least one token each, or none for the task "none". Both together have
            at most the settings' `room`.
        labels: int64 [N], 0: B follows A; 1: it does not (see the module); -1: no sentence task.
    """

    first: Spans
    second: Spans
    labels: Ints

    @property
    def lengths(self) -> Ints:
        """Tokens of A and B together, int64 [N]."""
        return self.first.lengths + self.second.lengths


class PairMaker:
    """Plans the text of samples; a pure function of (corpus, settings, epoch, sample).

    Args:
        corpus: the split to read.
        settings: what a sample is.
        documents: see `SampleIndex`; a random B comes from the corpus of its A.

    Raises:
        UserError: the split holds no sample, or "nsp" has no second document to take from.
    """

    def __init__(
        self, corpus: CorpusLike, settings: SampleSettings, documents: Streams | None = None
    ) -> None:
        self.corpus, self.settings = corpus, settings
        self.index = SampleIndex(corpus.document_ends, settings, documents)
        if self.index.num_samples == 0:
            raise UserError(f"{_name(corpus)} holds no text to make samples from; shard more text")
        if settings.sentence_task == "nsp" and not _several_documents(corpus.document_ends):
            raise UserError(
                f"{_name(corpus)} holds one document only: next sentence prediction needs a "
                "second one (--sentence-task sop or none does not)"
            )
        self._rng = CounterRng(self.index.corpora, Purpose.PAIR)
        self._trim_draws = settings.room // _DRAW_BITS + 1  # for A; the same number for B

    def plan(self, epochs: Ints, samples: Ints) -> PairPlan:
        """The text of sample `samples[i]` in epoch `epochs[i]`, both int64 [N].

        Raises:
            UserError: the corpus is damaged.
        """
        documents, places = self.index.locate(samples)
        cells = self.index.cells(epochs, documents)
        sentences = self.corpus.sentences(documents)
        draws = _Draws(self._rng.rows(epochs, samples, 2 * (_TRIM + 2 * self._trim_draws)))
        text = self._text(documents, places, cells, sentences, draws)
        if self.settings.sentence_task == "none":
            return self._one_segment(text, draws)
        return self._two_segments(text, sentences, draws)

    def _text(
        self,
        documents: Ints,
        places: Ints,
        cells: Cells,
        sentences: SentenceStarts,
        draws: _Draws,
    ) -> Spans:
        """The text of each sample before it is split; it may be longer than the room."""
        room, smallest = self.settings.room, self.settings.smallest
        edges = places + _HERE_AND_NEXT  # [2, N]
        starts, stops = cells.boundaries_at_sentences(edges, sentences, smallest)
        wanted = np.minimum(room, cells.cell_sizes(places))
        short = draws.chance(_SHORT, self.settings.short_sequence_fraction)
        if short.any():
            shorter = np.minimum(wanted, 2 + draws.below(_SHORT_LENGTH, room - 1))
            wanted = np.where(short, shorter, wanted)
            begin = sentences.search(starts + 1)
            choices = np.maximum(0, sentences.search(stops - wanted + 1) - begin)
            pick = draws.below(_SHORT_START, 1 + choices)
            moved = sentences.at(np.maximum(begin + pick - 1, 0))
            starts = np.where(short & (pick > 0), moved, starts)
            stops = np.where(short, starts, stops)
        ends = sentences.end_from(starts + wanted, room // 4)
        return Spans(documents, starts, np.maximum(stops, ends))

    def _one_segment(self, text: Spans, draws: _Draws) -> PairPlan:
        """All text in A; what exceeds the room is cut at the front or at the back, at random."""
        excess = np.maximum(0, text.lengths - self.settings.room)
        first = text.shorter(excess, excess * draws.bit(_PART))
        nothing = Spans(first.documents, first.stops, first.stops)
        return PairPlan(first, nothing, np.full(len(text), -1, np.int64))

    def _two_segments(self, text: Spans, sentences: SentenceStarts, draws: _Draws) -> PairPlan:
        splits, inside = self._splits(text, sentences, draws)
        first = Spans(text.documents, text.starts, splits)
        second = Spans(text.documents, splits, text.stops)
        labels = draws.bit(_LABEL)
        rows = labels.nonzero()[0]
        if self.settings.sentence_task == "sop":
            ahead = first.take(rows)
            first = first.replaced(rows, second.take(rows))
            second = second.replaced(rows, ahead)
        elif len(rows):
            full = text.lengths >= self.settings.room
            space = self.settings.room - first.lengths
            wanted = np.maximum(1, np.where(full, space, second.lengths))
            others = self._others(
                text.documents[rows], wanted[rows], full[rows], inside[rows], draws.take(rows)
            )
            second = second.replaced(rows, others)
        return PairPlan(*self._fit(first, second, draws), labels)

    def _splits(self, text: Spans, sentences: SentenceStarts, draws: _Draws) -> tuple[Ints, Flags]:
        """Where A ends and the rest begins, [N], and whether this is within a sentence, [N]."""
        first = sentences.search(text.starts + 1)
        choices = sentences.search(text.stops) - first
        inside = choices <= 0
        splits = sentences.at(first + draws.below(_PART, np.maximum(choices, 0)))
        if inside.any():
            rows = inside.nonzero()[0]
            splits[rows] = self._words_inside(text.take(rows), draws.take(rows), _PART)
        return splits, inside

    def _words_inside(self, text: Spans, draws: _Draws, which: int) -> Ints:
        """A random word of each span except its first; a token where there is only one word; [N]."""
        rest = Spans(text.documents, text.starts + 1, text.stops)
        words = self.corpus.read_word_starts(rest).nonzero()[0]  # in all spans, joined
        ends = rest.lengths.cumsum()
        firsts = ends - rest.lengths
        begins = words.searchsorted(firsts)
        counts = words.searchsorted(ends) - begins
        picked = np.append(words, 0)[begins + draws.below(which, counts)] - firsts
        tokens = draws.below(which, rest.lengths)
        return rest.starts + np.where(counts > 0, picked, tokens)

    def _others(
        self, documents: Ints, wanted: Ints, full: Flags, inside: Flags, draws: _Draws
    ) -> Spans:
        """A random B for samples of `documents`; all arguments are [N].

        Args:
            documents: the documents that must not be taken.
            wanted: about how many tokens to take.
            full: whether the sample's own text fills the sequence.
            inside: whether to start within a sentence.
            draws: the samples' draws.
        """
        ends, reach = self.index.document_ends, self.settings.room // 4
        sizes = ends[documents] - before(ends, documents)
        first, count = self.index.corpus_tokens(documents)
        tokens = first + draws.below_wide(_OTHER, count - sizes)
        tokens += np.where(tokens >= ends[documents] - sizes, sizes, 0)
        others = ends.searchsorted(tokens, side="right")
        sentences = self.corpus.sentences(others)
        choices = np.maximum(1, sentences.search(sentences.lengths - wanted + 1))
        picked = draws.below(_SENTENCE, choices)
        starts = sentences.at(picked)
        within = Spans(others, starts, sentences.at(picked + 1))
        rows = (inside & (within.lengths > 1)).nonzero()[0]
        if len(rows):
            starts[rows] = self._words_inside(within.take(rows), draws.take(rows), _INSIDE)
        filled = sentences.end_from(starts + wanted, reach)
        nearest = sentences.nearest_end(starts, starts + wanted, reach)
        return Spans(others, starts, np.where(full, filled, nearest))

    def _fit(self, first: Spans, second: Spans, draws: _Draws) -> tuple[Spans, Spans]:
        """Removes tokens of the longer part (the second, if equal) until both fit."""
        excess = np.maximum(0, first.lengths + second.lengths - self.settings.room)
        more = first.lengths - second.lengths
        uneven = np.minimum(excess, np.abs(more))
        of_first = (excess - uneven) // 2 + np.where(more > 0, uneven, 0)
        of_second = excess - of_first
        of_front = draws.count_bits(np.array((of_first, of_second)), self._trim_draws)
        return first.shorter(of_first, of_front[0]), second.shorter(of_second, of_front[1])


class _Draws:
    """The 64-bit draws of N samples: `words` holds the two halves of each, [N, 2 x draws]."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def take(self, rows: Ints) -> _Draws:
        """The draws of some rows."""
        return _Draws(self._words[rows])

    def below(self, which: int, limits: Ints | int) -> Ints:
        """Draw `which` of each sample as a whole number 0 .. limit-1, limits below 2**32, [N]."""
        return below64(self._words[:, 2 * which], self._words[:, 2 * which + 1], limits)

    def below_wide(self, which: int, limits: Ints) -> Ints:
        """The same for limits below 2**63."""
        return below64_wide(self._words[:, 2 * which], self._words[:, 2 * which + 1], limits)

    def bit(self, which: int) -> Ints:
        """The lowest bit of draw `which` of each sample, [N]."""
        return self._words[:, 2 * which + 1].astype(np.int64) & 1

    def chance(self, which: int, fraction: float) -> Flags:
        """Whether draw `which` is in the lowest `fraction` of all values, [N]."""
        limit = math.ceil(fraction * 2.0**64)
        if limit == 2**64:
            return np.ones(len(self._words), bool)
        return _joined(self._words[:, 2 * which : 2 * which + 2])[:, 0] < np.uint64(limit)

    def count_bits(self, tokens: Ints, draws: int) -> Ints:
        """How many of the first `tokens[k, i]` random bits of part k of sample i are 1.

        The bits are those of `draws` draws per part, which follow the named draws; the lowest bit
        of the first draw comes first. [2, N] -> [2, N].
        """
        needed = -(-int(tokens.max(initial=0)) // _DRAW_BITS)
        words = self._words[:, 2 * _TRIM :].reshape(-1, 2, 2 * draws)[:, :, : 2 * needed]
        packed = _joined(words.transpose(1, 0, 2)).astype("<u8", order="C")
        bits = np.unpackbits(packed.view(np.uint8), axis=2, bitorder="little")
        counted = bits & (np.arange(bits.shape[2]) < tokens[:, :, None])
        return counted.sum(axis=2, dtype=np.int64)


def _joined(words: Words) -> Words:
    """Pairs of 32-bit words as 64-bit draws, the upper half first: [..., 2n] -> [..., n]."""
    joined: Words = (words[..., ::2] << np.uint64(32)) | words[..., 1::2]
    return joined


def _several_documents(ends: Ints) -> bool:
    """Whether more than one document has text."""
    return int(np.count_nonzero(np.diff(ends, prepend=0))) > 1


def _name(corpus: CorpusLike) -> str:
    """The corpus in words, for messages."""
    folder, split = getattr(corpus, "folder", None), getattr(corpus, "split", None)
    return f"{folder}: the split {split!r}" if folder and split else "the corpus"
