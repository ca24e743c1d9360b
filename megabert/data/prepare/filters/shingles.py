"""What is compared of a document's text: its words, a digest of them, and a MinHash signature.

The text is brought to Unicode's form NFKC and case-folded. A *word* is a run of letters, marks and
digits; in scripts without spaces between words each letter is one. Signs and spaces do not count.

A *shingle* is a run of words; the Jaccard similarity of two documents is the share of common shingles
among all of both. Under a random permutation of all shingles, two documents have the same smallest one
with this probability (Broder, 1997). The signature holds, per permutation, the smallest hash.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
)
_ASCII_WORDS = re.compile("[a-z0-9]+")
_LAST_MARK = 0x1FFFF  # the ranges of marks are searched up to here
_REMEMBERED = 1 << 18  # words whose hash is kept
_CHUNK = 4096  # shingles that are permuted at once
_SCHEME = "affine32"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    unspaced = re.compile(f"[{_UNSPACED}]")
    marks = "".join(
        chr(code)
        for code in range(_LAST_MARK)
        if unicodedata.category(chr(code))[0] == "M" and not unspaced.match(chr(code))
    )
    letters = rf"[^\W_{_UNSPACED}]"
    return re.compile(f"[{_UNSPACED}]|{letters}+(?:[{marks}]+{letters}*)*")


def folded_words(text: str) -> list[str]:
    """The words of a text."""
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    return _pattern().findall(unicodedata.normalize("NFKC", text).casefold())


def text_digest(words: list[str]) -> bytes:
    """16 bytes that are the same for the same words."""
    return hashlib.blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=16).digest()


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


_hashes = _WordHashes()


def shingle_hashes(words: list[str], length: int) -> npt.NDArray[np.uint32]:
    """Hashes of the different runs of ``length`` words (of all, if they are fewer), ascending."""
    if len(_hashes) > _REMEMBERED:
        _hashes.clear()
    codes = np.fromiter(map(_hashes.__getitem__, words), np.uint64, len(words))
    length = min(length, len(codes))
    runs = len(codes) - length + 1
    found = np.zeros(runs, np.uint64)
    for place in range(length):
        found = (found ^ codes[place : place + runs]) * _FACTOR
        found ^= found >> _SHIFT
    return np.unique((found * _FACTOR >> _SHIFT).astype(np.uint32))


class Signatures:
    """MinHash signatures by datasketch, whose permutations are those of its default seed."""

    def __init__(self, permutations: int, shingle_words: int) -> None:
        from datasketch import MinHash

        self._new: Any = MinHash
        self._words = shingle_words
        self._permutations = MinHash(num_perm=permutations, scheme=_SCHEME).permutations

    def of(self, words: list[str]) -> npt.NDArray[np.uint32]:
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
