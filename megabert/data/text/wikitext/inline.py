"""Tags, links and quotes inside a section, in MediaWiki's order."""

import html
import re

from megabert.data.text.wikitext.links import LinkRules, strip_links
from megabert.data.text.wikitext.quotes import strip_quotes
from megabert.data.text.wikitext.tidy import GAP, MARK
from megabert.data.text.wikitext.wiki_words import TAGS, tag_pattern

ITALIC = "\ue012"
"""The end of a tag of italics, before a script."""
_BREAK = re.compile(r"<\s{0,5}/?\s{0,5}br\b[^<>]*>", re.IGNORECASE)
_BLOCK_TAG = tag_pattern(
    "p div blockquote center li ul ol dl dd dt poem h1 h2 h3 h4 h5 h6 hr tr td th caption"
)
_RUBY_SIDE = re.compile(r"<r([tp])\b[^<>]*>[^<>]*</r\1\s*>", re.IGNORECASE)
_ANY_TAG = tag_pattern(TAGS)
_BETWEEN_QUOTES = re.compile(
    rf"<(?<='<){_ANY_TAG.pattern[1:]}(?:{_ANY_TAG.pattern})*(?=')", re.IGNORECASE
)
_BASE_MARKS = f"'{MARK}{GAP}{ITALIC}"
_CLOSING = (")", "]")
_SIGNED = re.compile(r"[-+−–±]\s?\d")
_SCRIPT_TAG = tag_pattern("sub sup")
_SCRIPT_SIGN = re.compile("</?su", re.IGNORECASE)
_SCRIPT = re.compile(
    r"<(su[pb])(?=[\s>])[^<>]*>((?:[^<]|<(?!/?su[pb]\b))*+)</\1\s*>(?=([/⁄∕]<sub\b)?)",
    re.IGNORECASE,
)
_ERRORS = re.compile(
    r"<(?<=[\d)]<)(su[pb])(?=[\s>])[^<>]*>\s*([-+−–]|&minus;)\s?([\d.,]+)\s*</\1\s*>\s?"
    r"<(su[pb])(?=[\s>])[^<>]*>\s*([-+−–]|&minus;)\s?([\d.,]+)\s*</\4\s*>(?=(\w)?)",
    re.IGNORECASE,
)
# a raised note that an author wrote without a template
_NOTE_LINK = re.compile(
    r"<sup(?=[\s>])[^<>]*>\s*\[\[\s*#[^\[\]|]*\|(?:[^\[\]]|\[[^\[\]]*\])*\]\]\s*</sup\s*>",
    re.IGNORECASE,
)
_FUNCTION = r"(?:sin|cos|tan|log|ln|exp|mod|max|min)\b"
_CALLED = re.compile(rf"{_FUNCTION}\s\w")
_NOTE_WORDS = re.compile(
    rf"\[[^\[\]]{{1,12}}\]|[(\[]?(?!{_FUNCTION})(?:[^\W\d_]{{2,12}}\.?|[^\W\d_]\.)"
    r"(?:\s|&nbsp;)\d{1,3}[)\]]?"
)
_ITALIC_TAG = re.compile(r"</(?:i|var|em)\s*>(?=\s?<su[pb]\b)", re.IGNORECASE)
_MOST_NESTED = 8
_MARKUP_SIGNS = frozenset("<>&'[]{}|\n")
_ENTITY = re.compile(r"&(?:#\d{2,6}|#x[\da-fA-F]{2,5}|[a-zA-Z]{2,8}\d?);")
_WINDOW = 80  # characters before a superscript that are looked at
_ITALIC = re.compile(r"[a-zA-Z]''|''[a-zA-Z]")
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
        scripts = _SCRIPT_SIGN.search(text) is not None
        if scripts and "[[#" in text:
            text = _NOTE_LINK.sub(GAP, text)
        text = _BREAK.sub(" ", text)
        text = _BLOCK_TAG.sub("\n\n", _RUBY_SIDE.sub("", text))
        text = _BETWEEN_QUOTES.sub(MARK, text)
        if scripts and ">" in text:
            text = _ITALIC_TAG.sub(ITALIC, text)
        text = _ANY_TAG.sub("", text)
    if "[" in text or "]]" in text or "://" in text:
        text = strip_links(text, rules, names)
    if scripts:
        text = _SCRIPT_TAG.sub(_unpaired, _write_all_scripts(text)).replace(ITALIC, "")
    if "''" in text:
        text = "\n".join(strip_quotes(line) if "''" in line else line for line in text.split("\n"))
    return text


def has_block_tag(text: str) -> bool:
    """Whether :func:`strip_inline` begins new lines in the text."""
    return "<" in text and _BLOCK_TAG.search(text) is not None


def _unpaired(match: re.Match[str]) -> str:
    """What a tag of a script without its partner leaves: no other figure."""
    text, (start, end) = match.string, match.span()
    if not (text[start - 1 : start].isdigit() and text[end : end + 1].isdigit()):
        return ""
    if match.group()[1] == "/":
        return " "
    return "^" if match.group()[3] in "pP" else "_"


def _write_all_scripts(text: str) -> str:
    """The text with its scripts written in a line, the inner ones first."""
    text = _ERRORS.sub(_errors, text)
    for depth in range(_MOST_NESTED):
        written = _write_scripts(text, depth > 0)
        if written == text or "<" not in written:
            return written
        text = written
    return text


def _errors(match: re.Match[str]) -> str:
    """``5.0<sub>−0.1</sub><sup>+0.2</sup>`` as 5.0 (+0.2, −0.1)."""
    one, first, size, other, second, other_size, after = match.groups()
    if one.lower() == other.lower() or (first == "+") == (second == "+"):
        return match.group()
    errors = [first + size, second + other_size]
    if second == "+":
        errors.reverse()
    return f" ({', '.join(errors)})" + (" " if after else "")


def _write_scripts(text: str, nested: bool) -> str:
    """Write superscripts and subscripts in a line, without making other figures of them.

    ``10<sup>16</sup>`` is 10^16, ``2<sup>''n''</sup>`` 2^n, ``101<sub>2</sub>`` 101_2 and
    ``1<sup>1</sup>/<sub>2</sub>`` 1 1/2; ``m<sup>2</sup>``, ``H<sub>2</sub>O``, ``4<sup>th</sup>``
    and ``XIX<sup>e</sup>`` are m2, H2O, 4th and XIXe. A script in a script is in brackets:
    ``10<sup>10<sup>6</sup></sup>`` is 10^(10^6).

    Args:
        text: a text of which the innermost scripts are written.
        nested: whether these had scripts inside, which are written already.
    """
    parts: list[str] = []
    position = 0
    last = ""  # the character before, if only a script is between
    for match in _SCRIPT.finditer(text):
        between = text[position : match.start()]
        base = between[-_WINDOW:].rstrip(MARK + GAP)
        italic = base.endswith(("''", ITALIC))
        last = base.rstrip(_BASE_MARKS)[-1:] or last
        body = match.group(2).strip()
        if "&" in body:
            body = _ENTITY.sub(_decoded, body)
        shown = body.replace("'''", "").replace("''", "")
        is_sub = match.group(1).lower() == "sub"
        if not is_sub and _NOTE_WORDS.fullmatch(shown) and not italic:
            sign, shown = GAP, ""
        elif nested and ("^" in shown or "_" in shown) and (last.isalnum() or last in _CLOSING):
            sign, shown = "_" if is_sub else "^", f"({shown})"
        elif is_sub:
            sign = _sub_sign(last, body, shown)
        elif match.group(3):
            sign = " " if last.isdigit() else ""
        else:
            sign = _sup_sign(last, body, shown, italic)
        if sign in ("^", "_") and shown[:1] != "(" and _is_expression(shown):
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
    if _EXPRESSION.search(shown) is not None and not _LONG_WORD.search(shown):
        return True
    return _CALLED.match(shown) is not None


def _decoded(match: re.Match[str]) -> str:
    """The sign of an entity, unless it is one of markup: ``10<sup>&minus;9</sup>``."""
    sign = html.unescape(match.group())
    return match.group() if sign in _MARKUP_SIGNS else sign


def _sub_sign(last: str, body: str, shown: str) -> str:
    """What to write between a base that ends in ``last`` and its subscript."""
    if last.isdigit() and shown[:1].isdigit():
        return "_"
    if last.isdigit() and _SIGNED.match(shown):
        return "_"  # "5.0−0.1" would be a difference
    return "_" if last.isalpha() and "''" in body and shown.isalpha() else ""
