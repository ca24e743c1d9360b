"""Extension tags, templates and tables, taken out in one pass each."""

import re
from dataclasses import dataclass, field

from megabert.data.text.template_rules import template_text

# tags whose inside is no running text
_DROPPED = (
    "ref references math chem ce gallery timeline score source syntaxhighlight imagemap hiero "
    "templatedata graph mapframe maplink inputbox categorytree templatestyles indicator style "
    "script pre table section dynamicpagelist choose quiz rss includeonly video audio"
)
# as in MediaWiki, a tag ends at the first ">"
_TAG = re.compile(rf"<({_DROPPED.replace(' ', '|')}|nowiki)\b([^<>]*)>", re.IGNORECASE)
_SIMPLE_MATH = re.compile(r"[\w\s.,+\-=<>']{1,20}")
_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "[]{}'|=<>*#:;_-&\n"}
_ESCAPES[ord("\n")] = " "
_TOKEN = re.compile(r"\{\||\{{2,}|\}{2,}|\|\}+")
_INDENT = " \t:*#"
MAX_DEPTH = 60
MAX_INDENT = 40


def strip_extension_tags(text: str) -> str:
    """Without ``<ref>``, ``<math>``, ``<gallery>`` and their like; ``<nowiki>`` made inert.

    A tag that is never closed is dropped alone. The text inside ``<nowiki>`` is kept, its
    special characters as entities; a formula that is a plain symbol ("x", "n+1") is kept.
    """
    if "<" not in text:
        return text
    parts: list[str] = []
    position = 0
    no_more: set[str] = set()  # names without another closing tag
    while match := _TAG.search(text, position):
        name = match.group(1).lower()
        parts.append(text[position : match.start()])
        position = match.end()
        if match.group(2).endswith("/") or name in no_more:
            continue
        closing = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, position)
        if closing is None:
            no_more.add(name)
            continue
        parts.append(_kept(name, text[position : closing.start()]))
        position = closing.end()
    parts.append(text[position:])
    return "".join(parts)


def _kept(name: str, inside: str) -> str:
    if name == "nowiki":
        return inside.translate(_ESCAPES)
    if name == "math" and _SIMPLE_MATH.fullmatch(inside.strip()):
        return inside.strip().translate(_ESCAPES)
    return ""


@dataclass
class _Frame:
    """An open template or table; ``parts`` is its text so far, inner templates resolved."""

    table: bool
    parts: list[str] = field(default_factory=list)


def strip_templates(text: str, title: str) -> str:
    """Without templates and tables, however nested; see template_rules for what is kept.

    Braces that never close take the text up to the next blank line or heading with them.
    """
    if "{{" not in text and "{|" not in text and "}}" not in text and "|}" not in text:
        return text
    stack = [_Frame(False)]
    position = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if "|" in token and not _starts_line(text, match.start()):
            if len(token) < 3:
                continue  # "{|" and "|}" mean a table only where a line begins
            token = token[1:]
        stack[-1].parts.append(text[position : match.end() - len(token)])
        position = match.end()
        if token == "{|":
            stack.append(_Frame(True))
        elif token[0] == "{":
            if len(token) % 2 and text[match.start() - 1 : match.start()] == "-":
                stack[-1].parts.append("{")  # the brace of a conversion "-{{{...}}}-"
            stack.extend(_Frame(False) for _ in range(len(token) // 2))
        else:
            _close(stack, token, title)
            if token[0] == "}" and len(token) % 2 and text[position : position + 1] == "-":
                stack[-1].parts.append("}")
        if len(stack) > MAX_DEPTH:
            _unwind(stack)
    stack[-1].parts.append(text[position:])
    _unwind(stack)
    return "".join(stack[0].parts)


def _starts_line(text: str, place: int) -> bool:
    """Whether only list marks and spaces stand between the line's beginning and ``place``."""
    window = text[max(0, place - MAX_INDENT) : place]
    _, newline, line = window.rpartition("\n")
    return (bool(newline) or place <= MAX_INDENT) and not line.strip(_INDENT)


def _close(stack: list[_Frame], token: str, title: str) -> None:
    """Close what a run of closing marks closes; marks without a partner are dropped."""
    braces = len(token.lstrip("|"))
    if "|" in token and any(frame.table for frame in stack) and braces in (1, 3, 5):
        while not stack.pop().table:
            pass
        braces -= 1
    for _ in range(braces // 2):
        if len(stack) == 1:
            return
        while stack[-1].table and any(not frame.table for frame in stack[1:]):
            stack.pop()
        if stack[-1].table:
            return
        body = "".join(stack.pop().parts)
        stack[-1].parts.append(template_text(body, title))


def _unwind(stack: list[_Frame]) -> None:
    """Give up on all open frames: drop each up to its first blank line or heading."""
    while len(stack) > 1:
        frame = stack.pop()
        body = "".join(frame.parts)
        cut = re.search(r"\n(?=\n|=)", body)
        if cut:
            stack[-1].parts.append(body[cut.start() :])
