"""The pages of a MediaWiki XML export, collected from the callbacks of an XML parser.

Of a page with several revisions the newest one is used, by its timestamp, in whatever order they
are stored; without timestamps by its number, and without numbers the last one. Only one revision's text
is kept at a time, besides the one that is being read.

Memory and time are bounded whatever the file holds: of a text that is longer than a page can be, only
the beginning is kept; other values, the depth of the elements and the length of a tag have limits,
beyond which the dump is damaged. (Expat reads a tag that is not complete again from its beginning
with each piece of the file.)
Source of the element names: https://www.mediawiki.org/xml/export-0.11.xsd and its predecessors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from megabert.common.errors import UserError
from megabert.data.text.input.other_forms import FETCH, declared_type, other_root
from megabert.data.text.languages import database_language, normal_code
from megabert.data.text.namespaces import is_redirect
from megabert.data.text.pages import Page, Site
from megabert.data.text.reading import TOO_LONG

FEED = 1 << 18
MAX_TEXT = 1 << 23  # characters of one revision; MediaWiki itself stops at 2 MiB
MAX_TOKEN = 1 << 20  # bytes of a tag, comment or entity
_MAX_VALUE = 1 << 16  # characters of any other value, such as a title
_MAX_DEPTH = 32  # MediaWiki nests 5 elements
_MAX_NAMESPACES = 10_000
_KEPT = 1000  # characters of a text that is too long
_SHOWN = 80  # characters of a title in a message
STUBS = 64
"""Pages without text, and no other, that show a dump without text."""
# (parent, element) whose content is wanted
_OF_PAGE = {("page", "title"), ("page", "ns"), ("page", "id")}
_OF_REVISION = {
    ("revision", "id"), ("revision", "timestamp"), ("revision", "model"), ("revision", "text"),
}  # fmt: skip
_OF_SITE = {("siteinfo", "sitename"), ("siteinfo", "dbname")}
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_WANTED = _OF_PAGE | _OF_REVISION | _OF_SITE | {("namespaces", "namespace")}


@dataclass
class Revision:
    """A revision of a page; ``missing``: its text is left out of the dump; ``too_long``: only the
    beginning of its text is kept."""

    timestamp: str = ""
    number: str = ""
    model: str = "wikitext"
    text: str = ""
    missing: bool = False
    too_long: bool = False

    def is_newer(self, other: Revision | None) -> bool:
        """Whether to use this revision and not ``other``, which precedes it."""
        if other is None:
            return True
        if self.timestamp != other.timestamp and self.timestamp and other.timestamp:
            return self.timestamp > other.timestamp
        if _NUMBER.fullmatch(self.number) and _NUMBER.fullmatch(other.number):
            return int(self.number) >= int(other.number)
        return True


@dataclass
class ExportReader:
    """Expat callbacks; finished pages are collected in ``pages`` until they are taken.

    Attributes:
        base: added to the place of a page that has no number of its own.
        declared, database: the dump's ``xml:lang`` and the name of its database, "" without one.
        count: number of pages so far.
        stubs: how many of them have no text in the dump, although their revision has one.
        texts: how many of them have a text.
        title: title of the last page.
        history: whether a page had several revisions.
        guessed: whether a page had no namespace, so that its title decided.
        fed: bytes that were given to the parser.
    """

    name: str
    base: int = 0
    site: Site = field(default_factory=Site)
    head_is_read: bool = False
    declared: str = ""
    database: str = ""
    pages: list[Page] = field(default_factory=list)
    count: int = 0
    stubs: int = 0
    texts: int = 0
    title: str = ""
    history: bool = False
    guessed: bool = False
    fed: int = 0
    _path: list[str] = field(default_factory=list)
    _sitename: str = ""
    _namespaces: list[tuple[int, str]] = field(default_factory=list)
    _namespace_key: int = 0
    _values: dict[str, str] = field(default_factory=dict)
    _redirect: bool = False
    _revision: Revision = field(default_factory=Revision)
    _newest: Revision | None = None
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
        parser.XmlDeclHandler = self.check_encoding
        parser.StartDoctypeDeclHandler = self.refuse_doctype
        return parser

    @property
    def started(self) -> bool:
        """Whether the outermost element is open."""
        return bool(self._path)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        path = self._path
        if self._parts is not None or len(path) >= _MAX_DEPTH:
            raise self._damaged(
                f"holds the element <{tag[:_SHOWN]}> inside <{path[-1][:_SHOWN]}>, where MediaWiki "
                "writes none"
            )
        if not path:
            self._begin(tag, attributes)
        elif (path[-1], tag) in _WANTED:
            self._listen(tag, attributes)
        elif len(path) == 1:
            self._begin_part(tag)
        elif len(path) == 2 and tag == "revision":
            self._revision = Revision()
        elif len(path) == 2 and tag == "redirect":
            self._redirect = True
        path.append(tag)

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag != "mediawiki":
            raise other_root(self.name, tag)
        if not self.head_is_read:
            self.declared = attributes.get("xml:lang", "")
            self._describe_site()

    def _begin_part(self, tag: str) -> None:
        if tag == "page":
            self._values, self._redirect, self._newest = {}, False, None
            self.head_is_read = True
        elif tag == "logitem":
            raise other_root(self.name, tag)

    def _listen(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "namespace":
            self._namespace_key = self._number(
                attributes.get("key", "0"), "the key of a <namespace>"
            )
        elif tag == "text":
            newest, now = self._newest, self._revision
            if newest is not None and now.timestamp and not now.is_newer(newest):
                return  # an older text is not kept
            sized = attributes.get("bytes", "0") not in ("", "0")
            stored = "id" in attributes or "location" in attributes
            now.missing = "deleted" not in attributes and (sized or stored)
        self._parts, self._size = [], 0

    def data(self, text: str) -> None:
        if self._parts is not None:
            self._parts.append(text)
            self._size += len(text)
            if self._size > _MAX_VALUE:
                self._bound()

    def _bound(self) -> None:
        """Keep only the beginning of a text over MAX_TEXT; any other value is not as long."""
        tag = self._path[-1]
        if tag != "text":
            raise self._damaged(f"has a <{tag}> of more than {_MAX_VALUE:,} characters")
        if self._size > MAX_TEXT and self._parts is not None:
            self._parts = ["".join(self._parts[:_KEPT])[:_KEPT]]
            self._revision.too_long = True

    def _damaged(self, what: str) -> UserError:
        """The error of a dump that MediaWiki did not write, near the page that is being read."""
        title = self._values.get("title", "") or self.title
        place = f", at or after page {title[:_SHOWN]!r}" if title else ""
        return UserError(f"{self.name} {what}{place}; the dump is damaged: fetch it again")

    def check_token(self, size: int) -> None:
        """Raise ``UserError`` if N bytes (``size``) of a tag, comment or entity do not end it."""
        if size > MAX_TOKEN:
            raise self._damaged(f"has a tag, comment or entity of more than {MAX_TOKEN:,} bytes")

    def end(self, tag: str) -> None:
        path = self._path
        path.pop()
        if self._parts is not None:
            value = "".join(self._parts)
            self._parts = None
            self._take(path[-1], tag, value)
        elif len(path) == 2 and tag == "revision":
            self._end_revision()
        elif len(path) == 1 and tag == "page":
            self._finish()
        elif len(path) == 1 and tag == "siteinfo":
            self._describe_site()
            self.head_is_read = True

    def _take(self, parent: str, tag: str, value: str) -> None:
        """Keep the content of an element."""
        if parent == "revision":
            self._take_of_revision(tag, value)
        elif parent == "page":
            self._values[tag] = value
        elif tag == "namespace":
            self._namespaces.append((self._namespace_key, value))
            if len(self._namespaces) > _MAX_NAMESPACES:
                raise self._damaged(f"lists more than {_MAX_NAMESPACES:,} namespaces")
        elif tag == "sitename":
            self._sitename = value
        else:
            self.database = value

    def _take_of_revision(self, tag: str, value: str) -> None:
        revision = self._revision
        if tag == "text":
            revision.text = value
            revision.missing = revision.missing and not value
        elif tag == "timestamp":
            revision.timestamp = value.strip()
        elif tag == "id":
            revision.number = value.strip()
        else:
            revision.model = value

    def _describe_site(self) -> None:
        language = normal_code(self.declared) or database_language(self.database) or ""
        self.site = Site(tuple(self._namespaces), language, self._sitename.strip())

    def _end_revision(self) -> None:
        self.history = self.history or self._newest is not None
        if self._revision.is_newer(self._newest):
            self._newest = self._revision
        self._revision = Revision()

    def _finish(self) -> None:
        values, revision = self._values, self._newest or Revision()
        self.count += 1
        self.stubs += revision.missing
        self.texts += bool(revision.text)
        if self.count == STUBS:
            self.require_text()
        self.title = title = values.get("title", "")
        space = values.get("ns", "").strip()
        number = values.get("id", "").strip()
        self.guessed = self.guessed or not space
        self.pages.append(
            Page(
                page_id=int(number) if _NUMBER.fullmatch(number) else self.base + self.count,
                title=title,
                namespace=self._number(space, f"the <ns> of page {title[:_SHOWN]!r}")
                if space
                else self.site.title_namespace(title),
                redirect=self._redirect or is_redirect(revision.text),
                model=TOO_LONG
                if revision.too_long and revision.model == "wikitext"
                else revision.model,
                text=revision.text,
                markup="wikitext",
                site=self.site,
            )
        )
        self._values, self._newest = {}, None

    def _number(self, value: str, what: str) -> int:
        if not _NUMBER.fullmatch(value.strip()):
            raise UserError(
                f"{self.name}: {what} is {value[:40]!r}, not a number; the dump is damaged, or was "
                "changed after its export"
            )
        return int(value)

    def require_text(self) -> None:
        """Raise ``UserError`` if the dump leaves out the texts of all pages so far."""
        if self.stubs and not self.texts:
            raise UserError(
                f"{self.name}: a stub dump: its pages have no text (their <text> is empty); {FETCH}"
            )

    def check_encoding(self, version: str, encoding: str | None, standalone: int) -> None:
        """Raise ``UserError`` if the XML declares another encoding than UTF-8."""
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise UserError(
                f"{self.name}: the XML declares the encoding {encoding[:40]!r}; a MediaWiki export is "
                "UTF-8: if its bytes are in the declared encoding, convert them with iconv, and write "
                'encoding="utf-8" in its first line'
            )

    def refuse_doctype(self, doctype: str, *_: object) -> None:
        raise declared_type(self.name, doctype)

    def refuse_section(self, *_: object) -> None:
        if self.head_is_read:
            raise UserError(
                f"{self.name}: a comment, a CDATA section or a processing instruction after page "
                f"{self.title[:_SHOWN]!r}, which MediaWiki never writes; compress the dump with gzip to "
                "have it read in one piece"
            )
