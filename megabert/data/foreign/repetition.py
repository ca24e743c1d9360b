"""Text that samples repeat: makers of masked shards mask the same documents several times over.

Each time, segments begin and end elsewhere and are cut to length by another few tokens, so repeated
text shows in its sentences and not in whole segments. Two sentences are the same if their ids are,
or if one of them stood at an end of its segment, where it may have been cut, and they share their
first or their last ``ANCHOR`` tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from megabert.data.foreign.recovery import Sentence

ANCHOR = 8
"""Tokens by which a cut sentence is known."""
LEAST_REPEATED = 8
"""Shorter stretches of repeated sentences stay: phrases that many texts have in common."""


class SeenText:
    """The sentences kept so far, by digests; about 300 bytes for each different one."""

    def __init__(self) -> None:
        self._whole: set[bytes] = set()
        self._anchors: set[bytes] = set()  # of all sentences
        self._edge_anchors: set[bytes] = set()  # of those that may have been cut

    def take_new(self, document: Sequence[Sentence]) -> list[list[Sentence]]:
        """What of a document was not there before: stretches of sentences, kept from now on.

        Repeated sentences of together ``LEAST_REPEATED`` tokens or more in a row are left out.
        """
        repeated = [self._is_repeated(sentence) for sentence in document]
        stretches = [
            (old, [document[number] for number in numbers])
            for old, numbers in groupby(range(len(document)), key=repeated.__getitem__)
        ]
        kept: list[list[Sentence]] = []
        joined = False
        for old, sentences in stretches:
            if old and sum(len(s.ids) for s in sentences) >= LEAST_REPEATED:
                joined = False
                continue
            kept = [*kept[:-1], kept[-1] + sentences] if joined else [*kept, sentences]
            joined = True
        for sentence in (sentence for stretch in kept for sentence in stretch):
            self._whole.add(_digest(sentence.ids))
            anchors = _anchors(sentence)
            self._anchors.update(anchors)
            if sentence.edge:
                self._edge_anchors.update(anchors)
        return kept

    def _is_repeated(self, sentence: Sentence) -> bool:
        known = self._anchors if sentence.edge else self._edge_anchors
        return _digest(sentence.ids) in self._whole or not known.isdisjoint(_anchors(sentence))


def _anchors(sentence: Sentence) -> tuple[bytes, ...]:
    """Digests of the first and the last tokens, told apart by a letter."""
    ids = sentence.ids
    if len(ids) < ANCHOR:
        return ()
    return b"f" + _digest(ids[:ANCHOR]), b"l" + _digest(ids[-ANCHOR:])


def _digest(ids: npt.NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest()
