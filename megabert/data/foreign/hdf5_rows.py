"""What :mod:`megabert.data.foreign.hdf5` asks the HDF5 library, in a process of its own.

Messages are JSON; the numbers of samples follow it, as int64. An error is an answer, too: its line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from megabert.common.json_text import parse_json
from megabert.common.processes.isolated import allow_seconds
from megabert.data.foreign.static import NO_LABEL, ForeignShardError
from megabert.data.shards.file_state import FileState
from megabert.data.shards.plain_hdf5 import Hdf5Refused, require_own_data, require_own_links
from megabert.data.shards.spans import Ints

_NEEDED = ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids")
_MASK, _NEXT = "input_mask", "next_sentence_labels"
_NAMES = (*_NEEDED, _MASK, _NEXT)
_SECONDS, _MOST_SECONDS = 2, 60
_SLOWEST = 1 << 23  # bytes that are read and unpacked in a second, at least
_END = b"\n"
_MOST_FILES = 256  # open at once; readers close theirs before
LISTS = 6
"""Of a sample in an answer."""


@dataclass(frozen=True)
class Hdf5Request:
    """``what``: inspect, read, length or close."""

    what: str
    path: Path
    rows: Sequence[int] = ()

    def encode(self) -> bytes:
        """The message."""
        return json.dumps([self.what, str(self.path), list(self.rows)]).encode()

    @classmethod
    def decode(cls, message: bytes) -> Hdf5Request:
        """The request of a message."""
        what, path, rows = parse_json(message, of_data=True)
        return cls(what, Path(path), rows)


@dataclass(frozen=True)
class Hdf5Answer:
    """Values of the request, states of the file before and after it, and lists of numbers."""

    values: dict[str, Any]
    states: tuple[FileState, ...]
    lists: tuple[Ints, ...]
    error: str | None

    def encode(self) -> bytes:
        """The message."""
        head = [self.values, self.states, [len(part) for part in self.lists], self.error]
        return json.dumps(head).encode() + _END + b"".join(part.tobytes() for part in self.lists)

    @classmethod
    def decode(cls, message: bytes) -> Hdf5Answer:
        """The answer of a message."""
        head, _, numbers = message.partition(_END)
        values, states, sizes, error = parse_json(head, of_data=True)
        whole = np.frombuffer(numbers, np.int64).copy()
        lists = np.split(whole, np.cumsum(sizes, dtype=np.int64)[:-1]) if sizes else []
        return cls(values, tuple(FileState(*state) for state in states), tuple(lists), error)


def answer_hdf5(message: bytes) -> bytes:
    """The answer to a message; runs in the process of its own."""
    request = Hdf5Request.decode(message)
    path, rows = request.path, request.rows
    allow_seconds(_SECONDS)
    values: dict[str, Any] = {}
    states: list[FileState] = []
    lists: list[Ints] = []
    error = None
    what = "cannot be opened"
    try:
        if request.what == "inspect":
            _close(path)
            with _open(path) as file:
                states.append(FileState.of(file.id.get_vfd_handle()))
                values = _inspected(path, file)
        elif request.what == "close":
            _close(path)
        else:
            opened = _opened(path)
            what = _cannot_be_read(rows)
            states.append(opened.state())
            lists = opened.lengths(rows) if request.what == "length" else opened.samples(rows)
            if len(lists) != (1 if request.what == "length" else LISTS) * len(rows):
                raise ValueError("it ends before")
            states.append(
                opened.state()
            )  # there are no checksums that would cover the time between
    except ForeignShardError as refused:
        error = str(refused)
    except FileNotFoundError:
        error = f"{path}: no such file"
    except Exception as fault:  # of any kind: the library raises many
        reason = " ".join(str(fault).split())[:160] or type(fault).__name__
        error = f"{path}: damaged or cut off: {what} ({reason})"
    return Hdf5Answer(values, tuple(states), tuple(lists), error).encode()


def _cannot_be_read(rows: Sequence[int]) -> str:
    if len(rows) == 1:
        return f"sample {rows[0]} cannot be read"
    return f"one of samples {min(rows)} to {max(rows)} cannot be read"


# ---------------------------------------------------------------- what a file is


def _inspected(path: Path, file: h5py.File) -> dict[str, Any]:
    """The attributes of a file whose samples can be read."""
    _require_own(path, file)
    if "packed_input_len" in file:
        raise ForeignShardError(
            f"{path}: several sequences are packed into one row (packed_input_len), and this "
            "layout is not supported: use the shards from which it was packed"
        )
    missing = [name for name in _NEEDED if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise ForeignShardError(
            f"{path}: HDF5 without {', '.join(missing)}: not a shard of masked samples in "
            "NVIDIA's layout"
        )
    ids = file["input_ids"]
    fixed, labelled = ids.ndim == 2, isinstance(file.get(_NEXT), h5py.Dataset)
    samples, width = (int(ids.shape[0]) if ids.ndim else 0), (int(ids.shape[1]) if fixed else None)
    names = [*_NEEDED, *([_MASK] if fixed else []), *([_NEXT] if labelled else [])]
    for name in names:
        _check_dataset(path, file, name, (samples, width))
    if samples == 0:
        raise ForeignShardError(f"{path}: holds no samples")
    return {
        "samples": samples,
        "width": width,
        "labelled": labelled,
        "bytes_per_sample": sum(_bytes_read(file[name]) for name in names),
    }


def _check_dataset(
    path: Path, file: h5py.File, name: str, expected: tuple[int, int | None]
) -> None:
    samples, width = expected
    fixed = width is not None
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ForeignShardError(f"{path}: {name} is missing (fixed-length layout)")
    shape = dataset.shape
    ragged = h5py.check_vlen_dtype(dataset.dtype)
    number = ragged if ragged is not None else dataset.dtype
    wanted = 1 if name == _NEXT or not fixed else 2
    valid = len(shape) == wanted and number.kind in "iu"
    valid = valid and (ragged is not None) == (not fixed and name != _NEXT)
    if not valid:
        raise ForeignShardError(
            f"{path}: {name} is {dataset.dtype} {list(shape)}, not whole numbers in the "
            f"{'fixed' if fixed else 'variable'}-length layout"
        )
    if shape[0] != samples:
        raise ForeignShardError(
            f"{path}: {samples} rows of input_ids, but {shape[0]} of {name}: is the file cut off?"
        )
    if name in ("segment_ids", _MASK) and wanted == 2 and shape[1] != width:
        raise ForeignShardError(f"{path}: input_ids have width {width}, {name} {shape[1]}")


def _bytes_read(dataset: h5py.Dataset) -> int:
    """Bytes unpacked to read one row of a dataset."""
    if dataset.chunks is None:
        return int(np.prod(dataset.shape[1:])) * int(dataset.dtype.itemsize)
    across = 1
    for size, chunk in zip(dataset.shape[1:], dataset.chunks[1:]):
        across *= -(-size // chunk)
    return across * int(np.prod(dataset.chunks)) * int(dataset.dtype.itemsize)


def _require_own(path: Path, file: h5py.File) -> None:
    """Refuse a file whose data is elsewhere; ``ForeignShardError``."""
    try:
        require_own_links(file)
        require_own_data(file, _NAMES)
    except Hdf5Refused as error:
        raise ForeignShardError(f"{path}: {error}") from None


# ---------------------------------------------------------------- reading


class _OpenFile:
    """An open file and its datasets."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        _require_own(path, self._file)  # it may be another one than when it was inspected
        fixed = self._file["input_ids"].ndim == 2
        names = [*_NEEDED, *([_MASK] if fixed else []), *([_NEXT] if _NEXT in self._file else [])]
        self._datasets = {name: self._file[name] for name in names}
        self._bytes = sum(_bytes_read(dataset) for dataset in self._datasets.values())

    def state(self) -> FileState:
        return FileState.of(self._file.id.get_vfd_handle())

    def close(self) -> None:
        self._file.close()

    def samples(self, rows: Sequence[int]) -> list[Ints]:
        """Of each row: ids, segments, positions, labels, mask (or nothing), the sentence label."""
        names = [*_NEEDED, _MASK, _NEXT]
        columns = [self._rows(name, rows) for name in names]
        return [column[place] for place in range(len(rows)) for column in columns]

    def lengths(self, rows: Sequence[int]) -> list[Ints]:
        """Of each row: its mask, or else its ids."""
        return self._rows(_MASK if _MASK in self._datasets else "input_ids", rows)

    def _rows(self, name: str, rows: Sequence[int]) -> list[Ints]:
        dataset = self._datasets.get(name)
        if dataset is None:
            missing = [NO_LABEL] if name == _NEXT else []
            return [np.array(missing, np.int64)] * len(rows)
        self._allow(len(rows))
        first = rows[0]
        if len(rows) > 1 and list(rows) == list(range(first, first + len(rows))):
            found = dataset[first : first + len(rows)]
        else:
            found = [dataset[row] for row in rows]
        return [np.atleast_1d(values).astype(np.int64) for values in found]

    def _allow(self, rows: int) -> None:
        slow = self._bytes * rows // _SLOWEST
        allow_seconds(min(_SECONDS + slow, _MOST_SECONDS))


_files: dict[Path, _OpenFile] = {}


def _opened(path: Path) -> _OpenFile:
    if path not in _files:
        if len(_files) >= _MOST_FILES:
            _close(next(iter(_files)))
        _files[path] = _OpenFile(path)
    return _files[path]


def _close(path: Path) -> None:
    if path in _files:
        _files.pop(path).close()


def _open(path: Path) -> h5py.File:
    # No chunk cache: rows are read in random order, and many files are open.
    return h5py.File(path, "r", locking=False, rdcc_nbytes=0)
