"""Markup without its end, and lines that only look like rows: nothing is lost uncounted."""

import pytest

from megabert.data.text.counts import HOLES
from megabert.data.text.document import Cleaned, page_to_sentences
from megabert.data.text.pages import Page
from megabert.data.text.wikitext.conversion import resolve_conversion


def cleaned(wikitext: str, language: str = "en") -> Cleaned:
    return page_to_sentences(Page(1, "T", 0, False, "wikitext", wikitext, "wikitext"), language)


def sentences(wikitext: str, language: str = "en") -> list[str]:
    return [s for p in cleaned(wikitext, language).paragraphs for s in p]


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("Foo {{convert|5|km continues.\n\nIt is big.", ["It is big."]), ("Foo {{a|{{b}} continues.\n\nIt is big.", ["It is big."]),
        ("It is old. Foo <!-- open\n\nIt is big.", ["It is old."]), ("It is <!-- a --> old. Foo <!-- open", ["It is old."]),
        ("The town [[File:X.jpg|thumb|caption continues.\n\nIt is big.", ["It is big."]),
        ("The town [[File:X.jpg|thumb|caption with a [[link]] on.\n\nIt is big.", ["It is big."]),
    ],
)  # fmt: skip
def test_a_sentence_that_is_cut_is_left_out_and_counted(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept
    assert cleaned(wikitext).counts[HOLES] == 1


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("It is old. {{cite|b\n\nIt is big.", ["It is old.", "It is big."]),
        ("It is old.\n{{Infobox|a=b\n\nIt is big.", ["It is old.", "It is big."]),
        ("It is old. <!-- open", ["It is old."]), ("[[File:X.jpg|thumb|caption.\nIt is big.", ["It is big."]),
        ("It is old.\n{| class=a\n| b\n\nIt is big.", ["It is old.", "It is big."]),
    ],
)  # fmt: skip
def test_a_whole_sentence_before_it_stays(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept
    assert cleaned(wikitext).counts[HOLES] == 0


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("It is old.\n\n|x| is the absolute value of x.\n\nIt is big.", ["It is old.", "|x| is the absolute value of x.", "It is big."]),
        ("|''x''| < 5 is true of it.", ["|x| < 5 is true of it."]), ("{{abs|x}} is the value.", ["|x| is the value."]),
        ("|a − b| = 5 is true of it.", ["|a − b| = 5 is true of it."]),
        ("It is old.\n|x| stray\n|y| z\nIt is big.", ["It is old.", "It is big."]),
        ("It is old.\n|align=left| stray\nIt is big.", ["It is old.", "It is big."]),
        ("It is old.\n|a || b\n\nIt is big.", ["It is old.", "It is big."]),
        ("It is old.\n{{unknown top}}\n|x| stray\n|}\nIt is big.", ["It is old.", "It is big."]),
    ],
)  # fmt: skip
def test_an_absolute_value_is_no_row(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept


@pytest.mark.parametrize(
    ("language", "wikitext", "shown"),
    [
        ("zh", "-{D|zh-cn:甲;zh-tw:乙}-", "大陆：甲；臺灣：乙；"), ("zh", "-{H;D|zh-hk:甲}-", "香港：甲；"),
        ("zh", "-{D|丙=>zh-cn:甲}-", "丙⇒大陆：甲；"), ("zh", "-{A;D|zh-cn:甲}-文", "文"), ("zh", "-{D|甲}-", "甲"), ("zh", "-{N|zh-tw}-", "臺灣"),
        ("sr", "-{D|sr-ec:а;sr-el:b}-", "ћирилица:а;latinica:b;"),
    ],
)  # fmt: skip
def test_flags_that_describe_a_rule(language: str, wikitext: str, shown: str) -> None:
    assert resolve_conversion(wikitext, language) == shown
