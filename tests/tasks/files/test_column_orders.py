"""Columns of files without a header: found from all lines, whatever happens to bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.tasks.files.column_orders import ColumnOrder, find_column_order

LABELLED = ColumnOrder("number, text, label", (3,), (1,), 2, numbers=(0,))
BARE = ColumnOrder("number, text", (2,), (1,), None, numbers=(0,))
SCORED = ColumnOrder("kind, label, text, sources", (3, 4), (2,), 1, words=(0,))
PATH = Path("f.tsv")


def label(cell: str) -> str | None:
    """Labels are x and y."""
    return None if cell in ("x", "y") else f"{cell!r}, not x or y"


def find(*lines: str) -> ColumnOrder:
    """The layout of these lines."""
    rows = [(number, line.split("|")) for number, line in enumerate(lines, start=1)]
    return find_column_order(PATH, (LABELLED, BARE, SCORED), rows, label)


def test_the_layout_is_the_one_that_fits_most_lines() -> None:
    assert find("1|a|x", "2|b|y", "3|c|-", "4|d") is LABELLED
    assert find("k|x|a", "k|y|b|http://s", "k|?|c") is SCORED
    assert find("0|a", "1|b", "2|c") is BARE
    assert find("1|a|x", "k|x|b") is LABELLED


def test_labels_do_not_pass_for_numbers_of_lines() -> None:
    with pytest.raises(
        UserError, match=r"^f.tsv: its columns are not known; expected columns number, text"
    ):
        find("0|a", "1|b", "0|c")


def test_a_layout_must_fit_half_of_the_lines() -> None:
    with pytest.raises(
        UserError, match=r"f.tsv line 1: unknown label: 'p', not x or y; expected columns"
    ):
        find("1|a|p", "2|b|q", "3|c|x")
    with pytest.raises(
        UserError, match=r"line 2: wrong number of columns: 5, not 3; .* first line that names"
    ):
        find("1|a|x", "1|2|3|4|5", "1|2|3|4|5", "6|7|8|9|0")
    with pytest.raises(
        UserError, match=r"line 1: unexpected column: column 1 is 'n', not a whole number"
    ):
        find("n|a|p", "n|b|q")
