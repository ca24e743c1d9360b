"""Plain text that is read with a warning, because it is not prose or its lines hold more than it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from megabert.data.prepare import text_layouts
from megabert.data.text.plain import layout
from megabert.data.text.plain.layout import sample_of, text_layout
from megabert.data.text.plain.looks import WARNINGS
from megabert.data.text.plain.margins import FoundMargins
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, wrapped

TEXT = "\n\n".join(wrapped(number) for number in range(12))
SONNET = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;

"""


def looks(text: str) -> set[str]:
    return set(sample_of(text.encode(), ReadingRules()).looks)


def columns(left: str, right: str) -> str:
    pairs = zip(left.split("\n"), right.split("\n"))
    return "\n".join(f"{one:36}{two}" for one, two in pairs)


CASES = {
    "log": "\n".join(
        f"2024-05-{n:02} 12:00:{n:02} INFO {s}" for n, s in enumerate(sentences(0, 28))
    ),
    "code": Path(text_layouts.__file__).read_text(),
    "columns": columns(wrapped(1, 32, count=20), wrapped(2, 32, count=20)),
    "tags": "\n".join(sentences(0)) + "".join(f"\n<p>{s}</p>" for s in sentences(1, 4)),
    "outline": "* Boats\n" + "\n** Ships\n".join(wrapped(number) for number in range(9)),
    "hyphens": TEXT.replace("car\npenter", "").replace(" carpenter", " car-\npenter"),
}


@pytest.mark.parametrize("kind", CASES)
def test_other_text_is_named(kind: str) -> None:
    assert looks(CASES[kind]) == {kind}
    assert kind in WARNINGS


def test_prose_is_not_named() -> None:
    lines = "\n".join(sentence for number in range(9) for sentence in sentences(number))
    for text in (TEXT, lines, SONNET * 5, TEXT.replace(". ", ".  "), TEXT.replace(" ", "  ", 200)):
        assert looks(text) == set()
    assert looks("x = 1;\n" * 3) == set()


@pytest.mark.parametrize("count", [2, 5, 20])
def test_verse_that_begins_with_capitals_is_not_joined(count: int) -> None:
    assert text_layout((SONNET * count).encode(), ReadingRules()).wrapping is None
    capitals = textwrap.fill(" ".join(sentences(1, 40)).upper(), 60)
    assert text_layout(capitals.encode(), ReadingRules()).wrapping is not None


def test_few_lines_with_tags_are_named() -> None:
    assert looks("".join(f"<p>{s}</p>\n" for s in sentences(1, 4))) == {"tags"}


def test_lines_that_end_at_clauses_are_joined() -> None:
    lines = "\n".join(sentences(0, 40)).replace(" near", ",\nnear").replace(" with", ",\nwith")
    assert text_layout(lines.encode(), ReadingRules()).wrapping is not None
    low = "\n".join(line[0].lower() + line[1:] for line in lines.split("\n"))
    assert text_layout(low.encode(), ReadingRules()).wrapping is None
    assert text_layout("\n".join(sentences(0, 40)).encode(), ReadingRules()).wrapping is None
    rare = "\n".join(sentences(0, 90)).replace(" near", "\nnear", 3)
    assert text_layout(rare.encode(), ReadingRules()).wrapping is None


def test_a_layout_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    find = layout.find_margins

    def counted(lines: Sequence[str], choice: str) -> FoundMargins:
        calls.append(choice)
        return find(lines, choice)

    monkeypatch.setattr(layout, "find_margins", counted)
    sample = ("\n".join(sentences(77)) + "\n").encode()
    sample_of(sample, ReadingRules())
    assert text_layout(sample, ReadingRules()).documents == "line"
    assert text_layout(sample, ReadingRules(documents="file")).documents == "file"
    assert len(calls) == 1
    text_layout(sample, ReadingRules(line_marks="keep"))
    assert len(calls) == 2
