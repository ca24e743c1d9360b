"""TFRecord features of run_classifier and run_squad: what is read, and how wrong records are named."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign.tfrecord import frame
from megabert.tasks.files.feature_records import is_features_file
from megabert.tasks.files.tf_features import (
    read_classifier_records,
    read_squad_records,
)
from tests.helpers.batch_rows import rows_of
from tests.helpers.foreign_shards import example
from tests.helpers.squad_files import FakeTokenizer

WIDTH = 10
TOKENIZER: Any = FakeTokenizer()


def record(first: list[int], second: list[int], **features: Any) -> dict[str, Any]:
    """Features of a pair, padded to WIDTH."""
    ids = [2, *first, 3, *second, 3] if second else [2, *first, 3]
    fill = [0] * (WIDTH - len(ids))
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1 if second else 0)
    return {
        "input_ids": ids + fill,
        "input_mask": [1] * len(ids) + fill,
        "segment_ids": segments + fill,
        **features,
    }


def classified(**changes: Any) -> dict[str, Any]:
    """A sound record of run_classifier."""
    return record([7, 8], [9], label_ids=[1], is_real_example=[1]) | changes


def asked(**changes: Any) -> dict[str, Any]:
    """A sound training record of run_squad."""
    sound = {"unique_ids": [1_000_000_001], "start_positions": [4], "end_positions": [5]}
    return record([7, 8], [9, 10], **sound, is_impossible=[0]) | changes


def write(path: Path, *records: dict[str, Any], packed: bool = True) -> Path:
    """A TFRecord file."""
    path.write_bytes(b"".join(frame(example(features, packed=packed)) for features in records))
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_classifier_records_lose_their_padding_and_filling(tmp_path: Path, packed: bool) -> None:
    filler = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), [0] * WIDTH)
    path = write(
        tmp_path / "train.tf_record",
        classified(),
        {**filler, "label_ids": [0], "is_real_example": [0]},
        record([5] * 8, [], label_ids=[0]),
        packed=packed,
    )
    found = read_classifier_records(path, TOKENIZER, 10, 2)
    assert found.labels.tolist() == [1, 0]
    assert found.records.tolist() == [0, 2]
    assert found.filling == [1]
    assert found.rows.lengths.tolist() == [6, 10]
    batch = rows_of(found.rows, np.array([1, 0]))
    assert batch["input_ids"].tolist() == [[2, *[5] * 8, 3], [2, 7, 8, 3, 9, 3, 0, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 10, [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert batch["attention_mask"].sum(axis=1).tolist() == [10, 6]
    taken = found.rows.taken(np.array([1]))
    assert taken.ids.tolist() == batch["input_ids"][0].tolist()


def test_a_regression_reads_floats_and_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "x", classified(label_ids=[3.25]), classified(label_ids=[4]))
    found = read_classifier_records(path, TOKENIZER, WIDTH, None)
    assert found.labels.dtype == np.float32
    assert found.labels.tolist() == [3.25, 4.0]
    with pytest.raises(UserError, match="record 0: label_ids is not a list of whole numbers"):
        read_classifier_records(path, TOKENIZER, WIDTH, 5)


def test_squad_records(tmp_path: Path) -> None:
    none = asked(unique_ids=[7], start_positions=[0], end_positions=[0], is_impossible=[1])
    version_1 = {name: values for name, values in asked().items() if name != "is_impossible"}
    found = read_squad_records(write(tmp_path / "x", asked(), none, version_1), TOKENIZER, WIDTH)
    assert found.unique_ids.tolist() == [1_000_000_001, 7, 1_000_000_001]
    assert found.starts.tolist() == [4, 0, 4]
    assert found.ends.tolist() == [5, 0, 5]
    assert found.impossible.tolist() == [False, True, False]
    assert found.rows.lengths.tolist() == [7, 7, 7]


WRONG_CLASSIFIED: list[tuple[dict[str, Any], str]] = [
    (
        classified(input_ids=[2, 7, 100, 3, 9, 3, 0, 0, 0, 0]),
        "token id 100, but the vocabulary has 100",
    ),
    (classified(input_ids=[2, 7, -1, 3, 9, 3, 0, 0, 0, 0]), "token id -1"),
    (
        classified(input_ids=[7, 7, 8, 3, 9, 3, 0, 0, 0, 0]),
        r"begins with token id 7, not with \[CLS\]",
    ),
    (classified(input_mask=[1, 1, 0, 1, 1, 1, 0, 0, 0, 0]), "not ones followed by zeros"),
    (classified(input_mask=[0] * WIDTH), "not ones followed by zeros"),
    (classified(segment_ids=[0, 0, 0, 0, 2, 2, 0, 0, 0, 0]), "segment id is neither 0 nor 1"),
    (classified(segment_ids=[0] * 9), "differ in length"),
    (classified(label_ids=[2]), r"label id 2, but the task has 2 labels \(0 to 1\)"),
    (classified(label_ids=[-1]), "label id -1"),
    (classified(label_ids=[0, 1]), "2 numbers in label_ids"),
    (classified(input_ids=[0.5] * WIDTH), "input_ids is not a list of whole numbers"),
    (classified(input_ids=[b"a"]), "input_ids is not a list of whole numbers"),
    (
        {name: values for name, values in classified().items() if name != "label_ids"},
        "no feature label_ids; it has input_ids, input_mask",
    ),
    (record([5] * 8, [], label_ids=[0]), "10 tokens; give --max-length 10"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_CLASSIFIED)
def test_wrong_classifier_records_are_named(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "train.tf_record", classified(), wrong)
    with pytest.raises(UserError, match=f"{path}: record 1: .*{message}"):
        read_classifier_records(path, TOKENIZER, 9, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            asked(start_positions=[6], end_positions=[7]),
            "answer, tokens 6 to 7, is outside of its 7",
        ),
        (asked(start_positions=[5], end_positions=[4]), "outside"),
        (asked(start_positions=[-1]), "outside"),
        ({k: v for k, v in asked().items() if "positions" not in k}, "features for prediction"),
        ({k: v for k, v in asked().items() if k != "unique_ids"}, "no feature unique_ids"),
        (classified(), "no feature start_positions"),
    ],
)
def test_wrong_squad_records_are_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "train.tf_record", asked(), wrong)
    with pytest.raises(UserError, match=f"record 1: .*{message}"):
        read_squad_records(path, TOKENIZER, WIDTH)


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tf_record", classified(), classified())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"train\.tf_record"):
            read_classifier_records(path, TOKENIZER, WIDTH, 2)
    for size in range(0, len(whole), 7):
        if size != len(whole) // 2:  # there the file is whole, with one record
            path.write_bytes(whole[:size])
            with pytest.raises(UserError, match=r"train\.tf_record"):
                read_classifier_records(path, TOKENIZER, WIDTH, 2)


def test_a_file_of_filling_or_of_other_messages_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x", classified(is_real_example=[0]))
    with pytest.raises(UserError, match="none of its 1 records is a real example"):
        read_classifier_records(path, TOKENIZER, WIDTH, 2)
    path.write_bytes(frame(b"no message"))
    with pytest.raises(UserError, match=r"record 0: not a tf.train.Example"):
        read_squad_records(path, TOKENIZER, WIDTH)


def test_file_type_is_detected_by_content_or_by_name(tmp_path: Path) -> None:
    assert is_features_file(write(tmp_path / "anything", classified()))
    text = tmp_path / "train.tsv"
    text.write_text("sentence\tlabel\na\t1\n", encoding="utf-8")
    assert not is_features_file(text)
    assert not is_features_file(tmp_path / "missing.tsv")
    text.rename(tmp_path / "train.tf_record")
    assert is_features_file(tmp_path / "train.tf_record")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 99), max_size=4),
            st.lists(st.integers(0, 99), max_size=3),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_records_come_back(rows: list[tuple[list[int], list[int], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = [record(first, second, label_ids=[label]) for first, second, label in rows]
        found = read_classifier_records(write(Path(folder) / "x", *made), TOKENIZER, WIDTH, 3)
    assert found.labels.tolist() == [label for _, _, label in rows]
    batch = rows_of(found.rows, np.arange(len(rows)))
    for number, features in enumerate(made):
        size = sum(features["input_mask"])
        assert batch["input_ids"][number, :size].tolist() == features["input_ids"][:size]
        assert batch["token_type_ids"][number, :size].tolist() == features["segment_ids"][:size]
        assert batch["attention_mask"][number].sum() == size


def test_real_pretraining_records_are_not_taken_for_features(shared_data: Path) -> None:
    path = shared_data / "tfrecord" / "tf_examples.tfrecord"
    tokenizer: Any = FakeTokenizer()
    tokenizer.vocab_size = 30522
    assert is_features_file(path)
    for read in (
        lambda: read_classifier_records(path, tokenizer, 128, 2),
        lambda: read_squad_records(path, tokenizer, 128),
    ):
        with pytest.raises(UserError, match=r"record 0: .*\[CLS\]"):
            read()
