"""Marks before the lines of wrapped text, and blank lines between them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from megabert.data.text.input.sources import iter_pages, sample_texts
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, sentences_read, wrapped

BLOCKS = [wrapped(number) for number in range(12)]
TEXT = "\n\n".join(BLOCKS)
SENTENCES = [sentence for number in range(12) for sentence in sentences(number)]
CHINESE = "春天来了，村子里的人们都到田里去劳动，他们一边唱歌一边种下新的种子。老人坐在门口看着孩子们跑来跑去。天黑了！"


def before_lines(mark: str, text: str = TEXT) -> str:
    return "\n".join(f"{mark}{line}".rstrip() for line in text.split("\n"))


@pytest.mark.parametrize(
    "mark",
    ["> ", ">", ">> ", "> > ", "AB> ", "# ", "// ", "    /// ", " * ", "-- ", "; ", "% ", "| ", ": ", "! ", "REM ", "dnl ", "+ ", "- ", "~ ", "== "],
)  # fmt: skip
def test_a_mark_before_every_line(tmp_path: Path, mark: str) -> None:
    assert sentences_read(tmp_path, before_lines(mark)) == SENTENCES
    assert sentences_read(tmp_path, before_lines(mark).replace("\n", "\r\n")) == SENTENCES
    kept = sentences_read(tmp_path, before_lines(mark), line_marks="keep")
    assert all(mark.strip() in sentence for sentence in kept[:1])
    sample = sample_texts(tmp_path / "a", ReadingRules())
    assert list(sample.marked.values()) == [sample.marked_of]
    assert not sample.kept_marks


@pytest.mark.parametrize("form", ["{:5} {}", "{}: {}", "{:03}  {}", "{}. {}", "[{}", "{}|{}"])
@pytest.mark.parametrize("numbered", ["all", "not blank", "pages"])
def test_line_numbers(tmp_path: Path, form: str, numbered: str) -> None:
    lines = [line for line in TEXT.split("\n") if line or numbered == "all"]
    page = 28 if numbered == "pages" else len(lines)
    text = "\n".join(form.format(n % page + 1, line).rstrip() for n, line in enumerate(lines))
    if form == "[{}":  # not a form of line numbers
        assert sentences_read(tmp_path, text) != SENTENCES
    else:
        assert sentences_read(tmp_path, text) == SENTENCES


def test_times_before_lines_that_are_cut(tmp_path: Path) -> None:
    lines = [line for line in TEXT.split("\n") if line]
    for form in ("00:{:02}:{:02} {}", "[{:02}:{:02}] {}", "({:02}:{:02}.5) {}"):
        timed = "\n".join(form.format(n // 60, n % 60, line) for n, line in enumerate(lines))
        assert sentences_read(tmp_path, timed) == SENTENCES
    log = "\n".join(f"12:{n % 60:02} {one}" for n, one in enumerate(SENTENCES))
    assert sentences_read(tmp_path, log)[0].startswith("12:00 ")
    verses = "\n".join(f"1:{n} {one}" for n, one in enumerate(SENTENCES, 1))
    assert sentences_read(tmp_path, verses)[0].startswith("1:1 ")
    assert not sample_texts(tmp_path / "a", ReadingRules()).kept_marks


def test_a_figure_at_the_beginning_of_an_unnumbered_line_is_text(tmp_path: Path) -> None:
    lines = [f"{n} {line}" for n, line in enumerate(TEXT.split("\n"), 1) if line]
    lines.insert(40, "1904 was a good year.")
    assert "1904 was a good year." in " ".join(sentences_read(tmp_path, "\n".join(lines)))
    del lines[60:64]  # the numbering continues after a gap
    assert not any(
        f" {n} " in line
        for n in range(70, 90)
        for line in sentences_read(tmp_path, "\n".join(lines))
    )


def test_quoted_parts_and_answers_are_paragraphs_of_their_own(tmp_path: Path) -> None:
    mail = "\n\n".join(
        f"Ann wrote about it:\n{before_lines('> ', one)}\n{before_lines('>> ', two)}\n{three}"
        for one, two, three in zip(BLOCKS[::3], BLOCKS[1::3], BLOCKS[2::3])
    )
    found = sentences_read(tmp_path, mail)
    assert [sentence for sentence in found if "Ann" not in sentence] == SENTENCES
    assert found.count("Ann wrote about it:") == 4


def test_a_quoted_line_that_a_mailer_has_cut(tmp_path: Path) -> None:
    lines = before_lines("> ").split("\n")
    for place in range(0, len(lines) - 1, 12):
        before, _, last = lines[place].rpartition(" ")
        if lines[place + 1] != ">" and last.islower():
            lines[place] = f"{before}\n{last}"
    assert "\n".join(lines) != before_lines("> ")
    assert sentences_read(tmp_path, "\n".join(lines)) == SENTENCES


def test_comments_of_a_program(tmp_path: Path) -> None:
    code = "int next(int x) { return x; }"
    for begin, mark, end in (("/**\n", " * ", "\n */"), ("/* ", " * ", " */"), ("", "# ", "")):
        parts = [
            begin + before_lines(mark, one).removeprefix(mark * (begin == "/* ")) + end
            for one in BLOCKS
        ]
        found = sentences_read(tmp_path, "\n\n".join(f"{part}\n{code}" for part in parts))
        assert [sentence for sentence in found if sentence != code] == SENTENCES
    box = before_lines("# ").replace("\n", "   #\n")
    assert sentences_read(tmp_path, box) == SENTENCES


def test_scripts_without_spaces(tmp_path: Path) -> None:
    text = CHINESE * 9
    lines = "\n".join(f"> {line}" for line in textwrap.wrap(text, 25))
    path = tmp_path / "a"
    path.write_text(lines)
    assert [page.text for page in iter_pages(path)] == [text]


@pytest.mark.parametrize(
    "lines",
    [
        [f"* the item of {x} and another thing" for x in "abcdefghijklmnopq"],
        [f"* {sentence}" for sentence in SENTENCES],
        [f"- {sentence}" for sentence in SENTENCES],
        [f"# Title {number}\n\n{block}" for number, block in enumerate(BLOCKS)],
        [textwrap.fill(f"* {' '.join(sentences(n, 3))}", 60, subsequent_indent="  ") for n in range(9)],
        [f">>> x = {number}\n>>> print(x)\n>>> y()\n{number}" for number in range(9)],
        [f"{BLOCKS[0]}\n> One line.\n{BLOCKS[1]}", *BLOCKS],
    ],
)  # fmt: skip
def test_marks_of_lists_titles_and_single_lines_are_text(tmp_path: Path, lines: list[str]) -> None:
    text = "\n".join(lines)
    assert sentences_read(tmp_path, text) == sentences_read(tmp_path, text, line_marks="keep")
    assert not sample_texts(tmp_path / "a", ReadingRules()).marked


def test_doubtful_marks_stay_and_are_counted(tmp_path: Path) -> None:
    text = "\n".join(f"{number}. {one}" for number, one in enumerate(SENTENCES, 1))
    assert sentences_read(tmp_path, text)[0] == f"1. {SENTENCES[0]}"
    sample = sample_texts(tmp_path / "a", ReadingRules())
    assert sample.kept_marks == {"line numbers": len(SENTENCES)}
    assert sentences_read(tmp_path, text, line_marks="remove") == SENTENCES


@pytest.mark.parametrize("blank", ["\n\n", "\n\n\n", "\r\n\r\n", "\n  \n"])
def test_double_spaced_lines(tmp_path: Path, blank: str) -> None:
    spaced = [block.replace("\n", blank) for block in BLOCKS]
    assert sentences_read(tmp_path, blank.join(spaced)) == SENTENCES
    further = "\n" if "\r" not in blank else "\r\n"
    assert sentences_read(tmp_path, (blank + further).join(spaced)) == SENTENCES
    assert sample_texts(tmp_path / "a", ReadingRules()).layouts == {("blank-line", True): 1}
    quoted = before_lines("> ", blank.join(spaced).replace("\r", ""))
    assert sentences_read(tmp_path, quoted) == SENTENCES


def test_spaced_paragraphs_and_lists_are_not_joined(tmp_path: Path) -> None:
    for parts in (
        [" ".join(sentences(number)) for number in range(20)],
        SENTENCES,
        ["lol so true", "I am tired", "what a day", "omg", "never again please"] * 9,
    ):
        found = sentences_read(tmp_path, "\n\n".join(parts))
        assert found == sentences_read(tmp_path, "\n\n".join(parts), line_breaks="keep")
        sample = sample_texts(tmp_path / "a", ReadingRules())
        assert (sample.spaced, sample.doubtful) == (0, 0)


def test_lines_that_may_be_double_spaced(tmp_path: Path) -> None:
    """Lines of no common width that stop inside sentences, some before a capital."""
    words = " ".join(SENTENCES).replace("The", "and the").split()
    lines = [" ".join(words[n : n + 5 + n % 7]) for n in range(0, len(words), 11)]
    (tmp_path / "a").write_text("\n\n".join(lines))
    sample = sample_texts(tmp_path / "a", ReadingRules())
    assert (sample.spaced, sample.doubtful) == (0, 1)


@pytest.mark.parametrize("mark", ["REM ", "rem ", "dnl ", "/// ", "## ", "+ ", "- ", "AB> "])
def test_a_mark_is_named_as_the_file_has_it(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a").write_text(before_lines(mark))
    assert list(sample_texts(tmp_path / "a", ReadingRules()).marked) == [f"'{mark}'"]


@pytest.mark.parametrize("mark", ["+ ", "- ", "* ", "| "])
def test_marks_that_stay_in_joined_lines_give_a_warning(tmp_path: Path, mark: str) -> None:
    lines = [f"{mark}{line}" for line in TEXT.upper().split("\n") if line]
    (tmp_path / "a").write_text("\n".join(lines))
    sample = sample_texts(tmp_path / "a", ReadingRules(line_breaks="join"))
    assert sample.kept_marks == {f"'{mark}'": len(lines)}
    listed = "\n".join(f"{mark}{sentence}" for sentence in SENTENCES)
    (tmp_path / "a").write_text(listed)
    assert not sample_texts(tmp_path / "a", ReadingRules()).kept_marks
