"""Which columns of a file without a header hold what: decided once, from all of its lines.

A layout is a known order of columns and what can be checked of them. A file has the layout that fits most
of its lines, and at least half of them. So no rule about bad lines ever changes which columns are meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from megabert.common.errors import UserError

_WHOLE = re.compile(r"[0-9]{1,18}")
Check = Callable[[str], str | None]
"""What is wrong with the cell of a label; None if nothing is."""


@dataclass(frozen=True)
class ColumnOrder:
    """An order of columns, which count from 0.

    Attributes:
        title: names of the columns, for messages.
        widths: numbers of columns that a line may have.
        texts: columns of the texts.
        label: column of the label; None: the lines have none, and ``numbers`` must rise in the first one.
        numbers: columns of whole numbers.
        words: columns that are not whole numbers.
    """

    title: str
    widths: tuple[int, ...]
    texts: tuple[int, ...]
    label: int | None
    numbers: tuple[int, ...] = ()
    words: tuple[int, ...] = ()

    def fault(self, cells: Sequence[str], label: Check) -> tuple[str, str] | None:
        """Kind and detail of what does not fit in a line; None if it fits."""
        if len(cells) not in self.widths:
            wanted = " or ".join(map(str, self.widths))
            return "wrong number of columns", f"{len(cells)}, not {wanted}"
        for column in (*self.numbers, *self.words):
            if bool(_WHOLE.fullmatch(cells[column].strip())) != (column in self.numbers):
                wanted = "a whole number" if column in self.numbers else "a word"
                return (
                    "unexpected column",
                    f"column {column + 1} is {cells[column]!r}, not {wanted}",
                )
        wrong = None if self.label is None else label(cells[self.label])
        return None if wrong is None else ("unknown label", wrong)


def find_column_order(
    path: Path,
    layouts: Sequence[ColumnOrder],
    rows: Sequence[tuple[int, Sequence[str]]],
    label: Check,
) -> ColumnOrder:
    """The layout of the lines of a file.

    Args:
        path: for messages.
        layouts: known ones; of equally good ones the first is taken.
        rows: number and cells of each line.
        label: check of a label.

    Raises:
        UserError: none fits at least half of the lines.
    """
    fits = [_fitting(layout, rows, label) for layout in layouts]
    best = max(range(len(layouts)), key=lambda place: fits[place])
    if fits[best] and 2 * fits[best] >= len(rows):
        return layouts[best]
    known = "; ".join(dict.fromkeys(layout.title for layout in layouts))
    hint = f"expected columns {known}; or a first line that names the columns"
    width = Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    near = [layout for layout in layouts if width in layout.widths] or [layouts[best]]
    for number, cells in rows:
        wrong = near[0].fault(cells, label)
        if wrong is not None:
            raise UserError(f"{path} line {number}: {wrong[0]}: {wrong[1]}; {hint}")
    raise UserError(f"{path}: its columns are not known; {hint}")


def _fitting(layout: ColumnOrder, rows: Sequence[tuple[int, Sequence[str]]], label: Check) -> int:
    """How many lines fit."""
    fitting = [cells for _, cells in rows if layout.fault(cells, label) is None]
    if layout.label is None:
        numbers = [int(cells[layout.numbers[0]]) for cells in fitting]
        if any(after <= before for before, after in pairwise(numbers)):
            return 0
    return len(fitting)
