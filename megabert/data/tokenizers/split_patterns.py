"""Regular expressions in a ``tokenizer.json``: which may not be used, and texts cut to a length they bear.

The library's engine backtracks. A repetition inside a repetition, as in ``(a+)+``, takes time that doubles
with each character, until the engine gives up with a panic; such a pattern is refused when the file is
read. Other patterns may take time that grows with the square of a text, so that a long text is given to
them in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_PIECE = 4096
"""Characters that such a pattern is given at once."""
_PROBE = 512  # repetitions of a character in a text to try a tokenizer on
_MOST_PROBED = 64  # characters of patterns
_PROBES = (
    "",
    " ",
    "Ann met Bob, 3.5 times.",
    "\u0301e\u0301 \u4e2d\u6587 \U0001f600\U0001f468\u200d\U0001f469",
    "\uffff\u00ad\u200b",
    "a\n\tb\r\n",
)
_CUT = 1024  # characters before the end of a piece in which a space is looked for
_GROUP_MARKS = ("?<=", "?<!", "?<", "?P<", "?:", "?=", "?!", "?>", "?")


def expressions(body: Any) -> Iterator[str]:
    """The regular expressions in a part of a ``tokenizer.json``."""
    if isinstance(body, Mapping):
        for key, value in body.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(body, list):
        for item in body:
            yield from expressions(item)


def probe_texts(body: Any) -> Iterator[str]:
    """Texts on which a broken ``tokenizer.json`` is likely to fail; a pattern that goes back far gives up."""
    yield from _PROBES
    patterns = "".join(expressions(body))
    for character in sorted({*"aA1 .", *patterns})[: _MOST_PROBED if patterns else 0]:
        yield character * _PROBE
        yield character * _PROBE + "!"


def has_nested_repeats(pattern: str) -> bool:
    """Whether a repetition without a limit is inside another one, and the engine may go back into it.

    Possessive repetitions (``++``) and atomic groups (``(?>``) are not gone back into.
    """
    repeats = [False]  # of each open group: whether such a repetition is in it
    atomic = [False]
    place, inside = 0, False  # whether the item before ``place`` holds one
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place, inside = _after_escape(pattern, place), False
        elif character == "[":
            place, inside = _after_class(pattern, place), False
        elif character == "(":
            atomic.append(pattern.startswith("(?>", place))
            repeats.append(False)
            place, inside = place + 1 + _mark(pattern, place + 1), False
        elif character == ")":
            place += 1
            if len(repeats) > 1:
                inside = repeats.pop() and not atomic.pop()
                repeats[-1] |= inside
        else:
            place, unlimited, possessive = _quantifier(pattern, place)
            if unlimited and not possessive:
                if inside:
                    return True
                repeats[-1] = True
            inside = False
    return False


def _mark(pattern: str, place: int) -> int:
    """Length of what follows the bracket of a group and is not repeated."""
    return next((len(mark) for mark in _GROUP_MARKS if pattern.startswith(mark, place)), 0)


def _after_escape(pattern: str, place: int) -> int:
    if pattern[place + 1 : place + 3] in ("p{", "P{", "x{", "k<", "u{"):
        end = pattern.find("}>"[pattern[place + 1] == "k"], place)
        return len(pattern) if end < 0 else end + 1
    return place + 2


def _after_class(pattern: str, place: int) -> int:
    depth, place = 1, place + 1
    if pattern.startswith("^", place):
        place += 1
    if pattern.startswith("]", place):
        place += 1
    while place < len(pattern) and depth:
        if pattern[place] == "\\":
            place += 1
        else:
            depth += {"[": 1, "]": -1}.get(pattern[place], 0)
        place += 1
    return place


def _quantifier(pattern: str, place: int) -> tuple[int, bool, bool]:
    """(place after it, whether it has no limit, whether it is possessive); of other characters,
    the next place."""
    character = pattern[place]
    end, unlimited = place + 1, character in "*+"
    if character == "{" and (closing := pattern.find("}", place)) > 0:
        first, comma, most = pattern[place + 1 : closing].partition(",")
        if (first or most) and (first + most).isdecimal():
            end, unlimited = closing + 1, bool(comma) and not most
        return end, unlimited, False
    if unlimited and pattern[end : end + 1] in ("?", "+"):
        return end + 1, True, pattern[end] == "+"
    return end, unlimited, False


def pieces(text: str) -> list[str]:
    """The text in pieces of at most LONGEST_PIECE characters, which begin with a space if one is near."""
    found = []
    start = 0
    while len(text) - start > LONGEST_PIECE:
        end = start + LONGEST_PIECE
        space = text.rfind(" ", end - _CUT, end)
        end = space if space > start else end
        found.append(text[start:end])
        start = end
    found.append(text[start:])
    return found
