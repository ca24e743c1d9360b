"""Namespaces of titles and words of redirects, by MediaWiki's rules, as data.

A title belongs to a namespace if the part before its first colon is a name of that namespace. Case
and underscores do not count. English names of the core namespaces are valid on every wiki.
Source: https://www.mediawiki.org/wiki/Manual:Namespace and the wikis' own ``<siteinfo>``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

SUBJECTS = frozenset({2, 4, 6, 8, 10, 12, 14})
"""Core namespaces that a complete ``<siteinfo>`` lists."""
_MAX_CORE = 15
_LANGUAGE_FREE = ("core", "wikimedia", "redirect")  # rows of the table that belong to no language
_DATA = Path(__file__).with_name("namespace_names.tsv")
_SHORT = 3  # letters of an abbreviation ("WP", "CAT")


def name_key(name: str) -> str:
    """The form in which two names of namespaces are compared."""
    return " ".join(name.replace("_", " ").split()).casefold()


@cache
def _rows() -> dict[str, str]:
    lines = _DATA.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def _names_of_row(row: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in row.split("; ") if row else ():
        number, _, names = entry.partition(" ")
        for name in names.split(", "):
            found.setdefault(name, int(number))
    return found


@cache
def core_names() -> dict[str, int]:
    """English names that are valid on every wiki, in the form of :func:`name_key`."""
    return {name_key(name): number for name, number in _names_of_row(_rows()["core"]).items()}


@cache
def local_names(language: str) -> dict[str, int]:
    """Names in a language and their numbers; none if the language is not in the table.

    ``zh-tw`` has the names of ``zh``. "" has the names of core namespaces in all languages, except
    abbreviations.
    """
    rows = _rows()
    if language:
        return _names_of_row(rows.get(language) or rows.get(language.split("-")[0], ""))
    return {
        name: number
        for code in rows
        if code not in _LANGUAGE_FREE
        for name, number in local_names(code).items()
        if number <= _MAX_CORE and (len(name) > _SHORT or not name.isascii())
    }


@cache
def assumed_names(language: str) -> dict[str, int]:
    """All names to use where a dump does not list its namespaces, in the form of
    :func:`name_key`: the English ones, those of Wikimedia's wikis, and those of the language."""
    found = dict(core_names())
    for names in (_names_of_row(_rows()["wikimedia"]), local_names(language)):
        for name, number in names.items():
            found.setdefault(name_key(name), number)
    return found


def canonical_namespace(title: str) -> int:
    """Namespace of a title by English names; 0 if it begins with none of them.

    For sources that are not dumps. "Portal: Prelude" (with a space after the colon) is an article.
    """
    prefix, colon, rest = title.partition(":")
    if not colon or not rest[:1].strip():
        return 0
    return assumed_names("en").get(name_key(prefix), 0)


@cache
def _redirect_words() -> frozenset[str]:
    return frozenset(word.replace("_", " ").casefold() for word in _rows()["redirect"].split())


def is_redirect(text: str) -> bool:
    """Whether wikitext is a redirect: ``#REDIRECT [[Target]]``, with the word of any language."""
    text = text[:1000].lstrip()
    if text[:1] not in ("#", "＃"):
        return False
    word, opened, rest = text[1:].partition("[[")
    if not opened or "]]" not in rest:
        return False
    word = word.strip().removesuffix(":").strip()
    return word.replace("_", " ").casefold() in _redirect_words()
