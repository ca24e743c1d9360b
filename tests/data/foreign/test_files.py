"""Foreign pretraining shards: read exactly, refused in one line where they are not what they seem."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign import source as source_module
from megabert.data.foreign.files import ForeignData, is_for_evaluation, is_foreign, open_foreign
from megabert.data.foreign.source import ForeignSource
from megabert.data.foreign.static import ForeignShardError, StaticSample
from megabert.data.foreign.tf_example import parse_example
from megabert.data.foreign.tfrecord import frame, index_records, masked_crc32c
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.loader import LoaderOptions, MicroBatches
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.micro_steps import MicroSteps
from megabert.data.samples.source import SampleArrays, SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
from megabert.data.tokenizers.load import load_tokenizer
from megabert.data.tokenizers.protobuf import packed_varints
from tests.helpers.batch_rows import named_arrays, samples_from
from tests.helpers.foreign_shards import (
    LAYOUTS,
    example,
    random_samples,
    samples_of,
    varint,
    write_fixed,
    write_tfrecord,
    write_variable,
)
from tests.helpers.training_runs import make_shards

INFO = TokenizerInfo("wordpiece", "ab" * 32, 397, True, SpecialIds(0, 1, 2, 3, 4))
SETTINGS = SampleSettings(32)
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def write(folder: Path, layout: str, samples: list[StaticSample], width: int = 32) -> Path:
    folder.mkdir(exist_ok=True)
    name, writer = LAYOUTS[layout]
    return writer(folder / name, samples, width)


def source(*places: Path, **changes: Any) -> ForeignSource:
    values: dict[str, Any] = {"seq_length": 32} | changes
    return ForeignSource(open_foreign(places).train, SampleSettings(**values), INFO)


def as_rows(arrays: SampleArrays) -> list[tuple[Any, ...]]:
    """Each sample's tokens, segments, predictions and label, as plain values."""
    width = arrays.input_ids.shape[1]
    rows = []
    for row in range(len(arrays.input_ids)):
        size = int(arrays.attention_mask[row].sum())
        own = arrays.masked_positions // width == row
        rows.append(
            (
                arrays.input_ids[row, :size].tolist(),
                arrays.token_type_ids[row, :size].tolist(),
                (arrays.masked_positions[own] - row * width).tolist(),
                arrays.masked_labels[own].tolist(),
                int(arrays.next_sentence_labels[row]),
            )
        )
    return rows


def as_row(sample: StaticSample) -> tuple[Any, ...]:
    arrays = (sample.input_ids, sample.segment_ids, sample.positions, sample.labels)
    return (*(array.tolist() for array in arrays), sample.next_sentence)


# --- the same samples -------------------------------------------------------------------------


@LAYOUT
def test_samples_are_kept(layout: str, tmp_path: Path) -> None:
    """Each epoch has every sample once, with the sample's own masks, in another order."""
    samples = random_samples(50)
    read = source(write(tmp_path, layout, samples))
    assert read.samples_per_epoch == 50
    epochs = [as_rows(samples_from(read, 50 * epoch, 50)) for epoch in range(2)]
    wanted = sorted(map(as_row, samples))
    assert [sorted(epoch) for epoch in epochs] == [wanted, wanted]
    assert epochs[0] != epochs[1]
    numbers = np.array([7, 99, 3, 7])
    assert as_rows(read.samples(numbers)) == [(epochs[0] + epochs[1])[n] for n in numbers]
    lengths = read.samples(numbers).lengths
    assert read.lengths(numbers).tolist() == lengths.tolist()


@LAYOUT
@pytest.mark.parametrize("task", ["nsp", "none"])
def test_batches_equal_those_of_our_shards(layout: str, task: Any, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "ours")
    samples = SampleSettings(32, sentence_task=task, seed=11)
    ours = SampleSource(Corpus.open(shards, "train"), samples, MaskSettings())
    path = write(tmp_path / "theirs", layout, samples_of(ours, 60))
    theirs = ForeignSource(open_foreign([path]).train, samples, INFO)
    for first, count in ((0, 24), (24, 36)):
        expected, found = samples_from(ours, first, count), samples_from(theirs, first, count)
        expected, found = named_arrays(expected), named_arrays(found)
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            assert np.array_equal(values, found[name]), name
            assert values.dtype == found[name].dtype
    numbers = np.arange(60)
    assert np.array_equal(ours.lengths(numbers), theirs.lengths(numbers))


@LAYOUT
def test_many_files(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than may be open; a folder; shorter samples than the run's; pickled."""
    monkeypatch.setattr(source_module, "OPEN_FILES", 2)
    samples = random_samples(20)
    suffix = LAYOUTS[layout][0]
    for number in range(5):
        LAYOUTS[layout][1](tmp_path / f"{number}_{suffix}", samples[4 * number :][:4], 26)
    (tmp_path / "vocab.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    read = source(tmp_path, seq_length=40)
    expected = samples_from(read, 0, 20)
    assert sorted(as_rows(expected)) == sorted(map(as_row, samples))
    assert sum(file._handle is not None for file in read.files) <= 2
    again = pickle.loads(pickle.dumps(read))
    assert all(file._handle is None for file in again.files)
    for name, values in named_arrays(samples_from(again, 0, 20)).items():
        assert np.array_equal(values, getattr(expected, name))
    for file in read.files:
        file.close()
        file.close()
    assert np.array_equal(samples_from(read, 0, 20).input_ids, expected.input_ids)


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers(start_method: str, tmp_path: Path) -> None:
    """Files opened by the parent before its workers start do no harm."""
    samples = random_samples(24)
    for layout in ("fixed", "variable"):
        read = source(write(tmp_path / layout, layout, samples))
        expected = samples_from(read, 0, 24)
        batches = MicroBatches(read, MicroSteps(4, 0, 1), LoaderOptions(1, start_method), stop=24)
        found = [batch.input_ids.numpy() for batch in batches]
        assert np.array_equal(np.concatenate(found), expected.input_ids.ravel())


def test_order_is_that_of_our_shards() -> None:
    """The permutation of SampleIndex.order, keyed by seed and epoch."""
    from megabert.data.samples.index import permute

    read = object.__new__(ForeignSource)
    read.settings, read._ends = SampleSettings(32, seed=5), np.array([30, 31, 100])
    files, rows = read.addresses(np.arange(200, 300))
    flat = rows + np.array([0, 30, 31])[files]
    assert flat.tolist() == permute(np.arange(100), 100, [5, 2, 1]).tolist()


def test_filling_is_distinguished_from_predictions(tmp_path: Path) -> None:
    """Of the fixed layout: a prediction of the first token, one of id 0, one behind a gap; not (0, 0)."""
    sample = random_samples(1)[0]
    path = write_fixed(tmp_path / "a.hdf5", [sample], 32)
    with h5py.File(path, "r+") as file:
        file["masked_lm_positions"][0, :5] = [0, 1, 0, 3, 0]
        file["masked_lm_ids"][0, :5] = [9, 0, 0, 8, 0]
        file["masked_lm_positions"][0, 5:] = file["masked_lm_ids"][0, 5:] = 0
    arrays = samples_from(source(path), 0, 1)
    assert arrays.masked_positions.tolist() == [0, 1, 3]
    assert arrays.masked_labels.tolist() == [9, 0, 8]
    record = {
        "input_ids": [2, 5, 6, 3],
        "input_mask": [1] * 4,
        "segment_ids": [0, 0, 1, 1],
        "masked_lm_positions": [2, 0, 1],
        "masked_lm_ids": [7, 5, 9],
        "masked_lm_weights": [1.0, 1.0, 0.0],
        "next_sentence_labels": [1],
    }
    path = tmp_path / "a.tfrecord"
    path.write_bytes(frame(example(record)))
    arrays = samples_from(source(path), 0, 1)
    assert arrays.masked_positions.tolist() == [0, 2]
    assert arrays.masked_labels.tolist() == [5, 7]
    del record["masked_lm_weights"]
    path.write_bytes(frame(example(record)))
    assert samples_from(source(path), 0, 1).masked_positions.tolist() == [0, 1, 2]
    path.write_bytes(frame(example(record | {"masked_lm_weights": [0.5, 1.0, 0.0]})))
    with pytest.raises(ForeignShardError, match=r"sample 0: its masked_lm_weights"):
        samples_from(source(path), 0, 1)


def test_without_predictions_or_labels(tmp_path: Path) -> None:
    sample = random_samples(1)[0]
    none = np.zeros(0, np.int64)
    bare = StaticSample(sample.unmasked(), sample.segment_ids, none, none, -1)
    path = write_fixed(tmp_path / "a.hdf5", [bare], 32)
    arrays = samples_from(source(path, sentence_task="none"), 0, 1)
    assert len(arrays.masked_positions) == 0
    assert arrays.next_sentence_labels is None
    with pytest.raises(UserError, match="no next_sentence_labels; use --sentence-task none"):
        source(path)
    with pytest.raises(UserError, match="sop is not possible"):
        source(path, sentence_task="sop")


# --- real files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tf_examples", "sample_text.graphcore"])
def test_real_records(name: str, shared_data: Path) -> None:
    """The 60 and 45 records that Google's script made of its sample text."""
    vocabulary = load_tokenizer(shared_data / "vocab" / "bert-base-uncased-vocab.txt")
    data = open_foreign([shared_data / "tfrecord" / f"{name}.tfrecord"])
    read = ForeignSource(data.train, SampleSettings(128), vocabulary.info())
    arrays = samples_from(read, 0, read.samples_per_epoch)
    assert read.samples_per_epoch == {"tf_examples": 60, "sample_text.graphcore": 45}[name]
    assert 0.1 < len(arrays.masked_labels) / arrays.attention_mask.sum() < 0.16
    assert (arrays.input_ids.ravel()[arrays.masked_positions] == 103).mean() > 0.7
    assert vocabulary.decode(data.train[0].read(0).unmasked()).startswith("[CLS] ")


def test_unmasked_real_records_hold_the_sample_text(shared_data: Path) -> None:
    vocabulary = load_tokenizer(shared_data / "vocab" / "bert-base-uncased-vocab.txt")
    text = (shared_data / "tfrecord" / "sample_text.txt").read_text(encoding="utf-8")
    ids = vocabulary.encode_sentences([text])[0].ids.tolist()
    words = "".join(f" {number} " for number in ids)
    (file,) = open_foreign([shared_data / "tfrecord" / "tf_examples.tfrecord"]).train
    for row in range(file.samples):
        sample = file.read(row)
        first = sample.unmasked()[sample.segment_ids == 0][1:-1]
        assert "".join(f" {number} " for number in first) in words


def test_packed_real_records_are_refused(shared_data: Path) -> None:
    path = shared_data / "tfrecord" / "sample_text_packed.graphcore.tfrecord"
    with pytest.raises(ForeignShardError, match=r"packed sequences \(packed_input_ids\)"):
        open_foreign([path])


# --- folders and splits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "evaluation"),
    [
        ("wiki_test_0.hdf5", True),
        ("part_eval_10k.hdf5", True),
        ("dev-00001.tfrecord", True),
        ("Valid0.tfrecord", True),
        ("latest.hdf5", False),
        ("devices_0.hdf5", False),
        ("wiki_training_1.hdf5", False),
    ],
)
def test_which_files_are_for_evaluation(name: str, evaluation: bool) -> None:
    assert is_for_evaluation(name) is evaluation


def test_splits(tmp_path: Path) -> None:
    for name in ("wiki_training_0.hdf5", "wiki_training_1.hdf5", "wiki_test_0.hdf5"):
        write_fixed(tmp_path / name, random_samples(3), 32)
    data = open_foreign([tmp_path])
    assert [file.path.name for file in data.train] == [
        "wiki_training_0.hdf5",
        "wiki_training_1.hdf5",
    ]
    assert [file.path.name for file in data.evaluation] == ["wiki_test_0.hdf5"]
    assert data.layout == "NVIDIA HDF5, fixed length"
    assert not open_foreign([tmp_path / "wiki_test_0.hdf5"]).evaluation
    for name in ("wiki_training_0.hdf5", "wiki_training_1.hdf5"):
        (tmp_path / name).unlink()
    with pytest.raises(ForeignShardError, match="all files are for evaluation"):
        open_foreign([tmp_path])


def test_what_is_foreign(tmp_path: Path) -> None:
    path = write_variable(tmp_path / "a.hdf5", random_samples(2))
    assert is_foreign(path)
    assert is_foreign(tmp_path)
    ours = make_shards(tmp_path / "ours")
    assert not is_foreign(ours)
    with pytest.raises(ForeignShardError, match=f"{ours}: these are megabert's own shards already"):
        open_foreign([ours])
    (ours / "manifest.json").unlink()
    assert not is_foreign(ours)
    assert not is_foreign(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert not is_foreign(tmp_path / "empty")
    with pytest.raises(ForeignShardError, match="holds no shards; name the folder"):
        open_foreign([tmp_path / "empty"])
    with pytest.raises(ForeignShardError, match="for megabert's own shards, name their folder"):
        open_foreign([next(ours.glob("*.h5"))])


def test_fingerprint(tmp_path: Path) -> None:
    """The same for a copy, another for other files or another tokenizer."""

    def fingerprint(data: ForeignData, info: TokenizerInfo = INFO) -> str:
        return data.manifest(info).fingerprint

    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    for folder in ("a", "b"):
        write_variable(tmp_path / folder / "x.hdf5", random_samples(4))
    write_variable(tmp_path / "c" / "x.hdf5", random_samples(4, seed=1))
    a, b, c = (open_foreign([tmp_path / folder]) for folder in ("a", "b", "c"))
    assert fingerprint(a) == fingerprint(b) != fingerprint(c)
    other = TokenizerInfo("wordpiece", "cd" * 32, 397, True, SpecialIds(0, 1, 2, 3, 4))
    assert fingerprint(a, other) != fingerprint(a)


# --- wrong inputs -----------------------------------------------------------------------------


def test_mixed_layouts(tmp_path: Path) -> None:
    write_fixed(tmp_path / "a.hdf5", random_samples(2), 32)
    write_variable(tmp_path / "b.hdf5", random_samples(2))
    with pytest.raises(
        ForeignShardError, match=r"b\.hdf5 is NVIDIA HDF5, variable length, .*fixed"
    ):
        open_foreign([tmp_path])


def test_files_that_are_not_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    for content, message in (
        (b"", "an empty file"),
        (b"x" * 100, "neither HDF5 nor an uncompressed TFRecord"),
        (gzip.compress(b"x"), "compressed with gzip.*gunzip"),
    ):
        path.write_bytes(content)
        with pytest.raises(ForeignShardError, match=message):
            open_foreign([path])
    with pytest.raises(ForeignShardError, match="no such file or folder"):
        open_foreign([tmp_path / "missing"])
    with h5py.File(path, "w") as file:
        file["x"] = [1]
    with pytest.raises(ForeignShardError, match="HDF5 without input_ids, segment_ids"):
        open_foreign([path])
    path.write_bytes(frame(example({"x": [1]})))
    with pytest.raises(ForeignShardError, match="sample 0: without input_ids, input_mask"):
        open_foreign([path])
    path.write_bytes(frame(b"\xff\xff\xff"))
    with pytest.raises(ForeignShardError, match=r"not a tf\.train\.Example"):
        open_foreign([path])


HDF5_CHANGES = [
    ({"input_mask": None}, "input_mask is missing"),
    ({"masked_lm_ids": np.zeros((3, 20), "f4")}, r"masked_lm_ids is float32 \[3, 20\]"),
    ({"segment_ids": np.zeros(3, "i1")}, r"segment_ids is int8 \[3\]"),
    ({"segment_ids": np.zeros((3, 30), "i1")}, "input_ids have width 32, segment_ids 30"),
    (
        {"next_sentence_labels": np.zeros(2, "i1")},
        "3 rows of input_ids, but 2 of next_sentence_labels",
    ),
    ({"packed_input_len": np.zeros(3, "i1")}, "several sequences are packed"),
]


@pytest.mark.parametrize(("changes", "message"), HDF5_CHANGES)
def test_wrong_datasets(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "a.hdf5", random_samples(3), 32)
    with h5py.File(path, "r+") as file:
        for name, values in changes.items():
            if name in file:
                del file[name]
            if values is not None:
                file[name] = values
    with pytest.raises(ForeignShardError, match=message) as caught:
        open_foreign([path])
    assert str(path) in str(caught.value)


VALUE_CHANGES = [
    ("input_ids", 5, 397, "token id 397 is outside the vocabulary of 397"),
    ("input_ids", 5, -1, "token id -1 is outside"),
    ("input_ids", 0, 7, r"begins with id 7 .*not with \[CLS\] 2"),
    ("input_mask", 1, 0, "not ones followed by zeros"),
    ("segment_ids", 1, 2, "a segment id is neither 0 nor 1"),
    ("masked_lm_positions", 0, 31, "a masked position is outside its"),
    ("masked_lm_ids", 0, 400, "token id 400 is outside"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), VALUE_CHANGES)
def test_wrong_values(name: str, place: int, value: int, message: str, tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "a.hdf5", random_samples(3), 32)
    with h5py.File(path, "r+") as file:
        file[name][1, place] = value
    read = source(path)
    with pytest.raises(ForeignShardError, match=message) as caught:
        samples_from(read, 0, 3)
    assert "a.hdf5: sample 1: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_wrong_values(tmp_path: Path) -> None:
    path = write_fixed(tmp_path / "a.hdf5", random_samples(3), 32)
    with h5py.File(path, "r+") as file:
        file["next_sentence_labels"][1] = 3
    with pytest.raises(ForeignShardError, match="sample 1: its next sentence label is 3"):
        samples_from(source(path), 0, 3)
    path = write_variable(tmp_path / "b.hdf5", random_samples(3))
    with h5py.File(path, "r+") as file:
        file["masked_lm_ids"][1] = [7]
        file["masked_lm_positions"][1] = [1, 2]
    with pytest.raises(ForeignShardError, match="sample 1: 2 masked positions and 1 labels"):
        samples_from(source(path), 0, 3)
    with h5py.File(path, "r+") as file:
        file["masked_lm_ids"][1] = [7, 8]
        file["masked_lm_positions"][1] = [1, 1]
    with pytest.raises(ForeignShardError, match="sample 1: a position is masked twice"):
        samples_from(source(path), 0, 3)


def test_too_long(tmp_path: Path) -> None:
    """Both numbers named; padded samples at once, others when they are read."""
    samples = random_samples(9, longest=40)
    longest = max(len(sample.input_ids) for sample in samples)
    for writer in (write_fixed, write_tfrecord):
        path = writer(tmp_path / "a", samples, 40)
        with pytest.raises(UserError, match="samples of 40 tokens are longer than --seq-length 16"):
            source(path, seq_length=16)
    path = write_variable(tmp_path / "a", samples)
    read = source(path, seq_length=longest - 1)
    with pytest.raises(UserError, match=rf"of {longest} tokens .* --seq-length {longest - 1}"):
        samples_from(read, 0, 9)


@LAYOUT
def test_truncation(layout: str, tmp_path: Path) -> None:
    """Cut anywhere: one line that names the file, at opening or when the data is read."""
    path = write(tmp_path, layout, random_samples(40))
    whole = path.read_bytes()
    for size in np.linspace(1, len(whole) - 1, 40).astype(int).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(ForeignShardError, match=path.name) as caught:
            samples_from(source(path), 0, 40)
        assert "\n" not in str(caught.value)


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", random_samples(4), 32)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 100, replace=False).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        with pytest.raises(ForeignShardError, match=r"a\.tfrecord"):
            samples_from(source(path), 0, 4)


# --- the wire format --------------------------------------------------------------------------


def test_published_checksum() -> None:
    """CRC-32C of RFC 3720 (B.4): 32 zero bytes give 8a9136aa; masked as TFRecords do."""
    crc = 0x8A9136AA
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


INTS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30)


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            INTS.filter(bool),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9),
            st.lists(st.binary(max_size=5), min_size=1, max_size=4),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_examples_round_trip(features: dict[str, Any], packed: bool) -> None:
    parsed = parse_example(example(features, packed=packed))
    assert {name: list(values) for name, values in parsed.items()} == features


@given(INTS)
def test_packed_numbers(values: list[int]) -> None:
    raw = b"".join(map(varint, values))
    assert packed_varints(raw).tolist() == values
    if raw:
        with pytest.raises(ValueError, match="truncated"):
            packed_varints(raw[:-1] + bytes([raw[-1] | 128]))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_value_error(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_example(raw)


def test_index_of_records(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(frame(b"x" * size) for size in (0, 3, 100)))
    assert index_records(path).tolist() == [0, 16, 35]
    head = struct.pack("<Q", 2**40)
    path.write_bytes(head + struct.pack("<I", masked_crc32c(head)))
    with pytest.raises(ForeignShardError, match="cut off: record 0"):
        index_records(path)
