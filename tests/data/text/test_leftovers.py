"""Lines of extracted and of plain text: what goes, and what is the author's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.document import page_to_sentences
from megabert.data.text.leftovers import (
    _LEADING_SIGNS,
    _UNTIDY,
    extracted_lines,
    plain_lines,
    tidy_extracted,
)
from megabert.data.text.pages import Page
from megabert.data.text.plain.records import is_wiki_address


def page(text: str, markup: str, title: str = "T") -> Page:
    return Page(1, title, 0, False, "wikitext", text, markup)  # type: ignore[arg-type]


def extracted(text: str, language: str = "en", title: str = "T") -> list[list[str]]:
    return page_to_sentences(page(text, "extracted", title), language).paragraphs


def test_private_characters_are_no_marks_of_the_cleaner() -> None:
    for markup in ("plain", "extracted"):
        found = page_to_sentences(page("今日は楽しかった\ue001。また行きたい。", markup), "ja")
        assert found.paragraphs == [["今日は楽しかった。", "また行きたい。"]]


def test_extracted_text() -> None:
    assert extracted("T\n\nOne. Two.\nT\n") == [["One.", "Two."], ["T"]]
    assert extracted("AT&amp;T\n\nIts body is here.", title="AT&T") == [["Its body is here."]]
    assert extracted("T\n\n《甲》（）是书。\n劇情概要.\n他说（，乙）。", "zh") == [
        ["《甲》是书。"],
        ["他说（乙）。"],
    ]
    assert extracted("T\n\nHistory.\nIt all began so.\nBULLET::::- An item of a list.") == [
        ["It all began so."],
        ["An item of a list."],
    ]
    assert extracted(
        "T\n\nA [[b|c]] &lt;br&gt; d formula_1 e.\n[[Category:X]]\n| a || b\n140||0||1"
    ) == [["A c d e."]]
    assert extracted('甲-{zh-hans:乙;zh-hant:丙}-&lt;ref name="a"&gt;&lt;/ref&gt;。', "zh") == [
        ["甲乙。"]
    ]


def test_short_lines_without_a_title_before_are_not_headings() -> None:
    assert extracted("Come here.\nAmen.", title="") == [["Come here."], ["Amen."]]


@pytest.mark.parametrize(
    "line",
    [
        ".NET is a framework.", "...And Justice for All is an album.", "The macro __FILE__ is a name.",
        "Call f() or take [] and (()).", "Er sagte ,,Guten Tag“.", "A std::vector<int> of numbers.",
        "Der 5' 6 große Mann sprach.", "The [re:publica] begins.", ".45 ACP is a cartridge.",
    ],
)  # fmt: skip
def test_words_of_extracted_text_stay(line: str) -> None:
    assert extracted_lines(page(line, "extracted"), "en") == [line]


def test_what_an_extractor_leaves_goes() -> None:
    for left, tidy in (
        ("X ( ; ) is Y.", "X is Y."), ("方向345°。，外长18米", "方向345°。外长18米"),
        ("《赢了吗？：挑战》", "《赢了吗？：挑战》"), ("，他说。", "他说。"), (", he said.", "he said."),
        ("such as , , and , .", "such as, and."), ("__NOTOC__ The text.", "The text."),
    ):  # fmt: skip
        assert extracted_lines(page(left, "extracted"), "en") == [tidy]


PUNCTUATION = ' ,.;:、，。；：！？()[]（）［］【】〔〕「」『』《》〈〉“”‘’„«»"•·/–—-'


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=PUNCTUATION + "ab中é1", max_size=9))
def test_a_line_that_is_not_tidied_is_tidy(text: str) -> None:
    line = " ".join(text.split())
    if line[:1] not in _LEADING_SIGNS and not _UNTIDY.search(line):
        assert tidy_extracted(line) == line


@pytest.mark.parametrize(
    "line",
    [
        ".NET", "...And so on", ": a definition", "T", "History.", "use ( ) and [] and , ,",
        "__NOTOC__ and __FILE__", "formula_1 and codice_2", "| a || b |", "== not a heading ==",
        "<b>bold</b> and vector<int>", "''two'' and [[two]] and {{two}}", "AT&amp;T", "-{zh:a}-",
        "http://example.org/x", "BULLET::::- item", "a.jpg | b", "thumb|x", "，他说 （）",
    ],
)  # fmt: skip
def test_every_word_and_sign_of_plain_text_stays(line: str) -> None:
    assert plain_lines(page(f"{line}\n\n  {line}  ", "plain")) == [line, line]


def test_of_plain_text_only_invisible_characters_and_spaces_go() -> None:
    assert plain_lines(page("a\u200bb\u00ad c \x0c d\u2028e\n \n—\n", "plain")) == ["ab c d e"]


def test_which_documents_an_extractor_made() -> None:
    assert is_wiki_address("https://de.wikipedia.org/wiki/Hund")
    assert is_wiki_address("https://en.wikipedia.org/wiki?curid=12")
    assert not is_wiki_address("https://example.org/news/1")
    assert not is_wiki_address(None)
