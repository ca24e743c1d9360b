"""Page numbers, running heads, feet and form feeds between the pages of wrapped text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megabert.data.prepare.text_layouts import input_layouts, log_layouts
from megabert.data.text.input.sources import iter_pages, sample_texts
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, sentences_read, wrapped

SENTENCES = [sentence for number in range(12) for sentence in sentences(number)]
BLOCKS = "\n\n".join(wrapped(number) for number in range(12))
PLAIN = wrapped(0, count=100)
ONE = sentences(0, 100)


def paged(text: str, between: Callable[[int], str], height: int = 13) -> str:
    """The text with ``between(n)`` instead of the line end after its nth page."""
    lines = text.split("\n")
    pages = ["\n".join(lines[n : n + height]) for n in range(0, len(lines), height)]
    found = pages[0]
    for number, page in enumerate(pages[1:], 1):
        found += between(number) + page
    return found


BETWEEN = {
    "number": lambda n: f"\n\n{n:>33}\n\n",
    "dashes": lambda n: f"\n\n\n- {n} -\n\n\n",
    "head": lambda n: f"\n\f\nTHE OLD MILL{n:>40}\n\n",
    "head next to the text": lambda n: f"\n\fTHE OLD MILL{n:>40}\n",
    "foot": lambda n: f"\n\nRFC 9999      Boats      [Page {n}]\n\f\n",
    "foot and head": lambda n: f"\n\n\nAbel   [Page {n}]\n\f\nRFC 9999   Boats   March 1904\n\n\n",
    "left and right": lambda n: f"\n\n{n} THE MILL\n\n" if n % 2 else f"\n\nCHAPTER TWO {n}\n\n",
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", BETWEEN)
def test_what_is_between_pages_goes(tmp_path: Path, kind: str, end: str) -> None:
    text = paged(PLAIN, BETWEEN[kind]).replace("\n", end)
    assert sentences_read(tmp_path, text) == ONE
    sample = sample_texts(tmp_path / "a", ReadingRules())
    assert sample.page_lines >= 5
    assert list(sample.layouts) == [("file", True)]
    assert len(sentences_read(tmp_path, text, line_breaks="keep")) > len(ONE)


@pytest.mark.parametrize("kind", BETWEEN)
def test_paragraphs_and_documents_between_blank_lines_stay(tmp_path: Path, kind: str) -> None:
    text = paged(BLOCKS, BETWEEN[kind], 15)
    assert sentences_read(tmp_path, text) == SENTENCES
    # a page that ends with a sentence, and a full line, may be a document's end
    assert len(list(iter_pages(tmp_path / "a"))) in (12, 13)


def test_the_count_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rules = tmp_path / "a", ReadingRules()
    path.write_text(paged(PLAIN, BETWEEN["head"]))
    log_layouts(input_layouts([path], [sample_texts(path, rules)], rules))
    assert "page numbers, running heads and feet between the pages are removed: 8 lines" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("feed", ["\f", "\f\n", "\n\f", "\n\f\n"])
def test_a_form_feed_between_wrapped_lines_is_a_space(tmp_path: Path, feed: str) -> None:
    assert sentences_read(tmp_path, paged(PLAIN, lambda n: feed)) == ONE


def test_other_lines_that_repeat_stay(tmp_path: Path) -> None:
    chapters = "\n\n".join(f"CHAPTER {n}\n\n{wrapped(n)}\n\n* * *" for n in range(12))
    found = sentences_read(tmp_path, chapters)
    assert [line for line in found if line.startswith("CHAPTER")] == [
        f"CHAPTER {n}" for n in range(12)
    ]
    assert sample_texts(tmp_path / "a", ReadingRules()).page_lines == 0
    songs = "\n\n".join(f"{wrapped(n)}\n\nSing, and sing again!" for n in range(12))
    assert sentences_read(tmp_path, songs).count("Sing, and sing again!") == 12
    years = paged(PLAIN, lambda n: f"\n\n{1900 + (n * 37) % 50}\n\n")
    assert "1937" in sentences_read(tmp_path, years)


def test_a_form_feed_between_documents_stays_a_blank_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\n\f\n".join(wrapped(number) for number in range(12)))
    assert len(list(iter_pages(tmp_path / "a"))) == 12
