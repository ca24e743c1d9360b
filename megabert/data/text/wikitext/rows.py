"""Rows of tables whose beginning or end a template makes, so that no ``{|`` or ``|}`` shows it."""

import re

from megabert.data.text.wikitext.holes import HOLE

TABLE_END = "\ue002"
"""The place of a ``|}`` without its ``{|``."""
_HEADER = re.compile(r"!(?:.*(?:!!|\|)|[ \t]*$)")
_CELLS = re.compile(r"\|\||!!")
_LOOK_AHEAD = 2  # lines of a cell after a blank line


def strip_rows(text: str) -> str:
    """Remove the rows of such tables: from their first line to a ``|}``, to a line that holds only a
    template, to a heading, or to a blank line that no further row follows.

    A lone line that begins with ``|`` takes nothing else with it.
    """
    if "\n|" not in text and "\n!" not in text and TABLE_END not in text and text[:1] not in "|!":
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
        place = end
    return "\n".join(kept)


def _is_row(lines: list[str], place: int) -> bool:
    line = lines[place].lstrip(" \t:")
    if line[:1] == "|":
        return True
    if line[:1] != "!":
        return False
    following = lines[place + 1].lstrip(" \t:")[:1] if place + 1 < len(lines) else ""
    return _HEADER.match(line) is not None or following in ("|", "!")


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
        elif line[0] == "=" or line[0] == HOLE or (not table and not _CELLS.search(line)):
            return place
        place += 1
    return place


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
