"""Removes extension tags, templates and tables, in one pass each."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from megabert.data.text.wikitext.template_rules import template_text
from megabert.data.text.wikitext.tidy import gap

# tags whose content is not running text
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
# a template call without inner braces; the brace runs of ``{{{parameters}}}`` do not match
_INNERMOST = re.compile(r"\{(?=\{)(?<!\{\{)\{([^{}]*)\}\}(?!\})")
# each alternative begins with a plain character, so that the engine can skip ahead
_TOKEN = re.compile(r"\{(?:\||\{+)|\}\}+|\|\}+")
_INDENT = " \t:*#"
MAX_TEMPLATE_DEPTH = 60
_PASSES = 8
MAX_INDENT = 40


def strip_extension_tags(text: str) -> str:
    """Remove ``<ref>``, ``<math>``, ``<gallery>`` and similar; make ``<nowiki>`` inert.

    Of a tag that is never closed, only the tag itself is removed. The text inside ``<nowiki>``
    remains, with its special characters as entities; so does a formula that is a plain symbol ("x",
    "n+1").
    """
    if "<" not in text:
        return text
    parts: list[str] = []
    position = 0
    no_more: set[str] = set()  # names without another closing tag
    while match := _TAG.search(text, position):
        name = match.group(1).lower()
        if position < match.start():
            parts.append(text[position : match.start()])
        position = match.end()
        shown = ""
        if not match.group(2).endswith("/") and name not in no_more:
            closing = _closing(name).search(text, position)
            if closing is None:
                no_more.add(name)
            else:
                shown = _shown_text(name, text[position : closing.start()])
                position = closing.end()
        if shown:
            parts.append(shown)
        elif name != "nowiki" and parts:
            parts.append(gap(parts[-1], text[position : position + 1]))
            if not parts[-1]:
                parts.pop()
    parts.append(text[position:])
    return "".join(parts)


@lru_cache(maxsize=256)
def _closing(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}\s*>", re.IGNORECASE)


def _shown_text(name: str, inside: str) -> str:
    if name == "nowiki":
        return inside.translate(_ESCAPES)
    if name == "math" and _SIMPLE_MATH.fullmatch(inside.strip()):
        return inside.strip().translate(_ESCAPES)
    return ""


@dataclass
class _Frame:
    """An open template or table; ``parts`` is its text so far, with inner templates resolved."""

    table: bool
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Append text unless it is empty, so that the last part is never empty."""
        if text:
            self.parts.append(text)


def strip_templates(text: str, title: str) -> str:
    """Remove nested templates and tables; template_rules decides which text remains.

    Braces that are never closed remove the text up to the next blank line or heading.
    """
    for _ in range(_PASSES):
        pieces = _INNERMOST.split(text) if "{{" in text else [text]
        if len(pieces) == 1:
            break
        before = pieces[0]
        for index in range(1, len(pieces), 2):
            shown = template_text(pieces[index], title) or _left(before, pieces[index + 1])
            pieces[index] = shown
            before = pieces[index + 1] or shown or before
        text = "".join(pieces)
    if "{{" not in text and "{|" not in text and "}}" not in text and "|}" not in text:
        return text
    return _strip_nested(text, title)


def _left(before: str, after: str) -> str:
    """What a dropped template leaves: a gap between words, an address in ``[{{x}} label]``."""
    if after[:1] == " " and before[-1:] == "[" and before[-2:-1] != "[":
        return "//"
    return gap(before, after)


def _strip_nested(text: str, title: str) -> str:
    """The same with a stack, for tables, deep nesting and unpaired braces."""
    stack = [_Frame(False)]
    position = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if "|" in token and not _starts_line(text, match.start()):
            if len(token) < 3:
                continue  # "{|" and "|}" mark a table only at the beginning of a line
            token = token[1:]
        stack[-1].add(text[position : match.end() - len(token)])
        position = match.end()
        if token == "{|":
            stack.append(_Frame(True))
        elif token[0] == "{":
            if len(token) % 2 and text[match.start() - 1 : match.start()] == "-":
                stack[-1].add("{")  # the brace of a conversion "-{{{...}}}-"
            stack.extend(_Frame(False) for _ in range(len(token) // 2))
        else:
            after = text[position : position + 1]
            _close(stack, token, title, after)
            if token[0] == "}" and len(token) % 2 and after == "-":
                stack[-1].add("}")
        if len(stack) > MAX_TEMPLATE_DEPTH:
            _unwind(stack)
    stack[-1].add(text[position:])
    _unwind(stack)
    return "".join(stack[0].parts)


def _starts_line(text: str, place: int) -> bool:
    """Whether only list marks and spaces precede ``place`` on its line."""
    window = text[max(0, place - MAX_INDENT) : place]
    _, newline, line = window.rpartition("\n")
    return (bool(newline) or place <= MAX_INDENT) and not line.strip(_INDENT)


def _close(stack: list[_Frame], token: str, title: str, after: str) -> None:
    """Close the frames that a run of closing marks closes; unpaired marks are dropped.

    ``after`` is the character after the marks.
    """
    braces = len(token.lstrip("|"))
    if "|" in token and any(frame.table for frame in stack) and braces in (1, 3, 5):
        while not stack.pop().table:
            pass
        braces -= 1
    for left in range(braces // 2, 0, -1):
        if len(stack) == 1:
            return
        while stack[-1].table and any(not frame.table for frame in stack[1:]):
            stack.pop()
        if stack[-1].table:
            return
        body = "".join(stack.pop().parts)
        frame = stack[-1]
        before = frame.parts[-1] if frame.parts else ""
        frame.add(template_text(body, title) or _left(before, after if left == 1 else ""))


def _unwind(stack: list[_Frame]) -> None:
    """Drop the text of all open frames up to the first blank line or heading of each."""
    while len(stack) > 1:
        frame = stack.pop()
        body = "".join(frame.parts)
        cut = re.search(r"\n(?=\n|=)", body)
        if cut:
            stack[-1].add(body[cut.start() :])
