"""Plain text to documents."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from megabert.common.errors import UserError
from megabert.data.text.pages import Page
from megabert.data.text.plain.layout import HEADING, SAMPLE, TextLayout, text_layout
from megabert.data.text.plain.lines import text_lines
from megabert.data.text.plain.records import Numbering, plain_page
from megabert.data.text.reading import ReadingRules

MAX_DOCUMENT = 1 << 26
"""Characters of a document."""
MAX_LINES = 1 << 23
"""Lines of a document."""
_HEADING_BEGIN = re.compile(r"\s*(?:=\s+){1,6}[^=\s]")


def read_text(
    stream: io.BufferedReader, name: str, numbering: Numbering, rules: ReadingRules
) -> Iterator[Page]:
    """The documents of a text file, by the layout of :func:`.layout.text_layout`.

    The title of a document that is a whole file is the file's name.

    Raises:
        UserError: a line that cannot be read, unless it is skipped, or a document of more than
            64 Mi characters.
    """
    sample = stream.read(SAMPLE)
    layout = text_layout(sample, rules)
    if len(sample) < SAMPLE:
        stream = io.BufferedReader(io.BytesIO(sample))
    else:
        stream = io.BufferedReader(_Continued(sample, stream), buffer_size=1 << 18)
    lines = layout.lines(text_lines(stream, name, rules.skip))
    if layout.documents == "line":
        return _lines(lines, numbering, layout)
    if layout.spacing:
        lines = _without_spacing(lines, layout)
    return _documents(lines, name, numbering, layout)


class _Continued(io.RawIOBase):
    """Bytes that were read from a stream, then the rest of the stream."""

    def __init__(self, begin: bytes, rest: io.BufferedReader) -> None:
        self._begin, self._rest = memoryview(begin), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._begin:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._begin))
        buffer[:count] = self._begin[:count]
        self._begin = self._begin[count:]
        return count


def _without_spacing(
    lines: Iterator[tuple[int, str | Page]], layout: TextLayout
) -> Iterator[tuple[int, str | Page]]:
    """The lines without the blank ones that follow each line of a paragraph."""
    left = 0
    for number, line in lines:
        if isinstance(line, Page) or not _is_blank(line, layout):
            left = layout.spacing
        elif left:
            left -= 1
            continue
        yield number, line


def _is_blank(line: str, layout: TextLayout) -> bool:
    if not line or line.isspace():
        return True
    return layout.margins is not None and layout.margins.is_blank(line)


def _too_long(name: str, number: int, limit: str) -> UserError:
    return UserError(
        f"{name}: the document before line {number:,} is longer than {limit}; --documents says what a "
        "document is"
    )


def _is_any_heading(line: str) -> bool:
    """Whether a line has one to six "= " before its text, and " =" after it."""
    end = line.rstrip()[-2:]
    return end[1:] == "=" and end[0].isspace() and _HEADING_BEGIN.match(line) is not None


def _lines(
    lines: Iterator[tuple[int, str | Page]], numbering: Numbering, layout: TextLayout
) -> Iterator[Page]:
    for _, line in lines:
        if isinstance(line, Page):
            yield line
            continue
        if layout.margins is not None:
            line = layout.text([line])
        if line and not line.isspace():
            yield plain_page(numbering.number(), "", line)


def _documents(
    lines: Iterator[tuple[int, str | Page]], name: str, numbering: Numbering, layout: TextLayout
) -> Iterator[Page]:
    title = re.split(r"[/!]", name)[-1] if layout.documents == "file" else ""
    found: list[str | None] = []  # lines of the document
    size = 0
    by_heading, by_blank = layout.documents == "heading", layout.documents == "blank-line"
    for number, line in lines:
        if len(found) > MAX_LINES:
            raise _too_long(name, number, f"{MAX_LINES >> 20} Mi lines")
        if isinstance(line, Page):
            found.append(None)
            yield line
            continue
        heading = None
        if _is_blank(line, layout):
            if not by_blank:
                found.append("")
                continue
        elif by_heading and "=" in line and _is_any_heading(line):
            heading = HEADING.match(line)
            if heading is None:
                found.append("")
                continue
        else:
            found.append(line)
            size += len(line)
            if size > MAX_DOCUMENT:
                raise _too_long(name, number, f"{MAX_DOCUMENT >> 20} Mi characters")
            continue
        if size and (text := layout.text(found)):
            yield plain_page(numbering.number(), title, text)
        found, size = [], 0
        title = heading.group(1) if heading else ""
    if size and (text := layout.text(found)):
        yield plain_page(numbering.number(), title, text)
