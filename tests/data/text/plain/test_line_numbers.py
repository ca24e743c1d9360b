"""Numbers of lines and verses, before or behind some lines of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabert.data.text.input.sources import sample_texts
from megabert.data.text.plain.layout import TextSample, sample_of
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, sentences_read, wrapped

LINES = wrapped(0, count=100).split("\n")
SENTENCES = sentences(0, 100)


def sampled(text: str) -> TextSample:
    return sample_of(text.encode(), ReadingRules())


@pytest.mark.parametrize("form", ["{:4} {}", "{:<4}{}", "{:03}  {}"])
@pytest.mark.parametrize("step", [5, 10])
def test_a_number_before_every_few_lines(tmp_path: Path, step: int, form: str) -> None:
    text = "\n".join(
        form.format(n, line) if n % step == 0 else f"     {line}" for n, line in enumerate(LINES, 1)
    )
    assert sentences_read(tmp_path, text) == SENTENCES
    assert sampled(text).marked == {"line numbers": len(LINES) // step}
    assert sentences_read(tmp_path, text, line_marks="keep") != SENTENCES
    flush = "\n".join(line.strip() for line in text.split("\n"))
    assert sentences_read(tmp_path, flush) == SENTENCES


@pytest.mark.parametrize("step", [1, 5, 10])
def test_a_number_behind_lines(tmp_path: Path, step: int) -> None:
    text = "\n".join(f"{line:<66}{n}" if n % step == 0 else line for n, line in enumerate(LINES, 1))
    assert sentences_read(tmp_path, text) == SENTENCES
    assert sampled(text).marked == {"numbers behind lines": len(LINES) // step}
    assert not sampled(text).looks


def test_numbers_of_verse_that_is_not_joined(tmp_path: Path) -> None:
    verses = ["The bells of evening", "And the birds of morning", "In the old wood,", "Sing."] * 10
    text = "\n".join(f"{v:<40}{n}" if n % 5 == 0 else v for n, v in enumerate(verses, 1))
    assert sentences_read(tmp_path, text) == verses


def test_numbers_that_begin_anew_on_each_page(tmp_path: Path) -> None:
    pages = [LINES[n : n + 30] for n in range(0, len(LINES), 30)]
    text = "\n".join(
        f"{n:3} {line}" if n % 5 == 0 else f"    {line}"
        for page in pages
        for n, line in enumerate(page, 1)
    )
    assert sentences_read(tmp_path, text) == SENTENCES


@pytest.mark.parametrize("form", ["L{:03}: {}", "l.{}: {}", "line {}: {}", "P{}. {}"])
def test_numbers_with_letters_before_all_lines(tmp_path: Path, form: str) -> None:
    text = "\n".join(form.format(n, line) for n, line in enumerate(LINES, 1))
    assert sentences_read(tmp_path, text) == SENTENCES


def test_numbers_of_verses(tmp_path: Path) -> None:
    text = "\n".join(f"{n} {wrapped(n, count=3)}" for n in range(1, 31))
    expected = [sentence for n in range(1, 31) for sentence in sentences(n, 3)]
    assert sentences_read(tmp_path, text) == expected
    assert sampled(text).marked == {"verse numbers": 30}
    chapters = text + "\n\n" + text
    assert sentences_read(tmp_path, chapters) == expected * 2
    assert sentences_read(tmp_path, text, line_marks="keep")[0].startswith("1 ")


def test_figures_of_the_text_stay(tmp_path: Path) -> None:
    years = "\n".join(f"{1900 + 7 * n % 50} was good. {wrapped(n)}" for n in range(12))
    found = sentences_read(tmp_path, years)
    assert sum(s.endswith("was good.") and s[:2] == "19" for s in found) == 12
    assert not sampled(years).marked
    lines = list(LINES)
    lines[40] = f"12 men and {lines[40]}"
    text = "\n".join(
        f"{n:3}  {line}" if n % 5 == 0 else f"     {line}" for n, line in enumerate(lines, 1)
    )
    assert "12 men and" in " ".join(sentences_read(tmp_path, text))


def test_numbers_that_may_be_part_of_the_text_give_a_warning(tmp_path: Path) -> None:
    listed = "\n".join(f"{2 * n + n % 2} {s}" for n, s in enumerate(SENTENCES))
    assert "numbers" in sampled(listed).looks
    behind = "\n".join(f"{s}   {3 * n + n % 2}" for n, s in enumerate(SENTENCES))
    assert "numbers" in sampled(behind).looks
    assert "numbers" not in sampled("\n".join(SENTENCES)).looks
    assert sentences_read(tmp_path, listed)[1].startswith("3 ")
    assert sample_texts(tmp_path / "a", ReadingRules()).looks
