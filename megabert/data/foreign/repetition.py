"""Text that samples repeat: programs that make masked shards mask each document several times.

Each time, segments begin and end at other places and are cut to length by a few tokens, so repeated
text is found by sentences and not by whole segments. Two sentences are the same if their ids are
equal, or if one of them was at an end of its segment, where it may have been cut, and they share
their first or last ``ANCHOR`` tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from megabert.data.foreign.recovery import Sentence

ANCHOR = 8
"""Tokens that identify a sentence that may have been cut."""
LEAST_REPEATED = 8
"""Shorter stretches of repeated sentences stay, since many texts share such phrases."""


class SeenText:
    """Digests of the sentences seen so far; about 300 bytes per distinct sentence."""

    def __init__(self) -> None:
        self._whole: set[bytes] = set()
        self._anchors: set[bytes] = set()  # of all sentences
        self._edge_anchors: set[bytes] = set()  # of those that may have been cut

    def take_new(self, document: Sequence[Sentence]) -> list[list[Sentence]]:
        """The new stretches of sentences of a document; they count as seen from now on.

        Consecutive repeated sentences are left out if they have ``LEAST_REPEATED`` tokens or more
        in total.
        """
        repeated = [self._is_repeated(sentence) for sentence in document]
        stretches = [
            (old, [document[number] for number in numbers])
            for old, numbers in groupby(range(len(document)), key=repeated.__getitem__)
        ]
        new: list[list[Sentence]] = []
        joined = False
        for old, sentences in stretches:
            if old and sum(len(s.ids) for s in sentences) >= LEAST_REPEATED:
                joined = False
                continue
            new = [*new[:-1], new[-1] + sentences] if joined else [*new, sentences]
            joined = True
        for sentence in (sentence for stretch in new for sentence in stretch):
            self._whole.add(_digest(sentence.ids))
            anchors = _anchors(sentence)
            self._anchors.update(anchors)
            if sentence.edge:
                self._edge_anchors.update(anchors)
        return new

    def _is_repeated(self, sentence: Sentence) -> bool:
        known = self._anchors if sentence.edge else self._edge_anchors
        return _digest(sentence.ids) in self._whole or not known.isdisjoint(_anchors(sentence))


def _anchors(sentence: Sentence) -> tuple[bytes, ...]:
    """Digests of the first and of the last tokens, marked by a letter each."""
    ids = sentence.ids
    if len(ids) < ANCHOR:
        return ()
    return b"f" + _digest(ids[:ANCHOR]), b"l" + _digest(ids[-ANCHOR:])


def _digest(ids: npt.NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest()
