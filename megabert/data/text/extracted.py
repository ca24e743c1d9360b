"""Reader of wikiextractor's output."""

import io
import re
from collections.abc import Iterator

from megabert.common.errors import UserError
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import text_lines
from megabert.data.text.plain.records import Numbering, extracted_page
from megabert.data.text.wikitext.tidy import unescape

MAX_TAG = 1 << 13  # characters
MAX_TEXT = 1 << 26  # characters and lines of a page
_DOC = re.compile(r'<doc\s+id="([^"]*)"')
_TITLE = re.compile(r'\stitle="')


def _id_and_title(line: str) -> tuple[str, str] | None:
    """The id and the title ("" without one) of a ``<doc>`` tag that is the whole line."""
    line = line.rstrip()
    tag = _DOC.match(line)
    if tag is None or not line.endswith(">"):
        return None
    title = _TITLE.search(line, tag.end())
    end = line.rfind('"', tag.end())  # a title may hold quotation marks
    if title is None or end < title.end():
        return None if end >= 0 else (tag.group(1), "")
    return tag.group(1), line[title.end() : end]


def read_docs(
    stream: io.BufferedReader, name: str, numbering: Numbering, skip: bool = False
) -> Iterator[Page]:
    """wikiextractor's ``<doc id= url= title=>`` ... ``</doc>`` blocks.

    ``skip`` leaves out lines that cannot be read, see :func:`.plain.lines.text_lines`.
    """
    lines: list[str] | None = None
    number, title, opened, size = 0, "", 0, 0
    for place, line in text_lines(stream, name, skip):
        if isinstance(line, Page):
            yield line
            continue
        match = _id_and_title(line) if line.startswith("<doc ") and len(line) < MAX_TAG else None
        if match and lines is None:
            number = numbering.number(match[0])
            title, lines, opened = unescape(match[1]), [], place
            size = 0
        elif match:
            raise UserError(f"{name}: line {place:,}: <doc> inside the <doc> of line {opened:,}")
        elif line.strip() == "</doc>" and lines is not None:
            yield extracted_page(number, title, "\n".join(lines), canonical_namespace(title))
            lines = None
        elif lines is not None:
            lines.append(line)
            size += len(line) + 8
            if size > MAX_TEXT:
                raise UserError(
                    f"{name}: the <doc> opened on line {opened:,} is longer than "
                    f"{MAX_TEXT >> 20} Mi characters"
                )
        elif line.strip():
            raise UserError(f"{name}: line {place:,} is outside any <doc> block")
    if lines is not None:
        raise UserError(f"{name}: truncated: the <doc> opened on line {opened:,} is never closed")
