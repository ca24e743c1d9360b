"""One sample's text: which sentences stand in segments A and B, and how they belong together.

A sample is a cell of its document (see `sample_index`). Its text starts at the cell's boundary and
goes on to the next one, and further to the first sentence end at which the cell's size is reached:
sequences are full though boundaries were moved to sentences. One sample in ten is short: it starts
at a random sentence of its cell and takes whole sentences until a random length is reached.

- "nsp": A is the first part of the text, up to a random sentence end. In half of the samples B is
  the rest. In the other half B comes from another document of the whole corpus, chosen with a
  chance proportional to its length, at a random sentence of it, and takes whole sentences to about
  the length the rest had, so that length does not tell the two apart. Label 0 = B is the rest ("is
  next"), 1 = B is random.
- "sop": A and B are the two parts of the text; label 1 = they have changed places.
- "none": one segment.

Text of a single sentence is parted at a random word of it, and a random B then starts within a
sentence, too. What is too long loses tokens of the longer segment, one by one, at its front or its
back by the toss of a coin, as in Devlin et al. (2019).
"""

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megabert.data.counter_rng import CounterRng, Ints, Purpose
from megabert.data.sample_index import Cells, SampleIndex, SampleSettings, SentenceTask
from megabert.log import UserError

__all__ = ["CorpusLike", "Pair", "PairMaker", "SampleIndex", "SampleSettings", "SentenceTask"]

Tokens = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

_SHORT, _SHORT_LENGTH, _SHORT_START, _PART, _LABEL, _OTHER, _SENTENCE, _INSIDE, _TOSSES = range(9)
_WORD64 = 64


class CorpusLike(Protocol):
    """What the loader reads of a split of a corpus; documents are numbered over all its shards."""

    @property
    def manifest(self) -> Any:
        """The corpus's manifest; `.tokenizer` says its vocabulary size and special ids."""

    @property
    def num_documents(self) -> int:
        """Documents in the split."""

    @property
    def document_lengths(self) -> Ints:
        """Tokens of each document, int64 [D]."""

    def sentence_starts(self, document: int) -> Ints:
        """First token of each sentence in its document, and its length, int64 [n+1]."""

    def tokens(self, document: int, start: int, stop: int) -> Tokens:
        """Token ids of a part of a document, int32 [stop - start]."""

    def word_starts(self, document: int, start: int, stop: int) -> Flags:
        """Whether each token starts a word, bool [stop - start]."""

    def shard_of(self, document: int) -> tuple[Any, int]:
        """The file that holds a document, and the document's number in it."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """The text of a sample, without special tokens.

    Args:
        a_ids: int32 [A], A >= 1.
        b_ids: int32 [B]; B >= 1, but 0 for the task "none". A + B <= the settings' `room`.
        a_words: bool [A], whether a token starts a word; empty unless word starts were asked for.
        b_words: bool [B], the same.
        label: 0 = B follows A, 1 = it does not (see the module), -1 = no sentence task.
        a_place: document and first token of A.
        b_place: document and first token of B, or None.
    """

    a_ids: Tokens
    b_ids: Tokens
    a_words: Flags
    b_words: Flags
    label: int
    a_place: tuple[int, int]
    b_place: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class _Part:
    """Tokens start .. stop-1 of a document."""

    document: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def shorter(self, tokens: int, tosses: int) -> "_Part":
        """Without `tokens` of its tokens; each toss that is 1 takes one from the front."""
        front = (tosses & ((1 << tokens) - 1)).bit_count()
        return _Part(self.document, self.start + front, self.stop - (tokens - front))


class PairMaker:
    """Makes samples' text; a pure function of (corpus, settings, epoch, sample).

    Args:
        corpus: the split to read.
        settings: what a sample is.
        with_words: whether pairs carry their word starts.

    Raises:
        UserError: the split holds no sample, or "nsp" has no second document to take from.
    """

    def __init__(
        self, corpus: CorpusLike, settings: SampleSettings, with_words: bool = True
    ) -> None:
        self.corpus, self.settings, self.with_words = corpus, settings, with_words
        lengths = np.asarray(corpus.document_lengths, dtype=np.int64)
        self.index = SampleIndex(lengths, settings)
        if self.index.num_samples == 0:
            raise UserError(f"{_name(corpus)} holds no text to make samples of: shard more text")
        if settings.sentence_task == "nsp" and np.count_nonzero(lengths) < 2:
            raise UserError(
                f"{_name(corpus)} holds one document only: next sentence prediction needs a "
                "second one (--sentence-task sop or none does not)"
            )
        self._document_ends = np.cumsum(lengths)
        self._rng = CounterRng(settings.seed, Purpose.PAIR)
        self._toss_words = settings.room // _WORD64 + 1  # 64 tosses each, for A and for B

    def make(self, epochs: Ints, samples: Ints) -> list[Pair]:
        """The text of sample `samples[i]` in epoch `epochs[i]`, both int64 [N]."""
        documents, places = self.index.locate(samples)
        grids = self.index.cells(epochs, documents)
        draws = self._draws(epochs, samples)
        rows = zip(documents.tolist(), places.tolist(), grids, draws, strict=True)
        return [self._pair(document, place, cells, drawn) for document, place, cells, drawn in rows]

    def _draws(self, epochs: Ints, samples: Ints) -> list[list[int]]:
        """64-bit draws of each sample."""
        count = _TOSSES + 2 * self._toss_words
        words = self._rng.rows(epochs, samples, 2 * count)
        joined = (words[:, ::2] << np.uint64(32)) | words[:, 1::2]
        result: list[list[int]] = joined.tolist()
        return result

    def _pair(self, document: int, place: int, cells: Cells, draws: list[int]) -> Pair:
        starts = self.corpus.sentence_starts(document)
        text = self._text(document, place, cells, starts, draws)
        task, room = self.settings.sentence_task, self.settings.room
        if task == "none":
            excess = max(0, len(text) - room)
            front = excess if draws[_PART] & 1 else 0
            return self._read(
                _Part(document, text.start + front, text.stop - excess + front), None, -1
            )
        parting, inside = self._parting(text, starts, draws)
        first, second = _Part(document, text.start, parting), _Part(document, parting, text.stop)
        label = draws[_LABEL] & 1
        if label and task == "nsp":
            second = self._other(
                document, len(second), len(text) >= room, room - len(first), inside, draws
            )
        elif label:
            first, second = second, first
        first, second = self._fit(first, second, draws)
        return self._read(first, second, label)

    def _text(
        self, document: int, place: int, cells: Cells, starts: Ints, draws: list[int]
    ) -> _Part:
        """The text of a sample before it is parted; it may be longer than the room."""
        smallest, reach = self.settings.smallest, cells.size // 4
        start = cells.boundary_at_sentence(place, starts, smallest)
        stop = cells.boundary_at_sentence(place + 1, starts, smallest)
        wanted = min(cells.size, cells.cell_size(place))
        if draws[_SHORT] < self.settings.short_sequence_fraction * 2.0**64:
            wanted = min(wanted, 2 + _below(draws[_SHORT_LENGTH], self.settings.room - 1))
            begins = np.searchsorted(starts, (start + 1, stop - wanted + 1))
            pick = _below(draws[_SHORT_START], 1 + max(0, int(begins[1] - begins[0])))
            start = int(starts[begins[0] + pick - 1]) if pick else start
            stop = start
        return _Part(document, start, max(stop, _sentence_end(starts, start + wanted, reach)))

    def _parting(self, text: _Part, starts: Ints, draws: list[int]) -> tuple[int, bool]:
        """Where A ends and the rest begins, and whether that is within a sentence."""
        low, high = np.searchsorted(starts, (text.start + 1, text.stop)).tolist()
        if high > low:
            return int(starts[low + _below(draws[_PART], high - low)]), False
        return text.start + self._word_inside(text, draws[_PART]), True

    def _word_inside(self, text: _Part, draw: int) -> int:
        """Offset of a random word of `text` but its first; of a token if there is one word only."""
        words = (
            np.flatnonzero(self.corpus.word_starts(text.document, text.start + 1, text.stop)) + 1
        )
        return (
            int(words[_below(draw, len(words))]) if len(words) else 1 + _below(draw, len(text) - 1)
        )

    def _other(
        self, document: int, length: int, full: bool, space: int, inside: bool, draws: list[int]
    ) -> _Part:
        """A random B for a sample of `document`.

        Args:
            document: the document that must not be taken.
            length: tokens of the rest that B stands in for.
            full: whether that rest filled the sequence.
            space: tokens that A leaves free.
            inside: whether to start within a sentence.
            draws: the sample's.
        """
        ends = self._document_ends
        size = int(ends[document]) - (int(ends[document - 1]) if document else 0)
        token = _below(draws[_OTHER], int(ends[-1]) - size)
        token += size if token >= int(ends[document]) - size else 0
        other = int(np.searchsorted(ends, token, side="right"))
        starts = self.corpus.sentence_starts(other)
        wanted, total = max(1, space if full else length), int(starts[-1])
        choices = max(1, int(np.searchsorted(starts[:-1], total - wanted, side="right")))
        sentence = _below(draws[_SENTENCE], choices)
        start = int(starts[sentence])
        within = _Part(other, start, int(starts[sentence + 1]))
        if inside and len(within) > 1:
            start += self._word_inside(within, draws[_INSIDE])
        reach = self.settings.room // 4
        if full:
            return _Part(other, start, _sentence_end(starts, start + wanted, reach))
        return _Part(other, start, _nearest_end(starts, start, start + wanted, reach))

    def _fit(self, first: _Part, second: _Part, draws: list[int]) -> tuple[_Part, _Part]:
        """Takes tokens of the longer part (the second, if equal) until both have room."""
        excess = len(first) + len(second) - self.settings.room
        if excess <= 0:
            return first, second
        uneven = min(excess, abs(len(first) - len(second)))
        of_first = (excess - uneven) // 2
        of_second = excess - uneven - of_first
        if len(first) > len(second):
            of_first += uneven
        else:
            of_second += uneven
        middle = _TOSSES + self._toss_words
        first = first.shorter(of_first, _joined(draws[_TOSSES:middle]))
        return first, second.shorter(of_second, _joined(draws[middle:]))

    def _read(self, first: _Part, second: _Part | None, label: int) -> Pair:
        tokens, words = self.corpus.tokens, self.corpus.word_starts
        none, unasked = np.zeros(0, np.int32), np.zeros(0, bool)
        a = (first.document, first.start, first.stop)
        b = (second.document, second.start, second.stop) if second else None
        return Pair(
            a_ids=tokens(*a),
            b_ids=tokens(*b) if b else none,
            a_words=words(*a) if self.with_words else unasked,
            b_words=words(*b) if b and self.with_words else unasked,
            label=label,
            a_place=a[:2],
            b_place=b[:2] if b else None,
        )


def _name(corpus: CorpusLike) -> str:
    """The corpus in words, for messages."""
    folder, split = getattr(corpus, "folder", None), getattr(corpus, "split", None)
    return f"{folder}: the split {split!r}" if folder and split else "the corpus"


def _below(draw: int, limit: int) -> int:
    """A 64-bit draw as a whole number 0 .. limit-1."""
    return (draw * limit) >> _WORD64


def _joined(draws: list[int]) -> int:
    return sum(draw << (_WORD64 * i) for i, draw in enumerate(draws))


def _sentence_end(starts: Ints, place: int, reach: int) -> int:
    """The first sentence end at or after `place`; `place` itself if that is beyond `reach`."""
    length = int(starts[-1])
    if place >= length:
        return length
    end = int(starts[np.searchsorted(starts, place)])
    return end if end - place <= reach else place


def _nearest_end(starts: Ints, start: int, place: int, reach: int) -> int:
    """The sentence end after `start` nearest to `place`; `place` if none is within `reach`."""
    length = int(starts[-1])
    if place >= length:
        return length
    after = int(np.searchsorted(starts, place))
    later, earlier = int(starts[after]), int(starts[after - 1]) if after else 0
    if earlier > start and place - earlier <= min(later - place, reach):
        return earlier
    return later if later - place <= reach else place
