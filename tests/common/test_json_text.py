"""The one reader of JSON and the one of YAML: every fault is one line of our own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.common.json_text import (
    MAX_DEPTH,
    JsonError,
    has_several_values,
    parse_json,
    read_json,
    read_json_object,
)
from megabert.common.yaml_text import read_yaml_documents, read_yaml_value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value: line 1 column 1"),
        ('{\n"a": }', "line 2 column 6"),
        ("[" * 100_000, "nested too deeply, in more than 100 levels"),
        (
            "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
            "nested too deeply, in more than 100 levels",
        ),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "nested too deeply, in more than 100 levels"),
        ("1" * 5_000, "more than 300 digits"),
        ("[" + "9" * 400 + "]", "more than 300 digits"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "the number 1e999 is too large"),
        (b'{"a":\n "\xff"}', "not UTF-8 (line 2, byte 8 of the file)"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (r'"\ud800"', "not one of a pair"),
    ],
)
def test_what_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


def test_what_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -2.5, true, null, "\\ud83d\\ude00"]}') == {
        "a": [1, -2.5, True, None, "\U0001f600"]
    }
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json(str(10**299)) == 10**299


def test_data_of_other_programs() -> None:
    assert math.isnan(parse_json('{"a": NaN}', of_data=True)["a"])
    assert parse_json(r'"\ud800"', of_data=True) == "\ud800"
    for text in ("[" * 5_000, "9" * 5_000, '{"a": 1, "a": 1}'):
        with pytest.raises(JsonError):
            parse_json(text, of_data=True)
    with pytest.raises(JsonError) as caught:
        parse_json('{"a": 1}\n{"a": 1}', of_data=True)
    assert has_several_values(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read_json(path) == [1]
    with pytest.raises(UserError, match=r"a\.json: expected a JSON object, found a list"):
        read_json_object(path)
    with pytest.raises(UserError, match="more than 0 MiB"):
        read_json(path, largest=2)


_BOMB = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5_000, "more than 50 levels"),
        ("- " * 5_000, "too many levels"),
        ("[" * 60 + "]" * 60, "more than 50 levels"),
        (_BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "more than 50 levels"),
        ("a: " + "1" * 5_000, "a value that YAML does not allow"),
        ("a: 2001-99-99", "a value that YAML does not allow"),
        ("a: !!timestamp soon", "a value that YAML does not allow"),
        ("a: !!python/object/apply:os.system [x]", "not YAML"),
        ("a:\n  b: 1\n  b: 2", "a.b is given twice"),
        ("a: [1, [{b: 1, b: 2}]]", "a[1][0].b is given twice"),
        ("- {b: {c: 1, c: 2}}", "[0].b.c is given twice"),
        ("{a: b", "not YAML"),
        ("a: \0", "not YAML"),
        ('a: "\\0"', "a character that no setting has"),
        ('a: "\\ud800"', "a character that no setting has"),
        ("a: 1\n---\nb: 1", "2 YAML documents"),
        ("# " + "x" * (1 << 20), "more than 1 MiB"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml_value(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_yaml_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: &x {b: 1}\nc: *x\n---\n[1]\n")
    assert read_yaml_documents(path) == [{"a": {"b": 1}, "c": {"b": 1}}, [1]]
    path.write_text("")
    assert read_yaml_value(path) is None
