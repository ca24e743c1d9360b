"""One page of a source, before cleaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from megabert.data.text.namespaces import SUBJECTS, assumed_names, core_names, name_key

FILE_NAMESPACES = (-2, 6)  # "Media:" and "File:"
CATEGORY_NAMESPACE = 14


@dataclass(frozen=True)
class Site:
    """What the head of a dump says about its wiki; empty for other sources.

    Attributes:
        namespaces: (number, local name) in the dump's order.
        language: the dump's language as a code of :mod:`megabert.data.text.languages`, or "" if
            the dump does not name one.
        name: the wiki's name, which is also that of namespace 4.
    """

    namespaces: tuple[tuple[int, str], ...] = ()
    language: str = ""
    name: str = ""

    @property
    def complete(self) -> bool:
        """Whether the dump lists all core namespaces."""
        return {number for number, _ in self.namespaces} >= SUBJECTS

    def number(self, prefix: str) -> int | None:
        """Namespace number of a link or title prefix; None if it is not a namespace.

        The dump's own names come first, then MediaWiki's English ones. If the list is not complete,
        Wikimedia's names and those of the dump's language count too.
        """
        key = name_key(prefix)
        number = _names(self).get(key)
        return core_names().get(key) if number is None else number

    def title_namespace(self, title: str) -> int:
        """Namespace of a title, for a page without a number of its own.

        A name that the dump does not list, and that is not one of MediaWiki's own, counts only if
        no space follows the colon: "Portal: Prelude" is an article, "Portal:Music" is not.
        """
        prefix, colon, rest = title.partition(":")
        if not colon or not rest.strip():
            return 0
        number = self.number(prefix)
        if number is None:
            return 0
        sure = rest[0].strip() or name_key(prefix) in core_names()
        return number if sure or self._lists(number) else 0

    def _lists(self, number: int) -> bool:
        return any(number == listed for listed, _ in self.namespaces)

    @property
    def file_prefixes(self) -> tuple[str, ...]:
        """Names of the file and media namespaces."""
        return tuple(name for name, number in _names(self).items() if number in FILE_NAMESPACES)

    @property
    def category_prefixes(self) -> tuple[str, ...]:
        """Names of the category namespace."""
        return tuple(name for name, number in _names(self).items() if number == CATEGORY_NAMESPACE)


@lru_cache(maxsize=64)
def _names(site: Site) -> dict[str, int]:
    """Names in the form of :func:`name_key`, without those that every wiki has."""
    found: dict[str, int] = {}
    for number, name in site.namespaces:
        if name:
            found.setdefault(name_key(name), number)
    if site.complete:
        return found
    if site.name:
        found.setdefault(name_key(site.name), 4)
        found.setdefault(name_key(f"{site.name} talk"), 5)
    for name, number in assumed_names(site.language).items():
        found.setdefault(name, number)
    return found


@dataclass(frozen=True)
class Page:
    """A page as it is in its source.

    Attributes:
        page_id: the source's own number, or else the page's place in the source (from 1).
        model: MediaWiki content model ("wikitext" if the schema has none).
        markup: "wikitext" (for :func:`megabert.data.text.wikitext.sections.clean`), "extracted" (what
            an extractor made of a wiki) or "plain" (other text).
    """

    page_id: int
    title: str
    namespace: int
    redirect: bool
    model: str
    text: str
    markup: Literal["wikitext", "extracted", "plain"]
    site: Site = field(default=Site(), repr=False)
