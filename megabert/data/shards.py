"""Read shards: memory-mapped, checked at first touch, safe under fork and spawn.

:class:`Corpus` is what training sees: one split of a folder as a row of documents. Nothing is
opened until it is needed, nothing is kept open but memory maps, and a corpus can be pickled to
worker processes, each of which maps the files for itself. HDF5's file locking is off throughout,
so read-only and network file systems work.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from megabert.data import shard_layout as layout
from megabert.data.schema import Manifest, ShardError, ShardInfo, load_manifest
from megabert.data.shard_writer import Document, ShardHeader, ShardWriter, write_corpus

__all__ = [
    "Corpus",
    "Document",
    "ShardError",
    "ShardHeader",
    "ShardReader",
    "ShardWriter",
    "write_corpus",
]


class ShardReader:
    """One shard file, memory-mapped; every block's CRC-32 is checked before its first use.

    Opening checks the preamble, the file's length, the table of checksums, and all that is not a
    large array: HDF5 headers, attributes, ``document_starts``, ``document_ids``.
    Raises ``ShardError`` that names the file, the dataset, the block and the bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(layout.PREAMBLE_BYTES)
        except OSError as error:
            raise ShardError(f"{path}: cannot read this shard: {error.strerror}") from None
        self._preamble = layout.read_preamble(path, head, size)
        # A plain array over the map: indexing np.memmap itself is several times slower.
        self._bytes: npt.NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r"))
        self._table = self._read_table()
        self._checked = bytearray(self._preamble.blocks)
        self._vocab_size = 0
        self._check_all_but_lazy()
        self.attributes = self._read_header()
        self._vocab_size = int(self.attributes["vocab_size"])
        self.documents = int(self.attributes["documents"])
        self._token_dtype = layout.token_dtype(self._vocab_size)
        self._tokens = self._array(layout.TOKENS, self._token_dtype.str)
        self._token_offset = self._preamble.arrays[layout.TOKENS][0]
        self._bits = self._array(layout.WORD_STARTS, "|u1")
        self._bit_offset = self._preamble.arrays[layout.WORD_STARTS][0]
        self._sentence_starts = self._array(layout.SENTENCE_STARTS, "<u4")
        self._sentence_offset = self._preamble.arrays[layout.SENTENCE_STARTS][0]
        self.document_starts = self._array(layout.DOCUMENT_STARTS, "<u4")
        self.document_ids = self._array(layout.DOCUMENT_IDS, "<i8")

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Ids of tokens ``start`` to ``stop`` of the shard, int32 [stop - start]."""
        size = self._token_dtype.itemsize
        self._check(self._token_offset + start * size, self._token_offset + stop * size)
        return self._tokens[start:stop].astype(np.int32)

    def word_starts(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Whether each of the tokens ``start`` to ``stop`` begins a word, bool [stop - start]."""
        first, last = start // 8, (stop + 7) // 8
        self._check(self._bit_offset + first, self._bit_offset + last)
        bits = np.unpackbits(self._bits[first:last], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)

    def sentence_starts(self, document: int) -> npt.NDArray[np.int64]:
        """Token offsets in the shard of a document's sentences, and its end: int64 [n + 1]."""
        first = int(self.document_starts[document])
        stop = int(self.document_starts[document + 1]) + 1
        self._check(self._sentence_offset + 4 * first, self._sentence_offset + 4 * stop)
        return self._sentence_starts[first:stop].astype(np.int64)

    def token_range(self, document: int) -> tuple[int, int]:
        """First token of a document in the shard, and the first behind it."""
        first = int(self.document_starts[document])
        stop = int(self.document_starts[document + 1])
        self._check(self._sentence_offset + 4 * first, self._sentence_offset + 4 * stop + 4)
        return int(self._sentence_starts[first]), int(self._sentence_starts[stop])

    def document_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, int64 [D]. Reads all of ``sentence_starts``."""
        offset, size = self._preamble.arrays[layout.SENTENCE_STARTS]
        self._check(offset, offset + size)
        return np.diff(self._sentence_starts[self.document_starts].astype(np.int64))

    def verify(self) -> None:
        """Check every byte of the file, and that its arrays fit together."""
        for block in range(self._preamble.blocks):
            self._check_block(block)
        counts = {name: int(self.attributes[name]) for name in ("documents", "sentences", "tokens")}
        starts = self._sentence_starts.astype(np.int64)
        documents = self.document_starts.astype(np.int64)
        sound = (
            (len(starts), len(documents)) == (counts["sentences"] + 1, counts["documents"] + 1)
            and starts[0] == documents[0] == 0
            and starts[-1] == counts["tokens"] == len(self._tokens)
            and documents[-1] == counts["sentences"]
            and bool(np.all(np.diff(starts) > 0) and np.all(np.diff(documents) > 0))
        )
        if not sound:
            raise ShardError(f"{self.path}: starts and counts do not fit together")

    def _read_table(self) -> npt.NDArray[np.uint32]:
        p = self._preamble
        raw = self._bytes[p.checksums_offset : p.checksums_end]
        if zlib.crc32(raw.data) != p.checksums_crc32:
            raise ShardError(
                f"{self.path}: damaged: dataset {layout.CHECKSUMS} "
                f"(bytes {p.checksums_offset} to {p.checksums_end})"
            )
        return np.frombuffer(raw.tobytes(), "<u4")

    def _check_all_but_lazy(self) -> None:
        """Check the blocks that hold at least one byte of something else than a large array."""
        p = self._preamble
        lazy = sorted(p.arrays[name] for name in layout.LAZY_ARRAYS)
        position = layout.PREAMBLE_BYTES
        for offset, size in lazy:
            self._check(position, offset)
            position = offset + size
        self._check(position, p.file_bytes)

    def _check(self, start: int, stop: int) -> None:
        """Check all blocks that overlap bytes ``start`` to ``stop`` and were not checked yet."""
        if stop <= start:
            return
        size = self._preamble.block_bytes
        first = (start - layout.PREAMBLE_BYTES) // size
        last = (stop - 1 - layout.PREAMBLE_BYTES) // size
        for block in range(first, last + 1):
            if not self._checked[block]:
                self._check_block(block)

    def _check_block(self, block: int) -> None:
        start, stop = self._preamble.block_range(block)
        if self._preamble.block_crc32(self._bytes, block) != self._table[block]:
            place = self._preamble.place(start, stop)
            raise ShardError(
                f"{self.path}: damaged: {place}, block {block} (bytes {start} to {stop}); "
                "copy the file again or make the shards again"
            )
        if self._vocab_size:
            self._check_ids(block, start, stop)
        self._checked[block] = 1

    def _check_ids(self, block: int, start: int, stop: int) -> None:
        offset, size = self._preamble.arrays[layout.TOKENS]
        item = self._token_dtype.itemsize
        low = -(-(max(start, offset) - offset) // item)
        high = (min(stop, offset + size) - offset) // item
        if low < high and int(self._tokens[low:high].max()) >= self._vocab_size:
            raise ShardError(
                f"{self.path}: block {block} of dataset tokens holds an id outside of the "
                f"vocabulary of {self._vocab_size}"
            )

    def _read_header(self) -> dict[str, Any]:
        """Attributes, after checking that HDF5 finds the datasets where the preamble has them."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                found = {
                    name: (d.id.get_offset(), d.id.get_storage_size()) for name, d in file.items()
                }
                attributes = dict(file.attrs)
        except (OSError, RuntimeError, KeyError, AttributeError) as error:
            raise ShardError(f"{self.path}: not readable as HDF5: {error}") from None
        found.pop(layout.CHECKSUMS, None)
        if found != self._preamble.arrays:
            raise ShardError(f"{self.path}: its datasets do not lie where its preamble says")
        return {k: v if isinstance(v, str) else int(v) for k, v in attributes.items()}

    def _array(self, name: str, dtype: str) -> npt.NDArray[Any]:
        offset, size = self._preamble.arrays[name]
        return self._bytes[offset : offset + size].view(dtype)


class Corpus:
    """One split of a folder of shards, as documents 0 to ``num_documents`` - 1.

    Cheap to open and to pickle: files are mapped at first use in each process.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest) -> None:
        self.folder = folder
        self.split = split
        self.manifest = manifest
        self._infos: tuple[ShardInfo, ...] = manifest.splits[split].shards
        self._first = [0, *accumulate(info.documents for info in self._infos)]
        self._readers: list[ShardReader | None] = [None] * len(self._infos)
        self._lengths: npt.NDArray[np.int64] | None = None

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Corpus:
        """Open a split (``"train"`` or ``"eval"``).

        Raises ``ShardError`` when the folder is no finished folder of shards, the split is empty
        or unknown, or a shard file is missing or has another length than the manifest says.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        if split not in manifest.splits or not manifest.splits[split].shards:
            raise ShardError(
                f"{folder}: no documents in the split {split!r}; "
                "make shards of more text, or with another --eval-fraction"
            )
        for info in manifest.splits[split].shards:
            check_file(folder, info)
        return cls(folder, split, manifest)

    @property
    def num_documents(self) -> int:
        """Documents of the split."""
        return self._first[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens of the split."""
        return self.manifest.splits[self.split].tokens

    @property
    def document_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, int64 [D], over all shards in order."""
        if self._lengths is None:
            parts = [self._reader(i).document_lengths() for i in range(len(self._infos))]
            self._lengths = np.concatenate(parts)
        return self._lengths

    def sentence_starts(self, document: int) -> npt.NDArray[np.int64]:
        """Where each sentence starts, and the document's end, in its own tokens: int64 [n + 1]."""
        reader, index = self._locate(document)
        starts = reader.sentence_starts(index)
        return starts - starts[0]

    def tokens(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Ids of a document's tokens ``start`` to ``stop``, int32 [stop - start]."""
        reader, index = self._locate(document)
        first, last = _clip(reader.token_range(index), start, stop)
        return reader.tokens(first, last)

    def word_starts(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Whether each of those tokens begins a word, bool [stop - start]."""
        reader, index = self._locate(document)
        first, last = _clip(reader.token_range(index), start, stop)
        return reader.word_starts(first, last)

    def document_id(self, document: int) -> int:
        """The page id of a document."""
        reader, index = self._locate(document)
        return int(reader.document_ids[index])

    def shard_of(self, document: int) -> tuple[Path, int]:
        """The file that holds a document, and the document's index in it."""
        reader, index = self._locate(document)
        return reader.path, index

    def _locate(self, document: int) -> tuple[ShardReader, int]:
        if not 0 <= document < self._first[-1]:
            raise IndexError(f"document {document} of {self._first[-1]}")
        shard = bisect_right(self._first, document) - 1
        return self._readers[shard] or self._reader(shard), document - self._first[shard]

    def _reader(self, shard: int) -> ShardReader:
        reader = self._readers[shard]
        if reader is None:
            reader = ShardReader(self.folder / self._infos[shard].file)
            check_membership(reader, self.manifest, self.split, shard)
            self._readers[shard] = reader
        return reader

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_readers"] = [None] * len(self._infos)
        state["_lengths"] = None
        return state


def check_file(folder: Path, info: ShardInfo) -> None:
    """Raise ``ShardError`` unless the shard's file is there and as long as it was written."""
    path = folder / info.file
    if not path.is_file():
        raise ShardError(f"{path}: this shard is missing; make the shards again or copy it back")
    size = path.stat().st_size
    if size != info.bytes:
        what = "truncated" if size < info.bytes else "not the file of the manifest"
        raise ShardError(f"{path}: {what}: {size} bytes where {info.bytes} were written")


def check_membership(reader: ShardReader, manifest: Manifest, split: str, shard: int) -> None:
    """Raise ``ShardError`` unless the file is the manifest's shard ``shard`` of ``split``."""
    info = manifest.splits[split].shards[shard]
    expected = {
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "vocab_size": manifest.tokenizer.vocab_size,
        "language": manifest.language,
        "seed": manifest.seed,
        "split": split,
        "shard_index": shard,
        "shard_count": len(manifest.splits[split].shards),
        "documents": info.documents,
        "sentences": info.sentences,
        "tokens": info.tokens,
    }
    for name, value in expected.items():
        if reader.attributes.get(name) != value:
            raise ShardError(
                f"{reader.path}: {name} is {reader.attributes.get(name)!r} here and {value!r} in "
                "the manifest: this file belongs to another set of shards"
            )


def _clip(whole: tuple[int, int], start: int, stop: int | None) -> tuple[int, int]:
    first, last = whole
    length = last - first
    stop = length if stop is None else stop
    if not 0 <= start <= stop <= length:
        raise IndexError(f"tokens {start} to {stop} of a document of {length}")
    return first + start, first + stop
