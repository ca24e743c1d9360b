"""Files of cells: lines, quotation marks, commas, and which of them a file has."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.tasks.files.quoted_cells import quoted_rows
from megabert.tasks.files.tables import Cells, read_table

NAMES = {"text", "label"}


def named(cells: Cells) -> bool:
    """Whether a line is a header."""
    return set(cells) >= NAMES


def table(
    folder: Path, content: str
) -> tuple[str, Cells | None, list[Cells], list[int], list[int]]:
    """What is read of a file."""
    path = folder / "table"
    path.write_bytes(content.encode())
    found = read_table(path, named)
    return found.form, found.header, found.cells, found.lines, found.damaged


def test_marks_are_characters_unless_a_writer_made_them(tmp_path: Path) -> None:
    plain = 'text\tlabel\n"a\t1\nb "c" d\t0\n"e"\t1\n'
    assert table(tmp_path, plain) == (
        "tab-separated", ["text", "label"], [['"a', "1"], ['b "c" d', "0"], ['"e"', "1"]], [2, 3, 4], [],
    )  # fmt: skip
    form, _, cells, _, _ = table(tmp_path, 'text\tlabel\n"a ""b"" c"\t1\n')
    assert cells == [['"a ""b"" c"', "1"]]
    assert form == "tab-separated (quotation marks are characters; 1 cells look quoted)"
    # Only with quoting all lines have two cells.
    form, _, cells, lines, _ = table(tmp_path, 'text\tlabel\n"a\tb ""c"""\t1\n\n"d\n\ne"\t0\n')
    assert (form, cells) == (
        "tab-separated with quoted cells",
        [['a\tb "c"', "1"], ["d\n\ne", "0"]],
    )
    assert lines == [2, 4]
    form, header, cells, _, _ = table(tmp_path, '"text"\t"label"\n"a"\t1\nb\t0\n')
    assert (header, cells) == (["text", "label"], [["a", "1"], ["b", "0"]])


def test_commas_need_a_header_and_marks_count(tmp_path: Path) -> None:
    content = '\ufefftext,label\r\n"a, ""b""",1\r\n"c\u2028\r\nd",0\r\n\r\ne" f,1\r\n"g"h,1\r\n"i'
    form, header, cells, lines, damaged = table(tmp_path, content)
    assert (form, header) == ("comma-separated", ["text", "label"])
    assert cells == [['a, "b"', "1"], ["c\u2028\nd", "0"], ['e" f', "1"]]
    assert (lines, damaged) == ([2, 3, 6], [7, 8])
    assert table(tmp_path, "a,b\nc,d\n")[:3] == ("tab-separated", None, [["a,b"], ["c,d"]])


CELL = st.text(st.sampled_from('ab ",\t\n\u2028'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=3), min_size=1, max_size=5), st.sampled_from(",\t")
)
def test_what_a_csv_writer_wrote_comes_back(rows: list[Cells], delimiter: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(rows)
    lines = list(enumerate(buffer.getvalue().removesuffix("\n").split("\n"), start=1))
    blank = delimiter + " \u2028"
    kept = [cells for cells in rows if delimiter.join(cells).strip(blank) or delimiter == ","]
    found = [cells for _, cells in quoted_rows(lines, delimiter) if cells]
    if delimiter == ",":
        assert found == kept
    else:  # a line of nothing but white space is blank
        assert [c for c in found if "".join(c).strip()] == [c for c in rows if "".join(c).strip()]


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('ab",\t\n'), max_size=30), st.sampled_from(",\t"))
def test_any_text_is_cut_and_no_line_is_lost(text: str, delimiter: str) -> None:
    lines = list(enumerate(text.split("\n"), start=1))
    rows = list(quoted_rows(lines, delimiter))
    assert [number for number, _ in rows] == sorted({number for number, _ in rows})
    if '"' not in text:
        assert rows == [(n, line.split(delimiter)) for n, line in lines if line.strip()]
    assert bool(rows) == bool(text.strip())


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\ufeff")), max_size=5
    )
)
def test_lines_end_at_line_feeds_only(lines: list[str]) -> None:
    lines = [line.removesuffix("\r") for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(
            "\n".join(["text\tlabel", *(f"x{line}\t1" for line in lines), ""]).encode()
        )
        expected = [[*f"x{line}".split("\t"), "1"] for line in lines]
        if not lines:
            with pytest.raises(UserError, match="no line after its header"):
                read_table(path, named)
            return
        found = read_table(path, named)
    if found.form.startswith("tab-separated") and "with quoted" not in found.form:
        assert found.cells == expected
