"""Files that are not what they seem: each is named for what it is, with what to use instead."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.data.text.input.sources import iter_pages

PAGE = "<page><title>A</title><ns>0</ns><id>1</id><revision><text>Words.</text></revision></page>\n"
SQL = "DROP TABLE IF EXISTS `page`;\nCREATE TABLE `page` (\n  `page_id` int(8)\n);\n"
HTML = "<html><head><title>404 Not Found</title></head><body>x</body></html>"
FORMS = {
    "abstract dump": ("a.xml", "<feed>\n<doc>\n<title>Wikipedia: A</title></doc></feed>", "an abstract dump"),
    "abstract with a declaration": ("a.xml", "<?xml version='1.0'?>\n<feed/>", "an abstract dump"),
    "page": ("p.xml", PAGE, "without the <mediawiki> element"),
    "pages": ("p.xml", "  " + PAGE * 3, "without the <mediawiki> element"),
    "pages without a suffix": ("p", PAGE * 2, "without the <mediawiki> element"),
    "end of pages": ("p", "words of an article\n</text></revision></page>\n" + PAGE, "without the <mediawiki>"),
    "middle of a page": ("p", "<ns>0</ns><id>1</id>", "without the <mediawiki> element"),
    "siteinfo": ("s.xml", "<siteinfo><sitename>W</sitename></siteinfo>", "without its pages"),
    "siteinfo only": ("s.xml", "<mediawiki><siteinfo></siteinfo></mediawiki>", "has no <page>"),
    "log": ("l.xml", "<mediawiki><siteinfo/><logitem><id>1</id></logitem></mediawiki>", "a pages-logging dump"),
    "html": ("d.xml.bz2", HTML, "an HTML page"),
    "html doctype": ("d.xml", "<!DOCTYPE html>\n" + HTML, "an HTML page"),
    "html doctype in capitals": ("d", '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">' + HTML, "an HTML page"),
    "html after a comment": ("d", "<!-- 404 -->\n" + HTML, "an HTML page"),
    "xhtml": ("d", "<?xml version='1.0'?><!DOCTYPE html><html/>", "an HTML page"),
    "TEI": ("a.xml", "<?xml version='1.0'?>\n<TEI xmlns='t'><text/></TEI>", "a TEI edition.*UTF-8 text are read"),
    "TEI without a suffix": ("a", "<TEI xmlns='t'><text/></TEI>", "a TEI edition"),
    "TEI doctype": ("a", "<?xml version='1.0'?><!DOCTYPE TEI.2 SYSTEM 't'><TEI.2/>", "a TEI edition"),
    "a book": ("a.xml", "<?xml version='1.0'?>\n<book/>", "the outermost element is <book>.*JSON, CSV.* are read"),
    "a book doctype": ("a.xml", "<!DOCTYPE book SYSTEM 't'><book/>", "a document type, 'book'.*JSON, CSV.* are read"),
    "MySQL": ("page.sql", "-- MySQL dump 10.16  Distrib 10.1\n--\n" + SQL, "a SQL dump"),
    "MariaDB": ("page.sql", "/*M!999999\\- enable the sandbox mode */;\n-- MariaDB dump 10.19\n" + SQL, "a SQL dump"),
    "SQL insert": ("p", "INSERT INTO `page` VALUES (1,0,'A'),(2,0,'B');\n", "a SQL dump"),
    "SQL table": ("p", SQL, "a SQL dump"),
    "SQLite text": ("p", "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n" + SQL, "a SQL dump"),
    "PostgreSQL": ("p", "--\n-- PostgreSQL database dump\n--\n", "a SQL dump"),
    "index": ("i.txt", "597:10:AccessibleComputing\n597:12:Anarchism\n", "the index of a multistream dump"),
    "checksums": ("c.txt", f"{'0a' * 16}  enwiki-pages.xml.bz2\n", "a list of checksums"),
    "titles": ("t", "page_title\n!\n!!\nGold\n", "a list of all titles"),
    "titles and namespaces": ("t", "page_namespace\tpage_title\n0\tGold\n", "a list of all titles"),
    "search": ("c.json", '{"index":{"_type":"page","_id":"1"}}\n{"title":"A"}\n', "a CirrusSearch dump"),
    "sitemap": ("s.xml", "<?xml version='1.0'?><urlset></urlset>", "a site map"),
    "server": ("e.xml", "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "the error message of a server"),
    "pointer": ("d.xml.bz2", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "feed": ("f.xml", "<?xml version='1.0'?><rss></rss>", "a news feed"),
}  # fmt: skip
MAGIC = {
    "7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 32, "zip": b"PK\x03\x04" + b"\0" * 32,
    "RAR": b"Rar!\x1a\x07\x01\x00", "LZ4": b"\x04\x22\x4d\x18xx",
    "ZIM": b"ZIM\x04" + b"\0" * 32, "PDF": b"%PDF-1.7\n", "SQLite": b"SQLite format 3\0" + b"\0" * 32,
    "HDF5": b"\x89HDF\r\n\x1a\n",
}  # fmt: skip


def refused(path: Path, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        list(iter_pages(path))
    assert str(caught.value).startswith(f"{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", FORMS)
def test_text_forms(tmp_path: Path, case: str) -> None:
    name, content, expected = FORMS[case]
    for pack in (bytes, gzip.compress, bz2.compress):
        path = tmp_path / name
        path.write_bytes(pack(content.encode()))
        refused(path, expected)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    refused(path, expected)


@pytest.mark.parametrize("kind", MAGIC)
def test_archives_and_databases(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(MAGIC[kind])
    refused(path, kind)
    path.write_bytes(gzip.compress(MAGIC[kind]))
    refused(path, kind)


@pytest.mark.parametrize("content", [b"", b" \n", gzip.compress(b"", mtime=0), bz2.compress(b"\n")])
def test_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refused(path, "empty")


@pytest.mark.parametrize(
    "text",
    [
        "Drop table tennis into any talk and people listen.\n",
        "Create tables of your own.\n", "Insert into the slot what you value.\n", "12:30:Lunch\n12:45:Coffee\n",
        "-- a dash begins this line\n", "A page about <page> elements.\n", "<3 is a heart.\n",
        "deadbeef  is a word\n", "page_title is a column\n", "Set names are lists; others are not.\n",
    ],
)  # fmt: skip
def test_texts_that_only_look_like_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text("First words of a text.\n" + text if text.startswith("<") else text)
    assert "".join(page.text for page in iter_pages(path)).endswith(text.strip().split("\n")[-1])
