"""MediaWiki XML export (schemas 0.3 to 0.11), read page by page with expat.

External entities are never fetched, and a document type definition is an error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from xml.parsers import expat

from megabert.common.errors import UserError
from megabert.data.text.input.export_reader import FEED, ExportReader
from megabert.data.text.input.segment_xml import segment_xml
from megabert.data.text.pages import Page, Site

HEAD_PIECES = 3
"""Pieces of ``FEED`` bytes in which the head of an export and its first pages are looked at."""

Place = Callable[[expat.ExpatError, int], str]
"""Describes the place of an error, given expat's error and the byte at which it stopped."""


def read_mediawiki(stream: io.BufferedReader, name: str) -> Iterator[Page]:
    """Yield every page of a MediaWiki XML export, including redirects, of all namespaces.

    Raises:
        UserError: the input is not well-formed XML, ends too early, has another outermost element,
            or holds no page; the message names file, line and byte.
    """
    reader = ExportReader(name)
    yield from _parse(reader, _pieces(stream), reader.parser(), line_and_byte)
    if reader.count == 0:
        raise no_page(name)
    reader.require_text()


def no_page(name: str) -> UserError:
    """The error of an export without any page."""
    return UserError(f"{name}: an empty dump: it has no <page>")


@dataclass(frozen=True)
class DumpHead:
    """What the beginning of an export says.

    Attributes:
        site: the wiki.
        declared: ``xml:lang`` as it is written, or "".
        database: name of the wiki's database ("enwiki"), or "".
        history: one of the first pages has several revisions.
        guessed: one of the first pages has no namespace, so that its title decides.
        pages: the first pages, until they are looked at (:meth:`without_pages`).
    """

    site: Site = field(default=Site(), repr=False)
    declared: str = ""
    database: str = ""
    history: bool = False
    guessed: bool = False
    pages: tuple[Page, ...] = field(default=(), repr=False)

    def without_pages(self) -> DumpHead:
        """The same, small enough to keep."""
        return replace(self, pages=())


def read_head(stream: io.BufferedReader, name: str) -> DumpHead:
    """The head of an export, and what its first pages show.

    Reads 768 KiB, or more if the head is longer; a block of bzip2 is 900 kB.

    Raises:
        UserError: as :func:`read_mediawiki`, except that the input may end too early; also for a
            dump whose first pages have no text.
    """
    reader = ExportReader(name)
    parser = reader.parser()
    with _explained(reader, parser, line_and_byte):
        for place, piece in enumerate(_pieces(stream), 1):
            _feed(reader, parser, piece)
            if reader.head_is_read and place >= HEAD_PIECES:
                break
    reader.require_text()
    return DumpHead(
        reader.site,
        reader.declared,
        reader.database,
        reader.history,
        reader.guessed,
        tuple(reader.pages),
    )


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
    reader = ExportReader(name, base=base, site=site, head_is_read=base > 0)
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
    reader: ExportReader, pieces: Iterable[bytes], parser: expat.XMLParserType, place: Place
) -> Iterator[Page]:
    with _explained(reader, parser, place):
        for piece in pieces:
            for at in range(0, len(piece), FEED):  # a block of bzip2 may have 46 MB
                _feed(reader, parser, piece[at : at + FEED])
                if reader.pages:
                    done, reader.pages = reader.pages, []
                    yield from done
        parser.Parse(b"", True)
    yield from reader.pages


def _feed(reader: ExportReader, parser: expat.XMLParserType, piece: bytes) -> None:
    """Parse a piece of at most ``FEED`` bytes."""
    reader.fed += len(piece)
    parser.Parse(piece, False)
    reader.check_token(reader.fed - parser.CurrentByteIndex)


@contextmanager
def _explained(reader: ExportReader, parser: expat.XMLParserType, place: Place) -> Iterator[None]:
    """Turn expat's errors into a UserError."""
    try:
        yield
    except expat.ExpatError as error:
        where = place(error, parser.CurrentByteIndex)
        raise UserError(_explain(error, where, reader)) from None


def _explain(error: expat.ExpatError, place: str, reader: ExportReader) -> str:
    ended = error.code in (
        expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    )
    if ended and not reader.started:
        return f"{reader.name}: not XML: it has no element ({place})"
    before = f", after page {reader.title[:80]!r}" if reader.count else ""
    if not ended:
        return (
            f"{reader.name}: not well-formed XML at {place}{before} "
            f"({expat.ErrorString(error.code)})"
        )
    return (
        f"{reader.name}: the XML is truncated: it ends at {place}{before}, without "
        "</mediawiki>; fetch the file again"
    )
