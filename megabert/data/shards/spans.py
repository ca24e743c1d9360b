"""Parts of documents, and where sentences start in them, for a whole batch at once.

N is the number of samples (rows); every array over it has one entry per row.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Spans:
    """Tokens ``starts[i]`` to ``stops[i]`` of document ``documents[i]``; all int64 [N]."""

    documents: Ints
    starts: Ints
    stops: Ints

    @property
    def lengths(self) -> Ints:
        """Tokens of each span, int64 [N]."""
        return self.stops - self.starts

    def __len__(self) -> int:
        return len(self.documents)

    def interleaved(self, others: Spans) -> Spans:
        """The first of these, the first of the others, the second of these, ...: [2 N]."""
        return Spans(
            np.stack((self.documents, others.documents), axis=1).reshape(-1),
            np.stack((self.starts, others.starts), axis=1).reshape(-1),
            np.stack((self.stops, others.stops), axis=1).reshape(-1),
        )

    def take(self, rows: Ints) -> Spans:
        """The spans of these rows."""
        return Spans(self.documents[rows], self.starts[rows], self.stops[rows])

    def replaced(self, rows: Ints, others: Spans) -> Spans:
        """These spans, with ``others`` [n] in the rows ``rows`` [n]."""
        merged = Spans(self.documents.copy(), self.starts.copy(), self.stops.copy())
        merged.documents[rows] = others.documents
        merged.starts[rows] = others.starts
        merged.stops[rows] = others.stops
        return merged

    def shorter(self, tokens: Ints, of_front: Ints) -> Spans:
        """These spans less ``tokens`` [N] of their tokens, ``of_front`` [N] of them in front."""
        return Spans(self.documents, self.starts + of_front, self.stops - (tokens - of_front))


class SentenceStarts:
    """The sentence starts of N documents, which are searched together.

    Args:
        values: int64 [M]; for each document in order, the first token of each of its sentences, and
            the document's length.
        counts: int64 [N], how many values belong to each document: the number of its sentences + 1.

    Attributes:
        lengths: int64 [N], tokens of each document.
        counts: as given.
    """

    def __init__(self, values: Ints, counts: Ints) -> None:
        ends = counts.cumsum()
        self.counts, self._values, self._firsts = counts, values, ends - counts
        self.lengths = values[ends - 1]
        # All rows in one sorted array, two tokens apart, so that one search serves all rows.
        stride = int(self.lengths.max(initial=0)) + 2
        self._shifts = np.arange(len(counts)) * stride
        self._beyond = stride - 1
        self._keys = values + self._shifts.repeat(counts)

    def search(self, places: Ints) -> Ints:
        """Number of the first sentence that starts at ``places[i]`` or later in document i.

        The document's end counts as one more start; the result is ``counts[i]`` if there is no
        start. [..., N] -> [..., N].
        """
        within = np.minimum(np.maximum(places, 0), self._beyond)
        return self._keys.searchsorted(within + self._shifts) - self._firsts

    def at(self, numbers: Ints) -> Ints:
        """First token of sentence ``numbers[i]`` of document i; the last number gives its length.

        [..., N] -> [..., N].
        """
        return self._values[self._firsts + numbers]

    def end_from(self, places: Ints, reach: int) -> Ints:
        """The first sentence end at or after each place; the place if that is beyond ``reach``."""
        ends = self.at(np.minimum(self.search(places), self.counts - 1))
        return np.where((places < self.lengths) & (ends - places > reach), places, ends)

    def nearest_end(self, starts: Ints, places: Ints, reach: int) -> Ints:
        """The sentence end after ``starts`` nearest to each place; the place if none is in reach.

        Of two equally near ends, the earlier one is taken. A place beyond the document gives the
        document's end.
        """
        after = np.minimum(self.search(places), self.counts - 1)
        later, earlier = self.at(after), self.at(np.maximum(after - 1, 0))
        best = np.where(later - places <= reach, later, places)
        near = (earlier > starts) & (places - earlier <= np.minimum(later - places, reach))
        return np.where(places >= self.lengths, self.lengths, np.where(near, earlier, best))


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ... of each range, joined: [N] and [N] -> int64 [sum of lengths]."""
    ends = lengths.cumsum()
    return np.arange(int(lengths.sum())) + (starts - ends + lengths).repeat(lengths)
