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
_MOST_LANGUAGES = 10


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


def language_lines(languages: Mapping[str, int]) -> list[str]:
    """Documents by detected language, the most frequent ones first, where they were counted."""
    if not languages:
        return []
    ordered = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    more = len(ordered) - _MOST_LANGUAGES
    return [
        "languages detected: "
        + ", ".join(f"{count} {name}" for name, count in ordered[:_MOST_LANGUAGES])
        + (f", and {more} more" if more > 0 else "")
    ]


def markup_lines(counts: Mapping[str, int], unknown: Mapping[str, int]) -> list[str]:
    """What became of the templates and lists of wikitext, where there were any.

    Args:
        counts: the counts of a job.
        unknown: template names and how often they made a hole, the most frequent first.
    """
    lines = []
    if met := counts.get(TEMPLATES, 0):
        lines.append(
            f"templates: {met} calls, {100 * counts.get(UNDERSTOOD, 0) / met:.1f} % understood; "
            f"left out for the others: {counts.get(HOLES, 0)} sentences, "
            f"{counts.get(BRACKETS, 0)} remarks in brackets"
        )
    if unknown:
        first = list(unknown.items())[:5]
        lines.append(
            "most frequent of those not understood: "
            + ", ".join(f"{name} ({count})" for name, count in first)
        )
    if items := counts.get(KEPT_ITEMS, 0) + counts.get(DROPPED_ITEMS, 0):
        lines.append(f"list items: {counts.get(KEPT_ITEMS, 0)} kept of {items}")
    return lines
