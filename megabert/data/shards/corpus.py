"""Reading shards: data is checked when it is first read; safe under fork and spawn.

Training reads a :class:`Corpus`: one split of a folder as a sequence of documents. Files are opened
when they are needed. A corpus can be pickled to worker processes, and each process opens the files
itself. Reading writes nothing and takes no lock, not even HDF5's own, so read-only and network file
systems work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megabert.data.shards import layout
from megabert.data.shards.document_index import read_document_ends
from megabert.data.shards.manifest import Manifest, ShardError, load_manifest
from megabert.data.shards.shard_set import ShardSet, Split, check_file, for_each_shard
from megabert.data.shards.spans import Ints, SentenceStarts, Spans, ranges


class Corpus:
    """One split of a folder of shards, as documents 0 to ``num_documents`` - 1.

    It is cheap to open and to pickle; see :class:`ShardSet`. ``document_ends`` is read once, from the
    folder's index if there is one, and pickled with the corpus.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest) -> None:
        self.folder = folder
        self.split = split
        self.manifest = manifest
        self._shards = ShardSet([Split(folder, split, manifest)])
        self._token_dtype = layout.token_dtype(manifest.tokenizer.vocab_size)
        self._ends: Ints | None = None

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Corpus:
        """Open a split (``"train"`` or ``"eval"``).

        Raises:
            ShardError: the folder is not a finished folder of shards, the split is empty or
                unknown, or a shard file is missing or differs in size from the manifest.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        if split not in manifest.splits or not manifest.splits[split].shards:
            raise ShardError(
                f"{folder}: the split {split!r} has no documents; "
                "make shards from more text, or with another --eval-fraction"
            )
        # before memory is taken for what they say they hold
        for_each_shard(check_file, folder, manifest.splits[split].shards)
        return cls(folder, split, manifest)

    @classmethod
    def joined(cls, corpora: Sequence[Corpus]) -> Corpus:
        """The documents of several corpora, one after the other.

        Their tokenizers are the same. ``folder``, ``split`` and ``manifest`` are the first one's.
        """
        first = corpora[0]
        made = cls(first.folder, first.split, first.manifest)
        made._shards = ShardSet([split for corpus in corpora for split in corpus._shards.splits])
        before = np.cumsum([0, *(corpus.num_tokens for corpus in corpora[:-1])]).tolist()
        ends = [corpus.document_ends + n for n, corpus in zip(before, corpora)]
        made._ends = np.concatenate(ends)
        return made

    @property
    def num_documents(self) -> int:
        """Documents of the split."""
        return int(self._shards.first_documents[-1])

    @property
    def num_tokens(self) -> int:
        """Tokens of the split."""
        return int(self._shards.first_tokens[-1])

    @property
    def document_ends(self) -> Ints:
        """Tokens up to and including each document, int64 [D], over all shards in order."""
        if self._ends is None:
            ends = read_document_ends(self.folder, self.split, self.manifest)
            self._ends = self._shards.document_ends() if ends is None else ends
        return self._ends

    @property
    def document_lengths(self) -> Ints:
        """Tokens of each document, int64 [D], over all shards in order."""
        return np.diff(self.document_ends, prepend=0)

    def sentences(self, documents: Ints) -> SentenceStarts:
        """The sentence starts of these documents [N]."""
        shards, inside = self._locate(documents)
        first, stop = self._shards.sentences(shards, inside)
        counts = stop + 1 - first
        content = self._shards.read(layout.SENTENCE_STARTS, shards, 4 * first, 4 * (stop + 1))
        starts = np.frombuffer(content, "<u4").astype(np.int64)
        self._require_sentences(documents, shards, inside, starts, counts)
        bases = starts[counts.cumsum() - counts]
        return SentenceStarts(starts - bases.repeat(counts), counts)

    def read_tokens(self, spans: Spans) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Ids of the spans' tokens, span after span, uint16 or uint32 [sum of lengths]."""
        shards, starts, stops = self._places(spans)
        size = self._token_dtype.itemsize
        content = self._shards.read(layout.TOKENS, shards, size * starts, size * stops)
        return np.frombuffer(content, self._token_dtype)

    def read_word_starts(self, spans: Spans) -> npt.NDArray[np.bool_]:
        """Whether each token of the spans begins a word, bool [sum of lengths]."""
        shards, starts, stops = self._places(spans)
        first, last = starts // 8, (stops + 7) // 8
        content = self._shards.read(layout.WORD_STARTS, shards, first, last)
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        sizes = last - first
        before = 8 * (sizes.cumsum() - sizes - first)
        return bits[ranges(before + starts, stops - starts)].view(np.bool_)

    def sentence_starts(self, document: int) -> Ints:
        """Start of each sentence within the document, and the document's length: int64 [n + 1]."""
        sentences = self.sentences(np.array([document]))
        return sentences.at(np.arange(int(sentences.counts[0])))

    def tokens(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Ids of a document's tokens ``start`` to ``stop``, int32 [stop - start]."""
        return self.read_tokens(self._span(document, start, stop)).astype(np.int32)

    def word_starts(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Whether each of those tokens begins a word, bool [stop - start]."""
        return self.read_word_starts(self._span(document, start, stop))

    def document_id(self, document: int) -> int:
        """The page id of a document."""
        shards, inside = self._locate(np.array([document]))
        return self._shards.file(int(shards[0])).document_id(int(inside[0]))

    def shard_of(self, document: int) -> tuple[Path, int]:
        """The file that holds a document, and the document's index in it."""
        shards, inside = self._locate(np.array([document]))
        return self._shards.paths[int(shards[0])], int(inside[0])

    def _require_sentences(
        self, documents: Ints, shards: Ints, inside: Ints, starts: Ints, counts: Ints
    ) -> None:
        """Raise ``ShardError`` unless sentence starts fill their documents, whose sums say nothing of that.

        Args:
            documents, shards, inside: [N]; the last two as :meth:`_locate` returns them.
            starts: of all sentences and the end of each document, within its shard.
            counts: entries of ``starts`` of each document [N].
        """
        ends, base = self.document_ends, self._shards.first_tokens[shards]
        begins = np.where(inside > 0, ends[documents - 1] - base, 0)
        last = counts.cumsum() - 1
        first = last - counts + 1
        wrong = (starts[first] != begins) | (starts[last] != ends[documents] - base)
        rising = np.diff(starts) > 0
        rising[last[:-1]] = True  # the next document may be an earlier one
        if wrong.any() or not rising.all():
            row = int(wrong.argmax()) if wrong.any() else int(last.searchsorted(rising.argmin()))
            path = self._shards.paths[int(shards[row])]
            raise ShardError(
                f"{path}: the sentences of document {int(inside[row])} do not fill it: make the shards again"
            )

    def _locate(self, documents: Ints) -> tuple[Ints, Ints]:
        """Shard of each document, and its number in that shard: [N] -> [N], [N]."""
        first = self._shards.first_documents
        if len(documents) and not 0 <= documents.min() <= documents.max() < first[-1]:
            raise IndexError(f"a document number is outside 0 .. {first[-1] - 1}")
        shards = first.searchsorted(documents, side="right") - 1
        return shards, documents - first[shards]

    def _places(self, spans: Spans) -> tuple[Ints, Ints, Ints]:
        """Shard of each span, and its first token and stop in that shard, [n] each.

        A span that begins where the previous one ends is joined to it, so that one read serves
        both.
        """
        shards, inside = self._locate(spans.documents)
        ends, base = self.document_ends, self._shards.first_tokens[shards]
        first = np.where(inside > 0, ends[spans.documents - 1], base)
        starts, stops = first + spans.starts, first + spans.stops
        valid = (first <= starts) & (starts <= stops) & (stops <= ends[spans.documents])
        if not valid.all():
            raise IndexError("a span is outside its document")
        begins = np.ones(len(spans) + 1, bool)
        begins[1:-1] = (starts[1:] != stops[:-1]) | (shards[1:] != shards[:-1])
        first, last = begins[:-1], begins[1:]
        return shards[first], (starts - base)[first], (stops - base)[last]

    def _span(self, document: int, start: int, stop: int | None) -> Spans:
        if stop is None:
            stop = int(self.sentences(np.array([document])).lengths[0])
        return Spans(np.array([document]), np.array([start]), np.array([stop]))
