"""A corpus of made-up tokens in memory, with everything the loader reads of real shards."""

from __future__ import annotations

import dataclasses

import numpy as np

from megabert.data.samples.pairs import CorpusLike, PairPlan
from megabert.data.shards.spans import SentenceStarts, Spans


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

    @property
    def document_ends(self) -> np.ndarray:
        return np.cumsum(self.document_lengths)

    def sentences(self, documents: np.ndarray) -> SentenceStarts:
        parts = [self.starts[d] for d in documents.tolist()]
        counts = np.array([len(p) for p in parts], dtype=np.int64)
        return SentenceStarts(np.concatenate([np.zeros(0, np.int64), *parts]), counts)

    def read_tokens(self, spans: Spans) -> np.ndarray:
        return self._read(self.all, spans)

    def read_word_starts(self, spans: Spans) -> np.ndarray:
        return self._read(self.words, spans)

    def _read(self, values: np.ndarray, spans: Spans) -> np.ndarray:
        assert (spans.starts >= 0).all()
        assert (spans.starts <= spans.stops).all()
        assert (spans.stops <= self.document_lengths[spans.documents]).all()
        bases = np.array(self.base)[spans.documents]
        parts = [
            values[base + start : base + stop]
            for base, start, stop in zip(bases, spans.starts, spans.stops)
        ]
        return np.concatenate([values[:0], *parts])

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


@dataclasses.dataclass(frozen=True)
class Pair:
    """The text of one sample, without special tokens; `b_place` is None where there is no B."""

    a_ids: np.ndarray
    b_ids: np.ndarray
    a_words: np.ndarray
    b_words: np.ndarray
    label: int
    a_place: tuple[int, int]
    b_place: tuple[int, int] | None


def pairs_of(corpus: CorpusLike, plan: PairPlan) -> list[Pair]:
    """What a plan says, sample by sample."""
    pairs = []
    for row in range(len(plan.labels)):
        a, b = (spans.take(np.array([row])) for spans in (plan.first, plan.second))
        places = [(int(s.documents[0]), int(s.starts[0])) for s in (a, b)]
        pairs.append(
            Pair(
                *(corpus.read_tokens(s).astype(np.int64) for s in (a, b)),
                *(corpus.read_word_starts(s) for s in (a, b)),
                label=int(plan.labels[row]),
                a_place=places[0],
                b_place=places[1] if len(b) and b.lengths[0] else None,
            )
        )
    return pairs
