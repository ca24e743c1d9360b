"""Readers of text without wikitext: wikiextractor's formats, JSONL and plain text."""

import html
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from megabert.common.errors import UserError
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page

MAX_LINE = 1 << 26  # bytes
MAX_TAG = 1 << 13  # characters
_DOC = re.compile(r'<doc\s+id="([^"]*)"(?:.*?\stitle="(.*)")?[^"]*>\s*$')
_HEADING = re.compile(r"\s*=\s+([^=].*?)\s+=\s*$")  # " = Title = ", as in WikiText
_ANY_HEADING = re.compile(r"\s*(?:=\s+){1,6}[^=].*?(?:\s+=){1,6}\s*$")


@dataclass
class Numbering:
    """Numbers pages that have no number of their own by their place in the source, from 1."""

    last: int = 0

    def number(self, given: object = None) -> int:
        """The page's own number if it is a valid one, else its place."""
        self.last += 1
        text = str(given).strip() if given is not None else ""
        return int(text) if text.isdigit() and len(text) < 19 else self.last


def is_wiki_address(url: object) -> bool:
    """Whether the address of a document is that of a wiki's page, so that an extractor made it."""
    return isinstance(url, str) and ("/wiki/" in url or "curid=" in url)


def _plain(number: int, title: str, text: str, namespace: int = 0) -> Page:
    return Page(number, title, namespace, False, "wikitext", text, "plain")


def _extracted(number: int, title: str, text: str, namespace: int) -> Page:
    return Page(number, title, namespace, False, "wikitext", text, "extracted")


def text_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end), decoded as UTF-8.

    Raises:
        UserError: bytes that are not UTF-8, or a line over 64 MiB.
    """
    place = 0
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            raise UserError(f"{name}: line {number:,} is longer than {MAX_LINE >> 20} MiB")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}: not UTF-8 text: line {number:,}, byte {place + error.start:,}"
            ) from None
        place += len(line)
        yield number, text.rstrip("\r\n")


def read_docs(stream: io.BufferedReader, name: str, numbering: Numbering) -> Iterator[Page]:
    """wikiextractor's ``<doc id= url= title=>`` ... ``</doc>`` blocks."""
    lines: list[str] | None = None
    number, title, opened = 0, "", 0
    for place, line in text_lines(stream, name):
        match = _DOC.match(line) if line.startswith("<doc ") and len(line) < MAX_TAG else None
        if match and lines is None:
            number = numbering.number(match.group(1))
            title, lines, opened = html.unescape(match.group(2) or ""), [], place
        elif match:
            raise UserError(f"{name}: line {place:,}: <doc> inside the <doc> of line {opened:,}")
        elif line.strip() == "</doc>" and lines is not None:
            yield _extracted(number, title, "\n".join(lines), canonical_namespace(title))
            lines = None
        elif lines is not None:
            lines.append(line)
        elif line.strip():
            raise UserError(f"{name}: line {place:,} is outside any <doc> block")
    if lines is not None:
        raise UserError(f"{name}: truncated: the <doc> opened on line {opened:,} is never closed")


def read_jsonl(stream: io.BufferedReader, name: str, numbering: Numbering) -> Iterator[Page]:
    """One JSON object per line, with ``text`` and optionally ``title`` and ``id``.

    wikiextractor's ``--json`` output has this format.
    """
    for place, line in text_lines(stream, name):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{name}: line {place:,} is not complete JSON ({error})") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise UserError(f'{name}: line {place:,} is not an object with a "text" string')
        title = record.get("title")
        title = title if isinstance(title, str) else ""
        page = _extracted if is_wiki_address(record.get("url")) else _plain
        namespace = canonical_namespace(title) if "url" in record else 0
        yield page(numbering.number(record.get("id")), title, record["text"], namespace)


def plain_layout(head: str) -> str:
    """How a plain text file separates its documents, judged by its beginning.

    "headings": by ``= Title =`` lines, as in WikiText; "blocks": by blank lines, as in BERT's own
    input; "lines": one document per line, if there are no blank lines.
    """
    lines = head.splitlines()
    if any(_HEADING.match(line) for line in lines):
        return "headings"
    seen_text = False
    for index, line in enumerate(lines):
        if line.strip():
            seen_text = True
        elif seen_text and any(rest.strip() for rest in lines[index:]):
            return "blocks"
    return "lines"


def read_text(
    stream: io.BufferedReader, name: str, numbering: Numbering, head: str
) -> Iterator[Page]:
    """Plain UTF-8 text; :func:`plain_layout` defines what a document is."""
    layout = plain_layout(head)
    title = ""
    lines: list[str] = []
    for _, line in text_lines(stream, name):
        heading = _HEADING.match(line) if layout == "headings" else None
        if layout == "lines":
            if line.strip():
                yield _plain(numbering.number(), "", line)
        elif heading or (layout == "blocks" and not line.strip()):
            if any(item.strip() for item in lines):
                yield _plain(numbering.number(), title, "\n".join(lines))
            lines = []
            title = heading.group(1) if heading else ""
        elif layout == "headings" and _ANY_HEADING.match(line):
            lines.append("")
        else:
            lines.append(line)
    if any(item.strip() for item in lines):
        yield _plain(numbering.number(), title, "\n".join(lines))
