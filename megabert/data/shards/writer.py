"""Writing shards: HDF5 files that are identical, byte for byte, for the same content.

The HDF5 library lays out the file (headers, attributes, contiguous datasets, no time stamps). Plain
file writes then fill the arrays, so that a full disk is an ordinary error and one :class:`Piece`
bounds the memory. Checksums, fsync and rename come last.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import rename, sha256_of_file, sync, temporary_name
from megabert.common.storage import system_error
from megabert.data.shards import layout
from megabert.data.shards.document_index import write_document_index
from megabert.data.shards.manifest import (
    Manifest,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    save_manifest,
)


@dataclass(frozen=True)
class ShardHeader:
    """The HDF5 attributes of a shard, except its counts."""

    language: str
    tokenizer: TokenizerInfo
    split: str
    shard_index: int
    shard_count: int
    seed: int
    source_name: str
    source_sha256: str


@dataclass(frozen=True)
class Piece:
    """Several whole documents in a row.

    ``tokens`` [T] any integer dtype; ``word_starts`` bool [T]; ``sentence_lengths`` [S] in
    tokens; ``document_sentences`` [D] in sentences; ``document_ids`` int64 [D].
    """

    tokens: npt.NDArray[Any]
    word_starts: npt.NDArray[np.bool_]
    sentence_lengths: npt.NDArray[Any]
    document_sentences: npt.NDArray[Any]
    document_ids: npt.NDArray[Any]


@dataclass(frozen=True)
class Document:
    """One document to write: its id, and per sentence its ids and word starts (same length)."""

    document_id: int
    sentences: Sequence[tuple[Sequence[int], Sequence[bool]]]


def as_piece(documents: Sequence[Document]) -> Piece:
    """Join documents into one :class:`Piece`."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    return Piece(
        tokens=np.array([t for ids, _ in sentences for t in ids], np.int64),
        word_starts=np.array([w for _, words in sentences for w in words], np.bool_),
        sentence_lengths=np.array([len(ids) for ids, _ in sentences], np.int64),
        document_sentences=np.array([len(d.sentences) for d in documents], np.int64),
        document_ids=np.array([d.document_id for d in documents], np.int64),
    )


class ShardWriter:
    """Writes one shard of known size piece by piece; the file appears whole or not at all.

    Use it as a context manager: ``append`` pieces, then call ``finish()``. Leaving the block
    without ``finish()`` removes the temporary file.
    """

    def __init__(
        self, path: Path, header: ShardHeader, *, documents: int, sentences: int, tokens: int
    ) -> None:
        if tokens > layout.MAX_SHARD_TOKENS:
            raise UserError(
                f"{path}: {tokens} tokens are too many for one shard; use more --shards"
            )
        if not 0 < documents <= sentences <= tokens:
            raise ValueError("a shard needs at least one document, and no sentence may be empty")
        self.path = path
        self._temporary = temporary_name(path)
        self._vocab_size = header.tokenizer.vocab_size
        self._expected = (documents, sentences, tokens)
        self._done = [0, 0, 0]
        self._bits = np.zeros(0, np.bool_)  # word starts that do not fill a byte yet
        self._dtype = layout.token_dtype(self._vocab_size)
        shapes: dict[str, tuple[int, str]] = {
            layout.TOKENS: (tokens, self._dtype.str),
            layout.WORD_STARTS: (-(-tokens // 8), "|u1"),
            layout.SENTENCE_STARTS: (sentences + 1, "<u4"),
            layout.DOCUMENT_STARTS: (documents + 1, "<u4"),
            layout.DOCUMENT_TOKEN_STARTS: (documents + 1, "<u4"),
            layout.DOCUMENT_IDS: (documents, "<i8"),
        }
        attributes = _attributes(header, documents, sentences, tokens)
        self._content = {name: attributes[name] for name in layout.CONTENT}
        try:
            self._arrays, self._checksums = _lay_out(self._temporary, shapes, attributes)
            self._file = self._temporary.open("r+b")
            os.posix_fallocate(self._file.fileno(), 0, self._temporary.stat().st_size)
        except (OSError, RuntimeError) as error:
            self._temporary.unlink(missing_ok=True)
            found = system_error(error, path)
            if found is None or found is error:
                raise
            raise found from error
        self._put(layout.SENTENCE_STARTS, 0, np.zeros(1, "<u4"))
        self._put(layout.DOCUMENT_STARTS, 0, np.zeros(1, "<u4"))
        self._put(layout.DOCUMENT_TOKEN_STARTS, 0, np.zeros(1, "<u4"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def append(self, piece: Piece) -> None:
        """Append whole documents to those already written.

        Raises:
            ValueError: ids outside the vocabulary, or lengths that disagree.
        """
        documents, sentences, tokens = self._done
        ids = np.asarray(piece.tokens)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocab_size:
            raise ValueError(f"an id is outside 0..{self._vocab_size - 1}")
        if len(ids) != piece.sentence_lengths.sum() or len(ids) != len(piece.word_starts):
            raise ValueError("tokens, word starts and sentence lengths disagree")
        if piece.document_sentences.sum() != len(piece.sentence_lengths):
            raise ValueError("document and sentence counts disagree")
        self._put(layout.TOKENS, tokens, ids.astype(self._dtype))
        self._append_bits(tokens, piece.word_starts)
        token_ends = tokens + np.cumsum(piece.sentence_lengths, dtype=np.int64)
        self._put(layout.SENTENCE_STARTS, sentences + 1, token_ends.astype("<u4"))
        ends = np.cumsum(piece.document_sentences, dtype=np.int64)
        self._put(layout.DOCUMENT_STARTS, documents + 1, (sentences + ends).astype("<u4"))
        document_ends = token_ends[ends - 1]
        self._put(layout.DOCUMENT_TOKEN_STARTS, documents + 1, document_ends.astype("<u4"))
        self._put(layout.DOCUMENT_IDS, documents, piece.document_ids.astype("<i8"))
        self._done[0] += len(piece.document_ids)
        self._done[1] += len(piece.sentence_lengths)
        self._done[2] += len(ids)

    def _append_bits(self, first_token: int, word_starts: npt.NDArray[np.bool_]) -> None:
        first_byte = (first_token - len(self._bits)) // 8
        bits = np.concatenate([self._bits, word_starts])
        whole = len(bits) // 8 * 8
        self._put(layout.WORD_STARTS, first_byte, np.packbits(bits[:whole], bitorder="little"))
        self._bits = bits[whole:]

    def _put(self, name: str, index: int, values: npt.NDArray[Any]) -> None:
        offset, size = self._arrays[name]
        start = index * values.itemsize
        if start + values.nbytes > size:
            raise ValueError(f"{self.path}: more {name} than announced")
        self._file.seek(offset + start)
        self._file.write(np.ascontiguousarray(values).data)

    def finish(self) -> ShardInfo:
        """Write the checksums, sync the file to disk and rename it."""
        if tuple(self._done) != self._expected:
            raise ValueError(f"{self.path}: wrote {self._done}, announced {self._expected}")
        if len(self._bits):
            last = np.packbits(self._bits, bitorder="little")
            self._put(layout.WORD_STARTS, self._expected[2] // 8, last)
        self._file.flush()
        size = self._temporary.stat().st_size
        self._write_checksums(size)
        self._file.close()
        sync(self._temporary)
        digest = sha256_of_file(self._temporary)
        rename(self._temporary, self.path)
        documents, sentences, tokens = self._expected
        return ShardInfo(self.path.name, size, digest, documents, sentences, tokens)

    def _write_checksums(self, size: int) -> None:
        offset, table_bytes = self._checksums
        count = table_bytes // 4
        plan = layout.Preamble(size, offset, count, 0, self._arrays, self._content)
        if plan.blocks > count:
            raise ValueError(f"{self.path}: {plan.blocks} blocks, but room for {count} checksums")
        table = np.zeros(count, "<u4")
        self._file.seek(layout.PREAMBLE_BYTES)
        for block in range(plan.blocks):
            table[block] = plan.block_crc32(self._file.read(layout.BLOCK_BYTES), block)
        self._file.seek(offset)
        self._file.write(table.data)
        self._file.seek(0)
        self._file.write(dataclasses.replace(plan, checksums_crc32=zlib.crc32(table.data)).encode())


def _attributes(
    header: ShardHeader, documents: int, sentences: int, tokens: int
) -> dict[str, str | int]:
    tokenizer = header.tokenizer
    return {
        "format": layout.FORMAT,
        "version": layout.VERSION,
        "language": header.language,
        "tokenizer_kind": tokenizer.kind,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "lower_case": int(tokenizer.lower_case),
        **{f"{name}_id": value for name, value in tokenizer.special.as_dict().items()},
        "source_name": header.source_name,
        "source_sha256": header.source_sha256,
        "seed": header.seed,
        "split": header.split,
        "shard_index": header.shard_index,
        "shard_count": header.shard_count,
        "documents": documents,
        "sentences": sentences,
        "tokens": tokens,
    }


def _lay_out(
    path: Path, shapes: dict[str, tuple[int, str]], attributes: dict[str, str | int]
) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """Create the HDF5 file with empty contiguous datasets; return the places of their bytes."""
    data_bytes = sum(count * np.dtype(dtype).itemsize for count, dtype in shapes.values())
    # Room for the headers and for the table itself, in blocks.
    blocks = (data_bytes + data_bytes // 1024 + 2**18) // layout.BLOCK_BYTES
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    places: dict[str, tuple[int, int]] = {}
    with h5py.File(
        path,
        "w",
        libver="earliest",
        locking=False,
        userblock_size=layout.PREAMBLE_BYTES,
        alignment_threshold=512,
        alignment_interval=64,
    ) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, (count, dtype) in [*shapes.items(), (layout.CHECKSUMS, (blocks, "<u4"))]:
            kind = h5py.h5t.py_create(np.dtype(dtype))
            space = h5py.h5s.create_simple((count,))
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, creation)
            places[name] = (dataset.get_offset(), dataset.get_storage_size())
    checksums = places.pop(layout.CHECKSUMS)
    return places, checksums


def write_corpus(
    folder: Path,
    documents: dict[str, Sequence[Sequence[Document]]],
    tokenizer: TokenizerInfo,
    *,
    language: str = "en",
    seed: int = 0,
) -> Manifest:
    """Write a whole folder of shards from documents in memory: ``documents[split][shard]``.

    For small corpora. The tokenizer's files are not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, shards in documents.items():
        infos = []
        for index, content in enumerate(shards):
            piece = as_piece(content)
            header = ShardHeader(
                language, tokenizer, split, index, len(shards), seed, "documents", ""
            )
            path = folder / names.shard_file(split, index, len(shards))
            counts = (len(content), len(piece.sentence_lengths), len(piece.tokens))
            sizes = dict(zip(("documents", "sentences", "tokens"), counts))
            with ShardWriter(path, header, **sizes) as writer:
                writer.append(piece)
                infos.append(writer.finish())
        splits[split] = SplitInfo(tuple(infos))
    written = sum(split.documents for split in splits.values())
    manifest = Manifest(tokenizer, language, seed, splits, articles_read=written)
    write_document_index(folder, manifest)
    save_manifest(folder, manifest)
    return manifest
