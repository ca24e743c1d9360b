"""Marks before the lines of a text: of quoted mail (``> ``), of comments (``# ``), line numbers.

A mark is removed if it begins several lines in a row, and what follows it is prose that is cut at
the lines' ends: a list, whose items begin with the same marks, is not. Quoted prose loses its marks
whether its lines are cut or not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from megabert.data.text.plain.wrapping import (
    are_spaceless,
    begins_lower,
    ends_sentence,
    has_stop,
    is_filled,
    joins_spaceless,
)

LINE_NUMBERS = "line numbers"
TIMES = "times"
_QUOTE = ">"
_SIGNS = "other signs"
_BEGIN = r"[ \t]*"
_END = r"(?:[ \t]|$)"
_PATTERNS = {
    _QUOTE: re.compile(rf"{_BEGIN}(?:[A-Z][A-Za-z]{{0,3}})?>(?:[ \t]?>)*[ \t]?"),
    "|": re.compile(rf"{_BEGIN}\|(?:[ \t]?\|)*{_END}"),
    ":": re.compile(rf"{_BEGIN}:(?:[ \t]?:)*{_END}"),
    "#": re.compile(rf"{_BEGIN}#+{_END}"),
    "//": re.compile(rf"{_BEGIN}//[/!]?{_END}"),
    "*": re.compile(rf"{_BEGIN}(?:/\*{{1,2}}|\*/?){_END}"),
    "--": re.compile(rf"{_BEGIN}--{_END}"),
    ";": re.compile(rf"{_BEGIN};+{_END}"),
    "%": re.compile(rf"{_BEGIN}%+{_END}"),
    "!": re.compile(rf"{_BEGIN}!{_END}"),
    "REM": re.compile(rf"{_BEGIN}(?:REM|rem|dnl){_END}"),
    "+": re.compile(rf"{_BEGIN}\+{_END}"),
    "-": re.compile(rf"{_BEGIN}[-–—]{_END}"),
    LINE_NUMBERS: re.compile(
        rf"{_BEGIN}(?:[A-Za-z]{{1,8}}[-_.#]?[ ]?(?=\d+[.:)\]|\t]))?(\d{{1,6}})"
        rf"(?:[.:)\]|]?{_END}|\||:(?!\d))"
    ),
    TIMES: re.compile(rf"{_BEGIN}[\[(]?\d{{1,2}}:\d\d(?::\d\d)?(?:[.,]\d+)?[\])]?{_END}"),
    _SIGNS: re.compile(rf"{_BEGIN}[=~$&@^§¶+<>|/\\]{{1,3}}{_END}"),
}
# marks of list items, tables and logs, which give a warning only if the lines are joined
_SILENT = ("*", "|", "+", "-", TIMES)
_FIRST = frozenset(">|:#/*-–—+;%![(0123456789=~$&@^§¶<\\")
_WORD_MARK = re.compile(
    r"[ \t]*(?:[A-Z][A-Za-z]{0,3}>|REM|rem|dnl|[A-Za-z]{1,8}[-_.#]? ?\d+[.:)\]|\t])"
)
_CLOSED = {
    kind: re.compile(rf"(?<![ \t])[ \t]+\{kind}+/?[ \t]*$|^\{kind}*/[ \t]*$")
    for kind in ("#", "*", ";", "%", "|")
}  # the right side of a box, and the end of a comment
_WORDS = re.compile(r"(?<![^\W\d_])[^\W\d_]{2,}+(?=[\s,.;:!?'\"”’)-]|$)")
_RUN = 3  # lines with a mark, one after the other
_FEWEST = 4  # lines in such runs
_MANY = 10  # lines whose marks are worth a warning
_WHOLE = 0.9
_NARROWEST, _WIDEST = 30, 200
_FULL = 0.85


@dataclass(frozen=True)
class Margins:
    """Marks to remove from the lines of a text.

    Attributes:
        kinds: of marks; a kind is named by its mark, or is LINE_NUMBERS.
        whole: nearly all lines have one, so that a line of a mark alone is a blank line.
    """

    kinds: tuple[str, ...]
    whole: bool = False

    def is_blank(self, line: str) -> bool:
        """Whether a line is a mark alone, in a text whose lines all have one."""
        return self.whole and not (_split(line, self.kinds)[1] if line else line).strip()


@dataclass(frozen=True)
class FoundMargins:
    """Marks in a sample.

    Attributes:
        margins: those to remove; None without any.
        removed, kept: lines of the sample by the name of their mark: those that lose it, and those
            that keep it although most lines have it.
        of_items: the same of marks that are kept and that list items have too.
        lines: lines of the sample that are not blank.
    """

    margins: Margins | None
    removed: dict[str, int]
    kept: dict[str, int]
    lines: int
    of_items: dict[str, int] = field(default_factory=dict)


@dataclass
class _Run:
    """Lines in a row with the same mark, without it."""

    kind: str
    lines: list[str]
    mark: str = ""


def find_margins(lines: Sequence[str], choice: str = "auto") -> FoundMargins:
    """The marks before the lines of a sample.

    Args:
        lines: without line ends.
        choice: one of ``reading.LINE_MARKS``; "remove" takes every mark that begins lines in a row.
    """
    total = sum(not line.isspace() for line in lines if line)
    if choice == "keep":
        return FoundMargins(None, {}, {}, total)
    runs: dict[str, list[_Run]] = {}
    for run in _runs(lines):
        runs.setdefault(run.kind, []).append(run)
    removed: dict[str, int] = {}
    kept: dict[str, int] = {}
    of_items: dict[str, int] = {}
    kinds = []
    for kind, found in runs.items():
        count = sum(len(run.lines) for run in found)
        long = [run for run in found if len(run.lines) >= _RUN]
        in_runs = sum(len(run.lines) for run in long)
        if (
            in_runs < _FEWEST
            or 2 * in_runs < count
            or (kind == LINE_NUMBERS and 5 * count < 4 * total)
        ):
            continue
        if choice == "remove" or _is_margin(kind, long):
            kinds.append(kind)
            removed[_name(long)] = count
        elif in_runs >= _MANY and 2 * in_runs >= total:
            (of_items if kind in _SILENT else kept)[_name(long)] = in_runs
    if not kinds:
        return FoundMargins(None, {}, kept, total, of_items)
    whole = sum(removed.values()) >= _WHOLE * total
    return FoundMargins(Margins(tuple(kinds), whole), removed, kept, total, of_items)


def _name(runs: Sequence[_Run]) -> str:
    """The name of a kind of marks: the one that most lines have."""
    kind = runs[0].kind
    if kind in (LINE_NUMBERS, TIMES):
        return kind
    marks: Counter[str] = Counter()
    for run in runs:
        marks[run.mark] += len(run.lines)
    return f"'{marks.most_common(1)[0][0]} '"


def _runs(lines: Sequence[str]) -> Iterator[_Run]:
    run, last, number = _Run("", []), "", -1
    for line in lines:
        if not line:
            continue  # line numbers may leave blank lines out
        mark, rest, kind = _split(line)
        if kind == LINE_NUMBERS:
            follows = run.kind == LINE_NUMBERS and int(mark) in (number + 1, 1)
            number = int(mark)
        else:
            follows = bool(kind) and mark == last
        last = mark
        if follows:
            run.lines.append(rest)
            continue
        if run.kind:
            yield run
        run = _Run(kind, [rest], mark)
    if run.kind:
        yield run


def _split(line: str, kinds: Sequence[str] = tuple(_PATTERNS)) -> tuple[str, str, str]:
    """(mark without spaces, the rest of the line, kind); no mark and kind: ``("", line, "")``."""
    if line.lstrip(" \t")[:1] not in _FIRST and not _WORD_MARK.match(line):
        return "", line, ""
    for kind in kinds:
        if match := _PATTERNS[kind].match(line):
            rest = line[match.end() :]
            if kind in _CLOSED:
                rest = _CLOSED[kind].sub("", rest)
            mark = match.group(1) if kind == LINE_NUMBERS else "".join(match.group().split())
            return kind if kind in ("*", TIMES) else mark, rest, kind
    return "", line, ""


def _is_margin(kind: str, runs: Sequence[_Run]) -> bool:
    """Whether what follows the marks is prose that the lines' ends cut."""
    if kind == _QUOTE and _is_prose([line for run in runs for line in run.lines]):
        return True
    pairs = [(a, b) for run in runs for a, b in pairwise(run.lines) if a.strip() and b.strip()]
    cut = [(a, b) for a, b in pairs if not ends_sentence(a)]
    if len(cut) < _RUN or 5 * len(cut) < 2 * len(pairs):
        return False
    if not (are_spaceless(pairs) or 10 * sum(map(has_stop, (a for a, _ in pairs))) >= len(pairs)):
        return False
    widths = sorted(len(a.rstrip()) for a, _ in pairs)
    width = widths[(len(widths) - 1) * 19 // 20]
    continued = sum(begins_lower(b) or joins_spaceless(a, b) for a, b in cut)
    filled = sum(is_filled(a, b, width) for a, b in cut)
    fits = _NARROWEST <= width <= _WIDEST or (joins_spaceless(*cut[0]) and width >= 15)
    return fits and filled >= _FULL * len(cut) and 5 * continued >= 2 * len(cut)


def _is_prose(lines: Sequence[str]) -> bool:
    lines = [line for line in lines if line.strip()]
    spaceless = sum(joins_spaceless(line.rstrip(), line) for line in lines)
    return 5 * (spaceless + sum(len(_WORDS.findall(line)) >= 3 for line in lines)) >= 3 * len(lines)


def without_margins(lines: Sequence[str | None], margins: Margins) -> list[str | None]:
    """The lines without their marks; where the mark changes, a blank line is added.

    Args:
        lines: of a document, without line ends; None for one that could not be read.
        margins: of :func:`find_margins`.
    """
    found: list[str | None] = []
    parts = [("", "", "") if line is None else _split(line, margins.kinds) for line in lines]
    before: str | None = None  # the mark of the line before
    number = -1
    for place, (line, (mark, rest, kind)) in enumerate(zip(lines, parts)):
        if kind == LINE_NUMBERS:
            value = int(mark)
            jumps = number >= 0 and value not in (number + 1, 1)
            if jumps and not _is_counted(parts, place):
                mark, rest = "", line or ""  # a figure of the text
            else:
                number, mark = value, LINE_NUMBERS
        if line and _is_overflow(parts, place):
            found[-1] = f"{found[-1]} {rest.strip()}"
        elif line is None:
            found.append(None)
        elif not rest.strip():
            found.append("")
            before = None
        else:
            if before is not None and mark != before:
                found.append("")
            found.append(rest)
            before = mark
    return found


def _is_counted(parts: Sequence[tuple[str, str, str]], place: int) -> bool:
    """Whether the next number follows the one of a line, so that it belongs to the numbering."""
    value = int(parts[place][0])
    after = next((part for part in parts[place + 1 : place + 4] if part[2] == LINE_NUMBERS), None)
    return after is not None and int(after[0]) == value + 1


def _is_overflow(parts: Sequence[tuple[str, str, str]], place: int) -> bool:
    """Whether a line without a mark is the end of the line before, which a mailer has cut."""
    if not 0 < place < len(parts) - 1:
        return False
    (mark, before, kind), (own, line, _), (after, _, _) = parts[place - 1 : place + 2]
    same = bool(mark) and mark == after and kind != LINE_NUMBERS
    return (
        same
        and not own
        and begins_lower(line)
        and bool(before.strip())
        and not ends_sentence(before)
    )
