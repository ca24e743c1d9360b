"""A page to paragraphs of sentences, or the reason why it is dropped."""

import re
from dataclasses import dataclass

from megabert.data.text.pages import Page
from megabert.data.text.sentences import split_sentences
from megabert.data.text.tidy import has_word, tidy_line
from megabert.data.text.wikitext import TIME_LIMIT, PageLimitError, clean

DROP_REASONS = ("namespace", "redirect", "model", "too long", "time limit", "empty")
_BULLET = re.compile(r"^BULLET::::(?:[-*#:;\d.]\s*)?")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>")
_FORMULA = re.compile(r"\bformula_\d+\b")
_HEADING_LINE = re.compile(r"[^.。!?！？,，;；:：]{1,60}\.")
_SPACED_END = re.compile(r"\s\.$")


@dataclass(frozen=True)
class Cleaned:
    """Paragraphs of sentences in page order; ``drop_reason`` (one of DROP_REASONS) where the
    page gives none."""

    paragraphs: list[list[str]]
    drop_reason: str | None = None


def page_to_sentences(page: Page, language: str, time_limit: float = TIME_LIMIT) -> Cleaned:
    """The page's text as sentences.

    Kept are pages of namespace 0 that are no redirect and hold wikitext (or come as plain
    text). A page with a title and no text is "empty". Never raises on any content.
    """
    if page.namespace != 0:
        return Cleaned([], "namespace")
    if page.redirect:
        return Cleaned([], "redirect")
    if page.model != "wikitext":
        return Cleaned([], "model")
    if page.markup == "plain":
        groups = [[line] for line in _plain_lines(page)]
    else:
        try:
            sections = clean(
                page.text,
                language=language,
                title=page.title,
                site=page.site,
                time_limit=time_limit,
            )
        except PageLimitError as error:
            return Cleaned([], "too long" if str(error) == "length" else "time limit")
        groups = [list(p.lines) for section in sections for p in section.paragraphs]
    paragraphs = []
    for lines in groups:
        sentences = [s for line in lines for s in split_sentences(line, language)]
        if sentences:
            paragraphs.append(sentences)
    return Cleaned(paragraphs) if paragraphs else Cleaned([], "empty")


def _plain_lines(page: Page) -> list[str]:
    """Lines of already extracted text, without the repeated title and section headings."""
    lines = []
    first = True
    for raw in page.text.split("\n"):
        raw = raw.strip()
        if not raw:
            continue
        if first and page.title and raw == page.title.strip():
            first = False
            continue
        first = False
        line = _plain_line(raw)
        if has_word(line) and not _HEADING_LINE.fullmatch(line):
            lines.append(line)
    return lines


def _plain_line(raw: str) -> str:
    line = _BULLET.sub("", raw)
    if "<" in line:
        line = _TAG.sub("", line)
    if "formula_" in line:
        line = _FORMULA.sub("", line)
    return tidy_line(line)
