"""Batch files: the encoded documents of one batch of pages, on disk until the shards are written.

The job never holds the corpus in memory. Each batch of pages becomes one file, and the shards are
assembled from these files. A file holds its own CRC-32, so that a resumed job uses only files that
were written completely.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megabert.common.files import new_file, open_file
from megabert.common.json_text import parse_json
from megabert.data.shards.writer import Piece

_MAGIC = b"MBSPILL1"
_HEAD = struct.Struct("<8sIQI")  # magic, bytes of JSON, bytes in total, CRC-32 of what follows


@dataclass(frozen=True)
class EncodedPages:
    """Encoded documents of one batch of pages, in page order: D documents, S sentences, T tokens.

    Attributes:
        tokens: [T].
        word_bits: uint8, one bit per token: whether it begins a word.
        sentence_lengths: tokens of each sentence [S].
        document_sentences, document_tokens, document_ids: [D].
        document_eval: 1 for the evaluation split [D].
        document_digest: digests of ids and sentence lengths, uint64 [D, 2].
        sentence_sample: uint64, the digests of about one sentence in 64, chosen by the sum of its ids
            itself.
        pages: pages read.
        dropped: pages dropped, by reason.
        counts: what became of the markup of all pages (``Cleaned.counts``).
        languages: documents by the language that was detected, with ``--keep-languages``.
        text_digest: digests of the words, uint64 [D, 2]; [D, 0] if they are not compared.
        signatures: MinHash signatures, uint32 [D, P]; [D, 0] if they are not compared.
    """

    tokens: npt.NDArray[Any]
    word_bits: npt.NDArray[np.uint8]
    sentence_lengths: npt.NDArray[np.uint32]
    document_sentences: npt.NDArray[np.uint32]
    document_tokens: npt.NDArray[np.uint32]
    document_ids: npt.NDArray[np.int64]
    document_eval: npt.NDArray[np.uint8]
    document_digest: npt.NDArray[np.uint64]
    sentence_sample: npt.NDArray[np.uint64]
    pages: int
    dropped: Mapping[str, int]
    counts: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    text_digest: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 0), np.uint64))
    signatures: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 0), np.uint32))

    def piece(self, documents: npt.NDArray[np.int64]) -> Piece:
        """The documents with these indices (ascending), for a shard writer."""
        token_ends = np.cumsum(self.document_tokens, dtype=np.int64)
        sentence_ends = np.cumsum(self.document_sentences, dtype=np.int64)
        runs = np.split(documents, np.flatnonzero(np.diff(documents) > 1) + 1)
        tokens, words, lengths = [], [], []
        for run in runs:
            first, last = int(run[0]), int(run[-1])
            start = int(token_ends[first - 1]) if first else 0
            stop = int(token_ends[last])
            tokens.append(np.asarray(self.tokens[start:stop]))
            words.append(_unpack(self.word_bits, start, stop))
            begin = int(sentence_ends[first - 1]) if first else 0
            lengths.append(np.asarray(self.sentence_lengths[begin : int(sentence_ends[last])]))
        return Piece(
            tokens=np.concatenate(tokens),
            word_starts=np.concatenate(words),
            sentence_lengths=np.concatenate(lengths),
            document_sentences=np.asarray(self.document_sentences[documents]),
            document_ids=np.asarray(self.document_ids[documents]),
        )


_ARRAYS = (
    "document_sentences",
    "document_tokens",
    "document_ids",
    "document_eval",
    "document_digest",
    "sentence_sample",
    "sentence_lengths",
    "word_bits",
    "tokens",
    "text_digest",
    "signatures",
)
_COMPARED = ("text_digest", "signatures")  # written where there are any


def join_batches(parts: Sequence[EncodedPages]) -> EncodedPages:
    """Join batches (at least one) into one, in order."""
    if len(parts) == 1:
        return parts[0]
    words = [_unpack(part.word_bits, 0, len(part.tokens)) for part in parts]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _ARRAYS
        if name != "word_bits"
    }
    dropped: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for part in parts:
        dropped.update(part.dropped)
        counts.update(part.counts)
        languages.update(part.languages)
    return EncodedPages(
        **arrays,
        word_bits=np.packbits(np.concatenate(words), bitorder="little"),
        pages=sum(part.pages for part in parts),
        dropped=dict(sorted(dropped.items())),
        counts=dict(sorted(counts.items())),
        languages=dict(sorted(languages.items())),
    )


def batch_path(work: Path, unit: int, part: int) -> Path:
    """The file of batch ``part`` of ``unit``. The order of the names is the order of the input."""
    return work / f"batch-{unit:08d}-{part:08d}"


def unit_of(path: Path) -> int:
    """The unit of a file named by :func:`batch_path`."""
    return int(path.name.split("-")[1])


def save_batch(path: Path, batch: EncodedPages) -> None:
    """Write a batch whole or not at all.

    This does not wait for the disk: a resumed job checks each file (:func:`is_whole`) and makes a
    damaged one again.
    """
    chosen = [name for name in _ARRAYS if name not in _COMPARED or getattr(batch, name).shape[1]]
    arrays = [np.ascontiguousarray(getattr(batch, name)) for name in chosen]
    layout = [[name, a.dtype.str, list(a.shape)] for name, a in zip(chosen, arrays)]
    head = json.dumps(
        {
            "arrays": layout,
            "pages": batch.pages,
            "dropped": dict(batch.dropped),
            "counts": dict(batch.counts),
            **({"languages": dict(batch.languages)} if batch.languages else {}),
        }
    ).encode()
    body = b"".join([head, *(a.tobytes() for a in arrays)])
    with (
        new_file(path, durable=False, unique=True) as temporary,
        temporary.open("wb") as file,
    ):
        file.write(_HEAD.pack(_MAGIC, len(head), len(body), zlib.crc32(body)))
        file.write(body)


def is_whole(path: Path) -> bool:
    """Whether the file exists and holds the bytes that were written."""
    try:
        with open_file(path) as file:
            magic, _, size, crc = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != _HEAD.size + size:
                return False
            found = 0
            while piece := file.read(1 << 20):
                found = zlib.crc32(piece, found)
    except (FileNotFoundError, struct.error):
        return False
    return found == crc


def load_batch(path: Path) -> EncodedPages:
    """Map a batch into memory; only the parts that are used are read."""
    content = np.asarray(np.memmap(path, np.uint8, "r"))
    _, size, _, _ = _HEAD.unpack_from(content[: _HEAD.size].tobytes())
    position = _HEAD.size + size
    head = parse_json(content[_HEAD.size : position].tobytes())
    arrays = {}
    for name, dtype, shape in head["arrays"]:
        stop = position + int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = content[position:stop].view(dtype).reshape(shape)
        position = stop
    return EncodedPages(
        **arrays,
        pages=head["pages"],
        dropped=head["dropped"],
        counts=head["counts"],
        languages=head.get("languages", {}),
    )


def _unpack(bits: npt.NDArray[np.uint8], start: int, stop: int) -> npt.NDArray[np.bool_]:
    first = start // 8
    words = np.unpackbits(bits[first : (stop + 7) // 8], bitorder="little")
    return words[start - 8 * first : stop - 8 * first].view(np.bool_)
