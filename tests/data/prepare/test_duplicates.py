"""Duplicates: which document is the first, and what is said about many of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megabert.data.prepare.batch_files import batch_path, unit_of
from megabert.data.prepare.encode import DUPLICATE
from megabert.data.prepare.filters.copies import first_equal
from megabert.data.prepare.notices.duplicates import duplicate_causes, duplicates_line
from megabert.data.prepare.plan import Copies


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_the_first_of_equal_rows(rows: list[tuple[int, int]]) -> None:
    digest = np.array(rows, np.uint64).reshape(-1, 2)
    assert first_equal(digest).tolist() == [rows.index(row) for row in rows]


def copies_of(pairs: list[tuple[int, int]]) -> Copies:
    batches = np.array(pairs, np.int32).reshape(-1, 2)
    return Copies(DUPLICATE, batches, np.zeros_like(batches), np.ones(len(batches)))


def test_causes_by_input() -> None:
    batches = [batch_path(Path(), unit, part) for unit, part in ((0, 0), (1, 0), (1, 1), (2, 0))]
    assert [unit_of(path) for path in batches] == [0, 1, 1, 2]
    copies = copies_of([(0, 1), (0, 2), (1, 2), (0, 3), (3, 3)])
    named = [("a.xml", range(2)), ("b.xml", range(2, 3))]
    causes = duplicate_causes(copies, batches, named)
    assert causes == {("a.xml", "a.xml"): 3, ("a.xml", "b.xml"): 1, ("b.xml", "b.xml"): 1}
    line = duplicates_line(causes, 15)
    assert line is not None
    assert line.startswith("5 documents (25.0%) have the same tokens as an earlier one")
    assert "3 within a.xml, 1 of b.xml that are in a.xml too, 1 within b.xml" in line


def test_few_duplicates_are_only_counted() -> None:
    assert duplicates_line({}, 10) is None
    assert duplicates_line({("a", "a"): 1}, 99) is None
    assert duplicates_line({("a", "a"): 2}, 98) is not None
    assert "within the inputs" in str(duplicates_line({("", ""): 2}, 8))
    many = {("a", str(n)): 10 - n for n in range(5)}
    assert "13 in other pairs of inputs" in str(duplicates_line(many, 8))
