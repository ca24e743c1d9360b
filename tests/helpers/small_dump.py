"""A small MediaWiki dump for tests, and a vocabulary that covers it."""

from __future__ import annotations

import bz2
import random
from pathlib import Path
from xml.sax.saxutils import escape

_TEXT = (
    "river mountain valley town bridge castle king queen poet painter engine railway harbour "
    "island forest market church school garden tower stone winter summer music letter army"
)

WORDS = _TEXT.split()

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_vocabulary(path: Path) -> Path:
    """A WordPiece vocabulary: special tokens, letters, their continuations, and whole words."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
    entries = [*SPECIALS, *".,()'", *letters, *(f"##{c}" for c in letters), "the", "of", *WORDS]
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return path


def article(number: int, sentences: int = 12) -> str:
    """Wikitext with a template, a link, a heading and a reference."""
    draw = random.Random(number)
    lines = [f"{{{{Infobox place|name=Place {number}}}}}'''Place {number}''' is a town."]
    for index in range(sentences):
        words = [draw.choice(WORDS) for _ in range(draw.randint(5, 14))]
        words[0] = f"[[{words[0]}|{words[0]}]]"
        lines.append(f"The {' '.join(words)} of place {number}.<ref>Book {index}</ref>")
        if index % 5 == 4:
            lines.append(f"\n== Section {index} ==\n")
    return " ".join(lines)


def pages_xml(count: int, first: int = 1) -> str:
    """``count`` articles with a redirect and a talk page after every tenth."""
    parts = []
    for number in range(first, first + count):
        parts.append(_page(10 * number, f"Place {number}", 0, article(number)))
        if number % 10 == 0:
            parts.append(_page(10 * number + 1, f"Old place {number}", 0, "x", redirect=True))
            parts.append(_page(10 * number + 2, f"Talk:Place {number}", 1, article(number)))
    return "".join(parts)


def write_dump(path: Path, count: int = 60, first: int = 1, stream_bytes: int = 4096) -> Path:
    """A multistream bzip2 dump of :func:`pages_xml`; a stream holds ``stream_bytes`` of XML, and
    begins and ends anywhere in it."""
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" '
        'xml:lang="en"><siteinfo><sitename>Test</sitename><namespaces>'
        '<namespace key="0" case="first-letter" /><namespace key="1">Talk</namespace>'
        "</namespaces></siteinfo>"
    )
    xml = (head + pages_xml(count, first) + "</mediawiki>").encode()
    starts = range(0, len(xml), stream_bytes)
    path.write_bytes(b"".join(bz2.compress(xml[i : i + stream_bytes]) for i in starts))
    return path


def _page(number: int, title: str, namespace: int, text: str, redirect: bool = False) -> str:
    mark = '<redirect title="Place 1" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{mark}"
        f"<revision><id>1</id><model>wikitext</model><format>text/x-wiki</format>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>'
    )
