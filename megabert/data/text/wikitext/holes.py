"""Holes: the places from which something was taken that a reader sees.

An unknown template, a formula or a bare address leaves a hole. The text around it decides: on a
line of its own it was not part of a sentence, inside brackets the whole remark is left out, directly
after a full stop it was a note, and in any other place the sentence is left out
(:func:`megabert.data.text.document.page_to_sentences`).
"""

import re
from collections import Counter
from collections.abc import Sequence

from megabert.data.text.counts import BRACKETS, unknown_template
from megabert.data.text.wikitext.tidy import MARK, gap

HOLE = "\ue001"
"""Marks a hole; the character behind it says what was taken."""
_FIRST_NAME, _NAMES = 0xF0000, 0xFFFD
_MARK = HOLE + "[\U000f0000-\U000ffffd]"
SPOKEN = "\ue003"
"""What a table says of a template that shows phonetic signs, and the beginning of its hole's name:
inside brackets it is not missed."""
NEVER_CLOSED = "unclosed "
"""Begins the name of a hole that markup without its end leaves."""
_STOPS = ".!?。！？…؟۔।"
_CLOSING = "\"'”’»)）」』】]"
_APOSTROPHES = "'’"
_EITHER_SIDE = '"”»'  # open a quotation too, behind a space
_OWN_LINE = re.compile(rf"[ \t:*#;]*(?:{_MARK}[ \t]*+)+[.,;:。，；：]?[ \t]*")
_BEFORE_BOLD = re.compile(rf"[ \t]*(?:{_MARK}[ \t]*)+(?=''')")
_IN_BRACKETS = re.compile(
    rf"(?<![^\W\d_])\((?=[^()]*{HOLE})[^()]*\)|（(?=[^（）]*{HOLE})[^（）]*）"
    rf"|(?<!\w)\[(?=[^\[\]]*{HOLE})[^\[\]]*\]|【(?=[^【】]*{HOLE})[^【】]*】"
)
_NOTE = re.compile(rf"(?<=[{_STOPS}{re.escape(_CLOSING)}])(?:{_MARK})+(?=\s|$)")
_LAST = re.compile(rf"(?<=[{_STOPS}])([{re.escape(_CLOSING)}]*)\s*(?:{_MARK}\s*)+$")
_FIRST = re.compile(rf"^\s*(?:{_MARK})+(?=[^\W\d_])")
_GLUED = re.compile(rf"(?<=[{_STOPS}])(?:{_MARK})+(?=[^\W\d_])")
_ANY = re.compile(_MARK)
_SEPARATOR = re.compile(r"([,;，；、()（）\[\]])")
_BEFORE_HOLE = HOLE + " \t:*#;"  # what may begin a line of holes
_INDENT = " \t\n:*#"  # before the halves of a sentence around a displayed formula
_NO_PROSE = "=|!{<*#:;"  # begin a heading, a row, a tag or a list item
_ENDS = (*_STOPS, ":", "：", ">", "")


def hole(names: list[str], name: str) -> str:
    """The mark of a new hole; ``name`` says what was taken and is added to ``names``."""
    names.append(name)
    return HOLE + chr(_FIRST_NAME + min(len(names) - 1, _NAMES))


def hole_name(mark: str, names: Sequence[str]) -> str:
    """What the hole whose mark begins the text ``mark`` stands for."""
    return names[min(ord(mark[1]) - _FIRST_NAME, len(names) - 1)]


def settle_lines(text: str, names: Sequence[str]) -> str:
    """Remove the holes whose place in the wikitext shows that they are outside sentences.

    On a line of its own, a hole goes, except at the halves of a sentence ("is given by / HOLE /
    where"), which it joins; a displayed formula does so over blank lines too. Before bold text at
    the beginning of a line (the title of an article) a hole goes as well.

    Args:
        text: a page with the marks of holes.
        names: what the marks stand for.
    """
    if HOLE not in text:
        return text
    parts: list[str] = []
    done = 0
    place = text.find(HOLE)
    while place >= 0:
        start = text.rfind("\n", 0, place) + 1
        end = text.find("\n", place)
        end = len(text) if end < 0 else end
        if text[start] not in _BEFORE_HOLE:
            place = text.find(HOLE, end)
            continue
        line = text[start:end]
        if _OWN_LINE.fullmatch(line):
            marks = _ANY.findall(line)
            formula = all(hole_name(mark, names)[:1] == "<" for mark in marks)
            first = _half_before(text, start, formula)
            second = _half_after(text, end, formula)
            parts.append(text[done:start] if first is None else text[done:first])
            if first is not None:
                parts += (" ", *marks, text[first:start])
            done = end
            if second is not None:
                parts += (text[end:second], *marks, " ")
                done = second
        elif bold := _BEFORE_BOLD.match(line):
            parts.append(text[done:start])
            done = start + bold.end()
        place = text.find(HOLE, end)
    return "".join(parts) + text[done:]


def _half_before(text: str, start: int, formula: bool) -> int | None:
    """The end of the line before a line of holes, if a sentence of it is not finished there."""
    stop = max(0, start - 1)
    while formula and stop and text[stop - 1].isspace():
        stop -= 1
    before = text[text.rfind("\n", 0, stop) + 1 : stop].strip()
    if formula:
        before = before.lstrip(_INDENT)
    if not before or before[0] in _NO_PROSE or _OWN_LINE.fullmatch(before):
        return None
    link = before[:2] == "[[" and before[-2:] == "]]"
    return None if link or before.rstrip(_CLOSING)[-1:] in _ENDS else stop


def _half_after(text: str, end: int, formula: bool) -> int | None:
    """The beginning of the line after a line of holes, if it continues a sentence."""
    place = end + 1
    while formula and text[place : place + 1] and text[place] in _INDENT:
        place += 1
    return place if text[place : place + 1].islower() else None


def settle_line(line: str, names: Sequence[str], counts: Counter[str]) -> str:
    """Remove the holes of a line that are outside sentences; the others become a bare HOLE.

    Args:
        line: text without links and tags.
        names: what the marks stand for.
        counts: receives the remarks in brackets left out, and the names of what remains.
    """
    if HOLE not in line:
        return line
    spoken = any(hole_name(mark, names)[0] == SPOKEN for mark in _ANY.findall(line))

    def settle_brackets(match: re.Match[str]) -> str:
        remark = _without_spoken(match.group(), names) if spoken else match.group()
        if HOLE not in remark:
            return remark
        counts[BRACKETS] += 1
        return MARK

    for _ in range(4):
        line, settled = _IN_BRACKETS.subn(settle_brackets, line)
        if not settled:
            break
    line = _LAST.sub(r"\1", _NOTE.sub(_note, line))
    line = _GLUED.sub(_between_sentences, _FIRST.sub(_at_beginning, line))
    if HOLE not in line:
        return line
    found = (hole_name(mark, names).removeprefix(SPOKEN) for mark in _ANY.findall(line))
    counts.update(map(unknown_template, found))
    return _ANY.sub(HOLE, line)


def _without_spoken(remark: str, names: Sequence[str]) -> str:
    """A remark in brackets without pronunciations, and without words of small letters around one:
    ``(pronounced {{IPA}}; born 1990)`` is (born 1990)."""

    def silent(mark: re.Match[str]) -> str:
        return MARK if hole_name(mark.group(), names)[0] == SPOKEN else mark.group()

    parts = _SEPARATOR.split(remark)
    for index, part in enumerate(parts):
        if HOLE not in part:
            continue
        part = _ANY.sub(silent, part)
        if HOLE not in part and all(letter.islower() for letter in part if letter.isalnum()):
            part = MARK
        parts[index] = part
    return "".join(parts)


def _note(match: re.Match[str]) -> str:
    """A note behind a full stop or quotation goes, but not what follows an apostrophe (``L'{{x}}``) or
    an opening mark, nor what continues in a small letter behind the stop of an abbreviation."""
    text, start = match.string, match.start()
    last, before = text[start - 1], text[start - 2 : start - 1]
    if last in _STOPS:
        continues = text[match.end() + 1 : match.end() + 2].islower()
    elif last in _APOSTROPHES:
        continues = before not in _STOPS + _CLOSING
    else:
        continues = last in _EITHER_SIDE and not before.strip()
    return match.group() if continues else ""


def _at_beginning(match: re.Match[str]) -> str:
    """A box directly before a capital goes: ``{{Infobox}}The town``."""
    return "" if match.string[match.end()].isupper() else match.group()


def _between_sentences(match: re.Match[str]) -> str:
    """A note between a full stop and a capital goes: ``end.{{note}}The``."""
    after = match.string[match.end()]
    if not after.isupper():
        return match.group()
    start = match.start()
    return gap(match.string[max(0, start - 3) : start], after)
