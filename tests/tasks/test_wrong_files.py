"""Any damage to a task's file is read, left out and counted, or one line that names the file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.foreign.tfrecord import frame
from megabert.data.tokenizers.base import Tokenizer
from megabert.tasks.registry import make_task
from tests.helpers.foreign_shards import example
from tests.helpers.tagging_files import tokenizer

ROW = {"input_ids": [2, 5, 6, 3, 0], "input_mask": [1, 1, 1, 1, 0], "segment_ids": [0] * 5}
RECORD = {
    "id": "1", "context": "a b c", "question": "a", "answers": {"text": ["b"], "answer_start": [2]},
}  # fmt: skip
PAIR = {"sentence1": "a", "sentence2": "b", "score": 1.5, "label": "1", "sentence": "c"}
FILES: dict[str, bytes] = {
    "squad": json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [RECORD]}]}]}).encode(),
    "squad2": "\n".join([json.dumps(RECORD), json.dumps(RECORD | {"id": 2})]).encode(),
    "cola": b"x\t1\t\ta b\nx\t0\t*\ta c\n",
    "sst2": b'sentence,label\n"a ""b""",1\n"c,\na",0\n',
    "stsb": b"m\tf\t2012\t1\t2.5\ta\tb\nm\tf\t2012\t2\t5\ta\tb\thttp://a\thttp://b\n",
    "qqp": b"id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\t1\n2\tc\ta\t0\n",
    "wnli": "\n".join([json.dumps(PAIR), json.dumps(PAIR)]).encode(),
    "tnews": json.dumps({"label": "1", "label_desc": "one", "sentence": "a"}).encode(),
    "cluener": json.dumps({"text": "a b", "label": {"x": {"b": [[2, 2]]}}}).encode(),
    "conll": b"a B-x\nb I-x\n\nc O\n",
    "rte": frame(example(ROW | {"label_ids": [1]})),
    "mrpc": json.dumps(ROW | {"label_ids": [1]}).encode(),
}
PIECES = [
    b"null", b"NaN", b"{}", b"[]", b'""', b"\t", b"\n", b'"', b",", b"\xff", b"\x00", "\u2028".encode(), b"-1",
    b"1e999", b"true", b'{"a": 1}', b"\r", b"9" * 25, b'"label"', b'"answers"', b"[", b"{", b"1",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of a few letters."""
    return tokenizer(tmp_path_factory.mktemp("words"))


def read(name: str, path: Path, words: Tokenizer, bad_lines: str) -> None:
    """Read a file in every way, and use what is read."""
    task = make_task(name, None, 80)
    task.bad_lines = bad_lines  # type: ignore[assignment]
    features = [task.train_features(path, words, None, 0), task.eval_features(path, words)]
    for one in features:
        assert "\n" not in one.describe()
        json.dumps(one.sizes())
        one.batch(np.arange(len(one.lengths)), 80)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_is_one_line(name: str, words: Any, data: st.DataObject) -> None:
    content = FILES[name]
    for _ in range(data.draw(st.integers(0, 3))):
        first = data.draw(st.integers(0, len(content)))
        last = data.draw(st.integers(first, min(len(content), first + 6)))
        content = content[:first] + data.draw(st.sampled_from(PIECES)) + content[last:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.write_bytes(content)
        try:
            read(name, path, words, data.draw(st.sampled_from(["error", "skip"])))
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            assert str(path) in message


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_good(name: str, tmp_path: Path, words: Tokenizer) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(FILES[name])
    if name in ("squad", "squad2", "rte", "mrpc"):
        make_task(name, None, 80).train_features(path, words, None, 0)
    else:
        read(name, path, words, "error")
