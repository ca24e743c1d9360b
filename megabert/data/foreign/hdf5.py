"""NVIDIA's HDF5 shards of masked samples, in the layouts of their published BERT scripts.

Fixed (DeepLearningExamples, ``create_pretraining_data.py``): ``input_ids``, ``input_mask``,
``segment_ids`` [N, S], ``masked_lm_positions``, ``masked_lm_ids`` [N, P], ``next_sentence_labels``
[N]; lists are padded with zeros. Position 0 is [CLS], which is never predicted, so an entry is
padding if position and label are both 0.

Variable (MLPerf submissions, ``convert_fixed2variable.py``): the same names without
``input_mask``, [N] lists of variable length, without padding.

Files are opened without HDF5's file locks. HDF5 has no checksums of its own: data that can be read
from a damaged file is only checked to be a valid sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from megabert.data.foreign.static import NO_LABEL, ForeignFile, ForeignShardError, StaticSample
from megabert.data.shards.plain_hdf5 import Hdf5Refused, require_own_data, require_own_links
from megabert.data.shards.spans import Ints

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NEEDED = ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids")
_MASK, _NEXT = "input_mask", "next_sentence_labels"
_NAMES = (*_NEEDED, _MASK, _NEXT)
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError)


class Hdf5File(ForeignFile):
    """One HDF5 file in the fixed or the variable layout.

    ``bytes_per_sample``: bytes unpacked to read one sample; whole chunks if the file has chunks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _damage_named(path, "cannot be opened"), _open(path) as file:
            self._require_unchanged(file.id.get_vfd_handle())
            self._inspect(file)

    def _inspect(self, file: h5py.File) -> None:
        _require_own(self.path, file)
        if "packed_input_len" in file:
            raise ForeignShardError(
                f"{self.path}: several sequences are packed into one row (packed_input_len), and "
                "this layout is not supported: use the shards from which it was packed"
            )
        missing = [name for name in _NEEDED if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise ForeignShardError(
                f"{self.path}: HDF5 without {', '.join(missing)}: not a shard of masked samples in "
                "NVIDIA's layout"
            )
        self._fixed = file["input_ids"].ndim == 2
        self.labelled = isinstance(file.get(_NEXT), h5py.Dataset)
        self.layout = f"NVIDIA HDF5, {'fixed' if self._fixed else 'variable'} length"
        self.samples = int(file["input_ids"].shape[0]) if file["input_ids"].ndim else 0
        self.width = int(file["input_ids"].shape[1]) if self._fixed else None
        names = [*_NEEDED, *([_MASK] if self._fixed else []), *([_NEXT] if self.labelled else [])]
        for name in names:
            self._check_dataset(file, name)
        if self.samples == 0:
            raise ForeignShardError(f"{self.path}: holds no samples")
        self.bytes_per_sample = sum(_bytes_read(file[name]) for name in names)

    def _check_dataset(self, file: h5py.File, name: str) -> None:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise ForeignShardError(f"{self.path}: {name} is missing (fixed-length layout)")
        shape = dataset.shape
        ragged = h5py.check_vlen_dtype(dataset.dtype)
        number = ragged if ragged is not None else dataset.dtype
        wanted = 1 if name == _NEXT or not self._fixed else 2
        valid = len(shape) == wanted and number.kind in "iu"
        valid = valid and (ragged is not None) == (not self._fixed and name != _NEXT)
        if not valid:
            raise ForeignShardError(
                f"{self.path}: {name} is {dataset.dtype} {list(shape)}, not whole numbers in the "
                f"{'fixed' if self._fixed else 'variable'}-length layout"
            )
        if shape[0] != self.samples:
            raise ForeignShardError(
                f"{self.path}: {self.samples} rows of input_ids, but {shape[0]} of {name}: is the "
                "file cut off?"
            )
        if name in ("segment_ids", _MASK) and wanted == 2 and shape[1] != self.width:
            raise ForeignShardError(
                f"{self.path}: input_ids have width {self.width}, {name} {shape[1]}"
            )

    def read(self, row: int) -> StaticSample:
        with _damage_named(self.path, f"sample {row} cannot be read"):
            self._look()
            ids, segments, positions, labels = (self._row(name, row) for name in _NEEDED)
            mask = self._row(_MASK, row) if self._fixed else None
            label = int(self._datasets()[_NEXT][row]) if self.labelled else NO_LABEL
            self._look()  # there are no checksums that would cover the time between
        if mask is not None:
            size = self._without_padding(row, mask)
            ids, segments = ids[:size], segments[:size]
            if len(positions) == len(labels):
                real = (positions != 0) | (labels != 0)
                positions, labels = positions[real], labels[real]
        return self._sample(row, ids, segments, positions, labels, label)

    def length(self, row: int) -> int:
        with _damage_named(self.path, f"sample {row} cannot be read"):
            if self._fixed:
                return self._without_padding(row, self._row(_MASK, row))
            return len(self._datasets()["input_ids"][row])

    def _look(self) -> None:
        self._datasets()
        self._require_unchanged(self._handle[1].id.get_vfd_handle())

    def _row(self, name: str, row: int) -> Ints:
        values: Ints = self._datasets()[name][row].astype(np.int64)
        return values

    def _datasets(self) -> dict[str, Any]:
        """The open datasets of this process."""
        if self._handle is None or self._handle[0] != os.getpid():
            file = _open(self.path)
            _require_own(self.path, file)  # the file may be another one than when it was inspected
            self._handle = (
                os.getpid(),
                file,
                {name: file[name] for name in file if name in _NAMES},
            )
        datasets: dict[str, Any] = self._handle[2]
        return datasets

    def close(self) -> None:
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None


def _open(path: Path) -> h5py.File:
    # No chunk cache: rows are read in random order, and many files are open.
    return h5py.File(path, "r", locking=False, rdcc_nbytes=0)


def _require_own(path: Path, file: h5py.File) -> None:
    """Refuse a file whose data is elsewhere; ``ForeignShardError``."""
    try:
        require_own_links(file)
        require_own_data(file, _NAMES)
    except Hdf5Refused as error:
        raise ForeignShardError(f"{path}: {error}") from None


def _bytes_read(dataset: h5py.Dataset) -> int:
    """Bytes unpacked to read one row of a dataset."""
    if dataset.chunks is None:
        return int(np.prod(dataset.shape[1:])) * int(dataset.dtype.itemsize)
    across = 1
    for size, chunk in zip(dataset.shape[1:], dataset.chunks[1:]):
        across *= -(-size // chunk)
    return across * int(np.prod(dataset.chunks)) * int(dataset.dtype.itemsize)


@contextmanager
def _damage_named(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except ForeignShardError:
        raise
    except FileNotFoundError:
        raise ForeignShardError(f"{path}: no such file") from None
    except _HDF5_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise ForeignShardError(f"{path}: damaged or cut off: {what} ({reason})") from None
