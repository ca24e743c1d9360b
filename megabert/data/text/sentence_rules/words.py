"""How a word before a full stop is read in a language: the lists of abbreviations.txt."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

NONE, ALWAYS, FIGURE, LAST, INITIAL, ORDINAL = range(6)
"""Kinds of words before a full stop: a whole word, three lists of abbreviations.txt, a capital
letter alone, and a number or Roman numeral in a language that writes ordinals so."""

_KINDS = {"last": LAST, "figure": FIGURE, "always": ALWAYS, "plain": NONE}


@dataclass(frozen=True)
class SentenceWords:
    """What is known of one language.

    Attributes:
        language: the code that was asked for.
        kinds: word without its last full stop -> NONE, ALWAYS, FIGURE or LAST; a word with another
            stop ("Yahoo!") has it in its name.
        tails: the last five letters of the longer words in ``kinds``.
        endings: how longer words end that are FIGURE ("Hauptstr.").
        starters: words that begin sentences.
        ordinals: the most digits with which "13." is an ordinal number before a capital, or 0: three
            where nouns are capitalised ("100. Geburtstag"), else two ("2. Bundesliga").
        syllabic: whether whole words without a vowel letter occur.
        continuation: what continues a sentence after a quotation that ends in a stop.
        more_stops: stops of this language that are other marks elsewhere.
        own_stops: full stops of this language; in a line with one, "." does not end a sentence.
    """

    language: str
    kinds: dict[str, int]
    tails: frozenset[str]
    endings: tuple[str, ...]
    starters: frozenset[str]
    ordinals: int
    syllabic: bool
    continuation: re.Pattern[str] | None
    more_stops: str
    own_stops: str


@cache
def words_of(language: str) -> SentenceWords:
    """The lists of a language, of the one whose lists it uses, and the common ones.

    Args:
        language: a code in any form ("zh-tw", "pt_BR"); one without lists has the common ones.
    """
    sections = _sections()
    code = language.replace("_", "-").lower()
    codes = [code if code in sections else code.partition("-")[0]]
    while like := sections.get(codes[-1], {}).get("like"):
        codes += like
    facts: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, int] = {}
    for code in ("common", *reversed(codes)):
        for name, words in sections.get(code, {}).items():
            facts[name] += words
        for name, kind in _KINDS.items():
            for word in sections.get(code, {}).get(name, []):
                kinds[word] = kind
                if len(word) > 1:  # "m." is a unit, "M." an initial
                    kinds[word[0].upper() + word[1:]] = kind
    tails = {word.rstrip("!?")[-5:] for word in kinds if len(word) > 4}
    if "ordinals" in facts:
        tails |= _long_numerals()
    return SentenceWords(
        language=language,
        kinds=kinds,
        tails=frozenset(tails),
        endings=tuple(facts["endings"]),
        starters=frozenset(facts["starters"]),
        ordinals=0 if "ordinals" not in facts else 3 if "de" in codes else 2,
        syllabic="syllabic" in facts,
        continuation=re.compile(facts["continuation"][-1]) if facts["continuation"] else None,
        more_stops="".join(facts["stops"]),
        own_stops="".join(facts["own"]),
    )


@cache
def _sections() -> dict[str, dict[str, list[str]]]:
    """Code -> name of a list or property -> words."""
    sections: dict[str, dict[str, list[str]]] = defaultdict(dict)
    codes: list[str] = []
    name = ""
    text = (files("megabert.data.text.sentence_rules") / "abbreviations.txt").read_text(
        encoding="utf-8"
    )
    for line in text.splitlines():
        if line.startswith("["):
            codes = line.strip("[]").split()
        elif line and not line.startswith("#"):
            words = line.split()
            if not line.startswith(" "):
                name = words.pop(0)
            for code in codes:
                sections[code].setdefault(name, []).extend(words)
    return sections


def _long_numerals() -> set[str]:
    """The last five letters of the Roman numerals below 100 that have five or more."""
    tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"]
    ones = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
    return {(ten + one)[-5:] for ten in tens for one in ones if len(ten + one) > 4}
