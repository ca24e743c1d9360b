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
    """Keys that sort each row's `places` by their 32-bit `scores`, [B, S].

    All keys of a row differ, and of two equal scores the earlier one has the lower key. Columns that
    are not places have the largest value.
    """
    columns = np.arange(places.shape[1], dtype=np.uint64)
    keys: Words = np.where(places, (scores << _SHIFT) | columns, _NOTHING)
    return keys


def lowest(keys: Words, count: int) -> Words:
    """The `count` lowest keys of each row in rising order: [B, S] -> [B, min(count, S)]."""
    if count < keys.shape[1]:
        keys = np.partition(keys, count - 1, axis=1)[:, :count]
    return np.sort(keys, axis=1)


class WordsInOrder:
    """The words of a batch of sequences, in the random order of their first tokens' scores.

    A word whose beginning was cut off counts as a word. Places are indices into the flat B * S.

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
        text_after = np.concatenate((maskable[:, 1:], edge), axis=1)
        start_after = np.concatenate((word_starts[:, 1:], edge), axis=1)
        begins = maskable & (word_starts | ~text_before)
        self.counts = begins.sum(axis=1)
        self.width = maskable.shape[1]
        self._keys = ranked(begins, scores)
        self._numbers = np.cumsum(begins) - 1  # word that a place belongs to
        self._stops = np.flatnonzero(maskable & (start_after | ~text_after)) + 1
        continues = text_after.reshape(-1)[self._stops - 1]
        self._following = np.arange(len(continues)) + continues  # the next word, or the same one

    def first(self, rows: Ints, depth: int) -> Ints:
        """First columns of the first `depth` words in these rows' order, [n] -> [n, depth].

        Columns after a row's last word are 0.
        """
        keys = lowest(self._keys[rows], depth)
        return np.where(keys == _NOTHING, 0, keys & _COLUMN).astype(np.int64)

    def spans(self, rows: Ints, columns: Ints, lengths: Ints, max_words: int) -> Ints:
        """Where the spans of 1 .. `max_words` words that begin at these columns stop.

        Args:
            rows: [n].
            columns: first columns of words, [n, depth].
            lengths: words that each span would take, [n, depth].
            max_words: the largest of them.

        Returns:
            int64 [n, depth, 1 + max_words]: first token of the span, then the stop of its first word,
            of its first two words, and so on. A stop is repeated where the next word does not follow
            directly, or the span takes no more words.
        """
        first = rows[:, None] * self.width + columns
        word = np.maximum(self._numbers[first], 0)
        found = [first, self._stops[word]]
        for count in range(2, max_words + 1):
            word = np.where(lengths >= count, self._following[word], word)
            found.append(self._stops[word])
        return np.stack(found, axis=2)


def take_words(spans: Ints, counts: Ints, budgets: Ints, taken: bytearray) -> Ints:
    """Takes single words in each row's order, as far as its budget allows; see `take_spans`.

    All words up to the first one that does not fit in addition to the others are taken together. That
    one is skipped for good, since the budget only shrinks. The same is repeated with the words that
    fit into the remaining budget.
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
    """Takes spans of words in each row's order, as far as its budget allows.

    A word that does not fit, or is already taken, is skipped; a span that does not fit is shortened
    word by word.

    Args:
        spans: first token and stops of each span, [n, depth, 1 + max_words]; see
            `WordsInOrder.spans`.
        counts: spans of each row, [n]; may exceed `depth`.
        budgets: most tokens to take, [n].
        taken: 1 at each token that is taken; changed in place.

    Returns:
        The remaining budgets, int64 [n].
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
