"""Files that are not text are named for what they are, in every task."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.tasks.registry import make_task
from tests.helpers.tagging_files import tokenizer

TASKS = ["squad", "squad2", "sst2", "stsb", "tnews", "cluener", "conll"]


def mindrecord(path: Path) -> Path:
    """The beginning of a MindRecord file: the size of its header, and the header in JSON."""
    header = json.dumps({"header_size": 16384, "index_fields": [], "page_size": 1 << 25}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    return path


def database(path: Path) -> Path:
    """The index of a MindRecord file."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE INDEXES (ROW_ID INT)")
    return path


def arrow(path: Path) -> Path:
    """A stream as datasets' save_to_disk writes it."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema([])):
        pass
    return path


def hdf5(path: Path) -> Path:
    """An empty HDF5 file."""
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return path


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (
            mindrecord,
            "train.mindrecord0",
            "is a MindRecord file, which is not read: export its features",
        ),
        (database, "train.mindrecord0.db", "is an SQLite database, such as the index"),
        (arrow, "data.arrow", "is an Arrow stream"),
        (hdf5, "train.hdf5", "is HDF5"),
    ],
)
def test_each_task_names_the_kind(
    tmp_path: Path, task: str, make: Any, name: str, says: str
) -> None:
    path = make(tmp_path / name)
    with pytest.raises(UserError, match=says) as caught:
        make_task(task).train_features(path, tokenizer(tmp_path), None, 0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_as_json_lines_train_every_kind_of_task(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    row = {"input_ids": [2, 5, 6, 3, 0], "input_mask": [1, 1, 1, 1, 0], "segment_ids": [0] * 5}
    path = tmp_path / "features.jsonl"
    path.write_text(
        json.dumps(row | {"label_ids": [1]}) + "\n" + json.dumps(row | {"label_ids": 0})
    )
    features: Any = make_task("sst2").train_features(path, words, None, 0)
    assert features.targets.tolist() == [1, 0]
    path.write_text(json.dumps(row | {"label_ids": [5.5]}))
    with pytest.raises(UserError, match=r"record 0: its label is 5.5, not a score from 0 to 5"):
        make_task("stsb").train_features(path, words, None, 0)
    pair = row | {"segment_ids": [0, 0, 1, 1, 0], "unique_ids": [1]}
    for place, message in (([2], None), ([1], "tokens 1 to 1, is not in the context")):
        path.write_text(json.dumps(pair | {"start_positions": place, "end_positions": place}))
        if message is None:
            assert len(make_task("squad").train_features(path, words, None, 0).lengths) == 1
            continue
        with pytest.raises(UserError, match=message):
            make_task("squad").train_features(path, words, None, 0)
    path.write_text(json.dumps(row | {"label_ids": [True]}))
    with pytest.raises(UserError, match="record 0: label_ids is not a list of whole numbers"):
        make_task("sst2").train_features(path, words, None, 0)
