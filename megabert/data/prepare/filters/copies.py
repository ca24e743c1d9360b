"""Which documents are copies of earlier ones: a function of the documents in the order of the input.

Near copies are found by locality-sensitive hashing (Leskovec, Rajaraman and Ullman, *Mining of Massive
Datasets*, chapter 3): a signature is cut into *bands* of a few rows, and documents with an equal band
are candidates. A document is left out if one of its candidates is an earlier document that is kept,
and their signatures agree in ``similarity`` of the permutations, which is an estimate of their Jaccard
similarity. Its *first* document is the earliest of these. A document that is left out is not compared
with later ones, so each that is left out is a near copy of one that is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RECALL = 0.9
"""Least probability with which two documents of just the wanted similarity are candidates."""
MOST_COMPARED = 100
"""Kept documents of one band with which a document is compared, the earliest ones."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)

Signatures32 = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]


def bands_and_rows(similarity: float, permutations: int) -> tuple[int, int]:
    """The number of bands and the rows of each: as many rows as RECALL allows."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


def band_keys(signatures: Signatures32, bands: int, rows: int) -> Signatures32:
    """A hash of each band: [D, P] -> [D, bands]."""
    parts = signatures[:, : bands * rows].reshape(len(signatures), bands, rows)
    keys = np.zeros(parts.shape[:2], np.uint64)
    for row in range(rows):
        keys = (keys ^ parts[:, :, row]) * _FACTOR
        keys ^= keys >> _SHIFT
    return (keys * _FACTOR >> _SHIFT).astype(np.uint32)


@dataclass(frozen=True)
class NearCopies:
    """Documents that are left out, ascending; the first one of each, and their similarity [n].

    ``candidates`` is the number of documents that share a band with another one.
    """

    own: Indices
    first: Indices
    similarity: npt.NDArray[np.float64]
    candidates: int


def near_copies(
    keys: Signatures32,
    documents: Indices,
    signatures: Callable[[Indices], Signatures32],
    similarity: float,
) -> NearCopies:
    """Find the near copies among ``documents`` (ascending).

    Args:
        keys: :func:`band_keys` of all documents [D, bands].
        documents: those that are compared.
        signatures: gives the signatures of documents (ascending).
        similarity: least similarity of a copy.
    """
    members, groups = _shared_bands(keys, documents)
    candidates, begins = np.unique(members, return_index=True)
    found = signatures(candidates)
    bounds = [*begins.tolist(), len(members)]
    kept: dict[int, list[int]] = {}
    own, first, share = [], [], []
    for place in range(len(candidates)):
        mine = groups[bounds[place] : bounds[place + 1]].tolist()
        earlier = np.array(sorted({one for group in mine for one in kept.get(group, ())}), np.intp)
        if len(earlier):
            agree = (found[earlier] == found[place]).mean(axis=1)
            alike = np.flatnonzero(agree >= similarity)
            if len(alike):
                own.append(place)
                first.append(int(earlier[alike[0]]))
                share.append(float(agree[alike[0]]))
                continue
        for group in mine:
            others = kept.setdefault(group, [])
            if len(others) < MOST_COMPARED:
                others.append(place)
    return NearCopies(
        candidates[np.array(own, np.intp)],
        candidates[np.array(first, np.intp)],
        np.array(share, np.float64),
        len(candidates),
    )


def _shared_bands(keys: Signatures32, documents: Indices) -> tuple[Indices, Indices]:
    """Documents that share a band with another one, ascending, and the numbers of these bands.

    A document is there once per band that it shares.
    """
    members: list[Indices] = [np.zeros(0, np.int64)]
    groups: list[Indices] = [np.zeros(0, np.int64)]
    number = 0
    for band in range(keys.shape[1]):
        column = keys[documents, band]
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        sizes = np.diff(begins, append=len(ordered))
        shared = np.repeat(sizes > 1, sizes)
        members.append(documents[order[shared]])
        groups.append(np.repeat(np.arange(len(sizes)) + number, sizes)[shared])
        number += len(sizes)
    every = np.concatenate(members)
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate(groups)[order]


def first_equal(digest: npt.NDArray[np.uint64]) -> Indices:
    """The first row that equals each row: [D, 2] -> [D]."""
    order = np.lexsort((digest[:, 0], digest[:, 1]))  # stable: equal rows keep the input order
    ordered = digest[order]
    begins = np.ones(len(digest), np.bool_)
    begins[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    first = np.empty(len(digest), np.int64)
    first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return first
