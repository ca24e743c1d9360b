"""Files that are taken for a dump or a text and are neither, recognised by their beginning.

Each is named for what it is, with what to use instead.
"""

from __future__ import annotations

import re

from megabert.common.errors import UserError

FETCH = "fetch the pages-articles.xml.bz2 file of the same dump"
READ_FORMS = "MediaWiki XML, wikiextractor output, JSON, CSV, TSV, Parquet, Arrow and UTF-8 text"
"""The forms that are read, for messages."""
_EXTRACT = f"which is not read; extract its text first ({READ_FORMS} are read)"
_PAGES_ALONE = (
    "pages of a MediaWiki export without the <mediawiki> element around them; put a line "
    '<mediawiki xml:lang="CODE"> before them and </mediawiki> behind them, or ' + FETCH
)
_HTML = (
    "an HTML page, perhaps the error page of a server, not the file itself; fetch it again, or "
    "extract the text of the pages first"
)
# what an XML file is by its outermost element
_ROOTS = {
    "feed": f"an abstract dump (or another feed), which holds one sentence per page; {FETCH}",
    "page": _PAGES_ALONE,
    "revision": _PAGES_ALONE,
    "siteinfo": f"the <siteinfo> of a MediaWiki export without its pages; {FETCH}",
    "logitem": f"a pages-logging dump, which holds log entries and no text; {FETCH}",
    "html": _HTML,
    "head": _HTML,
    "body": _HTML,
    "error": "the error message of a server, not the file itself; fetch it again",
    "rss": "a news feed (RSS), not a dump",
    "sitemapindex": "a site map, not a dump",
    "urlset": "a site map, not a dump",
    "tei": f"a TEI edition, {_EXTRACT}",
    "tei.2": f"a TEI edition, {_EXTRACT}",
    "teicorpus": f"a TEI corpus, {_EXTRACT}",
    "fictionbook": f"an FB2 book, {_EXTRACT}",
    "tmx": f"a translation memory (TMX), {_EXTRACT}",
    "xliff": f"a translation (XLIFF), {_EXTRACT}",
    "rdf:rdf": f"RDF, {_EXTRACT}",
    "svg": "a drawing (SVG), not text",
    "api": f"an answer of MediaWiki's API, not a dump; use Special:Export, or {FETCH}",
}
_PIECES = "text ns revision timestamp contributor restrictions namespaces namespace parentid"
_SQL = re.compile(
    r"(?:--[^\n]*\n|\s|/\*[^!M].*?\*/)*+(?:/\*[!M]\S* .*\*/;|insert\s+into\s.*\bvalues\b"
    r"|create\s+(?:table|database)\s[^.!?\n]*[(;]|copy\s+\S+\s*(?:\([^()]*\)\s*)?from\s+stdin\b|drop\s+table\s+(?:if\s+exists\s|\S+\s*;)"
    r"|set\s+names\s+['\"]?utf|begin\s+transaction\s*;|pragma\s+foreign_keys)",
    re.IGNORECASE,
)
_SQL_COMMENT = re.compile(r"--\s+(?:\w+\s+){0,3}(?:SQL|database)?\s*dump\b", re.IGNORECASE)
_INDEX = re.compile(r"\d{3,}:\d+:\S")
_CHECKSUM = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}) [ *]\S+\s*$")
_MARKUP = re.compile(
    r"(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->)\s*+)*+<(?:!doctype\s+|/)?([a-z][\w.:-]*)",
    re.IGNORECASE | re.DOTALL,
)
_BETWEEN_PAGES = re.compile(r"</page>\s*<page>\s*<title>")
_LINES = 20  # that must all look alike
_SCANNED = 4096  # characters of a line that are looked at, and those searched for SQL


def other_root(name: str, tag: str) -> UserError:
    """The error of an XML file whose outermost element is not ``<mediawiki>``."""
    what = _ROOTS.get(tag.lower())
    if what is None:
        return UserError(
            f"{name}: XML, but not a MediaWiki export: the outermost element is <{tag[:80]}>, not "
            f"<mediawiki>; extract its text first ({READ_FORMS} are read)"
        )
    return UserError(f"{name}: it holds <{tag}>: {what}")


def declared_type(name: str, doctype: str) -> UserError:
    """The error of an XML file with a document type, which no MediaWiki export has."""
    if doctype.lower() in _ROOTS:
        return other_root(name, doctype)
    return UserError(
        f"{name}: the XML declares a document type, {doctype[:80]!r}; a MediaWiki export has none "
        f"({READ_FORMS} are read)"
    )


def first_tag(text: str) -> str:
    """Name of the first element (or document type) of XML or HTML, in lower case; "" of others."""
    markup = _MARKUP.match(text)
    return "" if markup is None else markup.group(1).lower()


def refuse_other_form(text: str, name: str) -> None:
    """Raise ``UserError`` for a text that is a known form without articles.

    Args:
        text: the beginning of a file, without white space before it.
        name: the file, for the message.
    """
    tag = first_tag(text)
    if tag:
        if tag in _PIECES.split() or (tag == "title" and "<revision>" in text):
            tag = "page"
        if tag in _ROOTS:
            raise other_root(name, tag)
    elif (what := _of_lines(text)) is not None:
        raise UserError(f"{name}: {what}")
    elif _BETWEEN_PAGES.search(text):
        raise other_root(name, "page")


def _of_lines(text: str) -> str | None:
    """What a text of lines is, if it is a known form."""
    lines = [line[:_SCANNED] for line in text.split("\n", _LINES)[:_LINES] if line.strip()]
    if not lines:
        return None
    first = lines[0].strip()
    if any(map(_SQL_COMMENT.match, lines[:3])) or _SQL.match(text[:_SCANNED]):
        return f"a SQL dump, which holds the tables of a database; export its text as JSON lines, or for a wiki {FETCH}"
    if all(map(_INDEX.match, lines)):
        return f"the index of a multistream dump, not the dump itself; {FETCH}"
    if all(map(_CHECKSUM.match, lines)):
        return "a list of checksums; name the files that it lists"
    if first in ("page_title", "page_namespace\tpage_title"):
        return f"a list of all titles, which has no text; {FETCH}"
    if first.startswith("version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; run git lfs pull"
    if first.startswith('{"index":{'):
        return f"a CirrusSearch dump (the search index), which is not supported; {FETCH}"
    return None
