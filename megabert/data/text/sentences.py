"""Sentences of a line of text, by rules and by lists of words per language.

    line --_ends--> places where a sentence may end --_continues, is_open--> ends --> sentences

A place is a run of stops with the closing marks that follow it and a space (no space after stops
such as the Chinese one). It is an end unless what follows continues the sentence, or the word
before the stop is short for another, or a quotation or bracket around the place ends inside the
sentence. What differs between languages is data, in sentence_rules.
"""

import re
from functools import cache, lru_cache

from megabert.common.patterns import lazy_pattern
from megabert.data.text.sentence_rules.quotations import (
    CLOSING_MARK,
    LIMIT,
    has_closing_mark,
    is_open,
)
from megabert.data.text.sentence_rules.words import (
    ALWAYS,
    FIGURE,
    INITIAL,
    LAST,
    NONE,
    ORDINAL,
    SentenceWords,
    words_of,
)
from megabert.data.text.wikitext.holes import HOLE
from megabert.data.text.wikitext.tidy import has_word

_STOPS = ".!?…‼⁇⁈⁉؟"
# stops after which no space is needed
_WIDE_STOPS = "。！？।۔։።။។｡॥៕፧᙮꯫᱾᱿"
_CLOSING = "\"'’”“»«)\\]›"
_WIDE_CLOSING = "」』】）〉》〕"
# numbers of notes, and a closing mark with a space before it, as in French
_NOTES = r"(?: ?\[\d{1,3}\])*(?: ?[»”](?=\s))?"
# two sentences without a space between them, if the second begins with a starter
_GLUED = r"(?<=[a-z]{2}\.)(?=[A-Z][a-z])"
_AFTER = rf"[{_STOPS}{_CLOSING}]{{0,20}}+{_NOTES}(?:\s+(?=[^\sa-z,;:)]|,,)|{_GLUED})"
# a pattern that begins with one character lets the engine skip quickly over the text
_FULL_STOPS = re.compile(rf"\.{_AFTER}")
_ALL_STOPS = re.compile(rf"[{_STOPS}]{_AFTER}")
_WIDE_STOP = re.compile(f"[{_WIDE_STOPS}]")
_IDEOGRAPHS = "\u3041-\u30ff\u3400-\u9fff"
# marks that may precede the first letter of a sentence
_OPENING = re.compile(
    "[\"'‘’“”„‚«»‹`(\\[¿¡#$£€*+•·†–—―−\\-「『《〈（【~≈\\s]+|,,[\\s\"']*|\\.{1,3}(?=\\w)"
)
# letters that Unicode calls small, of a script without capitals
_GEORGIAN = ("\u10d0", "\u10ff")
# the first of the scripts in which a letter is a syllable or a word and no initial
_SYLLABLES = "\u1100"

# characters of a word before a stop that are looked at
_LONGEST = 40
_LONGEST_ENDING = 4  # letters: a word of no more is not a compound
_WORD = re.compile(r"[^\W_]{1,40}")
_ROMAN = re.compile(r"[IVXLCDM]+(?!\w)")
_BEFORE_WORD = "([{\"'“”„‚«»‘’¡¿"
_SEPARATOR = re.compile(r"[-–—/'’.]")
# U.S, p.n.e, J.-C, m.in
_DOTTED = re.compile(r"(?:[^\W\d_]{1,3}\.[-–]?)+[^\W\d_]{1,3}")
# z. B, a. C, i. d. R
_CHAIN = re.compile(r"(?<!\w)(?:\w\. )+\w\Z")
# 24.12, 3.–5
_DATE = re.compile(r"\d{1,2}\.(?:0?[1-9]|1[0-2])|\d{1,3}\.[-–/]\d{1,3}")
# a number, Roman numeral or letter alone begins an item of a list
_ITEM = lazy_pattern(r"\W*(?:[IVXLC]+|[^\W\u1100-\U0010ffff]?|\d+[a-z]?(?:[.\-–]\d+)*)\W*")
_CONSONANTS = frozenset(
    "bcdfghjklmnpqrstvwxzçčćďđðģķļłńňņñŗřśšşťþźżžбвгджзйклмнпрстфхцчшщґћђбβγδζθκλμνξπρσςτφχψ"
)
# what begins names as well as sentences
_PARTICLES = {"Da", "Das", "De", "Del", "Della", "Den", "Der", "Des", "Di", "Do", "Dos", "Du", "El",
              "La", "Las", "Le", "Les", "Li", "Lo", "Los", "Ten", "Ter", "Van", "Von", "Zu"}  # fmt: skip


def split_sentences(paragraph: str, language: str) -> list[str]:
    """Sentences in order, stripped; together they are the line except for spaces.

    Args:
        paragraph: a line of text. A line without a letter or digit gives no sentence.
        language: a code such as "en" or "zh-tw". For a code without lists, the common ones apply.
    """
    words = words_of(language)
    tails, endings = words.tails, words.endings
    own = bool(words.own_stops) and any(map(paragraph.__contains__, words.own_stops))
    paired = has_closing_mark(paragraph)
    sentences: list[str] = []
    start = 0
    for place in _ends(paragraph, words).finditer(paragraph):
        stop, end = place.span()
        first = end if paragraph[end].isupper() else _first_letter(paragraph, stop, end)
        if first < 0:
            continue
        # nearly always there is one stop, and the last five letters show that no list has the word
        tail = paragraph[stop - 5 : stop] if end - stop == 2 and stop - start > 7 else ""
        whole = tail.isalpha() and tail not in tails and paragraph[stop] != "…"
        if (not whole or (endings and tail.endswith(endings))) and _continues(
            paragraph, start, place, first, words, own
        ):
            continue
        if (
            paired
            and CLOSING_MARK.search(paragraph, end, end + LIMIT)
            and is_open(paragraph, start, end)
        ):
            continue
        sentences.append(paragraph[start:end].rstrip())
        start = end
    last = paragraph[start:].strip()
    if sentences or has_word(last):
        sentences.append(last)
    return sentences


def _ends(text: str, words: SentenceWords) -> re.Pattern[str]:
    """The narrowest pattern that finds every place where a sentence of the text may end."""
    if not text.isascii():
        if words.more_stops and words.more_stops in text:
            return _wide_ends(words.more_stops)
        if any(map(text.__contains__, _WIDE_STOPS)):
            return _wide_ends("")
        if any(map(text.__contains__, _STOPS[3:])):
            return _ALL_STOPS
    return _ALL_STOPS if "!" in text or "?" in text else _FULL_STOPS


@cache
def _wide_ends(more_stops: str) -> re.Pattern[str]:
    """Places after the stops of every script: with a space, or without one after the wide ones."""
    stops = _STOPS + _WIDE_STOPS + more_stops
    closing = _CLOSING.replace("“", "") + _WIDE_CLOSING
    return re.compile(
        rf"[{stops}][{stops}{closing}]{{0,20}}+{_NOTES}(?:\s+|(?<=[{_WIDE_STOPS}{closing}])"
        rf"|(?<=[!?])(?=[{_IDEOGRAPHS}]))(?=[^\s,;:)、，；：]|,,)"
    )


def _first_letter(text: str, stop: int, place: int) -> int:
    """Index of the letter, digit or hole with which a sentence may begin at ``place``, or -1."""
    marks = _OPENING.match(text, place)
    first = marks.end() if marks else place
    letter = text[first : first + 1]
    if letter.isalnum() and (not letter.islower() or _GEORGIAN[0] <= letter <= _GEORGIAN[1]):
        return first
    if letter == HOLE:
        return first
    # after a wide stop, any character begins a sentence
    return place if text[stop] in _WIDE_STOPS else -1


def _continues(
    text: str, start: int, place: re.Match[str], first: int, words: SentenceWords, own: bool
) -> bool:
    """Whether the sentence from ``start`` continues after the stop at ``place``.

    ``own`` says whether the text has a full stop of its language, next to which "." ends nothing.
    """
    stop, end = place.span()
    if end - stop == 1 and text[stop] == ".":
        return not _is_starter(text, first, words)
    if end - stop == 2 and stop - start > 7 and text[stop] == "." and not own:
        left = max(start, stop - _LONGEST)
        word = text[max(left, text.rfind(" ", left, stop) + 1) : stop]
        if len(word) > 1 and _kind(word, words.language) == NONE:
            return False  # the usual case, and the quickest
    return (
        _is_short(text, start, stop, first, words, own)
        or (stop - start < 8 and _ITEM.fullmatch(text, start, stop) is not None)
        or (
            _continues_wide(text, stop, end, words)
            if place.re not in (_FULL_STOPS, _ALL_STOPS)
            else words.continuation is not None
            and end - stop > 2
            and words.continuation.match(text, end) is not None
        )
    )


def _is_short(
    text: str, start: int, stop: int, first: int, words: SentenceWords, own: bool
) -> bool:
    """Whether the stop at ``stop`` belongs to the word before it and does not end a sentence."""
    start = max(start, stop - _LONGEST)
    left = max(start, text.rfind(" ", start, stop) + 1)
    word, mark = text[left:stop], text[stop]
    if word in ("(", "["):
        return True  # (?), [...]
    if mark == "…" or (mark == "." and text.startswith((".", "!", "?", "…"), stop + 1)):
        # only a capital, or a script of syllables, shows that a sentence begins
        return not text[first].isupper() and (text[first] < _SYLLABLES or text[first] == HOLE)
    if mark not in ".۔":
        return word + mark in words.kinds and not _is_starter(text, first, words)
    if mark == "." and own:
        return True
    chain = _CHAIN.search(text, max(start, left - 9), stop) if len(word) == 1 else None
    kind = words.kinds.get(chain.group().replace(" ", "")) if chain else None
    if kind is None:
        kind = _kind(word, words.language)
    if kind in (NONE, ALWAYS):
        return kind == ALWAYS
    if text[first].isdigit() or text[first] == HOLE:
        return True
    if kind == FIGURE:
        return _ROMAN.match(text, first) is not None
    return not _is_starter(text, first, words, after_initial=kind == INITIAL)


@lru_cache(maxsize=1 << 14)
def _kind(word: str, language: str) -> int:
    """How a word before a full stop is to be read: by the lists, or by its letters."""
    words = words_of(language)
    word = word.lstrip(_BEFORE_WORD)
    if not word or not word[-1].isalnum():
        return NONE
    if word not in words.kinds and not word.isalnum():
        if _DATE.fullmatch(word):
            return ORDINAL if words.ordinals else NONE
        if _DOTTED.fullmatch(word):
            return LAST
        word = _SEPARATOR.split(word)[-1]
        if word.isdecimal() or (len(word) == 1 and word.islower()):
            return NONE  # 3–5, NATO-u
    if word in words.kinds:
        return words.kinds[word]
    if words.endings and word.endswith(words.endings) and len(word) > _LONGEST_ENDING:
        return FIGURE
    if word.isdecimal():
        return ORDINAL if len(word) <= words.ordinals else NONE
    if len(word) == 1:
        return NONE if word >= _SYLLABLES else LAST if word.islower() else INITIAL
    if _ROMAN.fullmatch(word):
        return ORDINAL if words.ordinals else NONE
    if len(word) <= 4 and not word.isupper() and _CONSONANTS.issuperset(word.lower()):
        return NONE if words.syllabic else LAST
    return NONE


def _is_starter(
    text: str, first: int, words: SentenceWords, *, after_initial: bool = False
) -> bool:
    """Whether the word at ``first`` is one that begins sentences and is rarely a name."""
    match = _WORD.match(text, first)
    if not match:
        return False
    word, after = match.group(), text[match.end() : match.end() + 1]
    if after == "." or (after_initial and word in _PARTICLES):
        return False
    return word in words.starters or (after in ("'", "’") and word + "'" in words.starters)


def _continues_wide(text: str, stop: int, end: int, words: SentenceWords) -> bool:
    """Whether the sentence continues, in a text with stops that need no space after them."""
    run = text[stop:end].rstrip()
    last = run.rstrip(_WIDE_CLOSING + "”’\"'")[-1:]
    closed = run[-1] != last
    if closed and last in "!?！？…‼⁇⁈⁉":
        return True  # a title or a cry: 『Help!』に
    if (closed or last in "!?！？") and words.continuation and words.continuation.match(text, end):
        return True
    if text[end - 1].isspace():
        return False
    if not _WIDE_STOP.search(run) and last not in "!?":
        return True
    return text[end].isdecimal() and text[stop - 1 : stop].isdecimal()
