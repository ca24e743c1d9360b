"""List items: which are sentences, which are sources, and which only links and names.

One rule for every language and every place of a page. What counts is the text outside links and
titles, which is only known in the wikitext: :func:`mark_items` notes it at the end of each item's
line, and :func:`item_kind` decides on the clean line.
"""

import re
from enum import Enum

from megabert.data.text.wikitext.tidy import spaceless_letters


class ItemKind(Enum):
    """What a list item is; only sentences are kept, and short ones if the list has not more names."""

    SENTENCE = "sentence"
    SHORT = "short sentence"
    SOURCE = "source"
    NAME = "name"


MAX_WORDS = 4
ITEM_WORDS = 3
"""Words outside links and titles, not capitalised, that make an item prose; with a stop, one."""
ITEM_LETTERS = 8
"""Minimum length of an item in a script without spaces; two letters count as a word."""
_FIRST_NOTE = 0xE020
_LAST_NOTE = _FIRST_NOTE + 2 * MAX_WORDS + 1
_LOOK_AT = 300  # characters of an item
_LINE = re.compile(r"\n[*#:;]*[*#;](?![*#:;])[^\n]*")
_HTML_ITEM = re.compile(r"\s*<li(?=[\s/>])[^<>]*>\s*", re.IGNORECASE)
# links, italics, quotations that are not sentences, tags
_LINKS_AND_TITLES = re.compile(
    r"\[\[[^\[\]]*\]\]|''.*?''+|《[^》]*》|『[^』]*』|\"[^\"]*[^\".!?]\"|“[^”]*[^”.!?]”|<[^<>]*>"
)
# "[[Napoleon]] abdicates." and "Muore [[Napoleone]].", also behind a date
_SHORT_SENTENCE = re.compile(
    r"[*#:; ]*(?:(?:\[\[[^\[\]]*\d[^\[\]]*\]\]|\d[^\[\]:–—]{0,20})(?: ?[–—:]| -) ?)?"
    r"(?:(\[\[[^\[\]:]+\]\])((?: [^\W\d_]+){1,3})|([^\W\d_]{3,}) (\[\[[^\[\]:]+\]\])) ?[.!۔।]\s*"
)
_FOUR_WORDS = re.compile(r"[\W_]*(?:[^\W_]+[\W_]+){3}[^\W_]")
_STOPS = tuple(".!?。！？…؟۔।")
_LOST_HEAD = ",;:–—"  # begin an item whose first words were removed
_CLOSING = "\"'”’»)）」』】] "
_DIGIT_OR_SIGN = re.compile(r"[\d(版書]")
_SIGNS = (
    "ISBN", "ISSN", "OCLC", "JSTOR", "PMID", "doi:", "arXiv:", " et al", "(ed.", "(eds", "(Hrsg",
    "(Hg.", "(a cura", "出版社", "出版公司", "書店", "書房", "書院",
)  # fmt: skip
_PUBLISHERS = ("Press", "Verlag", "ditore", "dition", "Editorial", "Wydawnictwo", "Uitgeverij")
_PUBLISHER_AND_YEAR = re.compile(rf"(?:{'|'.join(_PUBLISHERS)})s?[,. (]{{1,3}}(?:1[4-9]|20)\d\d\b")
# "p. 12", "vol. IV"; each pattern begins with a plain character, so that the engine can skip ahead
_PAGE = re.compile(
    r"\.(?:(?<=\bp\.)|(?<=\bpp\.)|(?<=\bS\.)|(?<=\bс\.)|(?<=\bpag\.)|(?<=\bstr\.)|(?<=\bvol\.)"
    r"|(?<=\bvols\.)|(?<=\bvoll\.)) ?(?:\d|[IVX])"
)
# "Smith, J.", "Smith J. (1990)" and "J. Smith, A. Jones", not "John M. Smith was"
_AUTHOR = re.compile(
    r"[^\W\d_]+, [^\W\d_]\.|[^\W\d_]+ (?:[^\W\d_]\.[ -]?)+(?=[,(:]|&)"
    r"|(?:[^\W\d_]\. ?)+[^\W\d_]+, (?:[^\W\d_]\. ?)+[^\W\d_]"
)
# "Smith, John (1990).", "Smith, John, and Anna Jones. 1990."
_AUTHOR_AND_YEAR = re.compile(r"([^\d:]{3,80}?)\(?(?:1[4-9]|20)\d\d[a-z]?\)?\. ")
_PARTICLES = frozenset(
    ["and", "et", "al", "al.", "und", "y", "e", "&", "ed.", "eds.", "von", "van", "de", "der"]
)
_LAST_CHARACTERS = 60
# "1976.", "(1976)", "1976年" or "320 p." at the end
_YEAR_AT_END = re.compile(r"(?:1[4-9]|20)\d\d[a-z]?年?[)）]?[.;,]?$")
_PAGES = re.compile(r"\d ?(?:pp?|S|с|pag|str|стр)\.?$")
# "Torino, 1976", "New York: Wiley 1976.", but not the date "May 9, 1976"
_PLACE_AND_YEAR = re.compile(r"(?<!\d)[,.:;–—] ?([^\d,.:;()–—]{0,40}?)\d{4}[a-z]?年?[.;,]?$")
_LONGEST_SOURCE = 150  # characters of a source without a title in italics
# "3:45" of a piece of music, "(† 1878)" of a person
_NO_PROSE_END = re.compile(r"\d:\d\d\)?$|[(（][†*] ?[^()（）]*[)）][.;,]?$")
_SEPARATOR = re.compile(r"[,:;，：；.] ?")


def note_items(body: str, spaceless: bool) -> str:
    """The wikitext of a section, with a note at the end of each line that is a list item.

    For sections whose lines are others after cleaning, so that :func:`read_item` finds the notes.
    """
    return _LINE.sub(lambda match: match.group() + _note(match.group(), spaceless), body)


def _note(line: str, spaceless: bool) -> str:
    words, titled = look_at(line, spaceless)
    return chr(_FIRST_NOTE + 2 * words + titled)


def look_at(line: str, spaceless: bool) -> tuple[int, bool]:
    """(number of words outside links and titles that begin small, up to MAX_WORDS; whether there is a
    title) of an item's wikitext. In a language without spaces, two letters count as a word. A short
    sentence, such as "Muore [[Napoleone]].", has MAX_WORDS."""
    titled = "''" in line or "《" in line or "『" in line
    line = line[:_LOOK_AT]
    if (
        "[[" in line
        and (short := _SHORT_SENTENCE.fullmatch(line))
        and _is_sentence(*short.groups())
    ):
        return MAX_WORDS, titled
    if "[" in line or titled or '"' in line or "<" in line:
        line = _LINKS_AND_TITLES.sub(" ", line)
    if spaceless:
        return min(spaceless_letters(line) // 2, MAX_WORDS), titled
    words = 0
    for word in line.split():
        first = word[0]
        if first.islower() or (first.isalpha() and not first.isupper()):
            words += 1
            if words == MAX_WORDS:
                break
    return words, titled


def _is_sentence(name: str, predicate: str, verb: str, other: str) -> bool:
    """Whether a link and the words around it have the letters of a name and its predicate."""
    label = (name or other).strip("[]").rpartition("|")[2]
    if not label[:1].isalpha() or label[0].islower():
        return False
    return not any(word[0].isupper() for word in (predicate or "").split()) and not (
        verb and verb[0].islower()
    )


def read_note(text: str) -> tuple[str, tuple[int, bool] | None]:
    """(text without its note, what the note says; None without a note)."""
    note = ord(text[-1:] or " ")
    if _FIRST_NOTE <= note <= _LAST_NOTE:
        words, titled = divmod(note - _FIRST_NOTE, 2)
        return text[:-1], (words, bool(titled))
    return text, None


def is_long_enough(line: str) -> bool:
    """Whether an item has four words, or eight letters in a script without spaces."""
    return _FOUR_WORDS.match(line) is not None or spaceless_letters(line) >= ITEM_LETTERS


def may_be_short(line: str) -> bool:
    """Whether a shorter item may be a sentence, for which its wikitext must be looked at."""
    return line.endswith((".", "!", "۔", "।"))


def item_kind(line: str, words: int, titled: bool) -> ItemKind:
    """What a list item is.

    Args:
        line: its clean text, not empty.
        words, titled: what :func:`read_note` found.
    """
    if words < ITEM_WORDS and not (words and line.rstrip(_CLOSING).endswith(_STOPS)):
        dated = titled and _DIGIT_OR_SIGN.search(line, max(0, len(line) - 6))
        return ItemKind.SOURCE if dated else ItemKind.NAME
    if line[0] in _LOST_HEAD:
        return ItemKind.NAME
    end = line.rstrip(".;,")[-1:]
    if (end in ")）" or end.isdigit()) and _NO_PROSE_END.search(line, _tail(line)):
        return ItemKind.NAME
    return ItemKind.SOURCE if _is_source(line, words, titled) else ItemKind.SENTENCE


def _tail(line: str) -> int:
    return max(0, len(line) - _LAST_CHARACTERS)


def _is_source(line: str, words: int, titled: bool) -> bool:
    if _AUTHOR.match(line):
        return True
    if not _DIGIT_OR_SIGN.search(line):
        return False
    if _PAGE.search(line) or _PAGES.search(line, max(0, len(line) - 10)):
        return True
    if any(map(line.__contains__, _SIGNS)):
        return True
    if any(map(line.__contains__, _PUBLISHERS)) and _PUBLISHER_AND_YEAR.search(line):
        return True
    if "," in line[:_LAST_CHARACTERS]:
        authors = _AUTHOR_AND_YEAR.match(line)
        if authors is not None and "," in authors.group(1) and _are_names(authors.group(1)):
            return True
    if not _YEAR_AT_END.search(line, max(0, len(line) - 10)):
        return False
    if titled and words >= MAX_WORDS:
        return False  # the words of titles are not counted
    if line.rstrip(".;,")[-1:] in ")）":
        return titled
    if not titled and (len(line) > _LONGEST_SOURCE or len(_SEPARATOR.findall(line)) < 2):
        return False
    place = _PLACE_AND_YEAR.search(line, _tail(line))
    return place is not None and _are_names(place.group(1))


def _are_names(text: str) -> bool:
    """Whether all words are capitalised, except those between names."""
    return not any(word[0].islower() and word not in _PARTICLES for word in text.split())
