"""Text without wikitext: which lines of a page remain, and what extractors of wikis leave.

Text that an extractor made of a wiki ("extracted") has headings, empty brackets and pieces of
markup that are removed. Of other text ("plain") every word and sign remains.
"""

import re

from megabert.common.patterns import lazy_pattern
from megabert.data.text.pages import Page, Site
from megabert.data.text.wikitext.conversion import has_variants, resolve_conversion
from megabert.data.text.wikitext.inline import strip_inline
from megabert.data.text.wikitext.links import EXTERNAL, LinkRules
from megabert.data.text.wikitext.tidy import (
    gap,
    has_ideograph,
    has_word,
    single_spaced,
    tidy_line,
    unescape,
)
from megabert.data.text.wikitext.wiki_words import strip_switches

_MARKUP = re.compile(r"\[\[|\]\]|-\{|<[a-zA-Z/]|''|://|__|formula_|codice_|\[/?url")
_REFERENCE = lazy_pattern(r"<ref\b[^<>]*(?:>(?:[^<>]*</ref\s*>)?|$)", re.IGNORECASE | re.MULTILINE)
_MARK = re.compile(r"(?:formula|codice)_\d+(?:\{\})?|\[/?url[^\[\]]*\]")
_BULLET = re.compile(r"^BULLET::::(?:[-*#:;\d.]\s*)?")
# a table row, the attributes of a table, the settings or name of a picture, or a heading
_NO_TEXT = lazy_pattern(
    r"\s*(?:\||!+\s*(?:[a-z]+\s*=|\|)|(?:[a-z]+\s*=\s*[\"\w][^|]*)\||(?:thumb|left|right|\d+px)\|)"
    r"|[^|]*\.(?:jpe?g|png|svg|gif)\s*\||(?=[\W\d]*\|\|)[\W\d]*+$|[^=]{0,9}={2,}[^=]+={2,}\s*$",
    re.IGNORECASE,
)
_STOP_INSIDE = re.compile(r"[.!?,;:] ")
_WIDE_STOP = re.compile(r"[。！？，；：]")

_WIDE = "\u3000-〿＀-￯一-鿿㐀-䶿぀-ヿ"
_SEPARATORS = r"\s,;:·•/、，；：–—\-"
# each pattern below begins with a plain character or set, so that the engine can skip ahead
# brackets and quotes that a dropped template left empty; not "f()", "[]", "(())"
_EMPTY = lazy_pattern(
    '[（［【〔(“「『《〈‘„«"]'
    rf"(?:(?<=[（［【〔])[{_SEPARATORS}]*[）］】〕]"
    rf"|(?<=\()(?<![\w()\[\]{{}}\"'.]\()[{_SEPARATORS}]*\)"
    "|(?<=“) ?”|(?<=「) ?」|(?<=『) ?』|(?<=《) ?》|(?<=〈) ?〉|(?<=‘) ?’|(?<=„) ?“|(?<=«) ?»"
    r'|(?<=")(?<!\w") ?"(?![\w"]))'
)
_AFTER_OPEN = lazy_pattern(r"([(（])[\s,;、，；]+(?=\S)")
_BEFORE_CLOSE = lazy_pattern(r"[\s,;、，；:：]{1,20}(?=[)）])")
# what a dropped template leaves between commas
_REPEATED = lazy_pattern(r"(?<![,;、，；])[,;、，；](?:\s+[,;、，；]|[、，；])+")
_HAS_REPEATED = lazy_pattern(r"[,;、，；]\s*[,;、，；]")
_HAS_OPEN = lazy_pattern(r"[(（\[［【〔“「『《〈‘„«\"]")
_BEFORE_STOP = lazy_pattern(r"[,;、，；]\s*(?=(?:\.(?:\s|$)|[。！？]))")
_AFTER_STOP = lazy_pattern("([。！？])[、，；]+")
_SPACE_BEFORE = lazy_pattern(r" (?=[,.;、，。；：！？](?: |$)|[、，。；：！？)\]）］】」』》])")
_SPACE_AFTER_OPEN = lazy_pattern(r" (?<=[(\[（［【「『《] )")
_WIDE_SPACE = lazy_pattern(
    rf" (?:(?<=[{_WIDE}] )(?=[（「『《〈])|(?<=[、，。；：！？（）「」『』《》〈〉] )(?=[{_WIDE}]))"
)
_LEADING = lazy_pattern(r"^(?:[,;:](?=\s)|[、，；。：\s])+(?=\S)")
# a line without a match is tidy: a set of rare characters, then what precedes or follows
_UNTIDY = lazy_pattern(
    '[,.;:、，。；：！？()（）\\[\\]［］【】〔「」『』《》〈〉“‘„«"]'
    "(?:(?<= [、，。；：！？)\\]）］】」』》（「『《〈])"
    "|(?<= [,.;])(?= |$)"
    "|(?<=[。！？])(?=[、，；])"
    "|(?<=[,;:、，；：])(?= ?[,;、，；.。！？)）])"
    "|(?<=[(（\\[［【〔“「『《〈‘„«])(?=[ ,.;:、，。；：！？)\\]）］】〕」』》〉”’“»（「『《〈•·/–—-])"
    "|(?<=[、，。；：！？（）「」『』《》〈〉])(?= )"
    '|(?<=")(?= ?"))'
)
_LEADING_SIGNS = frozenset(",;:、，；。：")


def plain_lines(page: Page) -> list[str]:
    """Lines with a word of text that never was a wiki's; only spaces and invisible characters go."""
    lines = (single_spaced(raw) for raw in page.text.split("\n"))
    return [line for line in lines if has_word(line)]


def extracted_lines(page: Page, language: str) -> list[str]:
    """Lines of text that an extractor made of a wiki, without title, headings and leftovers.

    Headings are looked for only after a repeated title, as in wikiextractor's output.
    """
    text = page.text
    if "&" in text:
        text = unescape(text)
    if _MARKUP.search(text):
        text = _without_markup(text, language)
    lines = []
    first, titled = True, False
    for raw in text.split("\n"):
        raw = raw.strip()
        if not raw:
            continue
        if first and page.title and raw == page.title.strip():
            first, titled = False, True
            continue
        first = False
        if _NO_TEXT.match(raw) or raw.count("||") > 1:
            continue
        line = tidy_line(_BULLET.sub("", raw))
        if line[:1] in _LEADING_SIGNS or _UNTIDY.search(line):
            line = tidy_extracted(line)
        if has_word(line) and not (titled and _is_heading(line)):
            lines.append(line)
    return lines


def _without_markup(text: str, language: str) -> str:
    """Remove wikitext that extractors leave: links, tags, conversions, formula marks."""
    text = strip_switches(_MARK.sub(" ", _REFERENCE.sub(_note_gap, text)), language)
    if "-{" in text and has_variants(language):
        text = resolve_conversion(text, language)
    return strip_inline(text, LinkRules.of(Site(), language)).replace(EXTERNAL, "")


def _note_gap(match: re.Match[str]) -> str:
    """What a footnote leaves: a space where words or figures would be joined."""
    start, end = match.span()
    return gap(match.string[max(0, start - 3) : start], match.string[end : end + 3])


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


def tidy_extracted(line: str) -> str:
    """A line without what an extractor's dropped templates leave: empty brackets, commas.

    The extractor leaves no marks, so the pattern of what is left decides. ``f()``, ``[]``, ``.NET``
    and ``,,Zitat`` remain.
    """
    if _HAS_OPEN.search(line):
        for _ in range(3):
            shorter = _EMPTY.sub("", line)
            if shorter == line:
                break
            line = shorter
        line = _BEFORE_CLOSE.sub("", _AFTER_OPEN.sub(r"\1", line))
        line = " ".join(_SPACE_AFTER_OPEN.sub("", line).split())
    if _HAS_REPEATED.search(line):
        line = _REPEATED.sub(_strongest, line)
    line = _SPACE_BEFORE.sub("", line)
    if not line.isascii():
        line = _WIDE_SPACE.sub("", line)
    line = _AFTER_STOP.sub(r"\1", _BEFORE_STOP.sub("", line))
    return _LEADING.sub("", line).strip()


def _strongest(match: re.Match[str]) -> str:
    """The one of a run of commas and semicolons that separates most strongly."""
    return max(match.group().replace(" ", ""), key="、,，;；".index)
