"""The shards of one split, read at many places at once.

A batch takes a few hundred bytes at each of several hundred places, so the cost per place matters:
checks and offsets are computed for all places together, and each place costs one ``pread``.
"""

from __future__ import annotations

import os
import resource
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from megabert.data.shards import layout
from megabert.data.shards.file_state import NEVER_SEEN
from megabert.data.shards.manifest import Manifest, ShardError, ShardInfo
from megabert.data.shards.reader import LOOKS, ShardFile
from megabert.data.shards.spans import Ints

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_OPENING_THREADS = 16
"""Files opened at once: on a network file system each takes a few round trips."""
_OTHER_FILES = 256
"""File descriptors left for the rest of the process."""


class Split(NamedTuple):
    """A split of a folder of shards."""

    folder: Path
    name: str
    manifest: Manifest

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Its shards in order."""
        return self.manifest.splits[self.name].shards


class ShardSet:
    """The shards of one split or more, one after the other. Each file is opened when it is first read.

    All files stay open if the system allows it; otherwise the files opened first are closed, and
    opened again when they are needed. Only one thread may use it at a time. It can be pickled, and
    opens its files again in the other process.

    Raises (all methods that read):
        ShardError: a file is missing, damaged, truncated, or belongs to another set of shards; the
            message names the file and the place.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(splits)
        self.infos = [info for split in splits for info in split.shards]
        self.paths = [split.folder / info.file for split in splits for info in split.shards]
        self._places = [(split, n) for split in splits for n in range(len(split.shards))]
        self.first_documents = _totals([info.documents for info in self.infos])  # [n + 1]
        self.first_tokens = _totals([info.tokens for info in self.infos])  # [n + 1]
        sizes = np.array([info.bytes - layout.PREAMBLE_BYTES for info in self.infos])
        self._first_blocks = _totals((-(-sizes // layout.BLOCK_BYTES)).tolist())
        self._forget()

    def document_ends(self) -> Ints:
        """Tokens up to and including each document, int64 [D]."""
        parts = _in_threads(_document_ends, list(zip(self.paths, self.infos)))
        return np.concatenate([e + t for e, t in zip(parts, self.first_tokens.tolist())])

    def sentences(self, shards: Ints, documents: Ints) -> tuple[Ints, Ints]:
        """First sentence and stop of these documents, numbered within their shards: [N], [N]."""
        self._open_new(shards)
        # Each shard has one more entry than documents.
        entries = self.first_documents[shards] + shards + documents
        found = self._first_sentences
        return found[entries].astype(np.int64), found[entries + 1].astype(np.int64)

    def read(self, name: str, shards: Ints, starts: Ints, stops: Ints) -> bytes:
        """Bytes ``starts[i]`` to ``stops[i]`` of an array of shards ``shards`` [N], joined."""
        self._open_new(shards)
        offsets = self._offsets[name][shards]
        starts, stops = offsets + starts, offsets + stops
        for _ in range(LOOKS):
            content = self._read_once(shards, starts, stops)
            if self._unchanged(shards):
                return content
        folder = self.paths[int(shards[0])].parent
        raise ShardError(f"{folder}: shards keep changing while they are in use")

    def _unchanged(self, shards: Ints) -> bool:
        """Whether these shards' open files are those that were checked; others are checked again."""
        handles, states = self._handles, self._states
        open_shards = [shard for shard in set(shards.tolist()) if handles[shard] >= 0]
        try:
            changed = [s for s in open_shards if not states[s].is_of(handles[s])]
        except OSError:
            changed = open_shards  # look_again names the one that is gone
        for shard in changed:
            file = self.file(shard)
            file.look_again()
            states[shard] = file.state
        return not changed

    def _read_once(self, shards: Ints, starts: Ints, stops: Ints) -> bytes:
        self._check(shards, starts, stops)
        lengths, handles, pread = stops - starts, self._handles, os.pread
        places = zip(shards.tolist(), lengths.tolist(), starts.tolist())
        try:
            content = b"".join([pread(handles[shard], n, start) for shard, n, start in places])
        except OSError:
            content = b""
        if len(content) != lengths.sum():  # a file is closed or damaged
            spans = zip(shards.tolist(), starts.tolist(), stops.tolist())
            content = b"".join([self.file(shard).read(*span) for shard, *span in spans])
        return content

    def file(self, shard: int) -> ShardFile:
        """One shard, with its file open."""
        file = self._files[shard]
        if file is None:
            self._learn(shard, *self._first_look(shard))
            return self.file(shard)
        if self._handles[shard] < 0:
            if len(self._opened) >= _files_allowed(len(self.infos)):
                oldest = self._opened.popleft()
                self._handles[oldest] = -1
                self._files[oldest].close()  # type: ignore[union-attr]
            self._handles[shard], self._states[shard] = file.open(), file.state
            self._opened.append(shard)
        return file

    def _open_new(self, shards: Ints) -> None:
        """Open the shards among these that were not used before."""
        known = self._known[shards]
        if not known.all():
            new = np.unique(shards[~known]).tolist()
            for shard, found in zip(new, _in_threads(self._first_look, new), strict=True):
                self._learn(shard, *found)
                self.file(shard)

    def _first_look(self, shard: int) -> tuple[ShardFile, npt.NDArray[np.uint32]]:
        """A shard that belongs to this set, and the first sentence of each of its documents."""
        blocks = slice(*self._first_blocks[shard : shard + 2].tolist())
        file = ShardFile(self.paths[shard], self._checked[blocks])
        split, number = self._places[shard]
        check_membership(file, split.manifest, split.name, number)
        starts = file.array(layout.DOCUMENT_STARTS, "<u4")
        rising = bool((starts[1:] > starts[:-1]).all())
        if starts[0] or not rising or starts[-1] != self.infos[shard].sentences:
            raise ShardError(f"{file.path}: its documents are not in order: make the shards again")
        return file, starts

    def _learn(self, shard: int, file: ShardFile, starts: npt.NDArray[np.uint32]) -> None:
        """Store the offsets of a shard's arrays and the first sentences of its documents."""
        entry = int(self.first_documents[shard]) + shard
        self._first_sentences[entry : entry + len(starts)] = starts
        for name, offsets in self._offsets.items():
            offsets[shard] = file.preamble.arrays[name][0]
        self._files[shard] = file
        self._known[shard] = True

    def _check(self, shards: Ints, starts: Ints, stops: Ints) -> None:
        """Check the blocks that were not read before."""
        before = self._first_blocks[shards]
        first = before + (starts - layout.PREAMBLE_BYTES) // layout.BLOCK_BYTES
        last = before + (stops - 1 - layout.PREAMBLE_BYTES) // layout.BLOCK_BYTES
        checked = self._checked[first] & self._checked[last] & (last <= first + 1)
        if not checked.all():
            for row in (~checked).nonzero()[0].tolist():
                self.file(int(shards[row])).check(int(starts[row]), int(stops[row]))

    def _forget(self) -> None:
        """Start with no file open and nothing checked."""
        count = len(self.infos)
        self._files: list[ShardFile | None] = [None] * count
        self._handles = [-1] * count
        self._states = [NEVER_SEEN] * count
        self._opened: deque[int] = deque()  # in the order of opening
        self._known = np.zeros(count, bool)
        names = (layout.TOKENS, layout.WORD_STARTS, layout.SENTENCE_STARTS)
        self._offsets = {name: np.zeros(count, np.int64) for name in names}
        self._checked = np.zeros(int(self._first_blocks[-1]), bool)
        self._first_sentences = np.zeros(int(self.first_documents[-1]) + count, np.uint32)

    def __getstate__(self) -> dict[str, Any]:
        return {"splits": self.splits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["splits"])  # type: ignore[misc]


def for_each_shard(
    function: Callable[[Path, ShardInfo], _Result], folder: Path, shards: Sequence[ShardInfo]
) -> list[_Result]:
    """Results of a function for each shard, in threads, since it mostly waits for files."""
    return _in_threads(lambda info: function(folder, info), shards)


def check_file(folder: Path, info: ShardInfo) -> None:
    """Raise ``ShardError`` unless the shard's file exists and has the size in the manifest."""
    path = folder / info.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ShardError(
            f"{path}: this shard is missing; copy it again or make the shards again"
        ) from None
    except OSError as error:
        raise ShardError(f"{path}: this shard cannot be read: {error.strerror}") from None
    if size != info.bytes:
        what = "truncated" if size < info.bytes else "not the file of the manifest"
        raise ShardError(f"{path}: {what}: {size} bytes instead of {info.bytes}")


def check_membership(file: ShardFile, manifest: Manifest, split: str, shard: int) -> None:
    """Raise ``ShardError`` unless the file is the manifest's shard ``shard`` of ``split``."""
    info = manifest.splits[split].shards[shard]
    expected = {
        "bytes": info.bytes,
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
        found = file.preamble.file_bytes if name == "bytes" else file.content.get(name)
        if found != value:
            raise ShardError(
                f"{file.path}: {name} is {found!r} here and {value!r} in the manifest: "
                "this file belongs to another set of shards"
            )


def _document_ends(shard: tuple[Path, ShardInfo]) -> Ints:
    """Tokens up to and including each document of a shard, int64 [D]."""
    path, info = shard
    file = ShardFile(path)
    ends = file.document_ends()
    file.close()
    rising = bool((np.diff(ends, prepend=0) > 0).all())
    if len(ends) != info.documents or int(ends[-1]) != info.tokens or not rising:
        raise ShardError(
            f"{file.path}: its documents differ from the manifest: make the shards again"
        )
    return ends


def _files_allowed(wanted: int) -> int:
    """How many of ``wanted`` files may be open at once; raises the process's limit if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        goal = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        return max(1, goal - _OTHER_FILES)
    return wanted


def _in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """``function`` of each item, in order; several at once, since they wait for files."""
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(min(_OPENING_THREADS, len(items))) as pool:
        return list(pool.map(function, items))


def _totals(counts: list[int]) -> Ints:
    """Running totals, beginning with 0: int64 [n] -> [n + 1]."""
    return np.array([0, *accumulate(counts)], np.int64)
