"""One page of a source, before cleaning."""

from dataclasses import dataclass, field
from typing import Literal

FILE_NAMESPACES = (-2, 6)  # "Media:" and "File:"
CATEGORY_NAMESPACE = 14


@dataclass(frozen=True)
class Site:
    """What a dump's ``<siteinfo>`` says about link prefixes; empty for other sources.

    namespaces: (number, local name) pairs, in the dump's order. ``language`` is the dump's
    ``xml:lang``, "" where it is not given.
    """

    namespaces: tuple[tuple[int, str], ...] = ()
    language: str = ""

    def number(self, prefix: str) -> int | None:
        """Namespace number of a link or title prefix, None where it is no namespace."""
        wanted = prefix.replace("_", " ").strip().casefold()
        for number, name in self.namespaces:
            if name and name.casefold() == wanted:
                return number
        return None

    @property
    def file_prefixes(self) -> tuple[str, ...]:
        """Local names of the file and media namespaces."""
        return tuple(name for number, name in self.namespaces if number in FILE_NAMESPACES)

    @property
    def category_prefixes(self) -> tuple[str, ...]:
        """Local names of the category namespace."""
        return tuple(name for number, name in self.namespaces if number == CATEGORY_NAMESPACE)


@dataclass(frozen=True)
class Page:
    """A page as its source holds it.

    page_id: the source's own number, or the page's place in the source (from 1) where the
    source has none. model: MediaWiki content model ("wikitext" when the schema has none).
    markup: "wikitext" needs :func:`megabert.data.text.wikitext.clean`, "plain" does not.
    """

    page_id: int
    title: str
    namespace: int
    redirect: bool
    model: str
    text: str
    markup: Literal["wikitext", "plain"]
    site: Site = field(default=Site(), repr=False)
