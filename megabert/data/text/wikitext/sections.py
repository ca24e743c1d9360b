"""From wikitext to sections of plain text.

Every step is linear in the page, or a fixed number of linear passes: comments, extension tags,
templates and tables, language conversion, headings, links, tags, lines. So no page can hang the
cleaner, and the result depends only on the page.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial

from megabert.data.text.counts import TEMPLATES, UNDERSTOOD
from megabert.data.text.pages import Site
from megabert.data.text.paragraphs import Paragraph, SectionBody, paragraphs
from megabert.data.text.wikitext.conversion import has_variants, resolve_conversion
from megabert.data.text.wikitext.extension_tags import shown_comment_signs, strip_extension_tags
from megabert.data.text.wikitext.holes import (
    HOLE,
    NEVER_CLOSED,
    SPOKEN,
    hole,
    settle_line,
    settle_lines,
)
from megabert.data.text.wikitext.inline import ITALIC, has_block_tag, strip_inline
from megabert.data.text.wikitext.items import note_items
from megabert.data.text.wikitext.links import EXTERNAL, LinkRules
from megabert.data.text.wikitext.rows import TABLE_END, strip_rows
from megabert.data.text.wikitext.templates.expand import Calls, strip_templates
from megabert.data.text.wikitext.templates.table import template_table
from megabert.data.text.wikitext.tidy import GAP, MARK, is_spaceless
from megabert.data.text.wikitext.wiki_words import strip_switches

MAX_CHARACTERS = 1 << 23  # four times what MediaWiki accepts as one page
_LONGEST_TITLE = 255  # bytes, in MediaWiki

_COMMENT_END = "-->"
_COMMENT = re.compile(r"<!--(?:[^-]++|-(?!->))*+(?:-->)?+")
_INDENTED = re.compile(r"^(:+[ \t]*)([^\n:][^\n]{0,200}?)([ \t.,;]*)$", re.MULTILINE)
_TAG = re.compile(r"<[^<>]*>")
_RELATION = re.compile(r"[=≤≥≈≠≡→⇒∈⊂∝]|&[lg]t;")
_NO_WORD = re.compile(r"&\w+;|\b(?:arcsin|arccos|arctan|sinh|cosh|tanh)\b")
_WORD = re.compile(r"[^\W\d_]{4,}")
_HEADING = re.compile(r"\n=[^\n]*=[ \t]*(?=\n|\Z)")
_MARKS = (
    EXTERNAL,
    HOLE,
    SPOKEN,
    TABLE_END,
    MARK,
    GAP,
    ITALIC,
)  # the cleaner uses these characters itself
_BOLD_SIGN = re.compile(r"\n(?='''|;)")
# a heading made of bold text, or of a term without its definition
_BOLD_LINE = re.compile(
    r"\n(?:;[ \t]*(?=[^\s;])[^:\n]{1,80}(?<![.!?。！？…\s])[ \t]*(?=\n|\Z)"
    r"|[ \t]*'''(?!')[^'\n]{1,80}(?<![.!?。！？…\s])''':?[ \t]*+"
    r"(?=\n[ \t]*(?:[\n*#:;={|!<]|\[\[[^\[\]|\n]{1,30}:)|\s*\Z))"
)
_INNER_SIGN = re.compile(
    r"(\n(?:'{2,}+|<[a-zA-Z][^<>\n]{0,99}>|\[\[[^\[\]|\n]{1,99}\||\[\[(?=[*;]))++)([*#:;|!]+)"
)
_NO_PARAGRAPH = ("", "*", "#", ":", ";", "=", "{", "|", "}", "<")  # begin a line that ends one
_RULE = re.compile(r"\n-{4,}")


class PageLimitError(Exception):
    """A page that is longer than any real page can be."""


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
    counts: Counter[str] | None = None,
) -> list[Section]:
    """Sections of plain text, in the page's order, without empty ones.

    Of lists, only items that are sentences are kept, so that sections that only list works, links
    or names (see also, references, external links, in any language) vanish.

    Args:
        text: wikitext of the page.
        language: code of the wiki; for "zh" and other languages with variants, ``-{...}-`` is
            resolved.
        title: value of ``{{PAGENAME}}``.
        site: local namespace names.
        counts: receives what became of templates and list items
            (:mod:`megabert.data.text.counts`).

    Raises:
        PageLimitError: more than MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise PageLimitError
    rules = LinkRules.of(site or Site(), language)
    calls = Calls(template_table(language), title[:_LONGEST_TITLE])
    counts = Counter() if counts is None else counts
    spaceless = is_spaceless(language)
    sections = []

    def settle(line: str) -> str:
        return settle_line(line, calls.names, counts)

    for heading, level, body in _sections(_prepare(text, language, calls)):
        stripped = strip_inline(body, rules, calls.names)
        lines: str | None = body
        # a link or a tag had lines of its own
        if stripped.count("\n") != body.count("\n") or has_block_tag(body):
            stripped = strip_inline(note_items(body, spaceless), rules, calls.names)
            lines = None
        found = paragraphs(SectionBody(stripped, lines, spaceless, settle, counts))
        if found:
            sections.append(Section(heading, level, tuple(found)))
    counts[TEMPLATES] += calls.met
    counts[UNDERSTOOD] += calls.understood
    return sections


def without_marks(text: str) -> str:
    """The text without the private characters that the cleaner uses itself."""
    if not text.isascii():
        for mark in _MARKS:
            if mark in text:
                text = text.replace(mark, "")
    return text


def _prepare(text: str, language: str, calls: Calls) -> str:
    """Remove markup that spans lines; the result begins with a line feed."""
    text = without_marks(text)
    if "<!--" in text:
        text = shown_comment_signs(text)
        text = _COMMENT.sub("", _close_comment(text, calls.names))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = strip_templates(strip_extension_tags(text, calls.names), calls)
    text = strip_rows(text, calls.names)
    if ":" in text:
        text = _INDENTED.sub(partial(_displayed, calls.names), text)
    text = settle_lines(text, calls.names)
    if has_variants(language) and "-{" in text:
        text = resolve_conversion(text, language)
    text = f"\n{strip_switches(text, language)}"
    text = _RULE.sub("\n", text)
    if _BOLD_SIGN.search(text):
        text = _BOLD_LINE.sub(_without_heading, text)
    if _INNER_SIGN.search(text):
        text = _INNER_SIGN.sub(_protected, text)
    return text


def _displayed(names: list[str], match: re.Match[str]) -> str:
    """A hole, as for a displayed ``<math>``, instead of an indented line that is a formula without words."""
    mark, line, end = match.groups()
    bare = _TAG.sub("", line)
    if HOLE in line or not _RELATION.search(bare) or _WORD.search(_NO_WORD.sub(" ", bare)):
        return match.group()
    return mark + hole(names, "<math>") + end


def _close_comment(text: str, names: list[str]) -> str:
    """A hole for a comment that is never closed, which ends the page."""
    start = text.find("<!--", text.rfind(_COMMENT_END) + 1)
    return text if start < 0 else text[:start] + hole(names, NEVER_CLOSED + "comment")


def _protected(match: re.Match[str]) -> str:
    """A zero-width space, which is removed later, before signs that make no list or row there."""
    return f"{match.group(1)}\u200b{match.group(2)}"


def _without_heading(match: re.Match[str]) -> str:
    """Nothing for a heading; bold text that is part of the paragraph before it stays."""
    text, start = match.string, match.start()
    before = text[text.rfind("\n", 0, start) + 1 : start].strip()
    alone = before[:1] in _NO_PARAGRAPH or (before[:2] == "[[" and before[-2:] == "]]")
    return "\n" if alone or match.group()[1] == ";" else match.group()


def _sections(text: str) -> list[tuple[str, int, str]]:
    """(heading, level, body) from top to bottom."""
    found = []
    heading, level, start = "", 0, 0
    for match in _HEADING.finditer(text):
        line = match.group().strip()
        marks = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        inside = line[marks:-marks].strip()
        if not inside:
            continue
        found.append((heading, level, text[start : match.start()]))
        heading, level, start = inside, marks, match.end()
    found.append((heading, level, text[start:]))
    return found
