"""Writers of foreign shards in their published layouts, from samples in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from megabert.data.foreign.static import NO_LABEL, StaticSample
from megabert.data.foreign.tfrecord import frame
from megabert.data.samples.counter_rng import Purpose
from megabert.data.samples.index import permute
from megabert.data.samples.source import SampleSource

Writer = Callable[..., Path]


def random_samples(
    count: int, *, seed: int = 0, longest: int = 24, vocab: int = 397
) -> list[StaticSample]:
    """[CLS] A [SEP] B [SEP] of random ids (5 and up), one token in six masked, of random length."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        first, second = rng.integers(1, longest // 2 - 1, 2)
        text = rng.integers(5, vocab, first + second)
        ids = np.concatenate(([2], text[:first], [3], text[first:], [3])).astype(np.int64)
        segments = np.repeat([0, 1], [first + 2, second + 1]).astype(np.int64)
        text_places = np.setdiff1d(np.arange(1, len(ids) - 1), [first + 1])
        positions = np.sort(rng.choice(text_places, 1 + len(text_places) // 6, replace=False))
        labels = ids[positions]
        ids[positions] = 4
        samples.append(StaticSample(ids, segments, positions, labels, int(rng.integers(2))))
    return samples


def samples_of(source: SampleSource, count: int) -> list[StaticSample]:
    """The first samples of a run over our shards, in the order in which a file must hold them so
    that a run of ``count`` foreign samples with the same seed reads them in the same order."""
    numbers = np.arange(count)
    arrays = source.samples(numbers)
    width = arrays.input_ids.shape[1]
    places = permute(numbers, count, [source.settings.seed, 0, int(Purpose.ORDER)])
    found: list[Any] = [None] * count
    for row, place in enumerate(places.tolist()):
        size = int(arrays.lengths[row])
        own = arrays.masked_positions // width == row
        found[place] = StaticSample(
            arrays.input_ids[row, :size],
            arrays.token_type_ids[row, :size],
            arrays.masked_positions[own] - row * width,
            arrays.masked_labels[own],
            NO_LABEL
            if arrays.next_sentence_labels is None
            else int(arrays.next_sentence_labels[row]),
        )
    return found


def _filled(lists: Sequence[Any], width: int) -> Any:
    table = np.zeros((len(lists), width), np.int64)
    for row, values in enumerate(lists):
        table[row, : len(values)] = values
    return table


def write_fixed(
    path: Path, samples: Sequence[StaticSample], width: int, most: int = 20, **options: Any
) -> Path:
    """NVIDIA DeepLearningExamples: everything padded with zeros, gzip."""
    options = {"compression": "gzip"} | options
    with h5py.File(path, "w") as file:
        for name, dtype, data in (
            ("input_ids", "i4", _filled([s.input_ids for s in samples], width)),
            ("input_mask", "i1", _filled([[1] * len(s.input_ids) for s in samples], width)),
            ("segment_ids", "i1", _filled([s.segment_ids for s in samples], width)),
            ("masked_lm_positions", "i4", _filled([s.positions for s in samples], most)),
            ("masked_lm_ids", "i4", _filled([s.labels for s in samples], most)),
            ("next_sentence_labels", "i1", [s.next_sentence for s in samples]),
        ):
            if name != "next_sentence_labels" or samples[0].next_sentence != NO_LABEL:
                file.create_dataset(name, data=data, dtype=dtype, **options)
    return path


def write_variable(path: Path, samples: Sequence[StaticSample], *_: Any) -> Path:
    """MLPerf: lists of variable length."""
    with h5py.File(path, "w") as file:
        for name, kind, lists in (
            ("input_ids", "int16", [s.input_ids for s in samples]),
            ("segment_ids", "int8", [s.segment_ids for s in samples]),
            ("masked_lm_positions", "int16", [s.positions for s in samples]),
            ("masked_lm_ids", "int16", [s.labels for s in samples]),
        ):
            dtype = h5py.vlen_dtype(np.dtype(kind))
            dataset = file.create_dataset(name, (len(samples),), dtype=dtype)
            for row, values in enumerate(lists):
                dataset[row] = values
        labels = [s.next_sentence for s in samples]
        file.create_dataset("next_sentence_labels", data=np.array(labels, "int8"), dtype="i1")
    return path


def write_tfrecord(
    path: Path, samples: Sequence[StaticSample], width: int, most: int = 20, *, packed: bool = True
) -> Path:
    """Google's create_pretraining_data.py."""
    records = []
    for sample in samples:
        size, count = len(sample.input_ids), len(sample.positions)
        features = {
            "input_ids": _filled([sample.input_ids], width)[0],
            "input_mask": _filled([[1] * size], width)[0],
            "segment_ids": _filled([sample.segment_ids], width)[0],
            "masked_lm_positions": _filled([sample.positions], most)[0],
            "masked_lm_ids": _filled([sample.labels], most)[0],
            "masked_lm_weights": [1.0] * count + [0.0] * (most - count),
            "next_sentence_labels": [sample.next_sentence],
        }
        records.append(example(features, packed=packed))
    path.write_bytes(b"".join(map(frame, records)))
    return path


def example(features: dict[str, Any], *, packed: bool = True) -> bytes:
    """A serialized tf.train.Example."""
    entries = []
    for name, values in features.items():
        if all(isinstance(value, bytes) for value in values):
            feature = _field(1, b"".join(_field(1, value) for value in values))
        elif any(isinstance(value, float) for value in values):
            raw = [struct.pack("<f", value) for value in values]
            body = _field(1, b"".join(raw)) if packed else b"".join(b"\x0d" + r for r in raw)
            feature = _field(2, body)
        else:
            raw = [varint(int(value)) for value in values]
            body = _field(1, b"".join(raw)) if packed else b"".join(b"\x08" + r for r in raw)
            feature = _field(3, body)
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def varint(value: int) -> bytes:
    """A number of 64 bits in protocol buffers' variable length."""
    value &= 2**64 - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


LAYOUTS: dict[str, tuple[str, Writer]] = {
    "fixed": ("shard_0.hdf5", write_fixed),
    "variable": ("shard_0.hdf5", write_variable),
    "tfrecord": ("shard_0.tfrecord", write_tfrecord),
}
