"""Double-spaced text: blank lines between the lines of one paragraph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from megabert.data.text.plain.wrapping import (
    Wrapping,
    begins_lower,
    ends_sentence,
    joins_spaceless,
    wrapping_of,
)

_FEWEST = 8  # lines
_SINGLE = 0.85  # of the gaps between lines are alike
_MOST_BLANK = 4


def blank_lines_between(lines: Sequence[str]) -> int:
    """How many blank lines there are between nearly all lines of a sample; 0: not the same number."""
    gaps: Counter[int] = Counter()
    blank, started = 0, False
    for line in lines:
        if line.strip():
            gaps[blank] += started
            blank, started = 0, True
        else:
            blank += 1
    total = sum(gaps.values())
    if total < _FEWEST - 1:
        return 0
    usual, count = gaps.most_common(1)[0]
    # paragraphs may be further apart, and never closer
    wider = sum(n for gap, n in gaps.items() if gap > usual)
    alike = 2 * count >= total and count + wider >= _SINGLE * total
    return usual if 0 < usual <= _MOST_BLANK and alike else 0


def without_spacing(lines: Iterable[str], blank: int) -> Iterator[str]:
    """The lines, with up to ``blank`` blank lines after each line left out."""
    left = 0
    for line in lines:
        if line.strip():
            left = blank
        elif left:
            left -= 1
            continue
        yield line


def spaced_wrapping(lines: Sequence[str], blank: int) -> tuple[Wrapping | None, bool]:
    """How double-spaced lines are cut, and whether it is doubtful that they are not.

    Args:
        lines: a sample with ``blank`` blank lines between its lines.
        blank: of :func:`blank_lines_between`, not 0.

    Returns:
        The wrapping if the lines are cut at a width and half of the cut ones are continued by a
        lower-case letter (or in a script without spaces); else None, and whether many lines stop
        inside a sentence all the same.
    """
    single = list(without_spacing(lines, blank))
    pairs = [(a, b) for a, b in pairwise(single) if a.strip() and b.strip()]
    cut = [(a, b) for a, b in pairs if not ends_sentence(a)]
    continued = sum(begins_lower(b) or joins_spaceless(a, b) for a, b in cut)
    wrapping = wrapping_of(single)
    if wrapping is not None and 5 * continued >= 2 * len(cut):
        return wrapping, False
    words = sum(len(a.split()) >= 5 for a, _ in cut)
    return None, 3 * len(cut) >= len(pairs) and 2 * continued >= len(cut) and 2 * words >= len(
        cut
    ) > 0
