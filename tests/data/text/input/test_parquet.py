"""Parquet files in the layout of wikimedia/wikipedia, row group by row group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megabert.common.errors import UserError
from megabert.common.processes.isolated import IsolatedFault
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input import parquet
from megabert.data.text.input.parquet import is_parquet, read_row_group, row_groups
from megabert.data.text.input.parquet_rows import ParquetRequest, answer_parquet, decode_answer
from megabert.data.text.plain.lines import MAX_LINE
from megabert.data.text.reading import BAD_LINE, ReadingRules
from tests.helpers.wrapped_text import wrapped


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def wiki(count: int) -> dict[str, list[str]]:
    return {
        "id": [str(10 * number) for number in range(1, count + 1)],
        "url": [f"https://xx.wikipedia.org/wiki/P{number}" for number in range(count)],
        "title": [f"Page {number}" for number in range(count)],
        "text": [f"Page {n} is a page.\n\nHistory\n\nIt was written." for n in range(count)],
    }


def read(path: Path) -> list[Any]:
    return [page for group in range(row_groups(path)) for page in read_row_group(path, group)]


def test_pages(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", wiki(150), row_group_size=70)
    assert is_parquet(path.read_bytes()[:16])
    assert not is_parquet(b"PAR")
    assert row_groups(path) == 3
    pages = read(path)
    assert [page.page_id for page in pages] == [10 * number for number in range(1, 151)]
    assert pages[149].title == "Page 149"
    assert {page.namespace for page in pages} == {0}
    assert pages[0].markup == "extracted"
    cleaned = page_to_sentences(pages[0], "en")
    assert cleaned.paragraphs[0] == ["Page 0 is a page."]
    assert cleaned.paragraphs[-1] == ["It was written."]
    last = list(read_row_group(path, 2))
    assert [page.page_id for page in last] == [10 * number for number in range(141, 151)]


def test_only_text_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["one", None, "three"]}, row_group_size=2)
    assert {page.markup for page in read(path)} == {"plain"}
    assert [(p.page_id, p.title, p.text) for p in read(path)] == [
        (1, "", "one"),
        (2, "", ""),
        (3, "", "three"),
    ]


def test_ids_that_are_not_numbers(tmp_path: Path) -> None:
    ids = ["Q42", " 7 ", None, "1" * 30, "-5", "²"]
    path = write(tmp_path / "a.parquet", {"id": ids, "text": ["x"] * 6}, row_group_size=1)
    assert [page.page_id for page in read(path)] == [1, 7, 3, 4, 5, 6]
    path = write(tmp_path / "b.parquet", {"id": pa.array([9, None], pa.int64()), "text": ["x"] * 2})
    assert [page.page_id for page in read(path)] == [9, 2]


def test_other_string_types(tmp_path: Path) -> None:
    text = pa.array(["Short text."] * 3, pa.large_string()).dictionary_encode()
    path = write(tmp_path / "a.parquet", {"text": text, "title": pa.array(["T"] * 3)})
    assert [page.text for page in read(path)] == ["Short text."] * 3


def test_namespaces_of_wikis(tmp_path: Path) -> None:
    """As for the other forms with a url: MediaWiki's own namespace names count."""
    columns = {"title": ["Talk:Kettle", "Kettle"], "text": ["x", "y"]}
    path = write(tmp_path / "a.parquet", {**columns, "url": ["u", "u"]})
    assert [page.namespace for page in read(path)] == [1, 0]
    path = write(tmp_path / "b.parquet", columns)
    assert [page.namespace for page in read(path)] == [0, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["x"]}, "has no field 'text' .it has 'body'"),
        ({"text": [1]}, "column 'text' holds int64"),
        ({"text": ["x"], "title": [1.5]}, "column 'title' holds double"),
        ({"text": ["x"], "id": [1.5]}, "column 'id' holds double"),
        ({"text": [["x"]]}, "column 'text' holds list"),
    ],
)
def test_wrong_columns(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=message) as caught:
        row_groups(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", wiki(3000), write_page_checksum=True, compression="zstd")
    whole = path.read_bytes()
    for size in (0, 3, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.parquet: not a complete Parquet file"):
            row_groups(path)
    flipped = bytearray(whole)
    column = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(0).column(3)
    flipped[column.dictionary_page_offset + column.total_compressed_size // 3] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match="damaged: row group 0 cannot be read after row"):
        read(path)
    with pytest.raises(UserError, match="no such file"):
        row_groups(tmp_path / "none.parquet")


def test_text_that_is_not_unicode(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    path = write(tmp_path / "a.parquet", {"text": text})
    with pytest.raises(UserError, match="row 2 of row group 0 is not UTF-8"):
        read(path)
    pages = list(read_row_group(path, 0, ReadingRules(bad_lines="skip")))
    assert [(page.model, page.text) for page in pages] == [("wikitext", "good"), (BAD_LINE, "")]


def test_rows_that_are_too_long(tmp_path: Path) -> None:
    """A row of 64 MiB, as in JSON Lines; one character more is too long."""
    texts = ["x" * (MAX_LINE - 2) + "é", "x" * MAX_LINE, "y"]
    path = write(tmp_path / "a.parquet", {"title": [None, "T", None], "text": texts})
    pages = list(read_row_group(path, 0, ReadingRules(bad_lines="skip", line_breaks="keep")))
    assert pages[1].title == f"{path}: row 2 of row group 0 is longer than 64 MiB"
    assert [(page.model, len(page.text)) for page in pages] == [
        ("wikitext", MAX_LINE - 1),
        (BAD_LINE, 0),
        ("wikitext", 1),
    ]


def test_rows_are_the_same_after_the_process_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", wiki(200))
    pages, asked = [page.page_id for page in read(path)], 0
    ask = parquet._worker.ask

    def lossy(request: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked in (4, 12):
            raise IsolatedFault("lost")
        return ask(request)

    monkeypatch.setattr(parquet._worker, "ask", lossy)
    group = read_row_group(path, 0)
    assert [next(group).page_id for _ in range(70)] == pages[:70]
    with pytest.raises(UserError, match="cannot be read after row 71 of it: it is damaged"):
        list(group)


def test_another_field(tmp_path: Path) -> None:
    columns = {"body": ["one", "two"], "title": ["A", "B"], "text": [1, 2]}
    path = write(tmp_path / "a.parquet", columns)
    pages = list(read_row_group(path, 0, ReadingRules(text_field="body")))
    assert [(page.title, page.text) for page in pages] == [("A", "one"), ("B", "two")]
    pages = list(read_row_group(path, 0, ReadingRules(text_field="title")))
    assert [(page.title, page.text) for page in pages] == [("", "A"), ("", "B")]
    with pytest.raises(UserError, match=r"no field 'main' \(it has 'body', 'title', 'text'\)"):
        row_groups(path, "main")


def test_hard_wrapped_texts(tmp_path: Path) -> None:
    """The first rows decide for all row groups."""
    path = write(tmp_path / "a.parquet", {"text": [wrapped(0), wrapped(1)]}, row_group_size=1)
    assert ["\n" in page.text for page in read(path)] == [False, False]
    kept = read_row_group(path, 1, ReadingRules(line_breaks="keep"))
    assert next(kept).text == wrapped(1)


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """48 MB of text in one row group; Arrow never holds more than a fraction of it."""
    text = [f"{number} " + "word " * 600 for number in range(16_000)]
    options: dict[str, Any] = {"row_group_size": 16_000, "compression": "none"}
    path = write(tmp_path / "a.parquet", {"text": text}, **options)
    pool = pa.system_memory_pool()
    before, peak, rows = pool.bytes_allocated(), 0, 0
    usual = pa.default_memory_pool()
    try:
        while rows < len(text):
            request = ParquetRequest(str(path), "text", 0, rows, 64)
            rows += len(decode_answer(answer_parquet(request.encode()))["rows"])
            peak = max(peak, pool.bytes_allocated() - before)
    finally:
        pa.set_memory_pool(usual)
    assert rows == len(text)
    assert 0 < peak < 12e6
