"""Quotations and brackets: whether a place in a line is inside one."""

import re

LIMIT = 60
"""Characters after a place in which a quotation or bracket must end, or it is not paired; chosen on
treebanks, where longer ones are split."""
# characters before a place in which the opening mark is looked for
_REACH = 1000
_BRACKETS = {"(": ")", "[": "]", "（": "）", "「": "」", "『": "』", "《": "》", "【": "】"}
_QUOTES = '"“”„«»'
_QUOTE = re.compile(f"[{_QUOTES}]")
CLOSING_MARK = re.compile('[)"\\]“”«»）」』》】]')
_STOPS = ".!?…。！？۔؟।"


def has_closing_mark(text: str) -> bool:
    """Whether the text has a CLOSING_MARK."""
    # a search for one character is many times faster than one for a class
    if ")" in text or '"' in text or "]" in text:
        return True
    return not text.isascii() and CLOSING_MARK.search(text) is not None


def is_open(text: str, start: int, place: int) -> bool:
    """Whether a quotation or bracket that began after ``start`` is open at ``place`` and ends
    inside a sentence; for places with a CLOSING_MARK in the LIMIT characters after them.

    One that does not end within 60 characters is not paired, and one that ends behind a stop
    where a sentence may end holds sentences: neither is open in this sense.
    """
    low = max(start, place - _REACH)
    for mark, closing in _BRACKETS.items():
        left = text.rfind(mark, low, place)
        if left < 0 or text.find(closing, left, place) >= 0 or text[left + 1].isspace():
            continue
        if text.find(closing, place, place + LIMIT) >= 0 and (left > start or mark not in "([（"):
            return True
    return _is_quoted(text, low, place)


def _is_quoted(text: str, start: int, place: int) -> bool:
    """The same for quotation marks, which open or close by the characters next to them."""
    shape, last = 0, place
    while shape == 0:
        last = max(text.rfind(mark, start, last) for mark in _QUOTES)
        if last < 0:
            return False
        shape = _shape(text, last, text.count('"', start, last) % 2 == 1)
    if shape < 0:
        return False
    for match in _QUOTE.finditer(text, place, place + LIMIT):
        shape = _shape(text, match.start(), True)
        if shape > 0:
            return False
        if shape < 0:
            # in scripts without spaces, a quotation is kept whole
            return not text[place - 1].isspace() or not _ends_sentence(text, match.start())
    return False


def _shape(text: str, place: int, opened: bool) -> int:
    """1 for a quotation mark that opens, -1 for one that closes, 0 for another sign."""
    before = text[place - 1 : place] if place else " "
    after = text[place + 1 : place + 2] or " "
    mark = text[place]
    if before.isspace() or before in "([-–—":
        if not after.isspace():
            return 1
        if mark != '"':
            return 1 if mark in "«„“" else -1
        return -1 if opened else 1
    if not after.isalnum():
        return -1
    return {"“": 1, "”": -1}.get(mark, 0)


def _ends_sentence(text: str, closing: int) -> bool:
    """Whether a quotation that closes at ``closing`` ends a sentence."""
    stops = text[closing - 1 : closing] in _STOPS or text[closing - 2 : closing - 1] in _STOPS
    if not stops and text[closing + 1 : closing + 2] not in _STOPS:
        return False
    rest = text[closing + 1 : closing + 40].lstrip("\"'”»)] .!?…")
    return not rest or rest[0].isupper() or not (rest[0].isalpha() or rest[0] in ",;:-–—")
