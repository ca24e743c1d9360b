"""Replaces template calls by what a reader sees, and removes tables, in linear time."""

import re
from dataclasses import dataclass, field

from megabert.data.text.wikitext.holes import HOLE, NEVER_CLOSED, SPOKEN, hole
from megabert.data.text.wikitext.rows import TABLE_END
from megabert.data.text.wikitext.templates.table import TemplateTable
from megabert.data.text.wikitext.tidy import MARK, gap, splits_figure

# a template call without inner braces; the brace runs of ``{{{parameters}}}`` do not match
_INNERMOST = re.compile(r"\{(?=\{)(?<!\{\{)\{([^{}]*+)\}\}(?!\})")
_UNPAIRED = (re.compile(r"\{(?=[{|])"), re.compile(r"\}(?<=[}|]\})"))
# each alternative begins with a plain character, so that the engine can skip ahead
_TOKEN = re.compile(r"\{(?:\||\{+)|\}\}+|\|\}+")
_TABLE = re.compile(r"\{\|[^\n{}]*\n[ \t]*[|!]")
_INDENT = " \t:*#"
_FRACTION = re.compile(r"\d+/\d")
MAX_TEMPLATE_DEPTH = 60
_PASSES = 8
MAX_INDENT = 40
_MAX_NAME = 60
_PUNCTUATION = frozenset(".,;:!?。，；：")


@dataclass
class Calls:
    """The template calls of one page, and how they are replaced.

    Attributes:
        table: what is known of templates.
        title: title of the page.
        met, understood: calls so far, and those of which the table knows what a reader sees.
        names: what each hole stands for (:func:`megabert.data.text.wikitext.holes.hole`).
    """

    table: TemplateTable
    title: str = ""
    met: int = 0
    understood: int = 0
    names: list[str] = field(default_factory=list)

    def replacement(self, body: str, before: str, after: str) -> str:
        """What stands for ``{{body}}`` between two texts, of which the nearest characters count.

        A call that shows nothing leaves a gap between words; an unknown one leaves a hole, and so does
        one between two digits, or behind the comma of a figure: a note, or a mark inside one figure.
        """
        self.met += 1
        shown = self.table.text_of(body, self.title)
        if shown is not None:
            self.understood += 1
            if shown == SPOKEN:
                if not _is_named(before, after):
                    return hole(self.names, SPOKEN + _called(body))
                shown = ""
            if shown:
                if shown[0] == "'" or shown[-1] == "'":
                    # the template's own tag keeps its quotes apart from those around it
                    return f"{MARK}{shown}{MARK}"
                # "1{{frac|1|2}}" is "1 1/2"
                glued = before[-1:].isdecimal() and _FRACTION.match(shown)
                return f" {shown}" if glued else shown
        if after[:1] == " " and before[-1:] == "[" and before[-2:-1] != "[":
            return f"//{MARK}"  # the address of "[{{x}} label]"
        if (
            shown is None
            or (before[-1:].isdigit() and after[:1].isdigit())
            or splits_figure(before, after)
        ):
            return hole(self.names, _called(body))
        return gap(before, after)


def _is_named(before: str, after: str) -> bool:
    """Whether a pronunciation follows the title, a word in italics or brackets that it explains, so
    that the sentence has all its words without it."""
    before = before[-_MAX_NAME:].rstrip(" ")
    if before.endswith("'''"):
        return True
    named = before.endswith(("''", ")", "）", "]")) and not before.endswith("]]")
    return named and after[:2].strip()[:1] not in _PUNCTUATION


def _called(body: str) -> str:
    """The name of a template or parser function, for the report."""
    name = body.partition("|")[0].strip()
    if name[:1] == "#":
        name = name.partition(":")[0]
    return name.partition(HOLE)[0][:_MAX_NAME] or "?"


@dataclass
class _Frame:
    """An open template or table; ``parts`` is its text so far, with inner templates resolved."""

    table: bool
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Append text unless it is empty, so that the last part is never empty."""
        if text:
            self.parts.append(text)


def strip_templates(text: str, calls: Calls) -> str:
    """Replace nested template calls, as ``calls`` decides, and remove tables.

    Braces that are never closed remove the text up to the next blank line or heading, and leave a hole.
    """
    for _ in range(_PASSES):
        pieces = _INNERMOST.split(text)
        if len(pieces) == 1:
            break
        before = pieces[0]
        for index in range(1, len(pieces), 2):
            between = pieces[index + 1]
            after = between or ("{{" if index + 2 < len(pieces) else "")
            shown = calls.replacement(pieces[index], before, after)
            pieces[index] = shown
            before = between if between.strip() else ((shown or before) + between)[-_MAX_NAME:]
        text = "".join(pieces)
    return _strip_nested(text, calls) if any(left.search(text) for left in _UNPAIRED) else text


def _strip_nested(text: str, calls: Calls) -> str:
    """The same with a stack, for tables, deep nesting and unpaired braces."""
    stack = [_Frame(False)]
    position = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if "|" in token and not (_starts_line(text, match.start()) or _begins_table(text, match)):
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
            after = text[position : position + 3]
            _close(stack, token, calls, after)
            if token[0] == "}" and len(token) % 2 and after[:1] == "-":
                stack[-1].add("}")
        if len(stack) > MAX_TEMPLATE_DEPTH:
            _unwind(stack, calls)
    stack[-1].add(text[position:])
    _unwind(stack, calls)
    return "".join(stack[0].parts)


def _starts_line(text: str, place: int) -> bool:
    """Whether only list marks and spaces precede ``place`` on its line."""
    window = text[max(0, place - MAX_INDENT) : place]
    _, newline, line = window.rpartition("\n")
    return (bool(newline) or place <= MAX_INDENT) and not line.strip(_INDENT)


def _begins_table(text: str, sign: re.Match[str]) -> bool:
    """Whether a table begins behind other text of a line: the next line is a row."""
    return sign.group() == "{|" and _TABLE.match(text, sign.start()) is not None


def _close(stack: list[_Frame], token: str, calls: Calls, after: str) -> None:
    """Close the frames that a run of closing marks closes; unpaired marks are dropped.

    ``after`` is the text after the marks, of which three characters count.
    """
    braces = len(token.lstrip("|"))
    if "|" in token and braces in (1, 3, 5):
        if any(frame.table for frame in stack):
            while not stack.pop().table:
                pass
        else:
            stack[-1].add(TABLE_END)  # of a table that a template begins
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
        frame.add(calls.replacement(body, before, after if left == 1 else ""))


def _unwind(stack: list[_Frame], calls: Calls) -> None:
    """Drop the text of all open frames up to the first blank line or heading of each; a call leaves
    a hole, as it was part of a sentence."""
    while len(stack) > 1:
        frame = stack.pop()
        body = "".join(frame.parts)
        if not frame.table:
            stack[-1].add(hole(calls.names, NEVER_CLOSED + "{{"))
        cut = re.search(r"\n(?=\n|=)", body)
        if cut:
            stack[-1].add(body[cut.start() :])
