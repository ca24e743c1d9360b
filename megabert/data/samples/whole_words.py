"""Whole words in random order: which of them are masked, for a batch of sequences at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megabert.data.samples.counter_rng import Ints, Words
from megabert.data.shards.spans import ranges

Bools = npt.NDArray[np.bool_]

_NOTHING = np.uint64(2**64 - 1)
_COLUMN = np.uint64(2**32 - 1)
_SHIFT = np.uint64(32)


def ranked(places: Bools, scores: Words) -> Words:
    """Keys by which each row's `places` come in the order of their 32-bit `scores`, [B, S].

    All keys of a row differ, the earlier of two equal scores is lower, and what is no place has
    the highest value there is.
    """
    columns = np.arange(places.shape[1], dtype=np.uint64)
    keys: Words = np.where(places, (scores << _SHIFT) | columns, _NOTHING)
    return keys


def lowest(keys: Words, count: int) -> Words:
    """The `count` lowest keys of each row, rising: [B, S] -> [B, min(count, S)]."""
    if count < keys.shape[1]:
        keys = np.partition(keys, count - 1, axis=1)[:, :count]
    return np.sort(keys, axis=1)


class WordsInOrder:
    """The words of a batch of sequences, in the random order of their first tokens' scores.

    A word whose beginning was cut off counts as a word. Places are into the flat B * S.

    Args:
        maskable: bool [B, S], tokens of text.
        word_starts: bool [B, S], whether a token starts a word.
        scores: 32-bit words [B, S].

    Attributes:
        counts: words of each row, int64 [B].
        width: tokens of a row, S.
    """

    def __init__(self, maskable: Bools, word_starts: Bools, scores: Words) -> None:
        edge = np.zeros((len(maskable), 1), bool)
        text_before = np.concatenate((edge, maskable[:, :-1]), axis=1)
        text_behind = np.concatenate((maskable[:, 1:], edge), axis=1)
        start_behind = np.concatenate((word_starts[:, 1:], edge), axis=1)
        begins = maskable & (word_starts | ~text_before)
        self.counts = begins.sum(axis=1)
        self.width = maskable.shape[1]
        self._keys = ranked(begins, scores)
        self._numbers = np.cumsum(begins) - 1  # word that a place belongs to
        self._stops = np.flatnonzero(maskable & (start_behind | ~text_behind)) + 1
        goes_on = text_behind.reshape(-1)[self._stops - 1]
        self._following = np.arange(len(goes_on)) + goes_on  # the next word, or the same one

    def first(self, rows: Ints, depth: int) -> Ints:
        """Columns of the first `depth` words of these rows' orders, [n] -> [n, depth].

        Columns behind a row's last word are 0.
        """
        keys = lowest(self._keys[rows], depth)
        return np.where(keys == _NOTHING, 0, keys & _COLUMN).astype(np.int64)

    def spans(self, rows: Ints, columns: Ints, lengths: Ints, longest: int) -> Ints:
        """Where the spans of 1 .. `longest` words stop that begin at these columns.

        Args:
            rows: [n].
            columns: first columns of words, [n, depth].
            lengths: words that each span would take, [n, depth].
            longest: the most of them.

        Returns:
            int64 [n, depth, 1 + longest]: first token of the span, and the stop of its first word,
            of its first two, and so on. A stop is repeated where the next word does not touch it or
            the span is to take no more.
        """
        first = rows[:, None] * self.width + columns
        word = np.maximum(self._numbers[first], 0)
        found = [first, self._stops[word]]
        for count in range(2, longest + 1):
            word = np.where(lengths >= count, self._following[word], word)
            found.append(self._stops[word])
        return np.stack(found, axis=2)


def take_words(spans: Ints, counts: Ints, budgets: Ints, taken: bytearray) -> Ints:
    """Takes single words in each row's order, as far as its budget goes; see `take_spans`.

    All words that fit into what is left are taken together, up to the first one that does not fit
    behind the others. That one is passed over for good, since the budget only shrinks; and so on
    with the words that fit into the rest.
    """
    sizes = spans[:, :, 1] - spans[:, :, 0]
    open_words = np.arange(sizes.shape[1]) < counts[:, None]
    chosen = np.zeros(sizes.shape, bool)
    left = budgets.copy()
    while True:
        open_words &= sizes <= left[:, None]
        together = np.where(open_words, sizes, 0).cumsum(axis=1)
        fits = open_words & (together <= left[:, None])
        if not fits.any():
            break
        chosen |= fits
        open_words &= ~fits
        left -= np.where(fits, sizes, 0).sum(axis=1)
    np.frombuffer(taken, np.uint8)[ranges(spans[:, :, 0][chosen], sizes[chosen])] = 1
    return left


def take_spans(spans: Ints, counts: Ints, budgets: Ints, taken: bytearray) -> Ints:
    """Takes spans of words in each row's order, as far as its budget goes.

    A word that does not fit, or is taken already, is passed over; a span that does not fit is
    shortened word by word.

    Args:
        spans: first token and stops of each span, [n, depth, 1 + longest]; see
            `WordsInOrder.spans`.
        counts: spans of each row, [n]; may exceed `depth`.
        budgets: tokens to take at most, [n].
        taken: 1 at each token that is taken; changed in place.

    Returns:
        what is left of the budgets, int64 [n].
    """
    rows = zip(spans.tolist(), counts.tolist(), budgets.tolist(), strict=True)
    left = [_take_spans(order[:count], budget, taken) for order, count, budget in rows]
    return np.array(left, np.int64)


def _take_spans(order: list[list[int]], budget: int, taken: bytearray) -> int:
    left = budget
    for span in order:
        first, end = span[0], span[1]
        if taken[first] or end - first > left:
            continue
        for stop in span[2:]:
            if stop - first > left or taken[end]:
                break
            end = stop
        taken[first:end] = b"\x01" * (end - first)
        left -= end - first
        if not left:
            break
    return left
