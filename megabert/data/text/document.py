"""From a page to paragraphs of sentences, or to the reason why the page is dropped."""

import html
import re
from collections import Counter
from dataclasses import dataclass, field

from megabert.data.text.counts import HOLES
from megabert.data.text.pages import Page, Site
from megabert.data.text.sentences import split_sentences
from megabert.data.text.wikitext.conversion import has_variants, resolve_conversion
from megabert.data.text.wikitext.holes import HOLE
from megabert.data.text.wikitext.inline import strip_inline
from megabert.data.text.wikitext.links import EXTERNAL, LinkRules
from megabert.data.text.wikitext.sections import PageLimitError, clean
from megabert.data.text.wikitext.tidy import has_ideograph, has_word, tidy_line

DROP_REASONS = ("namespace", "redirect", "model", "too long", "empty")
_MARKUP = re.compile(r"\[\[|\]\]|-\{|<[a-zA-Z/]|''|://|__|formula_|codice_|\[/?url")
_REFERENCE = re.compile(r"<ref\b[^<>]*(?:>(?:[^<>]*</ref\s*>)?|$)", re.IGNORECASE | re.MULTILINE)
_MARK = re.compile(r"(?:formula|codice)_\d+(?:\{\})?|__[^\W\d_a-z]{2,40}__|\[/?url[^\[\]]*\]")
_BULLET = re.compile(r"^BULLET::::(?:[-*#:;\d.]\s*)?")
# a table row, the attributes of a table, the settings or name of a picture, or a heading
_NO_TEXT = re.compile(
    r"\s*(?:\||!+\s*(?:[a-z]+\s*=|\|)|(?:[a-z]+\s*=\s*[\"\w][^|]*)\||(?:thumb|left|right|\d+px)\|)"
    r"|[^|]*\.(?:jpe?g|png|svg|gif)\s*\||[\W\d]*\|\|[\W\d]*$|[^=]{0,9}={2,}[^=]+={2,}\s*$",
    re.IGNORECASE,
)
_STOP_INSIDE = re.compile(r"[.!?,;:] ")
_WIDE_STOP = re.compile(r"[。！？，；：]")


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
    if page.namespace != 0:
        return Cleaned([], "namespace")
    if page.redirect:
        return Cleaned([], "redirect")
    if page.model != "wikitext":
        return Cleaned([], "model")
    counts: Counter[str] = Counter()
    if page.markup == "plain":
        groups = [[line] for line in _plain_lines(page, language)]
    else:
        try:
            sections = clean(
                page.text, language=language, title=page.title, site=page.site, counts=counts
            )
        except PageLimitError:
            return Cleaned([], "too long")
        groups = [list(p.lines) for section in sections for p in section.paragraphs]
    paragraphs = []
    for lines in groups:
        sentences = [s for line in lines for s in split_sentences(line, language)]
        if any(HOLE in line for line in lines):
            whole = [sentence for sentence in sentences if HOLE not in sentence]
            counts[HOLES] += len(sentences) - len(whole)
            sentences = whole
        if sentences:
            paragraphs.append(sentences)
    return Cleaned(paragraphs, None if paragraphs else "empty", counts)


def _plain_lines(page: Page, language: str) -> list[str]:
    """Lines of extracted text, without the repeated title and without section headings.

    Headings are looked for only after a repeated title, as in wikiextractor's output.
    """
    text = page.text
    if "&" in text:
        text = html.unescape(text)
    if _MARKUP.search(text):
        text = _without_leftovers(text, language)
    lines = []
    first, extracted = True, False
    for raw in text.split("\n"):
        raw = raw.strip()
        if not raw:
            continue
        if first and page.title and raw == page.title.strip():
            first, extracted = False, True
            continue
        first = False
        if _NO_TEXT.match(raw) or raw.count("||") > 1:
            continue
        line = tidy_line(_BULLET.sub("", raw))
        if has_word(line) and not (extracted and _is_heading(line)):
            lines.append(line)
    return lines


def _without_leftovers(text: str, language: str) -> str:
    """Remove wikitext that extractors leave: links, tags, conversions, formula marks."""
    text = _MARK.sub(" ", _REFERENCE.sub("", text))
    if "-{" in text and has_variants(language):
        text = resolve_conversion(text, language)
    return strip_inline(text, LinkRules.of(Site(), language)).replace(EXTERNAL, "")


def _is_heading(line: str) -> bool:
    """Whether a line is a section heading as wikiextractor writes it, with a full stop.

    In Chinese or Japanese, a short line that ends in a Latin full stop is always a heading; in
    other scripts, lines of up to three words with a full stop are treated as headings.
    """
    if not line.endswith(".") or len(line) > 60:
        return False
    if has_ideograph(line):
        return len(line) <= 30 and not _WIDE_STOP.search(line)
    return line.count(" ") < 3 and not _STOP_INSIDE.search(line)
