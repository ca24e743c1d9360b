"""Layouts of plain text: what a document is, and hard-wrapped lines."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages, sample_texts
from megabert.data.text.plain.layout import TextLayout, text_layout
from megabert.data.text.plain.wrapping import Wrapping, join_lines, wrapping_of
from megabert.data.text.reading import ReadingRules
from tests.helpers.wrapped_text import sentences, wrapped


def layout(text: str, **rules: str) -> TextLayout:
    return text_layout(text.encode(), ReadingRules(**rules))


def read(path: Path, text: str | bytes, **rules: str) -> list[str]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [page.text for page in iter_pages(path, ReadingRules(**rules))]


PARAGRAPHS = "\n\n".join(" ".join(sentences(number)) for number in range(20))
SENTENCES = "\n\n".join("\n".join(sentences(number)) for number in range(20))
LINES = "\n".join(" ".join(sentences(number)) for number in range(20))
WRAPPED = "\n\n".join(wrapped(number) for number in range(20))


@pytest.mark.parametrize(
    ("text", "documents", "joined"),
    [
        (LINES, "line", False),
        (PARAGRAPHS, "blank-line", False),
        (SENTENCES, "blank-line", False),
        (WRAPPED, "blank-line", True),
        (WRAPPED.replace("\n", "\r\n"), "blank-line", True),
        ("\n".join(wrapped(number, indent="    ") for number in range(20)), "file", True),
        (wrapped(0, count=40), "file", True),
        (" \n = Title = \n \n Text one . \n = = Part = = \n Text two . \n", "heading", False),
        ("Text one.\n\n = A = \n\nText.\n\n = B = \n", "heading", False),
        ("One = two.\n\nThree.\n\n= 4 = 2 + 2\n", "blank-line", False),
        ("\n".join(["word"] * 50), "line", False),
        ("\n".join(sentences(0, 50)), "line", False),
        ("\n".join(f"The {word} of {word}" for word in "abcdefghijklmnop"), "line", False),
        ("a line\nanother\n", "line", False),
    ],
)  # fmt: skip
def test_layouts(text: str, documents: str, joined: bool) -> None:
    found = layout(text)
    assert (found.documents, found.wrapping is not None) == (documents, joined)
    sample = layout(text, line_breaks="keep")
    assert sample.wrapping is None


def test_long_lines_with_a_few_blank_ones_are_documents() -> None:
    lines = [" ".join(sentences(number)) for number in range(900)]
    assert layout("\n".join([*lines[:500], "", *lines[500:]])).documents == "line"
    assert layout("\n".join([*lines[:5], "", *lines[5:9]])).documents == "blank-line"


def test_a_blank_line_far_from_the_beginning_counts() -> None:
    """BERT's own input: a sentence per line, and books as documents."""
    book = "\n".join(sentences(0, 20_000))
    assert len(book) > 1 << 20
    assert layout(f"{book}\n\n{book}").documents == "blank-line"


@given(
    width=st.integers(40, 110),
    seed=st.integers(0, 10**6),
    indent=st.sampled_from(["", "  "]),
    end=st.sampled_from(["\n", "\r\n"]),
    count=st.integers(6, 15),
)
def test_no_sentence_is_cut_at_a_line_end(
    width: int, seed: int, indent: str, end: str, count: int
) -> None:
    documents = [sentences(seed + number, count) for number in range(6)]
    blocks = [textwrap.fill(" ".join(d), width, initial_indent=indent) for d in documents]
    text = "\n\n".join(blocks).replace("\n", end)
    found = layout(text)
    assert (found.documents, found.wrapping is not None) == ("blank-line", True)
    lines = text.split("\n")
    assert list(join_lines(lines, found.wrapping or Wrapping(0))) == [
        " ".join(d) for d in documents
    ]


@given(st.lists(st.text("ab .,é中\t", max_size=12).filter(lambda t: "\n" not in t), max_size=12))
def test_joining_loses_no_character(lines: list[str]) -> None:
    joined = "".join(join_lines(lines, Wrapping(40)))
    assert "".join(joined.split()) == "".join("".join(lines).split())


def test_what_is_joined_and_what_is_not() -> None:
    def joined(text: str) -> list[str]:
        return list(join_lines(text.split("\n"), Wrapping(40)))

    assert joined("CHAPTER ONE\nIt was late and the rain had begun\nto fall.") == [
        "CHAPTER ONE",
        "It was late and the rain had begun to fall.",
    ]
    assert joined("The end of a paragraph.\n  Another one begins here and\ngoes further.") == [
        "The end of a paragraph.",
        "Another one begins here and goes further.",
    ]
    assert joined("- the first item of this list which\n  is long\n- the second one\n- last") == [
        "- the first item of this list which is long",
        "- the second one",
        "- last",
    ]
    assert joined("It was written at home in the year\n1511. Then he left.") == [
        "It was written at home in the year 1511. Then he left."
    ]
    assert joined(
        "This is a well-known and a widely-\nread book about the pre-\nand postwar years"
    ) == ["This is a well-known and a widely-read book about the pre- and postwar years"]
    assert joined("The soft hyphen at the end is gone: ex\u00ad\nample") == [
        "The soft hyphen at the end is gone: example"
    ]
    assert joined(
        "He said that he would come back soon--\nand he did come back to his farm—\nlater."
    ) == ["He said that he would come back soon--and he did come back to his farm—later."]
    assert list(
        join_lines(
            ["A line before the one that cannot be", None, "read.", "", "New."], Wrapping(40)
        )
    ) == ["New."]


def test_prose_among_code_and_lists() -> None:
    code = "    if (x) {\n      run(x);\n    }\n    return x;"
    names = "apples\npears\nplums\nnuts"
    parts = [wrapped(number, 72) for number in range(8)]
    text = "\n\n".join(f"Part {n}\n\n{part}\n\n{code}\n\n{names}" for n, part in enumerate(parts))
    found = layout(text)
    assert found.wrapping
    assert found.wrapping.ragged is False
    joined = list(join_lines(text.split("\n"), found.wrapping))
    assert [line for line in joined if line.startswith("The ")] == [
        " ".join(sentences(number)) for number in range(8)
    ]
    assert joined.count("apples") == 8


def test_scripts_without_spaces() -> None:
    text = "春天来了，村子里的人们都到田里去劳动，他们一边唱歌一边种下新的种子。" * 6
    lines = [text[start : start + 30] for start in range(0, len(text), 30)]
    wrapping = wrapping_of(lines)
    assert wrapping
    assert list(join_lines(lines, wrapping)) == [text]
    assert list(join_lines(["그는 아침에 일어나서 학교에", "갔다."], Wrapping(30))) == [
        "그는 아침에 일어나서 학교에 갔다."
    ]


PROSE = {
    "zh": "春天来了，村子里的人们都到田里去劳动，他们一边唱歌一边种下新的种子。老人坐在门口看着孩子们跑来跑去。天黑了！",
    "ja": "昔々、ある所に、おじいさんとおばあさんが住んでいました。おじいさんは山へ柴刈りに、おばあさんは川へ洗濯に行きました。",
    "without stops": "道可道非常道名可名非常名無名天地之始有名萬物之母故常無欲以觀其妙常有欲以觀其徼此兩者同出而異名",
}


@pytest.mark.parametrize("language", PROSE)
@pytest.mark.parametrize("count", [9, 13, 16, 20, 25, 32, 40, 60])
def test_grids_of_characters(language: str, count: int) -> None:
    text = PROSE[language] * 20
    lines = [text[start : start + count] for start in range(0, len(text), count)]
    wrapping = wrapping_of(lines)
    if count < 15 and language == "without stops":  # as verse is written
        assert wrapping is None
    else:
        assert wrapping
        assert list(join_lines(lines, wrapping)) == [text]


@pytest.mark.parametrize("width", [50, 60, 70])
def test_thai_lines_end_between_words(width: int) -> None:
    words = [
        "วันหนึ่ง",
        "เขา",
        "เดิน",
        "ไป",
        "ตลาด",
        "เพื่อ",
        "ซื้อ",
        "ผลไม้",
        "และ",
        "ผัก",
        "สด",
        "สำหรับ",
        "ครอบครัว",
        "ของ",
        "เขา",
        "เมื่อ",
    ]
    paragraphs: list[str] = []
    lines: list[str] = []
    for number in range(5):
        text = [words[(place * place + number) % len(words)] for place in range(70)]
        paragraphs.append("".join(text))
        line = ""
        for word in text:
            if len(line + word) > width:
                lines.append(line)
                line = ""
            line += word
        lines += [line, ""]
    wrapping = wrapping_of(lines)
    assert wrapping
    assert list(join_lines(lines, wrapping)) == paragraphs
    pause = next(join_lines([f"{lines[0]} ", *lines[1:]], wrapping))
    assert pause == f"{lines[0]} {paragraphs[0].removeprefix(lines[0])}"


@pytest.mark.parametrize(
    "lines",
    [
        ["汉皇重色思倾国，御宇多年求不得。", "杨家有女初长成，养在深闺人未识，"] * 9,
        ["天生丽质难自弃 一朝选在君王侧", "回眸一笑百媚生 六宫粉黛无颜色"] * 9,
        ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"] * 9,
        ["关于加强环境保护工作的决定", "上海市人民政府", "北京大学学报", "论中国古代文学的发展"]
        * 9,
    ],
)
def test_verse_and_titles_in_chinese_are_lines(lines: list[str]) -> None:
    assert wrapping_of(lines) is None


def test_lines_of_any_length_that_stop_inside_sentences() -> None:
    """As text taken from a page of print, with a picture next to it."""
    text = " ".join(" ".join(sentences(number)) for number in range(4)).split(" ")
    lengths = [3, 9, 5, 12, 4, 7, 11, 6] * 9
    lines, place = [], 0
    for length in lengths:
        lines.append(" ".join(text[place : place + length]))
        place += length
    lines = [line for line in lines if line]
    wrapping = wrapping_of(lines)
    assert wrapping
    assert wrapping.ragged
    assert " ".join(join_lines(lines, wrapping)).split() == text


@pytest.mark.parametrize(
    "lines",
    [
        [
            f"went to the {word} shop"
            for word in ["red", "green", "blue", "old", "new", "big", "small"]
        ]
        * 9,
        [f"the history of the {word} age in the north" for word in ["iron", "stone", "dark", "new"]]
        * 9,
        ["lol so true", "I am tired", "what a day", "omg", "never again please"] * 9,
        ["apple", "Banana", "cherry pie", "date"] * 20,
        [f"Track {number} of the record" for number in range(40)],
    ],
)
def test_lists_are_not_hard_wrapped(lines: list[str]) -> None:
    assert wrapping_of(lines) is None


def test_documents_by_flag(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "One.\nTwo.\n\nThree.\n"
    assert read(path, text) == ["One.\nTwo.", "Three."]
    assert read(path, text, documents="file") == ["One.\nTwo.\n\nThree."]
    assert read(path, text, documents="line") == ["One.", "Two.", "Three."]
    assert read(path, text, documents="heading") == ["One.\nTwo.\n\nThree."]
    text = "= A =\nOne.\n= B =\nTwo.\n"
    assert read(path, text) == ["One.", "Two."]
    assert read(path, text, documents="file") == ["= A =\nOne.\n= B =\nTwo."]
    poem = "The wind was low,\nthe sea was long,\n\nthe boat was home\n"
    assert read(path, poem, documents="file", line_breaks="join") == [
        "The wind was low, the sea was long,\nthe boat was home"
    ]
    with pytest.raises(UserError, match="exclude each other"):
        read(path, text, documents="line", line_breaks="join")
    with pytest.raises(UserError, match="--documents 'page' is unknown"):
        read(path, text, documents="page")


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for mark in "\v\f\x1c\x1d\x1e\x85\u2028\u2029\r":
        lines = f"A first sentence{mark}that continues.\nA second one.\n"
        pages = read(path, lines)
        assert pages == [f"A first sentence{mark}that continues.", "A second one."]
        page = next(iter_pages(path))
        assert page_to_sentences(page, "en").paragraphs == [["A first sentence that continues."]]
    mixed = b"One.\r\nTwo.\n\r\nThree.\n\n\xef\xbb\xbfFour.\n"
    assert read(path, mixed) == ["One.\nTwo.", "Three.", "Four."]


def test_a_folder_is_one_document_per_file(tmp_path: Path) -> None:
    for number in range(5):
        text = "\n\n".join(sentences(10 * number + part)[0] for part in range(4))
        (tmp_path / f"{number}.txt").write_text(text + "\n")
    (tmp_path / "5.txt").write_text("\n \n")
    pages = list(iter_pages(tmp_path))
    assert [page.page_id for page in pages] == [1, 2, 3, 4, 5]
    assert [page.title for page in pages] == [f"{number}.txt" for number in range(5)]
    assert len(page_to_sentences(pages[3], "en").paragraphs) == 4
    by_block = list(iter_pages(tmp_path, ReadingRules(documents="blank-line")))
    assert len(by_block) == 20


def test_a_folder_of_large_files_or_headings_is_read_by_content(tmp_path: Path) -> None:
    for number in range(3):
        text = "\n".join([" ".join(sentences(number))] * 2000)
        assert len(text) > 1 << 20
        (tmp_path / f"{number}.txt").write_text(text)
    assert sum(1 for _ in iter_pages(tmp_path)) == 6000
    wiki = tmp_path / "wiki"
    wiki.mkdir()
    for name in ("train", "valid"):
        (wiki / f"{name}.tokens").write_text(" = A = \n \n One . \n = B = \n Two . \n")
    assert [page.title for page in iter_pages(wiki)] == ["A", "B", "A", "B"]


def test_a_document_is_not_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megabert.data.text.plain.documents.MAX_DOCUMENT", 50)
    with pytest.raises(UserError, match="document before line 3 is longer") as caught:
        read(tmp_path / "a.txt", "Twenty characters ..\n" * 9, documents="file")
    assert "\n" not in str(caught.value)


def test_samples(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(WRAPPED)
    sample = sample_texts(path, ReadingRules())
    assert sample.formats == {"text": 1}
    assert sample.layouts == {("blank-line", True): 1}
    assert (sample.documents, sample.complete) == (20, True)
