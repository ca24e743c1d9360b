"""Reader of wikiextractor's output."""

import html
import io
import re
from collections.abc import Iterator

from megabert.common.errors import UserError
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import text_lines
from megabert.data.text.plain.records import Numbering, extracted_page

MAX_TAG = 1 << 13  # characters
_DOC = re.compile(r'<doc\s+id="([^"]*)"(?:.*?\stitle="(.*)")?[^"]*>\s*$')


def read_docs(
    stream: io.BufferedReader, name: str, numbering: Numbering, skip: bool = False
) -> Iterator[Page]:
    """wikiextractor's ``<doc id= url= title=>`` ... ``</doc>`` blocks.

    ``skip`` leaves out lines that cannot be read, see :func:`.plain.lines.text_lines`.
    """
    lines: list[str] | None = None
    number, title, opened = 0, "", 0
    for place, line in text_lines(stream, name, skip):
        if isinstance(line, Page):
            yield line
            continue
        match = _DOC.match(line) if line.startswith("<doc ") and len(line) < MAX_TAG else None
        if match and lines is None:
            number = numbering.number(match.group(1))
            title, lines, opened = html.unescape(match.group(2) or ""), [], place
        elif match:
            raise UserError(f"{name}: line {place:,}: <doc> inside the <doc> of line {opened:,}")
        elif line.strip() == "</doc>" and lines is not None:
            yield extracted_page(number, title, "\n".join(lines), canonical_namespace(title))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line.strip():
            raise UserError(f"{name}: line {place:,} is outside any <doc> block")
    if lines is not None:
        raise UserError(f"{name}: truncated: the <doc> opened on line {opened:,} is never closed")
