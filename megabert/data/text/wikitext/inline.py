"""Links, tags and quotes inside a section."""

import re

from megabert.data.text.wikitext.links import LinkRules, strip_links

_BREAK = re.compile(r"<\s{0,5}/?\s{0,5}br\b[^<>]*>", re.IGNORECASE)
_BLOCK_TAG = re.compile(
    r"</?(?:p|div|blockquote|center|li|ul|ol|dl|dd|dt|poem|h[1-6]|hr|tr|td|th|caption)"
    r"\b[^<>]*>",
    re.IGNORECASE,
)
_RUBY_SIDE = re.compile(r"<r([tp])\b[^<>]*>[^<>]*</r\1\s*>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_QUOTES = re.compile(r"'{2,}")


def strip_inline(text: str, rules: LinkRules) -> str:
    """Text without links, tags, bold and italic marks; EXTERNAL marks each external link.

    Block tags become blank lines and ``<br>`` a space, so that words stay separate.
    """
    if "<" in text:
        text = _BREAK.sub(" ", text)
        text = _BLOCK_TAG.sub("\n\n", _RUBY_SIDE.sub("", text))
        text = _ANY_TAG.sub("", text)
    if "[" in text or "]]" in text or "://" in text:
        text = strip_links(text, rules)
    if "''" in text:
        text = "\n".join(strip_quotes(line) if "''" in line else line for line in text.split("\n"))
    return text


def strip_quotes(line: str) -> str:
    """Remove bold and italic marks, but not an apostrophe next to them.

    MediaWiki's rule: four quotes are an apostrophe and bold, and of more than five the surplus
    remains; if a line has an odd number of bold and of italic marks, one triple is an apostrophe
    and italic (``L'''amour''``), preferably after a single letter, else after a word, else after a
    space.
    """
    bold = line.count("'''")
    if "''''" not in line and not (bold % 2 and (line.count("''") - bold) % 2):
        return line.replace("'''", "").replace("''", "")
    runs = list(_QUOTES.finditer(line))
    lengths = [min(len(run.group()), 5) for run in runs]
    bold = sum(length in (3, 4, 5) for length in lengths)
    italic = sum(length in (2, 5) for length in lengths)
    apostrophe = -1
    if bold % 2 and italic % 2:
        triples = [i for i, run in enumerate(runs) if len(run.group()) in (3, 4)]
        apostrophe = min(triples, key=lambda i: (_rank(line, runs[i].start()), i), default=-1)
    parts, position = [], 0
    for index, run in enumerate(runs):
        count = len(run.group())
        surplus = 1 if count == 4 else max(0, count - 5)
        parts.append(line[position : run.start()] + "'" * (surplus + (index == apostrophe)))
        position = run.end()
    return "".join(parts) + line[position:]


def _rank(line: str, start: int) -> int:
    before, second = line[start - 1 : start], line[start - 2 : start - 1]
    if not before or before == " ":
        return 2
    return 0 if not second or second == " " else 1
