"""Wikitext to paragraphs of plain text.

Cheap, linear passes go first: comments, extension tags, templates and tables (one scan with a
stack), language conversion, simple links. What is still marked up afterwards (nested file links
with odd brackets, unusual tags) goes, a block at a time, through mwparserfromhell, whose work is
bounded by the size of a block; a block that is too large or too tangled loses its brackets by a
plain rule instead. So no page can hang the cleaner; a time limit stands behind that.
"""

import re
import time
from dataclasses import dataclass

from megabert.data.text.conversion import has_variants, resolve_conversion
from megabert.data.text.inline import EXTERNAL, LinkRules, strip_inline
from megabert.data.text.pages import Site
from megabert.data.text.templates import strip_extension_tags, strip_templates
from megabert.data.text.tidy import has_word, tidy_line

TIME_LIMIT = 30.0  # seconds a page
MAX_CHARACTERS = 1 << 23  # four times what MediaWiki accepts as one page

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HEADING = re.compile(r"^=[^\n]*=[ \t]*$", re.MULTILINE)
_SWITCH = re.compile(r"__[^\W\d_a-z]{2,40}__")  # not "__init__"
_RULE = re.compile(r"^-{4,}", re.MULTILINE)
_LIST = re.compile(r"([*#:;]+)[ \t]*")
_BLANK = re.compile(r"\n[ \t]*\n")
_ISBN = re.compile(r"\bISBN[ :]*[\dX-]{9,}")
_LATIN_WORD = re.compile(r"[^\W_]+")
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
ITEM_WORDS = 4
ITEM_IDEOGRAPHS = 8


class PageLimitError(Exception):
    """A page that took longer than its time limit, or is longer than any page can be."""


@dataclass(frozen=True)
class Paragraph:
    """Lines that belong together; each line is split into sentences by itself.

    A paragraph of prose has one line, a list one line an item.
    """

    kind: str  # "text" or "list"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """The paragraphs under one heading; the lead section has heading "" and level 0."""

    heading: str
    level: int
    paragraphs: tuple[Paragraph, ...]


def clean(
    text: str,
    *,
    language: str,
    title: str = "",
    site: Site | None = None,
    time_limit: float = TIME_LIMIT,
) -> list[Section]:
    """Sections of plain text, in the page's order; sections without text are left out.

    language: code of the wiki ("zh" and other languages with variants get ``-{...}-``
    resolved). title: what ``{{PAGENAME}}`` stands for. site: local namespace names.
    List-only sections at the end of a page (see also, references, external links in any
    language) are dropped.

    Raises PageLimitError after ``time_limit`` seconds or for more than MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise PageLimitError("length")
    deadline = time.monotonic() + time_limit
    rules = LinkRules.of(site or Site(), language)
    text = _prepare(text, language, title)
    sections = []
    for heading, level, body in _sections(text):
        paragraphs: list[Paragraph] = []
        for block in _BLANK.split(strip_inline(body, rules)):
            if time.monotonic() > deadline:
                raise PageLimitError("time")
            paragraphs.extend(_paragraphs(block))
        sections.append(Section(heading, level, tuple(paragraphs)))
    return _without_tail(sections)


def _prepare(text: str, language: str, title: str) -> str:
    if "<!--" in text:
        text = _COMMENT.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = strip_templates(strip_extension_tags(text), title)
    if "-{" in text and has_variants(language):
        text = resolve_conversion(text, language)
    return _RULE.sub("", _SWITCH.sub("", text))


def _sections(text: str) -> list[tuple[str, int, str]]:
    """(heading, level, body) from top to bottom."""
    found = []
    heading, level, start = "", 0, 0
    for match in _HEADING.finditer(text):
        line = match.group().rstrip()
        marks = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        inside = line[marks:-marks].strip()
        if not inside:
            continue
        found.append((heading, level, text[start : match.start()]))
        heading, level, start = inside, marks, match.end()
    found.append((heading, level, text[start:]))
    return found


def _keeps_item(line: str, raw: str) -> bool:
    """A list item is kept when it says something: long enough, and no citation or web link."""
    if EXTERNAL in raw or _ISBN.search(line):
        return False
    ideographs = len(_IDEOGRAPH.findall(line))
    return ideographs >= ITEM_IDEOGRAPHS or (
        len(_LATIN_WORD.findall(line)) >= ITEM_WORDS and ideographs < ITEM_IDEOGRAPHS
    )


def _paragraphs(block: str) -> list[Paragraph]:
    """Paragraphs of a block without blank lines: runs of prose lines and runs of list items."""
    paragraphs: list[Paragraph] = []
    prose: list[str] = []
    items: list[str] = []

    def close_prose() -> None:
        line = tidy_line(" ".join(prose).replace(EXTERNAL, ""))
        prose.clear()
        if has_word(line):
            paragraphs.append(Paragraph("text", (line,)))

    def close_items() -> None:
        if items:
            paragraphs.append(Paragraph("list", tuple(items)))
            items.clear()

    for raw in block.split("\n"):
        match = _LIST.match(raw)
        if not match:
            if raw.lstrip().startswith("|"):  # a row of a table that was never opened or closed
                continue
            if raw.strip():
                close_items()
                prose.append(raw)
            continue
        close_prose()
        line = tidy_line(raw[match.end() :].replace(EXTERNAL, ""))
        if match.group(1).endswith(":"):
            close_items()
            if has_word(line):
                paragraphs.append(Paragraph("text", (line,)))
        elif _keeps_item(line, raw):
            items.append(line)
    close_prose()
    close_items()
    return paragraphs


def _without_tail(sections: list[Section]) -> list[Section]:
    """Without the headed sections at the end that hold nothing but lists."""
    last = len(sections)
    while last > 1 and not any(p.kind == "text" for p in sections[last - 1].paragraphs):
        last -= 1
    return [section for section in sections[:last] if section.paragraphs]
