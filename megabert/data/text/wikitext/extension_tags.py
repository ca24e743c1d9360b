"""Removes ``<ref>``, ``<math>``, ``<gallery>``, ``<table>`` and similar tags with their content."""

import re
from functools import lru_cache

from megabert.data.text.wikitext.formulas import formula_text
from megabert.data.text.wikitext.holes import hole
from megabert.data.text.wikitext.tidy import gap, splits_figure

# a reader sees nothing of their content in running text
_NOTES = (
    "ref references gallery timeline imagemap templatedata graph mapframe inputbox categorytree "
    "templatestyles indicator style script table section dynamicpagelist choose quiz rss "
    "includeonly video audio"
)
# a reader sees a formula, code or a sign, which has no words, or text that is struck out
_FORMULAS = "math chem ce source syntaxhighlight hiero maplink pre score s del strike"
# as in MediaWiki, a tag ends at the first ">"; one without it is never closed
_TAG = re.compile(
    # nearly all are footnotes without tags inside, which are matched whole, without groups
    r"<(?:ref(?=[\s/>])[^<>]*(?:(?<=/)>|(?<!/)>[^<]*</ref>)"
    rf"|({f'{_NOTES} {_FORMULAS}'.replace(' ', '|')}|nowiki)(?![\w-])([^<>]*)(>?))",
    re.IGNORECASE,
)
_TABLE = re.compile(r"<(/?)table(?![\w-])[^<>]*>", re.IGNORECASE)
_SHOWN = frozenset(["nowiki", *_FORMULAS.split()])
_PLAIN_END = "</ref>"
_CELL = re.compile(
    r"<t([dh])(?![\w-])[^<>]*>(?:[^<]|<(?!/?t(?:[rdh]|able)(?![\w-])))*+</t\1\s*>"
    r"|<t([rdh])(?![\w-])[^<>]*>.*?(?:</t\2\s*>|(?=<t[rdh](?![\w-])|\n[ \t]*\n)|\Z)",
    re.IGNORECASE | re.DOTALL,
)
# "<tabber>Label=Text|-|Label=Text</tabber>", or names of pages
_TABS = re.compile(r"<(tabber(?:transclude)?)\s*>((?:[^<]|<(?!/?tabber))*+)</\1\s*>", re.IGNORECASE)
_SIMPLE_CHEMISTRY = re.compile(r"(?:[A-Z][a-z]?\d*){1,8}")
_AFTER_WORD = (" ", ".", ",", ";", ")")
_INDENT = 40  # longest indent and punctuation of a formula on a line of its own
_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "[]{}'|=<>*#:;_-&\n"}
_ESCAPES[ord("\n")] = " "
_ENTITY = re.compile(r"(&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]\w{0,30});)")


def strip_extension_tags(text: str, names: list[str]) -> str:
    """Remove the tags whose content is not running text; make ``<nowiki>`` inert.

    A formula, code or sign leaves a hole, which is added to ``names``; a formula of a few symbols
    becomes text, except on a line of its own. The text inside ``<nowiki>`` remains, with its
    special characters as entities. A ``<ref>`` that is never closed takes the rest of its line with
    it and leaves a hole; of other tags that are never closed, only the tag itself is removed, and
    a bare one between the words of a line is text, as in MediaWiki.
    """
    if "<" not in text:
        return text
    text = _TABS.sub(_tabs, text)
    parts: list[str] = []
    position = 0
    ends: dict[str, re.Match[str] | None] = {}  # the last search for each name's closing tag
    while match := _TAG.search(text, position):
        start, end_of_tag = match.span()
        if position < start:
            parts.append(text[position:start])
        position = end_of_tag
        if match.lastindex is None:
            if parts and (left := gap(parts[-1], text[position : position + 3])):
                if left == " " and splits_figure(parts[-1], text[position]):
                    left = hole(names, "<ref>")
                parts.append(left)
            continue
        name, attributes, bracket = match.groups()
        name = name.lower()
        shown = ""
        if not bracket and name != "ref":
            position = match.start() + 1
            parts.append("<")  # not a tag
            continue
        if not bracket or not attributes.endswith("/"):
            end = _content_end(text, name, position, ends) if bracket else None
            if end is not None:
                if name == "math" and _is_displayed(text, match.start(), end[1]):
                    shown = hole(names, "<math>")
                elif name in _SHOWN:
                    shown = _shown_text(name, text[position : end[0]], names)
                position = end[1]
                if name == "math" and shown:
                    shown = _apart(parts, shown, text[position : position + 1])
            elif name == "ref":
                # without its ">", the tag itself may extend over lines
                begin = match.end() if bracket else match.start()
                position = _line_end(text, begin)
                shown = hole(names, "<ref>") + _closers(text[begin:position])
            elif not attributes and _is_word(text, match.start(), position):
                shown = match.group().translate(_ESCAPES)
        if shown:
            parts.append(shown)
        elif (
            parts
            and (name != "nowiki" or parts[-1][-1:] == "'")
            and (left := gap(parts[-1], text[position : position + 3]))
        ):
            if left == " " and splits_figure(parts[-1], text[position]):
                left = hole(names, f"<{name}>")
            parts.append(left)
    parts.append(text[position:])
    # rows of a table that a template begins
    return _CELL.sub("\n\n", "".join(parts))


_COMMENT_OR_LITERAL = re.compile(
    r"<!--|<(nowiki|pre|syntaxhighlight|source|math|chem|ce|score|hiero)(?![\w-])[^<>]*(?<!/)>",
    re.IGNORECASE,
)


def shown_comment_signs(text: str) -> str:
    """``<!--`` inside ``<nowiki>`` and tags of code or formulas is a sign, not the beginning of a comment.

    As in MediaWiki the first of a comment and such a tag decides. Tags that are not closed count for nothing.
    """
    parts: list[str] = []
    position = done = 0
    ends: dict[str, re.Match[str] | None] = {}
    while match := _COMMENT_OR_LITERAL.search(text, position):
        position = match.end()
        if match.group(1) is None:
            end = text.find("-->", position)
            if end < 0:
                break
            position = end + 3
        elif content := _content_end(text, match.group(1).lower(), position, ends):
            parts += (text[done:position], text[position : content[0]].replace("<!--", "&#60;!--"))
            done = position = content[0]
    return "".join(parts) + text[done:]


def _tabs(match: re.Match[str]) -> str:
    """The texts of tabs as paragraphs, without their labels; nothing of tabs that name pages."""
    if len(match.group(1)) > len("tabber"):
        return "\n\n"
    texts = [tab.partition("=")[2] for tab in match.group(2).split("|-|")]
    return "\n\n".join(["", *texts, ""])


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a bare tag is between words of a line, as a word ("the <source> tag")."""
    before, after = text[max(0, start - 2) : start], text[end : end + 1]
    return before[-1:] == " " and before[0].isalnum() and after in _AFTER_WORD


def _apart(parts: list[str], formula: str, after: str) -> str:
    """A formula whose figures do not join those next to it: ``<math>10^6</math>5`` is 10^6 5."""
    before = parts[-1][-1:] if parts else ""
    left = " " if before.isdigit() and formula[0].isdigit() else ""
    right = " " if after.isdigit() and formula[-1].isdigit() else ""
    return left + formula + right


def _is_displayed(text: str, start: int, end: int) -> bool:
    """Whether a formula is all of an indented line, apart from the text around it."""
    before = text[max(0, start - _INDENT) : start].rpartition("\n")[2]
    after = text[end : end + _INDENT].partition("\n")[0]
    return ":" in before and not before.strip(" \t:") and not after.strip(" \t.,;")


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _closers(dropped: str) -> str:
    """The closing braces in dropped text that belong to calls outside it."""
    return "}}" * max(0, dropped.count("}}") - dropped.count("{{"))


def _content_end(
    text: str, name: str, position: int, ends: dict[str, re.Match[str] | None]
) -> tuple[int, int] | None:
    """Where the content of a tag ends, and where its closing tag does; None if it is not closed.

    ``ends`` holds what was found for earlier tags: None if no closing tag of that name is left.
    """
    if name in ends and ends[name] is None:
        return None
    if name == "table":
        depth = 1
        for match in _TABLE.finditer(text, position):
            depth += -1 if match.group(1) else 1
            if depth == 0:
                return match.start(), match.end()
        ends[name] = None
        return None
    # most footnotes end in a plain tag and hold no other one
    end = text.find("<", position) if name == "ref" else -1
    if end >= 0 and text.startswith(_PLAIN_END, end):
        return end, end + len(_PLAIN_END)
    closing = ends.get(name)
    if closing is None or closing.start() < position:
        closing = ends[name] = _closing(name).search(text, position)
    if closing is None or closing.group()[1] != "/":
        return None
    return closing.start(), closing.end()


@lru_cache(maxsize=256)
def _closing(name: str) -> re.Pattern[str]:
    # a footnote does not hold another one: if one begins, the closing tag was forgotten
    another = r"|<ref(?:\s[^<>]*[^<>/])?>" if name == "ref" else ""
    return re.compile(rf"</{name}\s*>{another}", re.IGNORECASE)


def _shown_text(name: str, inside: str, names: list[str]) -> str:
    if name == "nowiki":
        # as in MediaWiki, entities are shown as their characters
        parts = _ENTITY.split(inside)
        parts[::2] = [part.translate(_ESCAPES) for part in parts[::2]]
        return "".join(parts)
    if name == "math" and (formula := formula_text(inside)) is not None:
        return formula.translate(_ESCAPES)
    if name in ("chem", "ce") and _SIMPLE_CHEMISTRY.fullmatch(inside.strip()):
        return inside.strip()
    if name == "s" and len(inside) == 1 and inside.isalpha():
        return inside  # a letter with a stroke
    return hole(names, f"<{name}>") if inside.strip() else ""
