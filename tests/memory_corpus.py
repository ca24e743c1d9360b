"""A corpus of made-up tokens in memory, with everything the loader reads of real shards."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Special:
    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4

    def values(self) -> tuple[int, ...]:
        return dataclasses.astuple(self)


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    vocab_size: int
    special: Special = Special()


@dataclasses.dataclass(frozen=True)
class Manifest:
    tokenizer: TokenizerInfo


class MemoryCorpus:
    """Documents given by the lengths of their sentences.

    With `ids="place"` token ids are 10, 11, 12, ... over the whole corpus, so that each id names
    its place; with "random" they are random, as in text.
    """

    def __init__(
        self, sentence_lengths: list[list[int]], ids: str = "place", seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.starts = [
            np.concatenate(([0], np.cumsum(d))).astype(np.int64) for d in sentence_lengths
        ]
        self.document_lengths = np.array([s[-1] for s in self.starts], dtype=np.int64)
        self.num_documents = len(self.starts)
        total = int(self.document_lengths.sum())
        if ids == "place":
            self.all = np.arange(10, 10 + total, dtype=np.int32)
            vocab = 10 + total
        else:
            vocab = 1000
            self.all = rng.integers(5, vocab, total).astype(np.int32)
        self.words = rng.random(total) < 0.7
        self.base = np.concatenate(([0], np.cumsum(self.document_lengths))).tolist()
        for document, starts in enumerate(self.starts):
            self.words[self.base[document] + starts[:-1][starts[:-1] < starts[-1]]] = True
        self.manifest = Manifest(TokenizerInfo(vocab))

    def sentence_starts(self, document: int) -> np.ndarray:
        return self.starts[document]

    def tokens(self, document: int, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.document_lengths[document]
        return self.all[self.base[document] + start : self.base[document] + stop]

    def word_starts(self, document: int, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.document_lengths[document]
        return self.words[self.base[document] + start : self.base[document] + stop]

    def shard_of(self, document: int) -> tuple[str, int]:
        return ("memory.h5", document)

    def document_of(self, token_id: int) -> int:
        """The document of a token, with `ids="place"`."""
        return int(np.searchsorted(self.base, token_id - 10, side="right")) - 1


def wiki_like(documents: int, seed: int = 0, ids: str = "random") -> MemoryCorpus:
    """Documents of 1 to about 60 sentences of 2 to about 60 tokens."""
    rng = np.random.default_rng(seed)
    counts = np.clip(rng.lognormal(2.5, 1.0, documents), 1, 400).astype(int)
    return MemoryCorpus(
        [np.clip(rng.lognormal(3.0, 0.5, n), 2, 200).astype(int).tolist() for n in counts],
        ids,
        seed,
    )
