"""Tags, links and quotes inside a section, in MediaWiki's order."""

import re

from megabert.data.text.wikitext.links import LinkRules, strip_links
from megabert.data.text.wikitext.quotes import strip_quotes
from megabert.data.text.wikitext.tidy import MARK
from megabert.data.text.wikitext.wiki_words import TAGS, tag_pattern

_BREAK = re.compile(r"<\s{0,5}/?\s{0,5}br\b[^<>]*>", re.IGNORECASE)
_BLOCK_TAG = tag_pattern(
    "p div blockquote center li ul ol dl dd dt poem h1 h2 h3 h4 h5 h6 hr tr td th caption"
)
_RUBY_SIDE = re.compile(r"<r([tp])\b[^<>]*>[^<>]*</r\1\s*>", re.IGNORECASE)
_ANY_TAG = tag_pattern(TAGS)
_BETWEEN_QUOTES = re.compile(rf"(?<=')(?:{_ANY_TAG.pattern})+(?=')", re.IGNORECASE)
_SCRIPT_TAG = tag_pattern("sub sup")
_SCRIPT = re.compile(
    r"<(su[pb])(?=[\s>])[^<>]*>((?:[^<]|<(?!/?su[pb]\b))*+)</\1\s*>(?=([/⁄∕]<sub\b)?)",
    re.IGNORECASE,
)
_WINDOW = 80  # characters before a superscript that are looked at
_ITALIC = re.compile(r"[a-zA-Z]'{2,}|'{2,}[a-zA-Z]")
_VARIABLES = frozenset("nNkxyzijpq")
_EXPRESSION = re.compile(r"[\w)'] ?[-+−–=×·/*] ?[\w('−-]")
_LONG_WORD = re.compile(r"[^\W\d_]{3}")
_FIGURE = re.compile(r"[-+−–±]?\s?[\w.]*\d|[-+−–]\s?\w")


def strip_inline(text: str, rules: LinkRules, names: list[str] | None = None) -> str:
    """Text without links, tags, bold and italic marks; EXTERNAL marks each external link.

    Block tags become blank lines and ``<br>`` a space, so that words stay separate. A word in angle
    brackets that is not a tag of MediaWiki remains.

    Args:
        text: wikitext without templates.
        rules: meaning of link prefixes.
        names: what the holes of the page stand for; an address that a reader sees becomes one.
            Without it, addresses are removed.
    """
    scripts = False
    if "<" in text:
        text = _BREAK.sub(" ", text)
        text = _BLOCK_TAG.sub("\n\n", _RUBY_SIDE.sub("", text))
        if "'<" in text and ">'" in text:
            text = _BETWEEN_QUOTES.sub(MARK, text)
        text = _ANY_TAG.sub("", text)
        scripts = "<su" in text or "<SU" in text
    if "[" in text or "]]" in text or "://" in text:
        text = strip_links(text, rules, names)
    if scripts:
        text = _SCRIPT_TAG.sub("", _write_scripts(text))
    if "''" in text:
        text = "\n".join(strip_quotes(line) if "''" in line else line for line in text.split("\n"))
    return text


def has_block_tag(text: str) -> bool:
    """Whether :func:`strip_inline` begins new lines in the text."""
    return "<" in text and _BLOCK_TAG.search(text) is not None


def _write_scripts(text: str) -> str:
    """Write superscripts and subscripts in a line, without making other figures of them.

    ``10<sup>16</sup>`` is 10^16, ``2<sup>''n''</sup>`` 2^n, ``101<sub>2</sub>`` 101_2 and
    ``1<sup>1</sup>/<sub>2</sub>`` 1 1/2; ``m<sup>2</sup>``, ``H<sub>2</sub>O``, ``4<sup>th</sup>``
    and ``XIX<sup>e</sup>`` are m2, H2O, 4th and XIXe.
    """
    parts: list[str] = []
    position = 0
    last = ""  # the character before, if only a script is between
    for match in _SCRIPT.finditer(text):
        between = text[position : match.start()]
        base = between[-_WINDOW:]
        italic = base.endswith("''")
        last = base.rstrip("'")[-1:] or last
        body = match.group(2).strip()
        shown = body.replace("'''", "").replace("''", "")
        if match.group(1).lower() == "sub":
            sign = _sub_sign(last, body, shown)
        elif match.group(3):
            sign = " " if last.isdigit() else ""
        else:
            sign = _sup_sign(last, body, shown, italic)
        if sign in ("^", "_") and _is_expression(shown):
            shown = f"({shown})"
        if shown[:1] == "'":
            sign = MARK
        position = match.end()
        if shown[-1:].isdigit() and text[position : position + 1].isdigit():
            shown += " "
        parts += (between, sign, shown)
        last = shown[-1:] or last
    return "".join(parts) + text[position:]


def _sup_sign(last: str, body: str, shown: str, italic: bool) -> str:
    """What to write between a base that ends in ``last`` and its superscript."""
    if not last or not (last.isalnum() or last in ")]"):
        return ""
    if _is_expression(shown) or (len(shown) < 3 and _ITALIC.search(body)):
        return "^"
    if shown in _VARIABLES and not last.isalpha():
        return "^"
    is_figure = _FIGURE.match(shown) is not None
    return "^" if is_figure and (italic or not last.isalpha()) else ""


def _is_expression(shown: str) -> bool:
    """Whether a script is a sum or product ("n+1", "2/3"), not words with a hyphen."""
    return _EXPRESSION.search(shown) is not None and not _LONG_WORD.search(shown)


def _sub_sign(last: str, body: str, shown: str) -> str:
    """What to write between a base that ends in ``last`` and its subscript."""
    if last.isdigit() and shown[:1].isdigit():
        return "_"
    return "_" if last.isalpha() and "''" in body and shown.isalpha() else ""
