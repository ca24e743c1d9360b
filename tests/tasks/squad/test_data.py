"""SQuAD files: good, odd and wrong ones."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.tasks.squad.data import Answer
from megabert.tasks.squad.reading import read_squad
from tests.helpers.squad_files import document, qa, write_squad

GOOD = ("Ann met Bob.", [qa("1", "Who met Bob?", ("Ann", 0)), qa("2", "Whom?", ("Bob", 8))])


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress, bz2.compress])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_reads_plain_and_packed_with_and_without_byte_order_mark(
    tmp_path: Path, pack: Any, prefix: bytes
) -> None:
    text = json.dumps(document(GOOD), indent=1).replace("\n", "\r\n")
    path = tmp_path / "file.json"
    path.write_bytes(pack(prefix + text.encode()))
    data = read_squad(path)
    assert data.contexts == ["Ann met Bob."]
    assert [q.id for q in data.questions] == ["1", "2"]
    assert data.questions[1].answers == (Answer("Bob", 8),)
    assert not data.problems.counts


def test_line_ends_inside_a_context_keep_their_offsets(tmp_path: Path) -> None:
    path = write_squad(tmp_path / "f.json", ("One.\r\nTwo.", [qa("1", "?", ("Two", 6))]))
    assert read_squad(path).contexts == ["One.\r\nTwo."]


def test_lone_surrogates_are_replaced_one_for_one(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(
        json.dumps(document(("a\ud800b \U0001f600 c", [qa("1", "?", ("c", 6))]))), encoding="ascii"
    )
    assert read_squad(path).contexts == ["a\ufffdb \U0001f600 c"]


def test_bad_entries_are_counted_and_left_out(tmp_path: Path) -> None:
    content = document(GOOD, ("x", [qa("1", "again", ("x", 0)), qa(None, "no id"), qa("3", 7)]))
    content["data"][0]["paragraphs"] += [{"qas": []}, "text", {"context": "y"}]
    content["data"] += [None, {"title": "no paragraphs"}]
    content["data"][0]["paragraphs"][0]["qas"] += [
        {
            "id": "4",
            "question": "q",
            "answers": [{"answer_start": 0}, {"text": "Ann", "answer_start": 0}],
        },
        {"id": 5, "question": "q"},
        3,
    ]
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    data = read_squad(path)
    assert [q.id for q in data.questions] == ["1", "2", "4", "5"]
    assert data.questions[2].answers == (Answer("Ann", 0),)
    assert data.problems.counts == {
        "entry of 'qas' that is not an object": 1,
        "repeated question id": 1,
        "question without 'id' or 'question'": 2,
        "paragraph without a text 'context'": 1,
        "entry of 'paragraphs' that is not an object": 1,
        "missing list 'qas'": 1,
        "article that is not an object": 1,
        "missing list 'paragraphs'": 1,
    }
    assert "data[0].paragraphs[1].qas[0], id 1" in str(data.problems)
    place = "data[0].paragraphs[0].qas[2], id 4"
    assert str(data.bad_answers) == f"1 x answer without a text (first: {place})"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b"not json", "is not JSON"),
        (b'{"data": [', "is not JSON"),
        (b"[]", "is not a SQuAD file"),
        (b"{}", "no list 'data'"),
        (b'{"data": {}}', "no list 'data'"),
        (b'{"data": []}', "it has no question"),
        (b'{"data": [{"sentence": "x", "label": 1}]}', "missing list 'paragraphs'"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (lzma.compress(b"{}" * 2000)[:-40], "xz data is truncated"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_squad_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_squad(path)
    assert "wrong.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_squad(tmp_path / "none.json")
    with pytest.raises(UserError, match="directory"):
        read_squad(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "paragraphs", "context", "qas", "id", "question", "answers"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory: Any, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "f.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [value]}]}), encoding="utf-8")
    try:
        message = read_squad(path).questions[0].id
    except UserError as error:
        message = str(error)
        assert "\n" not in message
    assert isinstance(message, str)


def test_real_files(shared_data: Path) -> None:
    train = read_squad(shared_data / "squad" / "train-v1.1-part.json.xz")
    assert (len(train.contexts), len(train.questions)) == (
        2429,
        11877,
    )  # one paragraph is there twice
    assert not train.problems.counts
