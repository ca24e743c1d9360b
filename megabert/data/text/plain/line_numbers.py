"""Numbers before or behind some lines of a text, which count its lines or its verses.

:mod:`.margins` removes the numbers that begin all lines of prose. Here are the others:

- numbers of every 5th or 10th line, or behind all lines, which count up as the lines do;
- numbers of verses, which begin some lines of hard-wrapped text and count up by one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megabert.data.text.pages import Page

NumberedLine = tuple[int, str | Page]
_PATTERNS = {
    "left": re.compile(r"[ \t]*(\d{1,6})[.:)\]|]?[ \t]+(?=\S)"),
    "verse": re.compile(r"[ \t]*(\d{1,3})[ \t]+(?=[^\W\d_]|[\"'“‘«(])"),
    "right": re.compile(r"(?<=\S)(?:[ \t]{2,}|\t)(\d{1,6})[ \t]*$"),
}
_NAMES = {"left": "line numbers", "verse": "verse numbers", "right": "numbers behind lines"}
_FEWEST = 4  # steps that count as the lines do
_FEWEST_VERSES = 6
_WIDEST_STEP = 50  # lines
_VERSES_OF = 20  # lines per verse, at most
_EDGE = 200  # characters at the end of a line
_LOST = 3  # verses whose numbers may be missing in a row


# each begins or ends with a line feed, which the engine finds fast
_BEGINS = re.compile(r"\n[ \t]*\d")
_ENDS = re.compile(r"\d[ \t]*\n")


@dataclass(frozen=True)
class LineNumbers:
    """Numbers that are removed.

    Attributes:
        side: "left" or "right" of lines, or "verse", which is left of some.
        step: by which they count up.
        padded: whether lines without a number have spaces in its place.
        restarts: whether they begin again.
    """

    side: str
    step: int
    padded: bool
    restarts: bool

    @property
    def name(self) -> str:
        """What they are called in messages."""
        return _NAMES[self.side]


@dataclass(frozen=True)
class _Number:
    """A number, and its line: among all lines, and among those that are not blank."""

    value: int
    place: int
    filled: int

    def follows(self, other: _Number) -> bool:
        """Whether the lines were counted from another number to this one."""
        step = self.value - other.value
        return step > 0 and step in (self.place - other.place, self.filled - other.filled)


def find_line_numbers(lines: Sequence[str]) -> LineNumbers | None:
    """Numbers in a sample that count its lines: behind all, before or behind some of them."""
    for side in _sides(lines, 2 * _WIDEST_STEP):
        found = list(_numbers(lines, side))
        step, count = _step(found)
        least = 2 if side == "left" else 1  # those before all lines may be a list
        if (
            least <= step <= _WIDEST_STEP
            and count >= _FEWEST
            and 4 * count >= len(found)
            and 2 * step * (count + 1) >= found[-1].filled
        ):
            restarts = sum(number.value == step for number in found) > 1
            return LineNumbers(side, step, _are_padded(lines), restarts)
    return None


def _sides(lines: Sequence[str], every: int) -> list[str]:
    """The sides on which one line in ``every`` has a figure, and enough of them."""
    text = "\n".join(("", *lines, ""))
    least = max(_FEWEST, len(lines) // every)
    found = {"left": _BEGINS, "right": _ENDS}
    return [side for side, pattern in found.items() if len(pattern.findall(text)) >= least]


def _step(numbers: Sequence[_Number]) -> tuple[int, int]:
    """The usual step between numbers that count as the lines do, and how often it is found."""
    best = (0, 0)
    for counted in ("place", "filled"):
        series: dict[int, list[int]] = {}
        for number in numbers:
            begin = number.value - getattr(number, counted)
            series.setdefault(begin, []).append(number.value)
        steps = Counter(b - a for values in series.values() for a, b in pairwise(values))
        for step, count in steps.most_common(1):
            best = max(best, (step, count), key=lambda found: found[1])
    return best


def find_verse_numbers(lines: Sequence[str]) -> LineNumbers | None:
    """Numbers in a sample of hard-wrapped lines that count its verses."""
    if "left" not in _sides(lines, _VERSES_OF):
        return None
    found = list(_numbers(lines, "verse"))
    total = sum(not line.isspace() for line in lines if line)
    steps = sum(b.value in (a.value + 1, 1) for a, b in pairwise(found))
    if (
        steps + 1 < _FEWEST_VERSES
        or 10 * steps < 9 * (len(found) - 1)
        or _VERSES_OF * len(found) < total
    ):
        return None
    return LineNumbers("verse", 1, False, sum(number.value == 1 for number in found) > 1)


def count_up(lines: Sequence[str]) -> bool:
    """Whether the numbers at an edge of lines mostly count up, so that they may be line numbers."""
    for side in _sides(lines, _VERSES_OF):
        pattern = "verse" if side == "left" else side
        values = [number.value for number in _numbers(lines, pattern)]
        close = sum(a < b <= a + _WIDEST_STEP for a, b in pairwise(values))
        many = len(values) > _FEWEST_VERSES and _VERSES_OF * len(values) >= len(lines)
        if many and 5 * close >= 4 * (len(values) - 1):
            return True
    return False


def _are_padded(lines: Sequence[str]) -> bool:
    texts = [line for line in lines if line and not line.isspace()]
    return 2 * sum(line[0] in " \t" for line in texts) > len(texts)


def _numbers(lines: Iterable[str], side: str) -> Iterator[_Number]:
    filled = 0
    for place, line in enumerate(lines):
        if line and not line.isspace():
            filled += 1
            if match := _match(line, side):
                yield _Number(int(match.group(1)), place, filled)


def _match(line: str, side: str) -> re.Match[str] | None:
    if side != "right":
        return _PATTERNS[side].match(line)
    return _PATTERNS[side].search(line[-_EDGE:]) if line.rstrip()[-1:].isdigit() else None


def without_line_numbers(
    lines: Iterable[NumberedLine], numbers: LineNumbers
) -> Iterator[NumberedLine]:
    """The lines without their numbers, those that count up; other figures are text.

    Args:
        lines: (number, line without its end); a Page is a line that could not be read.
        numbers: of :func:`find_line_numbers` or :func:`find_verse_numbers`.
    """
    last: _Number | None = None
    filled = 0
    for number, line in lines:
        if isinstance(line, str) and line.strip():
            filled += 1
            match = _match(line, numbers.side)
            if match is not None:
                found = _Number(int(match.group(1)), number, filled)
                if _counts_on(found, last, numbers):
                    last, line = found, _without(line, match, numbers)
        yield number, line


def _counts_on(number: _Number, last: _Number | None, numbers: LineNumbers) -> bool:
    if number.value in (1, numbers.step) and (last is None or numbers.restarts):
        return True
    if last is None:
        return numbers.side != "verse" and number.value % numbers.step == 0
    if numbers.side == "verse":
        return last.value < number.value <= last.value + _LOST
    return number.value == last.value + numbers.step or number.follows(last)


def _without(line: str, match: re.Match[str], numbers: LineNumbers) -> str:
    if numbers.side == "right":
        return line[: len(line) - len(line[-_EDGE:]) + match.start()]
    rest = line[match.end() :]
    return " " * match.end() + rest if numbers.padded else rest
