"""What MediaWiki and Wikimedia define as markup: switches, language codes, tags, addresses.

The words of each language are data in ``wiki_words.toml``. Patterns made of them match nothing
else, because a word between underscores, a name before a colon or a word in angle brackets is
often text: ``__FILE__``, ``[[re:publica]]``, ``vector<int>``.
"""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

_LINES = ("_", "＿")
_NO_COMPARISON = r"(?!(?<=<[bisupq])\s+[^\s<>=/][^<>=]*>)"
# tags that MediaWiki's sanitizer accepts (without sub and sup), and those of its parser and of Wikimedia's extensions
TAGS = (
    "b bdi del i ins u font big small h1 h2 h3 h4 h5 h6 cite code em s strike strong tt "
    "var div center blockquote ol ul dl table caption pre ruby rb rp rt rtc p span abbr dfn kbd "
    "samp data time mark br wbr hr li dt dd meta link tr td th q bdo "
    "nowiki noinclude includeonly onlyinclude ref references gallery poem math chem ce timeline "
    "score source syntaxhighlight imagemap hiero indicator section templatedata templatestyles "
    "graph mapframe maplink inputbox categorytree charinsert dynamicpagelist languages translate "
    "tvar langconvert pages pagelist pagequality phonos quiz rss listing choose option video audio"
)
# beginnings of addresses: MediaWiki's own list
PROTOCOLS = (
    "bitcoin: ftp:// ftps:// geo: git:// gopher:// http:// https:// irc:// ircs:// magnet: "
    "mailto: matrix: mms:// news: nntp:// redis:// sftp:// sip: sips: sms: ssh:// svn:// tel: "
    "telnet:// urn: worldwind:// xmpp: //"
)


@cache
def _words() -> dict[str, Any]:
    with (Path(__file__).parent / "wiki_words.toml").open("rb") as file:
        return tomllib.load(file)


def _chain(language: str) -> tuple[str, ...]:
    """The codes whose words are valid on a wiki of this language."""
    code = language.lower().replace("_", "-")
    fallback = _words()["fallback"]
    base = code.partition("-")[0]
    return (code, *fallback.get(code, "").split(), base, *fallback.get(base, "").split(), "en")


def _named(table: str, languages: tuple[str, ...]) -> list[str]:
    words = _words()[table]
    found = [word for code in languages for word in words.get(code, "").split()]
    return list(dict.fromkeys(found))


@cache
def switch_pattern(language: str, line: str = "_") -> re.Pattern[str]:
    """Matches the behaviour switches of a wiki (``__NOTOC__``), and no other words.

    Args:
        language: code of the wiki.
        line: the character before the word: a low line or a wide one.
    """

    def either(table: str) -> str:
        words = sorted(_named(table, _chain(language)), key=len, reverse=True)
        return "|".join(map(re.escape, words))

    exact, any_case = either("exact"), either("any_case")
    end = "|".join(2 * end for end in _LINES)
    # the engine looks for a single character faster than for two
    return re.compile(rf"{line}(?={line}){line}(?:{exact}|(?i:{any_case}))(?:{end})")


def strip_switches(text: str, language: str) -> str:
    """Text without behaviour switches; other words between underscores remain."""
    for line in _LINES:
        if line in text:
            text = switch_pattern(language, line).sub("", text)
    return text


@cache
def language_codes(language: str) -> frozenset[str]:
    """Prefixes of links to other languages; a wiki's own code is not one of them."""
    return frozenset(_words()["language_codes"].split()) - {language.lower().replace("_", "-")}


def tag_pattern(names: str) -> re.Pattern[str]:
    """Matches opening and closing tags of these names (separated by spaces), in any case.

    A letter with a word behind it without a value is text: "a <b and b> c".
    """
    return re.compile(
        rf"</?(?:{names.replace(' ', '|')})(?=[\s/>]){_NO_COMPARISON}[^<>]*>", re.IGNORECASE
    )
