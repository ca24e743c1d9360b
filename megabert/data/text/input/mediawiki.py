"""MediaWiki XML export (schemas 0.3 to 0.11), read page by page with expat.

Source of the element names: https://www.mediawiki.org/xml/export-0.11.xsd and its predecessors.
Of a page with several revisions, the last one in the file is used. External entities are never
fetched, and a document type definition is an error.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from xml.parsers import expat

from megabert.common.errors import UserError
from megabert.data.text.input.segment_xml import segment_xml
from megabert.data.text.pages import Page, Site

FEED = 1 << 18
MAX_TEXT = 1 << 26  # characters of one revision; MediaWiki itself stops at 2 MiB
# "#REDIRECT [[X]]" in any language; only used for schemas without a <redirect> element
_REDIRECT = re.compile(r"\s*#[^\W\d]\w*\s*:?\s*\[\[")

_PAGE_FIELDS = {
    "mediawiki/page/title": "title",
    "mediawiki/page/ns": "ns",
    "mediawiki/page/id": "id",
    "mediawiki/page/revision/model": "model",
    "mediawiki/page/revision/text": "text",
}


@dataclass
class _Reader:
    """Expat callbacks; finished pages are collected in ``pages`` until they are taken.

    Attributes:
        base: added to the place of a page that has no number of its own.
        count: number of pages so far.
        title: title of the last page.
    """

    name: str
    base: int = 0
    site: Site = field(default_factory=Site)
    head_is_read: bool = False
    pages: list[Page] = field(default_factory=list)
    count: int = 0
    title: str = ""
    _path: list[str] = field(default_factory=list)
    _language: str = ""
    _namespaces: list[tuple[int, str]] = field(default_factory=list)
    _namespace_key: int = 0
    _values: dict[str, str] = field(default_factory=dict)
    _redirect: bool = False
    _parts: list[str] | None = None
    _size: int = 0

    def parser(self) -> expat.XMLParserType:
        """A parser that calls this reader."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.buffer_size = FEED
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.data
        parser.StartDoctypeDeclHandler = self.refuse_doctype
        return parser

    @property
    def started(self) -> bool:
        """Whether the outermost element is open."""
        return bool(self._path)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "mediawiki":
            raise UserError(
                f"{self.name}: XML, but not a MediaWiki export: the outermost element is "
                f"<{tag}>, not <mediawiki>"
            )
        self._path.append(tag)
        depth = len(self._path)
        if depth == 1:
            self._language = attributes.get("xml:lang", "")
        elif depth == 2 and tag == "page":
            self._values, self._redirect = {}, False
            self.head_is_read = True
        elif depth == 3 and tag == "redirect":
            self._redirect = True
        elif depth == 4 and tag == "namespace":
            self._namespace_key = int(attributes.get("key", "0"))
            self._listen()
        elif depth >= 3 and "/".join(self._path) in _PAGE_FIELDS:
            self._listen()

    def _listen(self) -> None:
        self._parts, self._size = [], 0

    def data(self, text: str) -> None:
        if self._parts is not None:
            self._parts.append(text)
            self._size += len(text)
            if self._size > MAX_TEXT:
                raise UserError(
                    f"{self.name}: page {self._values.get('title', '?')!r} is longer than "
                    f"{MAX_TEXT:,} characters; the dump is damaged"
                )

    def end(self, tag: str) -> None:
        depth = len(self._path)
        if self._parts is not None:
            value = "".join(self._parts)
            self._parts = None
            if tag == "namespace":
                self._namespaces.append((self._namespace_key, value))
            else:
                self._values[_PAGE_FIELDS["/".join(self._path)]] = value
        elif depth == 2 and tag == "siteinfo":
            self.site = Site(tuple(self._namespaces), self._language)
            self.head_is_read = True
        self._path.pop()
        if depth == 2 and tag == "page":
            self._finish()

    def _finish(self) -> None:
        values = self._values
        self.count += 1
        self.title = title = values.get("title", "")
        text = values.get("text", "")
        if "ns" in values:
            namespace = int(values["ns"])
            redirect = self._redirect
        else:
            prefix, colon, _ = title.partition(":")
            namespace = (self.site.number(prefix) or 0) if colon else 0
            redirect = self._redirect or _REDIRECT.match(text) is not None
        number = values.get("id", "")
        self.pages.append(
            Page(
                page_id=int(number) if number.strip().isdigit() else self.base + self.count,
                title=title,
                namespace=namespace,
                redirect=redirect,
                model=values.get("model", "wikitext"),
                text=text,
                markup="wikitext",
                site=self.site,
            )
        )
        self._values = {}

    def refuse_doctype(self, *_: object) -> None:
        raise UserError(
            f"{self.name}: the XML declares a document type; a MediaWiki export has none"
        )

    def refuse_section(self, *_: object) -> None:
        if self.head_is_read:
            raise UserError(
                f"{self.name}: a comment, a CDATA section or a processing instruction after page "
                f"{self.title!r}, which MediaWiki never writes; compress the dump with gzip to "
                "have it read in one piece"
            )


Place = Callable[[expat.ExpatError, int], str]
"""Describes the place of an error, given expat's error and the byte at which it stopped."""


def read_mediawiki(stream: io.BufferedReader, name: str) -> Iterator[Page]:
    """Yield every page of a MediaWiki XML export, including redirects, of all namespaces.

    Raises:
        UserError: the input is not well-formed XML, ends too early, has another outermost element,
            or holds no page; the message names file, line and byte.
    """
    reader = _Reader(name)
    yield from _parse(reader, _pieces(stream), reader.parser(), line_and_byte)
    if reader.count == 0:
        raise no_page(name)


def no_page(name: str) -> UserError:
    """The error of an export without any page."""
    return UserError(f"{name}: an empty dump: it has no <page>")


def read_site(stream: io.BufferedReader, name: str) -> Site:
    """The site that the head of an export describes; reads up to the first page.

    Raises:
        UserError: as :func:`read_mediawiki`, except that the input may end too early.
    """
    reader = _Reader(name)
    parser = reader.parser()
    with _explained(reader, parser, line_and_byte):
        for piece in _pieces(stream):
            parser.Parse(piece, False)
            if reader.head_is_read:
                break
    return reader.site


def read_segment(
    owned: Iterable[bytes],
    following: Iterable[bytes],
    name: str,
    *,
    base: int,
    site: Site,
    place: Place,
) -> Iterator[Page]:
    """Yield the pages whose ``<page`` tag begins in ``owned``, the last one whole.

    Together, the segments of a file check all of its XML.

    Args:
        owned: a segment of an export's XML, in pieces.
        following: the XML after it, read up to the next such tag.
        name: the file, for messages.
        base: 0 for the first segment of the file, which is read from its beginning. Other segments
            are read from their first tag on, and a page without a number of its own gets ``base``
            plus its place in the segment.
        site: the site of the pages.
        place: describes the place of an error.

    Raises:
        UserError: as :func:`read_mediawiki`; also for comments, CDATA sections and processing
            instructions after the head, because they could contain text that looks like a page's
            tag.
    """
    reader = _Reader(name, base=base, site=site, head_is_read=base > 0)
    parser = reader.parser()
    parser.CommentHandler = reader.refuse_section
    parser.StartCdataSectionHandler = reader.refuse_section
    parser.ProcessingInstructionHandler = reader.refuse_section
    pieces = segment_xml(owned, following, whole=base == 0)
    first = next(pieces, None)
    if first is not None:
        yield from _parse(reader, chain([first], pieces), parser, place)


def line_and_byte(error: expat.ExpatError, byte: int) -> str:
    """The place of an error in XML that is read from the beginning."""
    return f"line {error.lineno:,}, byte {byte:,}"


def _pieces(stream: io.BufferedReader) -> Iterator[bytes]:
    while piece := stream.read(FEED):
        yield piece


def _parse(
    reader: _Reader, pieces: Iterable[bytes], parser: expat.XMLParserType, place: Place
) -> Iterator[Page]:
    with _explained(reader, parser, place):
        for piece in pieces:
            parser.Parse(piece, False)
            if reader.pages:
                done, reader.pages = reader.pages, []
                yield from done
        parser.Parse(b"", True)
    yield from reader.pages


@contextmanager
def _explained(reader: _Reader, parser: expat.XMLParserType, place: Place) -> Iterator[None]:
    """Turn expat's errors into a UserError."""
    try:
        yield
    except expat.ExpatError as error:
        where = place(error, parser.CurrentByteIndex)
        raise UserError(_explain(error, where, reader)) from None
    except ValueError as error:
        raise UserError(f"{reader.name}: a number in the XML cannot be read ({error})") from None


def _explain(error: expat.ExpatError, place: str, reader: _Reader) -> str:
    ended = error.code in (
        expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    )
    if ended and not reader.started:
        return f"{reader.name}: not XML: it has no element ({place})"
    before = f", after page {reader.title!r}" if reader.count else ""
    if not ended:
        return (
            f"{reader.name}: not well-formed XML at {place}{before} "
            f"({expat.ErrorString(error.code)})"
        )
    return (
        f"{reader.name}: the XML is truncated: it ends at {place}{before}, without "
        "</mediawiki>; fetch the file again"
    )
