"""List items: which are sentences, which are sources, and which only links and names.

One rule for every language and every place of a page. What counts is the text outside links and
titles, which is only known in the wikitext: :func:`look_at` finds it, :func:`note_items` writes it
at the beginning of each item if lines may move, and :func:`item_kind` decides on the clean line.
"""

import re
from enum import Enum
from typing import NamedTuple

from megabert.data.text.wikitext.links import EXTERNAL
from megabert.data.text.wikitext.tidy import spaceless_letters


class ItemKind(Enum):
    """What a list item is; the sentences are kept, the two weaker kinds if their list has others."""

    SENTENCE = "sentence"
    SHORT = "short sentence"
    """Under four words: a link and its predicate."""
    STOPPED = "sentence by its stop"
    """Few words outside links, and a full stop."""
    SOURCE = "source"
    NAME = "name"


class Look(NamedTuple):
    """What is counted in the wikitext of an item.

    Attributes:
        words: outside links and titles, not capitalised; up to MAX_WORDS, or up to
            LINK_WORDS if the item has a web link.
        titled: whether it has a title: italics, ``《》`` or ``『』``.
        names: whether it may be a list of names in a script without capitals: no part between
            commas has CLAUSE_WORDS.
    """

    words: int
    titled: bool
    names: bool = False


ITEM_WORDS = 3
"""Words outside links and titles, not capitalised, that make an item prose; with a stop, one."""
CLAUSE_WORDS = 5
"""In a script without capitals, and without a stop, words between two commas that do so."""
LINK_WORDS = 8
"""Words outside a web link, not capitalised, with which an item may be prose in spite of it."""
ITEM_LETTERS = 8
"""Minimum length of an item in a script without spaces; two letters count as a word."""
MAX_WORDS = 4
_FIRST_NOTE = 0xE020
_LAST_NOTE = _FIRST_NOTE + 4 * LINK_WORDS + 3
_LOOK_AT = 300  # characters of an item
_LOOK_AT_LINKED = 900
_LINE = re.compile(r"(\n[*#:;]*[*#;])(?![*#:;])([^\n]*)")
# links, italics, quotations that are not sentences, tags
_LINKS_AND_TITLES = re.compile(
    r"\[\[[^\[\]]*\]\]|''.*?''+|《[^》]*》|『[^』]*』|「[^「」]*[^「」。！？]」|<[^<>]*>"
    r"|\"[^\"]*[^\".!?]\"|“[^”]*[^”.!?。！？]”|„[^„“”\"]*[^„“”\".!?][“”\"]|«[^«»]*[^«».!?\s]\s*»"
)
# "[[Napoleon]] abdicates." and "Muore [[Napoleone]].", also behind a date
_SHORT_SENTENCE = re.compile(
    r"[*#:; ]*(?:(?:\[\[[^\[\]]*\d[^\[\]]*\]\]|\d[^\[\]:–—]{0,20})(?: ?[–—:]| -) ?)?"
    r"(?:(\[\[[^\[\]:]+\]\])((?: [^\W\d_]+){1,3})|([^\W\d_]{3,}) (\[\[[^\[\]:]+\]\])) ?[.!۔।]\s*"
)
_WEB_LINK = re.compile(r"\[[^\s\[\]]*//[^\[\]]*\]?|[a-zA-Z]*://\S*")
# separate names, in scripts with and without spaces
_COMMA = re.compile(r"[,;:،؛·/()]|\s[–—-]\s")
_COMMAS = re.compile(r"[\s,;:،؛、，；：・·/()（）]+")
_GEORGIAN = frozenset(map(chr, range(0x10D0, 0x1100)))  # small letters that no capital begins with
_OPENING = " '\"“„«‘「『(（["
_FOUR_WORDS = re.compile(r"[\W_]*(?:[^\W_]+[\W_]+){3}[^\W_]")
_STOPS = tuple(".!?。！？…؟۔।։።။។")
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
    r"\.(?:(?:(?<=\bp\.)|(?<=\bpp\.)|(?<=\bS\.)(?<!\.S\.)|(?<=\bс\.)|(?<=\bpag\.)|(?<=\bstr\.)"
    r"|(?<=\bvol\.)|(?<=\bvols\.)|(?<=\bvoll\.)) ?(?:\d|[IVXLC]+\b(?!\.))"
    r"|(?:(?<=\bs\.)|(?<=\bС\.)|(?<=\bblz\.)|(?<=\bpagg\.)|(?<=\bpág\.)|(?<=\bpágs\.)) ?\d)"
)
_PLAIN_PAGE = re.compile(r"\bpp? \d")
_ARABIC_PAGE = re.compile(r"\bصص?[. ]{0,2}\d")
# "Smith, J.", "Smith, John M., 1990", "Smith J. (1990)" and "J. Smith, A. Jones",
# not "John M. Smith was" and "Arsenal F.C.,"
_AUTHOR = re.compile(
    r"[^\W\d_]+, (?:[^\W\d_]+ )?[^\W\d_]\.(?:(?<=, \w\.)|,? \(?(?:1[4-9]|20)\d\d)"
    r"|[^\W\d_]+ (?!(?:[AR]\.)?F\. ?[CK]\.|[CD]\. ?[FC]\.)(?:[^\W\d_]\.[ -]?)+(?=[,(:]|&)"
    r"|(?:[^\W\d_]\. ?)+[^\W\d_]+, (?:[^\W\d_]\. ?)+[^\W\d_]"
)
# "Smith, John (1990).", "Smith, John, and Anna Jones. 1990."
_AUTHOR_AND_YEAR = re.compile(r"([^\d:]{3,80}?)\(?(?:1[4-9]|20)\d\d[a-z]?\)?\. ")
_PARTICLES = frozenset(
    ["and", "et", "al", "al.", "und", "y", "e", "&", "ed.", "eds.", "von", "van", "de", "der"]
)
_LAST_CHARACTERS = 60
# "1976.", "(1976)", "1976年" or "320 p.", "1976. 320 s." at the end
_YEAR_AT_END = re.compile(r"(?:1[4-9]|20)\d\d[a-z]?年?[)）]?[.;,]?$")
_PAGES = re.compile(r"\d ?(?:pp?|S|с|pag|str|стр)\.?$|\d\.? (?:o|old|lpp)\.$|\d ?[頁页쪽][。.]?$")
_YEAR_AND_PAGES = re.compile(r"\b(?:1[4-9]|20)\d\d[,.:;)]* (?:[–—-] )?[\d–-]+ ?[sС]\.?$")
# "Torino, 1976", "New York: Wiley 1976.", but not the date "May 9, 1976"
_PLACE_AND_YEAR = re.compile(r"(?<!\d)[,.:;–—] ?([^\d,.:;()–—]{0,40}?)\d{4}[a-z]?年?[.;,]?$")
_LONGEST_SOURCE = 150  # characters of a source without a title in italics
# "3:45" of a piece of music, "(† 1878)" of a person
_NO_PROSE_END = re.compile(r"\d:\d\d\)?$|[(（][†*] ?[^()（）]*[)）][.;,]?$")
# "The House (1990), novel." and "Ann Martin (born in 1950), painter and poet", without a stop
_TITLE_AND_YEAR = re.compile(
    r"[^()（）]{1,80}[(（](?:1[4-9]|20)\d\d[^()（）]{0,15}[)）](?:[,:;]? [^\W\d_]+){0,2}[.;,]?"
)
_PERSON = re.compile(
    r"(?:[^\W\d_][^\s()]* ){1,5}\([^()]{0,40}\b(?:1\d|20)\d\d\b[^()]{0,20}\)(?:,| [–—-]) "
    r"[^\s.!?]+(?: [^\s.!?]+){0,3}"
)
_SEPARATOR = re.compile(r"[,:;，：；.] ?")


def note_items(body: str, spaceless: bool) -> str:
    """The wikitext of a section, with a note at the beginning of each list item.

    For sections whose lines are others after cleaning, so that :func:`read_note` finds the notes.
    """

    def noted(match: re.Match[str]) -> str:
        words, titled, names = look_at(match.group(2), spaceless)
        note = chr(_FIRST_NOTE + 4 * words + 2 * titled + names)
        return f"{match.group(1)}{note}{match.group(2)}"

    return _LINE.sub(noted, body)


def look_at(line: str, spaceless: bool) -> Look:
    """What is counted in an item's wikitext. In a language without spaces, two letters count as a
    word. A short sentence, such as "Muore [[Napoleone]].", has MAX_WORDS."""
    titled = "''" in line or "《" in line or "『" in line
    most = MAX_WORDS
    if "//" in line:
        line, most = _WEB_LINK.sub(" ", line[:_LOOK_AT_LINKED]), LINK_WORDS
    line = line[:_LOOK_AT]
    if (
        may_be_short(line.rstrip())
        and "[[" in line
        and (short := _SHORT_SENTENCE.fullmatch(line))
        and _is_sentence(*short.groups())
    ):
        return Look(MAX_WORDS, titled)
    if "[" in line or titled or '"' in line or "<" in line or not line.isascii():
        line = _LINKS_AND_TITLES.sub("" if spaceless else " ", line)
    if spaceless:
        words = min(spaceless_letters(line) // 2, most)
        return Look(words, titled, words > 0 and not _has_clause(line, spaceless))
    words = small = 0
    for word in line.split():
        first = word[0]
        if first.islower():
            if first not in _GEORGIAN:
                small += 1
        elif not first.isalpha() or first.isupper():
            continue
        words += 1
        if words == most:
            break
    names = small < ITEM_WORDS and small < words and not _has_clause(line, spaceless)
    return Look(words, titled, names)


def _is_sentence(name: str, predicate: str, verb: str, other: str) -> bool:
    """Whether a link and the words around it have the letters of a name and its predicate."""
    label = (name or other).strip("[]").rpartition("|")[2]
    if not label[:1].isalpha() or label[0].islower():
        return False
    return not any(word[0].isupper() for word in (predicate or "").split()) and not (
        verb and verb[0].islower()
    )


def _has_clause(line: str, spaceless: bool) -> bool:
    """Whether there are CLAUSE_WORDS words between two commas."""
    if spaceless:
        return any(spaceless_letters(part) >= 2 * CLAUSE_WORDS for part in _COMMAS.split(line))
    parts = (part.split() for part in _COMMA.split(line))
    return any(sum(word[0].isalpha() for word in part) >= CLAUSE_WORDS for part in parts)


def read_note(text: str) -> tuple[str, Look | None]:
    """(text without its note, what the note says; None without a note)."""
    note = ord(text[:1] or " ")
    if _FIRST_NOTE <= note <= _LAST_NOTE:
        words, flags = divmod(note - _FIRST_NOTE, 4)
        return text[1:], Look(words, flags >= 2, flags % 2 == 1)
    return text, None


def begins_with_link(text: str) -> bool:
    """Whether an item without links and tags began with a web link."""
    return text.lstrip(_OPENING).startswith(EXTERNAL)


def is_long_enough(line: str) -> bool:
    """Whether an item has four words, or eight letters in a script without spaces."""
    return _FOUR_WORDS.match(line) is not None or spaceless_letters(line) >= ITEM_LETTERS


def may_be_short(line: str) -> bool:
    """Whether a shorter item may be a sentence, for which its wikitext must be looked at."""
    return line.endswith((".", "!", "۔", "।"))


def item_kind(line: str, look: Look) -> ItemKind:
    """What a list item is.

    Args:
        line: its clean text, not empty.
        look: what was counted in its wikitext.
    """
    short = look.words < ITEM_WORDS
    if (short or look.names) and not (look.words and line.rstrip(_CLOSING).endswith(_STOPS)):
        dated = look.titled and _DIGIT_OR_SIGN.search(line, max(0, len(line) - 6))
        return ItemKind.SOURCE if dated else ItemKind.NAME
    if line[0] in _LOST_HEAD:
        return ItemKind.NAME
    end = line.rstrip(".;,")[-1:]
    if (end in ")）" or end.isdigit()) and _NO_PROSE_END.search(line, _tail(line)):
        return ItemKind.NAME
    if _is_source(line, look):
        return ItemKind.SOURCE
    if short:
        titled = look.titled and _TITLE_AND_YEAR.fullmatch(line)
        return ItemKind.SOURCE if titled else ItemKind.STOPPED
    if line[0].isupper() and "(" in line and _PERSON.fullmatch(line):
        return ItemKind.NAME
    return ItemKind.SENTENCE


def _tail(line: str) -> int:
    return max(0, len(line) - _LAST_CHARACTERS)


def _is_source(line: str, look: Look) -> bool:
    if _AUTHOR.match(line):
        return True
    if not _DIGIT_OR_SIGN.search(line):
        return False
    if _has_page(line):
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
    if look.titled and look.words >= MAX_WORDS:
        return False  # the words of titles are not counted
    if line.rstrip(".;,")[-1:] in ")）":
        return look.titled
    if not look.titled and (len(line) > _LONGEST_SOURCE or len(_SEPARATOR.findall(line)) < 2):
        return False
    place = _PLACE_AND_YEAR.search(line, _tail(line))
    return place is not None and _are_names(place.group(1))


def _has_page(line: str) -> bool:
    if _PAGE.search(line) or _PAGES.search(line, max(0, len(line) - 10)):
        return True
    if line.endswith(("s.", "s", "С.", "С")) and _YEAR_AND_PAGES.search(line, _tail(line)):
        return True
    if "p " in line and _PLAIN_PAGE.search(line):
        return True
    return "ص" in line and _ARABIC_PAGE.search(line) is not None


def _are_names(text: str) -> bool:
    """Whether all words are capitalised, except those between names."""
    return not any(word[0].islower() and word not in _PARTICLES for word in text.split())
