"""Tables with a column of text: CSV and TSV.

The first row names the columns. ``--text-field 2`` reads the second column of a table without names.
A CSV field in quotes may hold separators and line ends. The fields of a TSV are taken as they are,
unless its rows are alike only if quotes are read as in a CSV, or every field of the sample that
begins with a quote also ends with one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line, text_lines
from megabert.data.text.plain.records import Numbering, missing_field, record_page
from megabert.data.text.reading import ReadingRules

MAX_FIELD = 1 << 26
"""Characters of a field, and of a row."""
_SAMPLE_LINES = 200
_NUMBERED_ROWS = 5
_SEPARATORS = ("\t", ",", ";", "|")
_COLUMN_NAME = re.compile(r"[^\W\d][\w .:/()#%-]{0,39}")
_FILE_NAME = re.compile(r"\.(csv|tsv|tab)(\.(bz2|gz|xz))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How the fields of a table are written."""

    separator: str
    quotes: bool

    @property
    def name(self) -> str:
        """The input format: "csv" or "tsv"."""
        return "tsv" if self.separator == "\t" else "csv"


def table_dialect(sample: str, name: str, rules: ReadingRules) -> Dialect | None:
    """The dialect, if the sample is a table.

    A file name that says so is enough, or a first row of names with the text field if most rows
    have the same number of fields. Otherwise nine rows in ten must have the same number, two at
    least; there must be three rows, and those of a CSV must begin with names, or be five that all
    begin with a number.

    Args:
        sample: the beginning of the file, lines that are whole.
        name: of the file.
        rules: with the text field.
    """
    by_name = _FILE_NAME.search(name)
    if by_name is not None:
        return named_dialect(sample, by_name.group(1).lower())
    for separator in _SEPARATORS:
        dialect = Dialect(separator, _has_quotes(sample, separator))
        rows = _sample_rows(sample, dialect)
        if rows and len(rows[0]) > 1 and _is_table(rows, separator, rules.text_field):
            return dialect
    return None


def named_dialect(sample: str, kind: str) -> Dialect:
    """The dialect of a table that is a "csv", or else a TSV."""
    if kind != "csv":
        return Dialect("\t", _has_quotes(sample, "\t"))
    line = sample.lstrip().split("\n", 1)[0]
    separator = max(",;\t|", key=line.count)
    return Dialect(separator, separator == "\t" or _has_quotes(sample, separator))


def _is_table(rows: Sequence[Sequence[str]], separator: str, text_field: str) -> bool:
    header = rows[0]
    alike = sum(len(row) == len(header) for row in rows)
    named = len(set(header)) == len(header) and all(map(_COLUMN_NAME.fullmatch, header))
    if named and len(rows) > 1 and text_field in header:
        return 2 * alike > len(rows)
    if 10 * alike < 9 * len(rows):
        return False
    if separator == "\t":
        return len(rows) > 2 and any(row[0].strip() for row in rows)
    if named and len(rows) > 2 and not any(field.endswith(" ") for field in header):
        return True
    # "1|text" is a line with its number
    bars = separator == "|" and len(header) < 3
    return len(rows) >= _NUMBERED_ROWS and not bars and all(map(_is_numbered, rows))


def _is_numbered(row: Sequence[str]) -> bool:
    """Whether a row begins with a number, and no space follows its separators as in prose."""
    return len(row) > 1 and row[0].isdecimal() and not any(f[:1].isspace() for f in row[1:])


def _sample_rows(sample: str, dialect: Dialect) -> list[list[str]]:
    """The rows of the first lines; an empty one in place of the first that cannot be parsed."""
    lines = sample.split("\n", _SAMPLE_LINES)
    rows: list[list[str]] = []
    try:
        for row in _rows(iter(lines[:_SAMPLE_LINES]), dialect):
            if row:
                rows.append(row)
    except csv.Error:
        if len(lines) <= _SAMPLE_LINES:  # else it may be a row that the sample cuts
            rows.append([])
    return rows


def _has_quotes(sample: str, separator: str) -> bool:
    if separator not in ("\t", "|"):
        return True
    raw = _sample_rows(sample, Dialect(separator, False))
    fields = [field for row in raw for field in row if field.startswith('"')]
    if len({len(row) for row in raw}) <= 1:
        return bool(fields) and all(len(field) > 1 and field.endswith('"') for field in fields)
    return len({len(row) for row in _sample_rows(sample, Dialect(separator, True))}) == 1


def _rows(lines: Iterator[str], dialect: Dialect) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(
        (line + "\n" for line in lines),
        delimiter=dialect.separator,
        quoting=csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
        strict=True,
    )
    return iter(reader)


class _Lines:
    """The lines of a file; ``faults`` are the pages of those that cannot be read, and ``size`` is the
    number of characters since a row began."""

    def __init__(self, lines: Iterator[tuple[int, str | Page]], name: str) -> None:
        self._lines, self._name = lines, name
        self.number = 0
        self.size = 0
        self.faults: list[Page] = []

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self.number = number
            if isinstance(line, Page):
                self.faults.append(line)
                line = line.text
            self.size += len(line)
            if self.size > MAX_FIELD:
                raise UserError(
                    f"{self._name}: the row that ends in line {number:,} or later is longer than "
                    f"{MAX_FIELD >> 20} Mi characters"
                )
            yield line.replace("\r", " ")


def read_rows(
    stream: io.BufferedReader,
    name: str,
    numbering: Numbering,
    rules: ReadingRules,
    dialect: Dialect,
) -> Iterator[Page]:
    """The documents of a table, one per row; rows without any field are skipped.

    Raises:
        UserError: no column of that name; a row with another number of fields than the first one,
            with a quote that does not end, or that is not UTF-8, unless such rows are skipped.
    """
    lines = _Lines(text_lines(stream, name, rules.skip), name)
    rows = _rows(iter(lines), dialect)
    columns: list[str] = []
    kind = dialect.name.upper()
    while True:
        first, lines.size = lines.number + 1, 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            lines.faults.clear()
            where = f"line {first:,}"
            where += f" to line {lines.number:,}" if lines.number > first else ""
            yield bad_line(f"{name}: {where}: not a row of {kind} ({error})", rules.skip)
            continue
        where = f"{name}: line {first:,}"
        if lines.faults:  # the row holds a part that cannot be read
            yield from lines.faults
            lines.faults.clear()
            continue
        if row is None:
            return
        if not row:
            continue
        if not columns:
            columns = _columns(row, f"{name}: {kind}", rules.text_field)
            if row == columns:
                continue
        if len(row) != len(columns):
            yield bad_line(
                f"{where} has {len(row)} fields, but the first row has {len(columns)}", rules.skip
            )
            continue
        yield record_page(dict(zip(columns, row)), where, numbering, rules)


def _columns(header: list[str], what: str, field: str) -> list[str]:
    """Names of the columns; the text column is called ``field``."""
    if field in header:
        if header.count(field) > 1:
            raise UserError(f"{what} has two columns named {field!r}; rename one of them")
        return header
    if field.isdecimal() and len(field) < 9 and 1 <= int(field) <= len(header):
        return [field if number == int(field) else "" for number in range(1, len(header) + 1)]
    names = dict.fromkeys(header)
    raise UserError(
        f"{what} {missing_field(names, field)}; in a table without names, --text-field N reads "
        "column N"
    )
