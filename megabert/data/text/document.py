"""From a page to paragraphs of sentences, or to the reason why the page is dropped."""

from collections import Counter
from dataclasses import dataclass, field, replace

from megabert.data.text.counts import DROPPED_ITEMS, HOLES, KEPT_ITEMS
from megabert.data.text.leftovers import extracted_lines, plain_lines
from megabert.data.text.pages import Page
from megabert.data.text.paragraphs import Paragraph
from megabert.data.text.reading import BAD_LINE, TOO_LONG
from megabert.data.text.sentences import split_sentences
from megabert.data.text.wikitext.holes import HOLE
from megabert.data.text.wikitext.sections import PageLimitError, clean, without_marks

DROP_REASONS = (BAD_LINE, "namespace", "redirect", "model", TOO_LONG, "empty")


@dataclass(frozen=True)
class Cleaned:
    """Paragraphs of sentences in page order, or ``drop_reason`` (one of DROP_REASONS).

    ``counts`` says what became of the page's markup: template calls, sentences left out, list items
    (the keys are those of docs/reference/text.md).
    """

    paragraphs: list[list[str]]
    drop_reason: str | None = None
    counts: Counter[str] = field(default_factory=Counter)


def page_to_sentences(page: Page, language: str) -> Cleaned:
    """The page's text as sentences.

    Pages of namespace 0 that are not redirects and hold wikitext (or plain text) are kept. A page
    with a title and no text is "empty". No content raises an error.
    """
    if page.model == BAD_LINE:
        return Cleaned([], BAD_LINE)
    if page.namespace != 0:
        return Cleaned([], "namespace")
    if page.redirect:
        return Cleaned([], "redirect")
    if page.model == TOO_LONG:
        return Cleaned([], TOO_LONG)
    if page.model != "wikitext":
        return Cleaned([], "model")
    counts: Counter[str] = Counter()
    if page.markup != "wikitext":
        page = replace(page, text=without_marks(page.text))
    if page.markup == "plain":
        groups = [Paragraph("text", (line,)) for line in plain_lines(page)]
    elif page.markup == "extracted":
        groups = [Paragraph("text", (line,)) for line in extracted_lines(page, language)]
    else:
        try:
            sections = clean(
                page.text, language=language, title=page.title, site=page.site, counts=counts
            )
        except PageLimitError:
            return Cleaned([], TOO_LONG)
        groups = [p for section in sections for p in section.paragraphs]
    paragraphs = []
    for paragraph in groups:
        sentences: list[str] = []
        for line in paragraph.lines:
            found = split_sentences(line, language)
            if not line.isascii() and HOLE in line:
                found = _without_holes(found, paragraph.kind == "list", counts)
            sentences += found
        if sentences:
            paragraphs.append(sentences)
    return Cleaned(paragraphs, None if paragraphs else "empty", counts)


def _without_holes(sentences: list[str], item: bool, counts: Counter[str]) -> list[str]:
    """The sentences without a hole; a list item that has none is counted as dropped."""
    whole = [sentence for sentence in sentences if HOLE not in sentence]
    counts[HOLES] += len(sentences) - len(whole)
    if item and not whole:
        counts[KEPT_ITEMS] -= 1
        counts[DROPPED_ITEMS] += 1
    return whole
