"""JSON, JSON Lines, CSV and TSV: the same documents as the standard library reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import detect_format, iter_pages, sample_texts
from megabert.data.text.plain import json_values
from megabert.data.text.reading import BAD_LINE, ReadingRules
from tests.helpers.wrapped_text import sentences, wrapped

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
RECORD = st.fixed_dictionaries(
    {"text": TEXT},
    optional={
        "title": TEXT,
        "id": st.integers(0, 10**6) | TEXT,
        "more": st.recursive(st.none() | st.floats() | TEXT, lambda inner: st.lists(inner)),
    },
)
SAME_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, content: str | bytes, **rules: str) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [page.text for page in iter_pages(path, ReadingRules(**rules))]


def bad(path: Path, content: str | bytes, **rules: str) -> tuple[list[str], list[str]]:
    """(texts, messages about what was left out)."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    pages = list(iter_pages(path, ReadingRules(bad_lines="skip", **rules)))
    return (
        [page.text for page in pages if page.model != BAD_LINE],
        [page.title.removeprefix(f"{path}: ") for page in pages if page.model == BAD_LINE],
    )


@SAME_FILE
@given(
    records=st.lists(RECORD | TEXT, min_size=1, max_size=8),
    indent=st.sampled_from([None, 0, 1, 3, "\t"]),
    ascii_only=st.booleans(),
    series=st.booleans(),
    piece=st.integers(1, 50),
)
def test_json_gives_what_json_loads_gives(
    tmp_path: Path,
    records: list[Any],
    indent: Any,
    ascii_only: bool,
    series: bool,
    piece: int,
) -> None:
    def write(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    content = "\n".join(map(write, records)) if series else write(records)
    read_values = json.loads(f"[{','.join(map(write, records))}]")
    expected = [r if isinstance(r, str) else r["text"] for r in read_values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_PIECE", piece)
        rules = {"input_format": "json", "line_breaks": "keep"}
        assert read(tmp_path / "a", content, **rules) == expected


@SAME_FILE
@given(st.lists(RECORD, min_size=1, max_size=5), st.integers(1, 400), st.integers(1, 40))
def test_damaged_json_is_an_error(tmp_path: Path, records: list[Any], cut: int, piece: int) -> None:
    content = json.dumps(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_PIECE", piece)
        with pytest.raises(UserError, match="damaged or incomplete JSON") as caught:
            read(tmp_path / "a", content[: max(1, len(content) - cut)], input_format="json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[{"text": "a"}]', "json"),
        ('\ufeff[\n {\n  "text": "a"\n }\n]\n', "json"),
        ('["a", "b"]', "json"),
        ("[]", "json"),
        ('{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', "json"),
        ('{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ('{"text": "a\n', "jsonl"),
        ('"a\\n b"\n"c"\n', "jsonl"),
        ('[{"title": "x", ' + '"y": 1, ' * 50_000, "json"),
        ('[Music] He begins to sing.\n\n"What?"\n', "text"),
        ("[1] A reference.\n[2] Another one.\n", "text"),
        ('["Hello," said the man, and left.]\n', "text"),
        ("[[A link]] in brackets.\n", "text"),
        ('"Hello," said the man.\n"What?"\n', "text"),
        ('"A quotation."\n"Another."\n', "text"),
        ("{a} is a set.\n", "text"),
        ('{"a"} is a set of a string.\n', "text"),
        ("id,text\n1,a\n", "csv"),
        ("name;age;city\na;1;x\nb;2;y\n", "csv"),
        ("a\tb\n1\tx\n2\ty\n", "tsv"),
        ("Paris, the city\nRome, the city\nBern, the city\n", "text"),
        ("One, two.\nThree, four and five, six.\n", "text"),
        ("\tAn indented paragraph.\n\tAnother one.\n\tAnd one more.\n", "text"),
        ("INSERT is a key of a keyboard.\n", "text"),
        ("< a mark, and > another.\n", "text"),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, content: str, kind: str) -> None:
    path = tmp_path / "data"
    path.write_text(content)
    assert detect_format(path) == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("INSERT INTO `page` VALUES (1,2);\n", "SQL"),
        ("-- a comment\nCREATE TABLE x (\n a int\n);\n", "SQL"),
        ("{\\rtf1\\ansi text}", "RTF"),
        ("%PDF-1.7\n", "PDF"),
        ("PK\x03\x04" + "x" * 30 + "[Content_Types].xml", "office document"),
        ("Line one.\rLine two.\rLine three.\r", "carriage return alone.*tr "),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nHi.\n", "subtitles"),
        ("1\n00:00:01,000 --> 00:00:02,000\nHi.\n", "subtitles"),
        ("\\documentclass{article}\n\\begin{document}\nText.\n", "LaTeX"),
        ("{{Infobox town\n|name=X\n}}\n'''X''' is a town.\n", "wikitext"),
        ("'''Gold''' is a [[metal]].\n\n== History ==\n* It is [[old]].\n", "wikitext"),
        ("// a comment\n[\n {\n  'text': 'a'\n }\n]\n", "JSON in another form"),
        ('data([\n {"text": "a"},\n {"text": "b"}\n]);\n', "JSON in another form"),
        ("[{'text': 'a'},\n{'text': 'b'}]\n", "JSON in another form"),
        ("A title\n<p>One.</p><p>Two.</p><p>Three.</p><p>Four.</p><p>Five.</p><p>Six.</p>\n", "HTML"),
        ("<article><p>Text.</p></article>\n", "<article>"),
        ('{"data": [{"text": "a"}]}\n', r"it has 'data'.*jq -c '\.data\[\]' OLD > NEW\.jsonl"),
        ("[1, 2, 3]", "value 1 .* is a number"),
        ('[["a"]]', "value 1 .* is a list"),
        ('[{"body": "a", "n": 1}]', r"has no field 'text' \(it has 'body', 'n'\).*--text-field"),
        ('{"text": 5}\n', "the field 'text' is a number"),
        ('{"text": ["a"]}\n', "the field 'text' is a list"),
        ("id,body\n1,a\n2,b\n", r"CSV has no field 'text' \(it has 'id', 'body'\)"),
        ("1\tA sentence.\n2\tAnother.\n3\tA third.\n", "TSV has no field 'text'.*column N"),
        ('[{"text": "a"},]', "line 1"),
        ('[{"text": "a"} {"text": "b"}]', "expected a comma"),
        ('[{"text": "a"}] x', "text after the end"),
        ('["a"', "it ends"),
    ],
)  # fmt: skip
def test_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "data", content)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prose_with_quotes_and_brackets_is_text(tmp_path: Path) -> None:
    for number, content in enumerate(
        (
            '"Come here," he said.\n"I will not," she said.\n"Why?"\n',
            "(He waits.)\n[Exit.]\nHe: I wait.\nShe: I go.\n",
            "See [[a note]] here.\n\nIt is old. It is big.\n",
        )
    ):
        path = tmp_path / str(number)
        path.write_text(content)
        assert detect_format(path) == "text"


def test_a_file_named_json_is_json(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "a.ndjson.gz"):
        with pytest.raises(UserError, match="JSON in another form"):
            read(tmp_path / name, "null\n")


def test_json_is_never_plain_text(tmp_path: Path) -> None:
    for content in ('[{"text": "a"}]', '{"text": "a"}\n', '{\n "text": "a"\n}'):
        with pytest.raises(UserError, match="JSON, not plain text"):
            read(tmp_path / "a.txt", content, input_format="text")
    for content in ("INSERT INTO x VALUES (1);\n", '{"a"} is a set.\n', "<p>One.</p>\n"):
        assert read(tmp_path / "a.txt", content, input_format="text") == [content.strip()]
    with pytest.raises(UserError, match="--input-format json reads an array"):
        read(tmp_path / "a", '[\n{"text": "a"}\n]', input_format="jsonl")


def test_fields_titles_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('[{"id": 7, "title": "T", "text": "a", "body": "b"}, {"text": null}, "c"]')
    pages = list(iter_pages(path))
    assert [(p.page_id, p.title, p.text) for p in pages] == [
        (7, "T", "a"),
        (2, "", ""),
        (3, "", "c"),
    ]
    assert page_to_sentences(pages[1], "en").drop_reason == "empty"
    path.write_text('{"title": "T", "text": "a", "body": "b"}\n')
    found = list(iter_pages(path, ReadingRules(text_field="title")))
    assert [(p.title, p.text) for p in found] == [("", "T")]
    assert read(path, "text,id,title\r\na,9,T\r\n\r\nb,x,\r\n") == ["a", "b"]
    assert [(p.page_id, p.title) for p in iter_pages(path)] == [(9, "T"), (2, "")]
    assert read(path, "1\ta\n2\tb\n3\tc\n", text_field="2") == ["a", "b", "c"]
    assert read(path, "text\na b\nc\n", input_format="csv") == ["a b", "c"]
    with pytest.raises(UserError, match="two columns named 'text'"):
        read(path, "text,text\na,b\n", input_format="csv")


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)


@SAME_FILE
@given(
    rows=st.lists(st.tuples(FIELD.filter(str.strip), FIELD), min_size=1, max_size=8),
    separator=st.sampled_from(",;"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_gives_what_csv_reads(
    tmp_path: Path, rows: list[tuple[str, str]], separator: str, end: str
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end)
    writer.writerows([("text", "more"), *rows])
    expected = [text for text, _ in rows]
    assert read(tmp_path / "a.csv", buffer.getvalue(), line_breaks="keep") == expected


def test_tsv_takes_quotes_as_they_are(tmp_path: Path) -> None:
    content = 'text\tlabel\nHe said "no".\t1\n"Yes\t0\nA third one.\t1\n'
    assert read(tmp_path / "a", content) == ['He said "no".', '"Yes', "A third one."]
    quoted = 'text\tlabel\n"A field\twith a tab"\t1\n"Another"\t0\n"b ""c"""\t0\n'
    assert read(tmp_path / "a.tsv", quoted) == ["A field\twith a tab", "Another", 'b "c"']
    assert read(tmp_path / "a", 'text\tn\n"Yes"\t1\n"No"\t0\n') == ["Yes", "No"]


def test_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = b'{"text": "a"}\n{"text": "b\n{"txt": "c"}\n{"text": "\xff"}\n[1]\n{"text": "d"}\n'
    assert bad(path, content) == (
        ["a", "d"],
        [
            "line 2 is not complete JSON (Unterminated string starting at: line 1 column 10 (char 9))",
            "line 3 has no field 'text' (it has 'txt'); name the field that holds the text with "
            "--text-field",
            "line 4: not UTF-8 text: byte 49 is 0xFF (binary data, or an encoding that was not "
            "recognized)",
            "line 5 is a list, not an object with a 'text' field",
        ],
    )
    with pytest.raises(UserError, match="line 4: not UTF-8"):
        read(path, content)
    with pytest.raises(UserError, match="line 2 is not complete JSON"):
        read(path, content.replace(b"\xff", b"x"))
    texts, messages = bad(tmp_path / "a.csv", b'text,n\na,1\nb\n"c,1\nd\xe9,1\ne,1\n')
    assert (texts, len(messages)) == (["a"], 2)
    assert messages[1] == "line 4 to line 6: not a row of CSV (unexpected end of data)"
    texts, messages = bad(path, b'text,n\na,1\nb\nd\xe9,1\n"e\ne",1\n')
    assert (texts, len(messages)) == (["a", "e\ne"], 2)
    assert messages[0] == "line 3 has 1 fields, but the first row has 2"
    texts, messages = bad(path, b'[{"text": "a"}, {"text": "\xe9"}, 3, {"text": "b"}]')
    assert (texts, len(messages)) == (["a", "b"], 2)
    with pytest.raises(UserError, match="byte 12 is 0xE9"):
        read(path, b'[{"text": "a\xe9b"}, {"text": "b"}]')
    with pytest.raises(UserError, match="damaged or incomplete JSON"):
        bad(path, '[{"text": "a"}, {"text"')
    texts, messages = bad(path, b"One.\nTw\0o.\nThree.\n\nFo\xffur.\nFive.\n")
    assert texts == ["One.\nThree.", "Five."]
    assert [message[:7] for message in messages] == ["line 2:", "line 5:"]
    page = next(page for page in iter_pages(path, ReadingRules(bad_lines="skip")) if page.title)
    assert page_to_sentences(page, "en").drop_reason == BAD_LINE


def test_a_bad_line_takes_its_paragraph_along(tmp_path: Path) -> None:
    """If lines are joined, the sentences before and after it are not whole."""
    lines = [wrapped(number).encode() for number in range(6)]
    lines[2] = lines[2].replace(b" the ", b" th\xe9 ", 1)
    texts, messages = bad(tmp_path / "a", b"\n\n".join(lines))
    assert texts == [" ".join(sentences(number)) for number in (0, 1, 3, 4, 5)]
    assert len(messages) == 1


def test_hard_wrapped_texts_are_joined(tmp_path: Path) -> None:
    records = [{"text": wrapped(2 * n) + "\n\n" + wrapped(2 * n + 1)} for n in range(4)]
    expected = [
        " ".join(sentences(2 * n)) + "\n" + " ".join(sentences(2 * n + 1)) for n in range(4)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    assert read(tmp_path / "a", lines) == expected
    assert read(tmp_path / "a", json.dumps(records).replace("\\n", "\\r\\n")) == expected
    assert sample_texts(tmp_path / "a", ReadingRules()).layouts == {("record", True): 1}
    assert read(tmp_path / "a", lines, line_breaks="keep") == [r["text"] for r in records]


def test_memory_does_not_grow_with_the_array(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.json.gz"
        path.write_bytes(gzip.compress(json.dumps([{"text": "word " * 200}] * count).encode(), 1))
        tracemalloc.start()
        assert sum(1 for _ in iter_pages(path, ReadingRules(line_breaks="keep"))) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(8000) < 1.2 * peak(2000)


def test_a_json_value_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_VALUE", 1000)
    monkeypatch.setattr(json_values, "_PIECE", 100)
    assert len(read(tmp_path / "a", json.dumps([{"text": "x" * 500}] * 20))) == 20
    with pytest.raises(UserError, match="line 1: the JSON value that begins here is longer"):
        read(tmp_path / "a", json.dumps([{"text": "x" * 3000}]))
