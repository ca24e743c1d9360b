"""What is compared of a document's text: its words, a digest of them, and a MinHash signature.

The text is brought to Unicode's form NFKC and case-folded. A *word* is a run of letters, marks and
digits; in scripts without spaces between words each letter is one. Signs and spaces do not count.

A *shingle* is a run of words; the Jaccard similarity of two documents is the share of common shingles
among all of both. Under a random permutation of all shingles, two documents have the same smallest one
with this probability (Broder, 1997). The signature holds, per permutation, the smallest hash.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
# scripts without spaces between words: Thai, Lao, Burmese, Khmer, Tai, kana, Han, Yi
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
    (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF),
    (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_SIGN, _LETTER, _ALONE = 0, 1, 2  # what a character is; the last kind is a word by itself
_CODES = 0x40000  # that are classified; above are signs
_CHUNK = 512  # shingles that are permuted at once
_SCHEME = "affine32"
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_FACTOR = np.uint64(_BASE)
_SHIFT = np.uint64(32)


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """What each character is [codes]."""
    letters = [unicodedata.category(chr(code))[0] in "LMN" for code in range(_CODES)]
    kinds = np.array(letters, np.uint8)
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= _ALONE
    return np.append(kinds, np.uint8(_SIGN))


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first powers of _BASE and of its inverse, modulo 2^64."""
    both = [np.full(count, value, np.uint64) for value in (_BASE, pow(_BASE, -1, 1 << 64))]
    for powers in both:
        powers[0] = 1
        np.multiply.accumulate(powers, out=powers)
    return both[0], both[1]


def word_hashes(text: str) -> Hashes:
    """A hash of each word of a text, in order: the polynomial of its characters modulo 2^64."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[np.minimum(codes, _CODES)]
    inside = np.concatenate(([False], kinds == _LETTER, [False]))
    alone = np.concatenate((kinds == _ALONE, [False]))
    begins = np.flatnonzero((inside[1:] & ~inside[:-1]) | alone)
    ends = np.flatnonzero(
        np.concatenate(([False], inside[1:-1] & ~inside[2:]))
        | np.concatenate(([False], alone[:-1]))
    )
    forward, backward = _powers(1 << max(16, len(codes).bit_length()))
    terms = (codes.astype(np.uint64) + np.uint64(1)) * _FACTOR
    terms = (terms ^ (terms >> _SHIFT)) * forward[: len(codes)]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
    return (sums[ends] - sums[begins]) * backward[begins]


def text_digest(words: Hashes) -> bytes:
    """16 bytes that are the same for the same words."""
    return hashlib.blake2b(words.astype("<u8").tobytes(), digest_size=16).digest()


def shingle_hashes(words: Hashes, length: int) -> npt.NDArray[np.uint32]:
    """Hashes of the runs of ``length`` words, in order (of all words, if they are fewer)."""
    length = min(length, len(words))
    runs = len(words) - length + 1
    found = np.zeros(runs, np.uint64)
    for place in range(length):
        found = (found ^ words[place : place + runs]) * _FACTOR
        found ^= found >> _SHIFT
    return (found * _FACTOR >> _SHIFT).astype(np.uint32)


class Signatures:
    """MinHash signatures by datasketch, whose permutations are those of its default seed."""

    def __init__(self, permutations: int, shingle_words: int) -> None:
        from datasketch import MinHash

        self._new: Any = MinHash
        self._words = shingle_words
        self._permutations = MinHash(num_perm=permutations, scheme=_SCHEME).permutations

    def of(self, words: Hashes) -> npt.NDArray[np.uint32]:
        """The signature [P]."""
        minhash = self._new(
            num_perm=self._permutations.shape[1],
            hashfunc=int,
            permutations=self._permutations,
            scheme=_SCHEME,
        )
        hashes = shingle_hashes(words, self._words).tolist()
        for first in range(0, len(hashes), _CHUNK):
            minhash.update_batch(hashes[first : first + _CHUNK])
        return np.asarray(minhash.hashvalues, np.uint32)
