"""Prints how the time of cleaning and tokenizing grows with the size of hostile texts, as rows of Markdown.

    python -m tests.faults.growth_table

A row has the processor time of all texts of a class together at 1, 2, 4 and 8 times a size, the power of the size
with which they grow, and the most by which the time of one text grew from 1 to 8 times the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from megabert.data.text.document import page_to_sentences
from megabert.data.text.pages import Page
from megabert.data.text.sentences import split_sentences
from tests.helpers.growth import NOTICED, Work, exponent, series
from tests.helpers.hostile_pages import KINDS, WORDS, Text, enclosed, mixed, shapes

_SIZE = 8000  # characters
_REPEATS = 2


def _cleaning(text: Text, language: str, markup: str) -> Work:
    def work(size: int) -> Callable[[], object]:
        page = Page(1, "Title", 0, False, "wikitext", text(size), markup)  # type: ignore[arg-type]
        return lambda: page_to_sentences(page, language)

    return work


def _splitting(text: Text, language: str) -> Work:
    def work(size: int) -> Callable[[], object]:
        line = text(size).replace("\n", " ")
        return lambda: split_sentences(line, language)

    return work


def _texts(units: Iterable[str], language: str) -> Iterator[Text]:
    for unit in units:
        yield from (text for _, text in shapes(unit, WORDS[language]))


def _row(name: str, works: Iterable[Work]) -> None:
    found = [series(work, _SIZE, _REPEATS) for work in works]
    total = [sum(times) for times in zip(*found)]
    most = max(times[-1] / max(times[0], NOTICED) for times in found)
    shown = " | ".join(f"{seconds:.3f}" for seconds in total)
    print(f"| {name} | {len(found)} | {shown} | {exponent(total):.2f} | {most:.1f} |", flush=True)


def main() -> None:
    """Measure every class."""
    for kind, units in KINDS.items():
        _row(f"wikitext, en: {kind}", [_cleaning(t, "en", "wikitext") for t in _texts(units, "en")])
    pairs = [*enclosed(WORDS["en"]), *mixed(WORDS["en"], 300, 1)]
    _row(
        "wikitext, en: marks and their ends, and pieces drawn by chance",
        [_cleaning(t, "en", "wikitext") for _, t in pairs],
    )
    few = [unit for units in KINDS.values() for unit in units[:4]]
    for language in WORDS:
        texts = [text for n, text in enumerate(_texts(few, language)) if n % 4 == 1]
        for markup in ("wikitext", "extracted", "plain"):
            _row(f"{markup}, {language}", [_cleaning(t, language, markup) for t in texts])
    marks = KINDS["stops"] + KINDS["brackets and quotations"]
    for language in WORDS:
        lines = [text for n, text in enumerate(_texts(marks, language)) if n % 4 < 2]
        _row(f"sentences of one line, {language}", [_splitting(t, language) for t in lines])


if __name__ == "__main__":
    main()
