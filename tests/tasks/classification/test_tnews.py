"""TNEWS: the real files, and made ones of every form and fault."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from megabert.common.errors import UserError
from megabert.tasks.classification.tnews import Tnews
from megabert.tasks.files.json_lines import read_json_lines

NAMES = (
    "news_story", "news_culture", "news_entertainment", "news_sports", "news_finance", "news_house",
    "news_car", "news_edu", "news_tech", "news_military", "news_travel", "news_world", "news_stock",
    "news_agriculture", "news_game",
)  # fmt: skip


def line(sentence: Any, label: Any = None, name: Any = None, **more: Any) -> str:
    """A line of a TNEWS file."""
    content = {"label": label, "label_desc": name, "sentence": sentence, **more}
    return json.dumps({k: v for k, v in content.items() if v is not None}, ensure_ascii=False)


def write(path: Path, *lines: str) -> Path:
    """A file of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_real_files(shared_data: Path) -> None:
    source, folder = Tnews(), shared_data / "tnews"
    train = source.read(folder / "train.json.xz", "error")
    assert source.labels_of(folder / "train.json.xz") == NAMES
    assert train.labels is not None
    assert len(train.labels) == 53360
    assert train.labels[:2] == ["news_edu", "news_finance"]
    dev = source.read(folder / "dev.json.xz", "error")
    assert dev.labels is not None
    assert len(dev.labels) == 10000
    assert dev.labels.count("news_stock") == 45
    test = source.read(folder / "test.json.xz", "error")
    assert test.labels is None
    assert test.ids == list(range(10000))
    assert test.texts[0][0] == "A股：2个细分领域龙头个股值得股民关注"
    assert not train.faults.problems.counts


def test_labels_are_sorted_by_code_and_completed_from_the_list(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json", line("x", "9", "nine"), line("y", 10, "ten"), line("z", "9", "nine")
    )
    source = Tnews()
    assert source.read(path, "error").labels == ["nine", "ten", "nine"]
    assert source.labels_of(path) == ("nine", "ten")
    write(
        tmp_path / "labels.json",
        *(f'{{"label": "{code}", "label_desc": "d{code}"}}' for code in "82"),
    )
    assert source.labels_of(path) == ("d2", "d8", "nine", "ten")
    words = Tnews()
    (tmp_path / "labels.json").unlink()
    words.read(
        write(tmp_path / "b.json", line("x", "b"), line("y", "a10"), line("z", "a9")), "error"
    )
    assert words.labels_of(path) == ("a10", "a9", "b")
    assert Tnews().read(write(tmp_path / "c.json", line("x", id=7)), "error").ids == [7]
    with pytest.raises(UserError, match=r"names no labels; put labels.json next to it"):
        Tnews().labels_of(path)


def test_codes_with_and_without_names_meet(tmp_path: Path) -> None:
    named = write(tmp_path / "named.json", line("x", "100", "story"))
    bare = write(tmp_path / "bare.json", line("x", "100"))
    first = Tnews()
    first.read(named, "error")
    assert first.read(bare, "error").labels == ["story"]
    second = Tnews()
    second.read(bare, "error")
    assert second.read(named, "error").labels == ["100"]
    foreign = Tnews()
    assert foreign.load_labels(("100", "101"), {}) == ("100", "101")
    assert foreign.read(named, "error").labels == ["100"]
    again = Tnews()
    assert again.load_labels(("story",), first.record()) == ("story",)
    assert again.read(bare, "error").labels == ["story"]
    with pytest.raises(UserError, match="names no labels"):
        Tnews().load_labels((), {})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"sentence": "a", "label": "1", "label": "2"}', "the key 'label' occurs twice"),
        ('{"label": "1"}', "'sentence' is missing or not a text"),
        (line(5, "1"), "'sentence' is missing or not a text"),
        (line("a"), "no 'label', unlike most lines"),
        (line("a", 1.5), "'label' is not a text or whole number"),
        (line("a", True), "'label' is not a text or whole number"),
        (line("a", "1", 3), "'label_desc' is not a text"),
        (line("a", ""), "'label' is '', which names no label"),
        (line("a", " "), "'label' is ' ', which names no label"),
        (line("a", "None"), "'label' is 'None', which names no label"),
        (line("a", "nan"), "'label' is 'nan', which names no label"),
        (line("a", -1), "'label' is -1, which names no label"),
        (line("a", "-1"), "'label' is '-1', which names no label"),
        (line("a", "1", " "), "'label_desc' is ' ', which names no label"),
        ('{"sentence": "a", "label": null}', "'label' is not a text or whole number"),
        ('{"sentence": "a", "label": NaN}', "'label' is not a text or whole number"),
        ('{"sentence": null, "label": "1"}', "'sentence' is missing or not a text"),
        (line("a", "1", "uno"), "label '1' is named 'uno', before 'one'"),
    ],
)
def test_faults_are_named_or_counted(tmp_path: Path, bad: str, message: str) -> None:
    path = write(tmp_path / "train.json", line("x", "1", "one"), "", bad, line("y", "2", "two"))
    with pytest.raises(UserError, match=f"{path} line 3: unusable line: {message}") as error:
        Tnews().read(path, "error")
    assert "\n" not in str(error.value)
    examples = Tnews().read(path, "skip")
    assert examples.labels == ["one", "two"]
    assert examples.lines == [1, 4]
    assert str(examples.faults.problems) == "1 x unusable line (first: line 3)"


def test_whether_a_file_has_labels_is_decided_by_most_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", line("x"), line("y", "1", "one"), line("z", "2", "two"))
    with pytest.raises(UserError, match="line 1: unusable line: no 'label', unlike most lines"):
        Tnews().read(path, "error")
    assert Tnews().read(path, "skip").labels == ["one", "two"]
    path = write(tmp_path / "b.json", line("x", "1", "one"), line("y"), line("z"))
    with pytest.raises(UserError, match="line 1: unusable line: a 'label', unlike most lines"):
        Tnews().read(path, "error")
    assert Tnews().read(path, "skip").labels is None
    path = write(tmp_path / "c.json", line("x", -1, idx=0), line("y", "-1", idx=1))
    examples = Tnews().read(path, "error")
    assert examples.labels is None
    assert examples.layout.endswith("which is -1 in every line: no labels")
    path = write(tmp_path / "d.json", line("x", " 1 ", "one "), line("y", 1, "one"))
    assert Tnews().read(path, "error").labels == ["one", "one"]


def test_ids_are_used_if_every_line_has_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", line("x", id=7), line("y"), line("z", id=1))
    examples = Tnews().read(path, "error")
    assert examples.ids == [0, 1, 2]
    assert "1 x line without an id" in str(examples.faults.problems)


def test_empty_files_and_wrong_lists_are_named(tmp_path: Path) -> None:
    for content in ((), ("", " ")):
        with pytest.raises(UserError, match="has no example; expected lines"):
            Tnews().read(write(tmp_path / "a.json", *content), "error")
    with pytest.raises(UserError, match=r"has no example \(2 x unusable line"):
        Tnews().read(write(tmp_path / "a.json", "{", "{"), "skip")
    source, path = Tnews(), write(tmp_path / "a.json", line("x", "1", "one"), line("y", "2", "one"))
    source.read(path, "error")
    with pytest.raises(UserError, match="labels '1' and '2' are both named 'one'"):
        source.labels_of(path)
    write(tmp_path / "labels.json", '{"label_desc": "x"}')
    with pytest.raises(
        UserError, match=r"labels.json line 1: 'label' is not a text or whole number"
    ):
        source.labels_of(path)


def test_predictions_name_code_and_label(tmp_path: Path) -> None:
    source = Tnews()
    source.read(write(tmp_path / "a.json", line("x", "100", "故事")), "error")
    path = source.write_predictions(tmp_path, "", [0, 5], ["故事", "other"])
    assert path.name == "tnews_predict.json"
    assert path.read_text(encoding="utf-8").splitlines() == [
        '{"id": 0, "label": "100", "label_desc": "故事"}',
        '{"id": 5, "label": "other", "label_desc": "other"}',
    ]


def test_packed_lines_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json.xz"
    path.write_bytes(lzma.compress('\ufeff{"a": 1}\r\n\r\n{"b": "\u2028"}'.encode()))
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"b": "\u2028"})]
