"""Recovery of text from masked samples: unmasked, split into segments, sentences and words.

    StaticSample --segments_of--> segments of ids --Speller--> text and where each token begins in
    it
        --split_sentences--> sentences --the tokenizer--> word starts

A sentence boundary counts if the sentence begins exactly at a token. Information that the samples
do not hold cannot be recovered: original documents and their order, text that was cut off when
segments were shortened (at both ends of both segments), capitals and accents of a lower-casing
tokenizer.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from megabert.data.foreign.static import ForeignFile, StaticSample
from megabert.data.shards.spans import Ints
from megabert.data.text.sentences import split_sentences
from megabert.data.tokenizers.base import Tokenizer, WordFinder, is_ideograph, starts_word_alone
from megabert.data.tokenizers.wordpiece import PREFIX, WordPieceTokenizer

_SPACE = "▁"  # SentencePiece's
_CLOSING, _OPENING = frozenset(".,;:!?)]}%"), frozenset("([{")
# the first letter after the end of a sentence; one letter and a full stop are an initial
_BEHIND_STOP = re.compile(r"(?:^|(?<!\b\w)[.!?](?: ?[\"')\]»”’])* )\W*([^\W\d_])")


@dataclass(frozen=True)
class Sentence:
    """Ids of a sentence, and whether each begins a word.

    ``edge``: it is the first or last sentence of its segment, so it may have been cut.
    """

    ids: Ints
    word_starts: npt.NDArray[np.bool_]
    edge: bool


@dataclass
class Counts:
    """How well the text was recovered.

    ``unaligned`` sentence boundaries are inside a token; ``respelled`` sentences encode to the same
    ids that they were recovered from.
    """

    sentences: int = 0
    unaligned: int = 0
    respelled: int = 0


def segments_of(
    file: ForeignFile, row: int, sample: StaticSample, tokenizer: Tokenizer
) -> list[Ints]:
    """The text of segment A and, if there is one, B: unmasked, without special tokens.

    Raises:
        ForeignShardError: a masked token has no label, or the sample is not [CLS] A [SEP] or
            [CLS] A [SEP] B [SEP].
    """
    ids, special = sample.unmasked(), tokenizer.special
    if (ids == special.mask).any():
        raise file.error(
            row, "masked tokens have no label, so its text cannot be recovered from this shard"
        )
    ends = np.flatnonzero(ids == special.sep)
    valid = ids[0] == special.cls and len(ends) in (1, 2) and ends[-1] == len(ids) - 1
    valid = valid and bool((sample.segment_ids[: ends[0] + 1] == 0).all())
    valid = valid and bool((sample.segment_ids[ends[0] + 1 :] == 1).all())
    if not valid:
        raise file.error(
            row,
            "by the tokenizer's ids it is not [CLS] A [SEP] B [SEP] with segments 0 and 1; give "
            "--tokenizer the one that made the shards",
        )
    parts = [ids[1 : ends[0]], *([ids[ends[0] + 1 : -1]] if len(ends) == 2 else [])]
    return [part for part in parts if len(part)]


class Recovery:
    """Splits segments of ids into sentences, and counts how well the text was recovered.

    ``words``: as for ``Tokenizer.encode_batch``.
    """

    def __init__(
        self, tokenizer: Tokenizer, language: str, words: WordFinder | None = None
    ) -> None:
        self.tokenizer, self.language, self.words = tokenizer, language, words
        self.counts = Counts()

    def sentences(self, segments: Sequence[Ints]) -> list[list[Sentence]]:
        """The sentences of each segment; together they hold its ids, in order."""
        spelled = [self._spelled(ids) for ids in segments]
        bounds = [self._bounds(text, starts) for text, starts in spelled]
        texts = [
            text[starts[a] : starts[b] if b < len(starts) else len(text)].strip()
            for (text, starts), cuts in zip(spelled, bounds)
            for a, b in pairwise(cuts)
        ]
        encoded = iter(self.tokenizer.encode_batch(texts, self.words).split())
        result = []
        for ids, cuts in zip(segments, bounds):
            found = []
            for a, b in pairwise(cuts):
                again = next(encoded)
                same = np.array_equal(again.ids, ids[a:b])
                words = again.word_starts if same else self._word_starts(ids[a:b])
                found.append(Sentence(ids[a:b], words, edge=a == 0 or b == len(ids)))
                self.counts.respelled += same
            self.counts.sentences += len(found)
            result.append(found)
        return result

    def _spelled(self, ids: Ints) -> tuple[str, list[int]]:
        """The text, and where each token begins in it; only [0] if that is unknown."""
        if isinstance(self.tokenizer, WordPieceTokenizer):
            return _spell_pieces(self.tokenizer.tokens(ids))
        text = self.tokenizer.decode(ids)
        (encoded,) = self.tokenizer.encode_sentences([text])
        if np.array_equal(encoded.ids, ids):
            return text, encoded.offsets[:, 0].tolist()
        return text, [0]

    def _bounds(self, text: str, starts: list[int]) -> list[int]:
        """Token numbers at which sentences begin, and the number of tokens."""
        reading = _with_capitals(text) if self.tokenizer.lower_case else text
        cuts, place = [0], 0
        for sentence in split_sentences(reading, self.language):
            place = reading.find(sentence, place)
            token = _token_at(text, starts, place)
            if token is None:
                self.counts.unaligned += 1
            elif token > cuts[-1]:
                cuts.append(token)
            place += len(sentence)
        return [*cuts, len(starts)]

    def _word_starts(self, ids: Ints) -> npt.NDArray[np.bool_]:
        """Word starts by the form of the pieces, for text that encodes to other ids."""
        pieces = self.tokenizer.tokens(ids)
        if isinstance(self.tokenizer, WordPieceTokenizer):
            starts = [not piece.startswith(PREFIX) for piece in pieces]
        else:
            starts = [piece.startswith(_SPACE) or starts_word_alone(piece[:1]) for piece in pieces]
        starts[0] = True
        return np.array(starts, np.bool_)


def _token_at(text: str, starts: list[int], place: int) -> int | None:
    """The token that begins at a place of the text, or before it with spaces only; else None."""
    token = bisect_left(starts, place)
    if token == len(starts) or starts[token] != place:
        token -= 1
        if text[starts[token] : place].strip():
            return None
    while token and not text[starts[token - 1] : starts[token]].strip():
        token -= 1
    return token


def _spell_pieces(pieces: Sequence[str]) -> tuple[str, list[int]]:
    """Join WordPiece tokens as in writing: no space before a comma, nor between ideographs."""
    parts: list[str] = []
    starts: list[int] = []
    size = 0
    for number, piece in enumerate(pieces):
        glued = piece.startswith(PREFIX) and len(piece) > len(PREFIX)
        word = piece[len(PREFIX) :] if glued else piece
        if parts and not glued and not _touch(pieces, number):
            parts.append(" ")
            size += 1
        starts.append(size)
        parts.append(word)
        size += len(word)
    return "".join(parts), starts


def _touch(pieces: Sequence[str], number: int) -> bool:
    """Whether a token that begins a word follows the previous one without a space."""
    here, before = pieces[number], pieces[number - 1]
    if here in _CLOSING or before in _OPENING:
        return True
    if before in (".", ",") and number > 1:  # 3.5
        return here[0].isdigit() and pieces[number - 2][-1].isdigit()
    return is_ideograph(ord(before[-1])) and is_ideograph(ord(here[0]))


def _with_capitals(text: str) -> str:
    """Lower-cased text with a capital after each full stop, as sentence splitters expect."""

    def raised(match: re.Match[str]) -> str:
        letter = match.group(1).upper()
        return match.group()[:-1] + (letter if len(letter) == 1 else match.group(1))

    return _BEHIND_STOP.sub(raised, text)
