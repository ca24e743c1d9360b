"""No figure becomes another one where something was dropped, raised or lowered."""

import pytest

from megabert.data.text.document import page_to_sentences
from megabert.data.text.leftovers import extracted_lines
from megabert.data.text.pages import Page


def sentences(wikitext: str, language: str = "en") -> list[str]:
    page = Page(1, "T", 0, False, "wikitext", wikitext, "wikitext")
    return [s for p in page_to_sentences(page, language).paragraphs for s in p]


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("3<ref>x</ref>4", "3 4"), ("4<ref name=y/>5", "4 5"), ("3<ref>x</ref><ref>y</ref>4", "3 4"),
        ("3[[File:X.png|10px]]4", "3 4"), ("3[[File:X.png|a [b] c]]4", "3 4"), ("3[[de:a]][[File:b.png]]4", "3 4"),
        ("3[http://x.org]4", "3 4"), ("3({{cn}})4", "3 4"), ("3({{unknown}})4", "3 4"), ("1{{cn}}{{efn}}2", "1 2"),
        ("1990,({{cn}})1991", "1990, 1991"), ("1<ref/>,000", "1,000"), ("1990<ref/>, 1991", "1990, 1991"),
        ("5<ref/>%", "5%"), ("10<!-- x -->000", "10000"), ("3<nowiki/>4", "34"), ("10{{zwj}}000", "10000"),
        # markup next to what is dropped
        ("'''3'''<ref/>4", "3 4"), ("3<ref/>'''4'''", "3 4"), ("''3''<ref/>''4''", "3 4"), ("[[3]]<ref/>[[4]]", "3 4"),
        ("3<ref/><b>4</b>", "3 4"), ("<b>3</b><ref/>4", "3 4"), ("[[3]][[File:a.png]][[4]]", "3 4"),
        ("3{{nowrap|5}}<ref/>4", "35 4"), ("3<ref/>{{nowrap|4}}", "3 4"), ("{{nowrap|3}}{{efn|a}}{{nowrap|4}}", "3 4"),
        # words and sentences
        ("'''breaks'''{{cn}}in", "breaks in"), ("[[breaks]]{{cn}}[[in]]", "breaks in"), ("Boeing<ref/>747", "Boeing 747"),
        ("''Eagle''{{'s}} crew", "Eagle's crew"), ("Dog<nowiki/>s", "Dogs"), ("''a''<ref/>, b", "a, b"),
    ],
)  # fmt: skip
def test_figures_and_words_are_not_joined(wikitext: str, shown: str) -> None:
    assert sentences(f"So {wikitext} is") == [f"So {shown} is"]


def test_a_sentence_that_begins_with_a_link_behind_a_note() -> None:
    assert sentences("It is old.<ref/>[[The]] end.") == ["It is old.", "The end."]


@pytest.mark.parametrize(
    "wikitext",
    ["3{{efn|x}}5", "1990{{cn}}2", "12{{rp|34}}56", "19{{sfn|A|1990}}90", "10{{nowrap begin}}000",
     "3{{#if:||}}4", "3{{formatnum:}}4",
     # behind the comma, stop or colon of a figure, a footnote does too
     "1,<ref/>000", "1.<ref>x</ref>5 million", "10:<ref name=a />30", "1,{{cn}}000", "1.{{efn|x}}5", "1,<gallery>x</gallery>5"],
)  # fmt: skip
def test_what_divides_a_figure_leaves_a_hole(wikitext: str) -> None:
    assert sentences(f"So {wikitext} is. It is big.") == ["It is big."]


def test_figures_in_chinese_and_in_extracted_text() -> None:
    assert sentences("在3<ref/>4年和第<ref/>5年。", "zh") == ["在3 4年和第5年。"]
    assert sentences("有3-{H|zh-cn:乙}--{T|题}-4个。", "zh") == ["有3 4个。"]
    page = Page(1, "T", 0, False, "wikitext", "So 3<ref>x</ref>4 games.", "extracted")
    assert extracted_lines(page, "en") == ["So 3 4 games."]


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("<math>10^6</math>5", "10^6 5"), ("2<math>10^6</math>", "2 10^6"), ("5<math>^3</math>", "5^3"), ("5<math>\\pm</math>6", "5±6"),
        ("10<nowiki>00</nowiki>5", "10005"), ("a 12'' disc", "a 12'' disc"), ("5' 11'' or 6' 2''", "5' 11'' or 6' 2''"),
        ("the 7'', and ''Eagle'', a 12'' disc,", "the 7'', and Eagle, a 12'' disc,"), ("in ''1984'' it", "in 1984 it"),
        ("''The 12'' and ''Robot 28'',", "The 12 and Robot 28,"),
    ],
)  # fmt: skip
def test_figures_next_to_formulas_and_quotes(wikitext: str, shown: str) -> None:
    assert sentences(f"So {wikitext} is") == [f"So {shown} is"]


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("10<sup>10<sup>6</sup></sup>", "10^(10^6)"), ("2<sup>2<sup>n</sup></sup>", "2^(2^n)"),
        ("''e''<sup>2<sup>k</sup></sup>", "e^(2^k)"), ("10<sup>10<sup>10<sup>34</sup></sup></sup>", "10^(10^(10^34))"),
        ("''e''<sup>−''x''<sup>2</sup>/2</sup>", "e^(−x^2/2)"), ("''a''<sub>''n''<sub>''k''</sub></sub>", "a_(n_k)"),
        ("10{{sup|10{{sup|6}}}}", "10^(10^6)"), ("10<sup>10<sup>6</sup>", "10^10^6"), ("1</sup>2", "1 2"), ("x<sub>n<sub>1</sub></sub>", "xn1"),
        # errors
        ("5.0<sub>−0.1</sub><sup>+0.2</sup> km", "5.0 (+0.2, −0.1) km"), ("3.2{{su|p=+0.1|b=-0.2}}", "3.2 (+0.1, -0.2)"),
        ("5<sup>+0.2</sup><sub>&minus;0.1</sub>%", "5 (+0.2, −0.1)%"), ("5.0<sub>−0.1</sub> km", "5.0_−0.1 km"),
        ("Fe<sub>−1</sub><sup>+2</sup>", "Fe−1^+2"), ("10<sup>&minus;9</sup>", "10^−9"), ("2<sup>&lt;5</sup>", "2<5"),
        # symbols
        ("{{mvar|x}}{{sup|2}}", "x^2"), ("<var>x</var><sup>2</sup>", "x^2"), ("<i>y</i><sub>''n''</sub>", "y_n"),
        ("m<sup>2</sup>", "m2"), ("10<ref/><sup>6</sup>", "10^6"),
        # notes
        ("25<sup>note 3</sup>", "25"), ("25<sup>[[#fn1|3]]</sup>", "25"), ("25<sup>[[#fn1|[3]]]</sup>7", "25 7"), ("Smith<sup>Anm. 3</sup>", "Smith"),
        ("25<sup>[3]</sup>", "25"), ("25<sup>th</sup>", "25th"), ("''e''<sup>sin 2</sup>", "e^(sin 2)"), ("2<sup>log 2</sup>", "2^(log 2)"),
    ],
)  # fmt: skip
def test_scripts(wikitext: str, shown: str) -> None:
    assert sentences(f"So {wikitext} is") == [f"So {shown} is"]


def test_nested_scripts_take_linear_time() -> None:
    for piece in (
        "<sup>2",
        "<sup>2</sup></sup>",
        "1<sup>2<sup>3</sup></sup>",
        "5<sub>-1</sub><sup>",
        "3<ref/>[[",
    ):
        assert sentences(f"So {piece * 20_000} is")
