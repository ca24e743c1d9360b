"""Names of what the cleaner counts; a page's counts are a ``Counter`` with these keys."""

from collections.abc import Mapping

TEMPLATES = "templates"
"""Template calls and parser functions in the wikitext of articles, nested ones too."""
UNDERSTOOD = "templates understood"
"""Of these, the calls of which it is known what a reader sees (which may be nothing)."""
HOLES = "holes"
"""Sentences left out because a template, formula or address was taken from their middle."""
BRACKETS = "brackets left out"
"""Bracketed remarks left out for the same reason; their sentence is kept."""
KEPT_ITEMS = "list items kept"
DROPPED_ITEMS = "list items dropped"
_UNKNOWN = "unknown: "
_MOST = 100


def unknown_template(name: str) -> str:
    """The key that counts how often the template ``name`` made a hole in a sentence."""
    return _UNKNOWN + name


def split_unknown(counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """The counts without unknown templates, and the 100 most frequent unknown templates."""
    known = {key: count for key, count in counts.items() if not key.startswith(_UNKNOWN)}
    names = [
        (count, key.removeprefix(_UNKNOWN))
        for key, count in counts.items()
        if key.startswith(_UNKNOWN)
    ]
    names.sort(key=lambda item: (-item[0], item[1]))
    return known, {name: count for count, name in names[:_MOST]}
