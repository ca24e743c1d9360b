"""Rows of tables whose beginning or end a template makes, so that no ``{|`` or ``|}`` shows it."""

import re
from collections.abc import Sequence

from megabert.data.text.wikitext.holes import HOLE, hole_name

TABLE_END = "\ue002"
"""The place of a ``|}`` without its ``{|``."""
_HEADER = re.compile(r"!(?!!)(?:.*(?:!!|\|)|[ \t]*$)")
_CELLS = re.compile(r"\|\||!!")
# "|x| is the absolute value": not a cell, whose attributes have a "="
_ABSOLUTE = re.compile(
    r"\|[^|=\n\s+}-](?:[^|=\n]{0,30}[^|=\s])?\|(?=[ ,.;:)^<>=]|\^|$)(?!\s*\|)[^|]*$"
)
# the engine finds patterns that begin with a single character fastest
_SIGNS_OF_ROWS = tuple(map(re.compile, (r"\n(?=[|!])", r"\|(?=\|)", "!(?=!)")))
_LONGEST_TABLE = 2000  # lines
# names of templates that end what another one began
_END_NAME = re.compile(
    r"\b(?:end|ende|bottom|footer|foot|close|fin|fine|fim|koniec|конец|низ)\b|尾|底|末|終|끝|نهاية",
    re.IGNORECASE,
)
_LONGEST_CELL = 30  # lines
_LOOK_AHEAD = 2  # lines of a cell after a blank line


def strip_rows(text: str, names: Sequence[str]) -> str:
    """Remove the rows of such tables: from their first line to a ``|}``, to a line that holds only a
    template, to a heading, or to a blank line that no further row follows.

    A lone line that begins with ``|`` takes nothing else with it, unless a row follows below it. If the rows follow a template and
    a template whose name says so ends the table, everything between goes.

    Args:
        text: wikitext without templates and tables.
        names: what the holes of the text stand for.
    """
    signs = text[:1] in ("|", "!") or TABLE_END in text
    if not (signs or any(sign.search(text) for sign in _SIGNS_OF_ROWS)):
        return text
    lines = text.split("\n")
    kept: list[str] = []
    place = 0
    while place < len(lines):
        if not _is_row(lines, place):
            kept.append(lines[place].replace(TABLE_END, ""))
            place += 1
            continue
        end = _end_of_rows(lines, place)
        kept.append("")
        place = max(end, _end_by_name(lines, place, names))
    return "\n".join(kept)


def _is_row(lines: list[str], place: int) -> bool:
    line = lines[place].lstrip(" \t:")
    if line[:1] == "|":
        return not (is_absolute_value(line) and _is_alone(lines, place))
    if line[:1] != "!" and "||" not in line and "!!" not in line:
        return False
    # a line that could be prose is a row next to one, or below the template that begins the table
    before = lines[place - 1].strip() if place else ""
    after = lines[place + 1].lstrip(" \t:") if place + 1 < len(lines) else ""
    if line[:1] == "!":
        begins = before[:1] == HOLE and line[1:2].isspace()
        row_before = before[:1] in (HOLE, "|", "!", "")
        return begins or after[:1] in ("|", "!") or (row_before and _HEADER.match(line) is not None)
    return after[:1] == "|" or (before[:1] == HOLE and (after[:1] == "!" or "||" in after))


def is_absolute_value(line: str) -> bool:
    """Whether a line begins with a value between two bars ("|x| is ...") and has no other bar."""
    return _ABSOLUTE.match(line) is not None


def _is_alone(lines: list[str], place: int) -> bool:
    """Whether neither the line before nor the one after begins as a row or as a template."""
    near = [*lines[max(0, place - 1) : place], *lines[place + 1 : place + 2]]
    return not any(line.lstrip(" \t:")[:1] in ("|", "!", HOLE, TABLE_END) for line in near if line)


def _end_by_name(lines: list[str], first: int, names: Sequence[str]) -> int:
    """The line of the template that ends the table of these rows by its name, else ``first``."""
    if not first or lines[first - 1].strip()[:1] != HOLE:
        return first
    for place in range(first, min(first + _LONGEST_TABLE, len(lines))):
        line = lines[place].strip()
        if line[:1] == "=" or TABLE_END in line:
            break
        if line[:1] == HOLE:
            return place if _END_NAME.search(hole_name(line, names)) else first
    return first


def _end_of_rows(lines: list[str], first: int) -> int:
    """The line after the rows that begin with line ``first``."""
    place = first
    table = False  # whether the lines so far are those of a table, not one stray line
    while place < len(lines):
        line = lines[place].strip()
        if TABLE_END in line:
            lines[place] = line.rpartition(TABLE_END)[2]
            return place if lines[place].strip() else place + 1
        if _is_row(lines, place):
            table = table or line[:1] == "!" or line[:2] == "|-" or bool(_CELLS.search(line))
        elif not line:
            if not any(_is_row(lines, p) for p in _next_lines(lines, place)):
                return place
        elif line[0] == "=" or line[0] == HOLE:
            return place
        elif not table and not _CELLS.search(line):
            if not _row_follows(lines, place):
                return place
            table = True
        place += 1
    return place


def _row_follows(lines: list[str], place: int) -> bool:
    """Whether a row follows in the same block of lines, so that line ``place`` is part of a cell."""
    for after in range(place, min(place + _LONGEST_CELL, len(lines))):
        line = lines[after].strip()
        if not line or line[0] == "=" or line[0] == HOLE:
            return False
        if TABLE_END in line or _is_row(lines, after):
            return True
    return False


def _next_lines(lines: list[str], blank: int) -> list[int]:
    """The next few lines with text after a blank one, up to a heading or a template."""
    found: list[int] = []
    for place in range(blank, min(blank + 3 * _LOOK_AHEAD + 1, len(lines))):
        line = lines[place].strip()
        if line and (line[0] == "=" or line[0] == HOLE or TABLE_END in line):
            break
        if line:
            found.append(place)
        if len(found) > _LOOK_AHEAD:
            break
    return found
