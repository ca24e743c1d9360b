"""One page of a source, before cleaning."""

from dataclasses import dataclass, field
from typing import Literal

FILE_NAMESPACES = (-2, 6)  # "Media:" and "File:"
CATEGORY_NAMESPACE = 14
# names that every MediaWiki accepts in addition to local ones, for sources without <siteinfo>
CANONICAL = {
    "Media": -2, "Special": -1, "Talk": 1, "User": 2, "User talk": 3, "Wikipedia": 4,
    "Wikipedia talk": 5, "Project": 4, "WikiProject": 4, "File": 6, "File talk": 7, "Image": 6,
    "MediaWiki": 8, "MediaWiki talk": 9, "Template": 10, "Template talk": 11, "Help": 12,
    "Help talk": 13, "Category": 14, "Category talk": 15, "Portal": 100, "Draft": 118,
    "TimedText": 710, "Module": 828, "Module talk": 829,
}  # fmt: skip


def canonical_namespace(title: str) -> int:
    """Namespace of a title by MediaWiki's English names; 0 if it begins with none of them.

    "Portal: Prelude" (with a space after the colon) is an article.
    """
    prefix, colon, rest = title.partition(":")
    return CANONICAL.get(prefix, 0) if colon and rest[:1].strip() else 0


@dataclass(frozen=True)
class Site:
    """What a dump's ``<siteinfo>`` says about link prefixes; empty for other sources.

    ``namespaces`` holds (number, local name) in the dump's order. ``language`` is the dump's
    ``xml:lang``, or "" if it has none.
    """

    namespaces: tuple[tuple[int, str], ...] = ()
    language: str = ""

    def number(self, prefix: str) -> int | None:
        """Namespace number of a link or title prefix; None if it is not a namespace."""
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
    """A page as it is in its source.

    Attributes:
        page_id: the source's own number, or else the page's place in the source (from 1).
        model: MediaWiki content model ("wikitext" if the schema has none).
        markup: "wikitext" (for :func:`megabert.data.text.wikitext.sections.clean`) or "plain".
    """

    page_id: int
    title: str
    namespace: int
    redirect: bool
    model: str
    text: str
    markup: Literal["wikitext", "plain"]
    site: Site = field(default=Site(), repr=False)
