"""MediaWiki XML export (schemas 0.3 to 0.11), read page by page with expat.

Source of the element names: https://www.mediawiki.org/xml/export-0.11.xsd and its predecessors.
Of a page with many revisions the last one in the file counts. External entities are never
fetched, and a document type definition is refused.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from megabert.data.text.pages import Page, Site
from megabert.log import UserError

FEED = 1 << 18
MAX_TEXT = 1 << 26  # characters of one revision; MediaWiki itself stops at 2 MiB
# "#REDIRECT [[X]]" in any language; only asked of schemas that have no <redirect> element
_REDIRECT = re.compile(r"\s*#[^\W\d]\w*\s*:?\s*\[\[")

_PAGE_FIELDS = {
    "mediawiki/page/title": "title",
    "mediawiki/page/ns": "ns",
    "mediawiki/page/id": "id",
    "mediawiki/page/revision/model": "model",
    "mediawiki/page/revision/text": "text",
    "mediawiki/page/revision/content/model": "model",
    "mediawiki/page/revision/content/text": "text",
}


@dataclass
class _Reader:
    """Expat callbacks; finished pages gather in ``pages`` until they are taken."""

    name: str
    pages: list[Page] = field(default_factory=list)
    count: int = 0
    site: Site = field(default_factory=Site)
    _path: list[str] = field(default_factory=list)
    _language: str = ""
    _namespaces: list[tuple[int, str]] = field(default_factory=list)
    _namespace_key: int = 0
    _values: dict[str, str] = field(default_factory=dict)
    _redirect: bool = False
    _parts: list[str] | None = None
    _size: int = 0

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
                    f"{self.name}: page {self._values.get('title', '?')!r} is over {MAX_TEXT:,} "
                    "characters long; the dump is damaged"
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
        self._path.pop()
        if depth == 2 and tag == "page":
            self._finish()

    def _finish(self) -> None:
        values = self._values
        self.count += 1
        title, text = values.get("title", ""), values.get("text", "")
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
                page_id=int(number) if number.strip().isdigit() else self.count,
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


def read_mediawiki(stream: io.BufferedReader, name: str) -> Iterator[Page]:
    """Yield every page of a MediaWiki XML export, of all namespaces, redirects included.

    Raises UserError, naming file, line and byte, when the input is not well-formed XML, ends too
    early, has another outermost element, or holds no page.
    """
    reader = _Reader(name)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = FEED
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        while True:
            piece = stream.read(FEED)
            parser.Parse(piece, not piece)
            if reader.pages:
                done, reader.pages = reader.pages, []
                yield from done
            if not piece:
                break
    except expat.ExpatError as error:
        raise UserError(_explain(error, parser.CurrentByteIndex, reader)) from None
    except ValueError as error:
        raise UserError(f"{name}: a number in the XML cannot be read ({error})") from None
    if reader.count == 0:
        raise UserError(f"{name}: an empty dump: it holds no <page>")


def _explain(error: expat.ExpatError, byte: int, reader: _Reader) -> str:
    ended = error.code in (
        expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    )
    place = f"line {error.lineno:,}, byte {byte:,}"
    what = expat.ErrorString(error.code)
    if not ended:
        return f"{reader.name}: not well-formed XML at {place} ({what})"
    if not reader._path:
        return f"{reader.name}: not XML: no element in it ({place})"
    return (
        f"{reader.name}: the XML is truncated: it ends at {place} after {reader.count:,} pages, "
        "before </mediawiki>; fetch the file again"
    )
