"""Plain text that is not prose, or whose lines hold more than prose: it is read, with a warning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from megabert.data.text.plain.line_numbers import count_up
from megabert.data.text.plain.wrapping import Wrapping

_FEWEST = 10  # lines
_LINES = 2000  # of the sample that are looked at
_CODE = re.compile(
    r"\s*(?:def|class|import|from|return|elif|if|for|while|const|let|var|public|private|func|fn)\b.*[(:={\[]|\s*#include\b|\s*(?:return|import)\s\S+\s*$|\s*[\w.\[\]]+\s*[-+*/]?=\s*\S"
)
_CODE_ENDS = (";", "{", "}", "):")
_CLOCK = re.compile(
    r"[\[(<]?(?:\d{4}[-/.]\d\d[-/.]\d\d[T ])?(?:[A-Z][a-z]{2} +\d{1,2} )?\d{1,2}:\d\d(?::\d\d)?"
)
_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
_HYPHENATED = re.compile(r"[^\W\d_]{2}-$")
_FEWEST_HYPHENS = 5
_END_TAG = re.compile(r"</[A-Za-z][\w:.-]*>")
_OUTLINE = re.compile(r"\*{2,8} \S|#\+[A-Za-z_]+:? ?\S")
_FEWEST_TAGS = 3


def other_kinds(lines: Sequence[str], wrapping: Wrapping | None) -> tuple[str, ...]:
    """What else a sample of a text is, as keys of WARNINGS.

    Args:
        lines: of the sample, without line ends and without marks that are removed.
        wrapping: of the lines if they are joined.
    """
    lines = [line for line in lines[:_LINES] if line.strip()]
    kinds = _KINDS if len(lines) >= _FEWEST else {"tags": _KINDS["tags"]}
    return tuple(name for name, (check, _) in kinds.items() if check(lines, wrapping))


def _is_code(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    found = sum(
        line.rstrip().endswith(_CODE_ENDS) or _CODE.match(line) is not None for line in lines
    )
    return 5 * found >= 2 * len(lines)


def _is_log(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    return 5 * sum(_CLOCK.match(line.lstrip()) is not None for line in lines) >= 4 * len(lines)


def _has_columns(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    """Whether the same column of most lines begins a word after two spaces or more."""
    starts = Counter(match.end() for line in lines for match in _GAP.finditer(line[:400]))
    return any(2 * count >= len(lines) for count in starts.values())


def _has_hyphens(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    if wrapping is None:
        return False
    count = sum(_HYPHENATED.match(line.rstrip()[-3:]) is not None for line in lines)
    return count >= _FEWEST_HYPHENS and 40 * count >= len(lines)


def _has_numbers(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    return count_up(lines)


def _has_tags(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    count = sum(_END_TAG.search(line) is not None for line in lines if "</" in line)
    return count >= _FEWEST_TAGS and 20 * count >= len(lines)


def _is_org(lines: Sequence[str], wrapping: Wrapping | None) -> bool:
    count = sum(_OUTLINE.match(line) is not None for line in lines if line[0] in "*#")
    return count >= _FEWEST_TAGS and 50 * count >= len(lines)


_KINDS: dict[str, tuple[Callable[[Sequence[str], Wrapping | None], bool], str]] = {
    "code": (_is_code, "look like program code; its lines are read as text"),
    "log": (
        _is_log,
        "look like a log or a transcript; the time that begins a line is read as text",
    ),
    "columns": (
        _has_columns,
        "look like columns or a table of fixed width; lines are read across the columns, which "
        "gives false sentences: extract the columns one by one first",
    ),
    "numbers": (
        _has_numbers,
        "have numbers that count up before or behind lines, which are read as text; if they are not "
        "part of it, remove them: sed -E 's/^ *[0-9]+ +//; s/ {2,}[0-9]+ *$//' OLD > NEW",
    ),
    "tags": (
        _has_tags,
        "have tags of XML or HTML (</...>) in their lines, which are read as text: extract the text "
        "first",
    ),
    "outline": (
        _is_org,
        "look like Org or a list in wikitext (lines that begin with ** or #+); these marks are not "
        "removed",
    ),
    "hyphens": (
        _has_hyphens,
        "have words divided by a hyphen at line ends; the hyphen is kept, as in 'well-known', because "
        "the text does not say which words have one",
    ),
}
WARNINGS = {name: warning for name, (_, warning) in _KINDS.items()}
"""What a warning says of such files."""
