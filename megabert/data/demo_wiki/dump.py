"""MediaWiki export XML (schema 0.11) of the invented encyclopedia, written page by page."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from megabert.data.demo_wiki.articles import article
from megabert.data.demo_wiki.world import InventedWorld, WorldEntity

_NAMESPACES = (
    (-2, "Media"),
    (-1, "Special"),
    (0, ""),
    (1, "Talk"),
    (2, "User"),
    (3, "User talk"),
    (4, "Project"),
    (5, "Project talk"),
    (6, "File"),
    (7, "File talk"),
    (8, "MediaWiki"),
    (9, "MediaWiki talk"),
    (10, "Template"),
    (11, "Template talk"),
    (12, "Help"),
    (13, "Help talk"),
    (14, "Category"),
    (15, "Category talk"),
    (828, "Module"),
    (829, "Module talk"),
)
_SCHEMA = "http://www.mediawiki.org/xml/export-0.11/"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_TEMPLATES = {
    "Short description": "<includeonly>{{#if:{{{1|}}}|<span>{{{1}}}</span>}}</includeonly>",
    "Cite book": "<span class=\"citation\">''{{{title}}}'', p. {{{page|}}}</span>",
    "Citation needed": "<sup>[''citation needed'']</sup>",
    "Reflist": "<references />",
}


@dataclass(frozen=True)
class _Page:
    namespace: int
    title: str
    text: str
    redirect: str | None = None
    model: str = "wikitext"


def dump_xml(world: InventedWorld, seed: int) -> Iterator[str]:
    """The pieces of the export file in order: header, one piece per page, footer."""
    yield _header()
    rng = random.Random(f"dump {seed}")
    revision = 1000
    for number, page in enumerate(_pages(world, seed, rng), 1):
        revision += rng.randrange(1, 9)
        yield _page_xml(page, number, revision, rng)
    yield "</mediawiki>\n"


def _pages(world: InventedWorld, seed: int, rng: random.Random) -> Iterator[_Page]:
    yield _Page(4, "Project:Front page", "Welcome to the '''encyclopedia''' of an invented world.")
    for kind in ("person", "town", "work"):
        body = '<table class="infobox">\n{{{name}}}\n</table><noinclude>Documentation.</noinclude>'
        yield _Page(10, f"Template:Infobox {kind}", body)
    for name, body in _TEMPLATES.items():
        yield _Page(10, f"Template:{name}", body)
    yield _Page(828, "Module:Facts", "local p = {}\nreturn p\n", model="Scribunto")
    taken = {entity.title for entity in world.published}
    for entity in world.published:
        yield _Page(0, entity.title, article(entity, seed))
        if rng.random() < 0.12 and (alias := _alias(entity)) not in taken:
            taken.add(alias)
            yield _Page(0, alias, f"#REDIRECT [[{entity.title}]]", redirect=entity.title)
        if rng.random() < 0.08:
            yield _Page(1, f"Talk:{entity.title}", _talk(entity))
    for country in world.countries:
        towns = [
            e for e in world.published if e.kind == "town" and e.facts["country"].text == country
        ]
        if towns:
            lines = "\n".join(f"* [[{town.title}]]" for town in towns)
            yield _Page(14, f"Category:Towns of {country}", f"Towns of {country}:\n{lines}")


def _alias(entity: WorldEntity) -> str:
    words = entity.title.split()
    return f"{words[-1]}, {' '.join(words[:-1])}" if len(words) > 1 else f"Town of {entity.title}"


def _talk(entity: WorldEntity) -> str:
    return (
        f"== Sources ==\nWhere does the article on [[{entity.title}]] come from? ~~~~\n"
        ":From the registers, see [[Project:Front page]]. ~~~~"
    )


def _header() -> str:
    rows = "\n".join(
        f'      <namespace key="{key}" case="first-letter"'
        + (f">{name}</namespace>" if name else " />")
        for key, name in _NAMESPACES
    )
    return (
        f'<mediawiki xmlns="{_SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_SCHEMA} http://www.mediawiki.org/xml/export-0.11.xsd" '
        'version="0.11" xml:lang="en">\n'
        "  <siteinfo>\n    <sitename>Sample</sitename>\n    <dbname>samplewiki</dbname>\n"
        "    <base>http://localhost/wiki/Front_page</base>\n"
        "    <generator>make_sample_wiki</generator>\n    <case>first-letter</case>\n"
        f"    <namespaces>\n{rows}\n    </namespaces>\n  </siteinfo>\n"
    )


def _page_xml(page: _Page, number: int, revision: int, rng: random.Random) -> str:
    redirect = f"    <redirect title={quoteattr(page.redirect)} />\n" if page.redirect else ""
    when = (rng.randrange(2015, 2024), rng.randrange(1, 13), rng.randrange(1, 29))
    stamp = f"{when[0]:04d}-{when[1]:02d}-{when[2]:02d}T{rng.randrange(24):02d}:{rng.randrange(60):02d}:00Z"
    lua = page.model != "wikitext"
    sha1, size = _sha1(page.text), len(page.text.encode())
    return (
        f"  <page>\n    <title>{escape(page.title)}</title>\n    <ns>{page.namespace}</ns>\n"
        f"    <id>{number}</id>\n{redirect}    <revision>\n      <id>{revision}</id>\n"
        f"      <timestamp>{stamp}</timestamp>\n      <contributor>\n"
        "        <username>Generator</username>\n        <id>1</id>\n      </contributor>\n"
        f"      <origin>{revision}</origin>\n      <model>{page.model}</model>\n"
        f"      <format>{'text/plain' if lua else 'text/x-wiki'}</format>\n"
        f'      <text bytes="{size}" sha1="{sha1}" xml:space="preserve">{escape(page.text)}</text>\n'
        f"      <sha1>{sha1}</sha1>\n    </revision>\n  </page>\n"
    )


def _sha1(text: str) -> str:
    """A SHA-1 as MediaWiki writes it: base 36, 31 digits."""
    number = int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest(), "big")
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.rjust(31, "0")
