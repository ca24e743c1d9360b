"""Masked language modelling: which tokens are predicted, and what replaces them.

Of a sequence's n maskable tokens, floor(fraction * n + 1/2) are predicted, at least one and at most
`max_predictions` (Devlin et al. 2019, section 3.1). Each predicted token independently becomes [MASK]
with the probability `mask_share` (8/10), becomes a random token with `random_share` (1/10), and is kept
as it is otherwise (1/10).

- "token": every maskable token is equally likely.
- "whole-word": words are taken in random order, with all their tokens; a word that does not fit
  into the remaining budget is skipped.
- "ngram": spans of n whole words, n drawn from 1, 2, 3 with probabilities proportional to 1/n (Joshi
  et al. 2020; Lan et al. 2020); a span that does not fit is shortened word by word.

Where no word fits into the budget at all, the first word drawn is masked in part. Draws are addressed
by (seed, epoch, sample, position), so masks are new in each epoch, and the same for a sample in any
batch and any process.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from megabert.common.errors import UserError
from megabert.config.sections.masking import MASK_SHARE, RANDOM_SHARE, check_shares
from megabert.data.samples.counter_rng import (
    CounterRng,
    Floats,
    Ints,
    Purpose,
    Streams,
    Words,
    below,
)
from megabert.data.samples.whole_words import (
    Bools,
    WordsInOrder,
    lowest,
    ranked,
    take_spans,
    take_words,
)
from megabert.data.shards.spans import ranges

Masking = Literal["token", "whole-word", "ngram"]

NGRAM_CHANCES = (1.0, 1 / 2, 1 / 3)
_EXTRA_WORDS = 8
"""Words looked at first, in addition to one per token to predict."""
_WORD = 2**32
_NGRAM_LIMITS = (np.cumsum(NGRAM_CHANCES) / sum(NGRAM_CHANCES) * _WORD).astype(np.uint64)


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """How tokens are chosen to be predicted.

    Args:
        masking: "token", "whole-word" or "ngram".
        fraction: fraction of the maskable tokens that is predicted, over 0 and up to 1.
        max_predictions: most predictions per sequence; None takes `default_max_predictions`.
        mask_share: share of the predicted tokens that become [MASK].
        random_share: share of them that become a random token.

    Raises:
        UserError: a value out of its range.
    """

    masking: Masking = "token"
    fraction: float = 0.15
    max_predictions: int | None = None
    mask_share: float = MASK_SHARE
    random_share: float = RANDOM_SHARE

    def __post_init__(self) -> None:
        if self.masking not in get_args(Masking):
            known = ", ".join(get_args(Masking))
            raise UserError(f"masking {self.masking!r} is not known: use one of {known}")
        if not 0 < self.fraction <= 1:
            raise UserError(f"mask fraction {self.fraction} must be above 0 and at most 1")
        if self.max_predictions is not None and self.max_predictions < 1:
            raise UserError(f"max predictions {self.max_predictions} is below 1")
        check_shares(self.mask_share, self.random_share)

    @property
    def by_word(self) -> bool:
        """Whether word starts are needed."""
        return self.masking != "token"

    def at_length(self, before: int, now: int) -> MaskSettings:
        """The settings for sequences of another length; the limit is in proportion, rounded up."""
        if self.max_predictions is None:
            return self
        limit = -(-self.max_predictions * now // before)
        return dataclasses.replace(self, max_predictions=limit)

    def limit(self, seq_length: int) -> int:
        """Most predictions per sequence."""
        return self.max_predictions or default_max_predictions(seq_length, self.fraction)


def default_max_predictions(seq_length: int, fraction: float = 0.15) -> int:
    """The published maximum, 20 at 128 and 80 at 512: rounded up to a multiple of 5."""
    return 5 * max(1, math.ceil(round(fraction * seq_length, 6) / 5))


class Masker:
    """Masks batches of sequences; a pure function of (settings, seed, epoch, sample).

    Args:
        settings: how tokens are chosen.
        seed: whole number >= 0; or the samples of several seeds.
        mask_id: the id of [MASK].
        vocab_size: ids of random tokens are below it.
        special_ids: ids that random tokens never have.

    Raises:
        UserError: the vocabulary has only special tokens.
    """

    def __init__(
        self,
        settings: MaskSettings,
        seed: int | Streams,
        mask_id: int,
        vocab_size: int,
        special_ids: Iterable[int],
    ) -> None:
        self.settings = settings
        self._mask_id = mask_id
        self._ordinary = np.setdiff1d(np.arange(vocab_size), np.array(sorted(special_ids)))
        if not len(self._ordinary):
            raise UserError(f"a vocabulary of {vocab_size} special tokens has no token to train on")
        self._places = CounterRng(seed, Purpose.MASK_PLACE)
        self._kinds = CounterRng(seed, Purpose.MASK_KIND)

    def apply(
        self,
        input_ids: Ints,
        maskable: Bools,
        word_starts: Bools | None,
        epochs: Ints,
        samples: Ints,
        fractions: Floats | None = None,
    ) -> tuple[Ints, Ints]:
        """Chooses tokens and masks them in place.

        Args:
            input_ids: int64 [B, S], changed in place.
            maskable: bool [B, S], tokens of text.
            word_starts: bool [B, S], whether a token starts a word; needed unless masking is
                "token".
            epochs: int64 [B].
            samples: int64 [B], number of each sequence's sample within its epoch.
            fractions: float64 [B], each sequence's mask fraction; None: that of the settings.

        Returns:
            positions int64 [M], rising, into the flat B * S; and the tokens' own ids int64 [M].
        """
        width = input_ids.shape[1]
        fraction = self.settings.fraction if fractions is None else fractions
        budgets = np.floor(fraction * maskable.sum(axis=1) + 0.5).astype(np.int64)
        budgets = np.clip(budgets, 1, self.settings.limit(width))
        scores = self._places.rows(epochs, samples, width)  # [B, S]
        if self.settings.by_word:
            assert word_starts is not None
            words = WordsInOrder(maskable, word_starts, scores)
            positions = self._choose_words(words, budgets, epochs, samples)
        else:
            positions = np.flatnonzero(_choose_tokens(maskable, budgets, scores))
        labels = input_ids.reshape(-1)[positions]
        rows, columns = np.divmod(positions, width)
        drawn = self._kinds.words(epochs[rows], samples[rows], columns)  # [4, M]
        masked = self.settings.mask_share * _WORD
        changed = (self.settings.mask_share + self.settings.random_share) * _WORD
        replaced = np.where(drawn[0] < masked, self._mask_id, labels)
        swap = (drawn[0] >= masked) & (drawn[0] < changed)
        replaced[swap] = self._ordinary[below(drawn[1][swap], len(self._ordinary))]
        input_ids[rows, columns] = replaced
        return positions, labels

    def _choose_words(
        self, words: WordsInOrder, budgets: Ints, epochs: Ints, samples: Ints
    ) -> Ints:
        """Whole words of each row, in random order; see the module; rising positions int64 [M].

        At first only as many words of each row are looked at as its budget is likely to need; rows
        for which these are not enough are done again with more.
        """
        taken = bytearray(len(budgets) * words.width + 1)  # one more: after the last word
        tokens = np.frombuffer(taken, np.uint8)
        take = take_spans if self.settings.masking == "ngram" else take_words
        rows = words.counts.nonzero()[0]
        depth = int(budgets.max(initial=0)) + _EXTRA_WORDS
        while len(rows):
            columns = words.first(rows, depth)  # [n, depth]
            lengths = self._span_lengths(epochs[rows, None], samples[rows, None], columns)
            spans = words.spans(rows, columns, lengths, int(lengths.max()))
            left = take(spans, words.counts[rows], budgets[rows], taken)
            unfinished = (left > 0) & (words.counts[rows] > depth)
            nothing = (left == budgets[rows]) & ~unfinished  # no word fits: part of the first one
            tokens[ranges(spans[nothing, 0, 0], left[nothing])] = 1
            rows, depth = rows[unfinished], 4 * depth
            tokens[:-1].reshape(-1, words.width)[rows] = 0
        return tokens.nonzero()[0]

    def _span_lengths(self, epochs: Ints, samples: Ints, columns: Ints) -> Ints:
        """Words that the span of each word would take, [n, 1], [n, 1], [n, depth] -> [n, depth]."""
        lengths = np.ones(columns.shape, np.int64)
        if self.settings.masking == "ngram":
            draws = self._kinds.words(epochs, samples, columns)[2]
            lengths += np.searchsorted(_NGRAM_LIMITS[:-1], draws, side="right")
        return lengths


def _choose_tokens(maskable: Bools, budgets: Ints, scores: Words) -> Bools:
    """The `budgets[i]` maskable tokens with the lowest scores in each row; ties go to the earlier."""
    keys = ranked(maskable, scores)
    last = np.minimum(budgets, np.maximum(maskable.sum(axis=1), 1)) - 1
    limits = np.take_along_axis(lowest(keys, int(last.max(initial=0)) + 1), last[:, None], axis=1)
    chosen: Bools = maskable & (keys <= limits)
    return chosen
