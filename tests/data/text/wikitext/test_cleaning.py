"""Wikitext and extracted text to sentences."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.document import page_to_sentences
from megabert.data.text.input.sources import iter_pages
from megabert.data.text.pages import Page, Site
from megabert.data.text.wikitext.inline import strip_inline
from megabert.data.text.wikitext.links import EXTERNAL, LinkRules
from megabert.data.text.wikitext.sections import PageLimitError, clean
from megabert.data.text.wikitext.tidy import MARK, tidy_line

SITE = Site(((6, "Fails"), (14, "Kategoreja"), (-2, "Medeja")), "ltg")


def text_of(wikitext: str, language: str = "en", site: Site | None = None, title: str = "T") -> str:
    sections = clean(wikitext, language=language, site=site, title=title)
    return "\n".join(line for s in sections for p in s.paragraphs for line in p.lines)


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''italic'' text.", "Bold and italic text."),
        ("Il dit l'''amour'' ici.", "Il dit l'amour ici."),
        ("A [[dog]]s, [[Cat (animal)|cat]] and [[a#b]].", "A dogs, cat and a."),
        ("See [[Foo (bar)|]] or [[:Category:X]].", "See Foo or Category:X."),
        ("x [[File:a.jpg|thumb|A [[caption|c]] with [b] [http://c d]]] y", "x y"),
        ("x [[Fails:a|thumb|A\ncaption]][[Kategoreja:Z]][[Bild:q.PNG|z]] y", "x y"),
        ("Text[[de:Hund]][[zh-min-nan:Káu]] end [[wikt:dog|dog]] [[doi:10.1/x|doi]].",
         "Text end dog doi."),
        ("Go [http://x.org/a?b=c the site] now [//y.org].", "Go the site now."),
        ("a<ref name=x>no {{cite}} [[b]]</ref> b<ref name=x /> c<!-- no --> d", "a b c d"),
        ("A.<ref>never closed b\n\nC.", "A.\nC."),
        ("The {{convert|12|km|mi}} river, {{convert|5|to|7|C}}.", "The 12 km river, 5 to 7 °C."),
        ("X ({{lang-la|terra}}) is ({{Audio|y}}) Y ({{a}}, {{b}}).", "X (Latin: terra) is Y."),
        ("X {{fact|{{b|{{c}}}}|{{d}}}} Y {{lang|fr|[[Eau|l'eau]]}}.", "X Y l'eau."),
        ("{{PAGENAME}} is {{nowrap|a {{nowrap|b}}}}.", "T is a b."),
        ("It is 1{{frac|1|2}} or {{frac|3|1|2}} days.", "It is 1 1/2 or 3 1/2 days."),
        ("A\n\n{| class=x\n| a || [[b]]\n{|\n|c\n|}\n|}\n\nB {{cn|\n|}} C", "A\nB C"),
        ("{{Unclosed infobox\n| name = x\n\nThe text stays.", "The text stays."),
        ("Text }} goes ]] on here.", "Text goes on here."),
        ("A <math>n+1</math> and <math>x</math> b.", "A n+1 and x b."),
        ("A <nowiki>[[x]] ''y''</nowiki> {{!}} &lt;b&gt; &amp;nbsp; &nbsp;z&#8211;w.",
         "A [[x]] ''y'' | <b> &nbsp; z–w."),
        ("A <nowiki>&lt;b&gt;</nowiki> tag, <nowiki>a&nbsp;b &#91;[c]] R&D;</nowiki>.",
         "A <b> tag, a b [[c]] R&D;."),
        ("It begins with <code><nowiki><!--</nowiki></code> and ends with <code><nowiki>--></nowiki></code>.",
         "It begins with <!-- and ends with -->."),
        ("It begins with <nowiki><!--</nowiki>.\n\nIt is old.", "It begins with <!--.\nIt is old."),
        ("Before <!-- a <nowiki> b --> and <nowiki>after</nowiki>.", "Before and after."),
        ("It is {{ISBN|978-0-306-40615-7}}, {{doi|10.1000/182}}.", "It is ISBN 978-0-306-40615-7, doi:10.1000/182."),
        ("It is {{sfrac|1|2}} of {{sqrt|2}}.", "It is 1/2 of √2."),
        ("A<br />b<BR>c <small>d</small> <span style='x'>e</span> H<sub>2</sub>O", "A b c d e H2O"),
        ("<gallery>\nFile:a.jpg|x\n</gallery>\n__NOTOC__\n__toc__\n----\nText.", "Text."),
        ("<div class=x>One.</div><p>Two.</p>Three.", "One.\nTwo.\nThree."),
        ("Quote: {{quote|Said he.|Author}} After.", "Quote:\nSaid he.\nAfter."),
        ("f() and ({{cn}}) g ({{cn}}, [[File:b.png]]) h ({{cn}}, i) j (k, {{cn}}) 中（{{cn}}）文（{{cn}}，x）",
         "f() and g h (i) j (k) 中文（x）"),
        ("such as {{fact}}, and {{efn|c}}.", "such as, and."),
        ("<poem>One line\nTwo</poem> [[a|b]]c", "One line Two\nbc"),
        ("| stray row\nText.", "Text."),
    ],
)  # fmt: skip
def test_markup_goes_and_text_stays(wikitext: str, expected: str) -> None:
    assert text_of(wikitext, site=SITE) == expected


def test_headings_lists_and_the_tail_of_a_page() -> None:
    page = """Lead has text.
* A list item that says something here
* [[Short]]
* A link to a page that is elsewhere [http://x y z]
:Indented prose stays.
== History ==
''First'' sentence.
Joined line.

Second paragraph.
=== Empty ===
== See also ==
* [[A page of some words]]
== Izmontuotuo literatura ==
* Somebody, ''A book with a long title'', 1999
[[Category:X]]
"""
    sections = clean(page, language="en")
    assert [(s.heading, s.level) for s in sections] == [("", 0), ("History", 2)]
    lead = sections[0].paragraphs
    assert [p.kind for p in lead] == ["text", "list", "text"]
    assert lead[1].lines == ("A list item that says something here",)
    assert [p.lines[0] for p in sections[1].paragraphs] == [
        "First sentence. Joined line.",
        "Second paragraph.",
    ]


@pytest.mark.parametrize(
    ("language", "markup", "expected"),
    [
        ("zh", "-{zh-hans:计算机; zh-hant:電腦;}-好", "计算机好"),
        ("zh-tw", "-{zh-hans:计算机; zh-tw:電腦;}-好", "電腦好"),
        ("zh", "-{原文}-與-{A|zh-cn:甲;zh-tw:乙}-", "原文與甲"),
        ("zh", "-{H|zh-cn:甲;zh-tw:乙}--{T|题}-文章", "文章"),
        ("zh-tw", "-{zh-cn:甲;zh-hk:乙}-與-{zh-hans:甲;zh-hant:丙}-", "乙與丙"),
        ("zh-hk", "-{zh-cn:甲;zh-tw:乙}-與-{zh-mo:丙;zh-tw:丁}-", "乙與丙"),
        ("zh-Hant-MO", "-{zh-tw:甲;zh-hk:乙}-", "乙"),
        ("zh-my", "-{zh-tw:甲;zh-cn:乙}-与-{zh-hk:丙;zh-sg:丁}-", "乙与丁"),
        ("zh", "-{zh-tw:甲;zh-cn:乙}-与-{zh-hk:丙;zh-hant:丁}-", "乙与丁"),
        ("zh", "文-{zh-hans;zh-hant;zh-cn;zh-tw;zh-hk|甲}-（-{H|zh-cn:乙}-），丙", "文甲，丙"),
        ("zh-tw", "-{甲=>zh-cn:乙;丙=>zh-tw:丁}-", "丁"),
        ("zh", "-{zh-hans:<i style='a:b;c:d'>网</i>;zh-hant:網}-", "网"),
        ("sr-latn", "-{sr-Cyrl:А;sr-Latn:B}- -{sr-ec:В;sr-el:C}-", "B C"),
        ("kk-tr", "-{kk-cyrl:А;kk-latn:B}-", "B"),
        ("ku", "-{ku-arab:x;ku-latn:y}-", "y"),
        ("crh-cyrl", "-{crh-latn:x}-", "x"),
        ("uz", "-{uz-cyrl:x;uz-latn:y}-", "y"),
        ("iu", "-{ike-latn:x;ike-cans:y}-", "y"),
        ("shi", "-{shi-tfng:x;shi-latn:y}-", "y"),
        ("gan", "-{gan-hant:x;gan-hans:y}-", "y"),
        ("zh", "[[-{zh-hans:网;zh-hant:網}-|-{zh-hans:网络;zh-hant:網路}-]]上", "网络上"),
        ("zh", "-{zh-hans:[[甲|一]];zh-hant:-{zh-tw:二}-}-和-{{{fact|}}}-。", "一和。"),
        ("zh", "-{站: a}-文", "站: a文"),
        ("en", "He said x-{y}-z here.", "He said x-{y}-z here."),
    ],
)
def test_language_conversion(language: str, markup: str, expected: str) -> None:
    assert text_of(markup, language) == expected


# a piece of wikitext and what a reader sees of it
PIECES = [
    ("[[a]]", "a"), ("[[a|b c]]", "b c"), ("[[File:x.png|thumb|cap]]", ""),
    ("[[File:x.png|[[a|b]] d]]", ""), ("[[File:x.png|a [b] [[c]]]]", ""), ("[[de:x]]", ""),
    ("[[be-x-old:x]]", ""), ("[http://x.y label]", "label"), ("[http://x.y]", ""),
    ("[http://x.y a [[b]] c]", "a b c"), ("<b>bold</b>", "bold"), ("[[Category:C]]", ""),
    ("<span class='q'>s</span>", "s"), ("word", "word"), ("[[:File:x]]", "File:x"),
    ("[[a b|''c'']]", "c"), ("[[x|y]", "y"), ("[x|y]]", "y"), ("[[a [b]]]", "a [b]"),
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_a_reader_sees_the_same_of_pieces_side_by_side(pieces: list[tuple[str, str]]) -> None:
    text = " ".join(markup for markup, _ in pieces)
    seen = strip_inline(text, LinkRules.of(Site(), "en")).replace(EXTERNAL, "").replace(MARK, "")
    assert seen.split() == " ".join(shown for _, shown in pieces).split()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="[]{}|<>'=*#:;-!/ \nabFile中（）(),.&nbsp;ref", max_size=120))
def test_any_text_is_cleaned_without_error(text: str) -> None:
    for markup in ("wikitext", "extracted", "plain"):
        page = Page(1, "T", 0, False, "wikitext", text, markup)  # type: ignore[arg-type]
        cleaned = page_to_sentences(page, "zh")
        assert cleaned.drop_reason in (None, "empty")
        assert all(s == s.strip() and s for p in cleaned.paragraphs for s in p)


@pytest.mark.parametrize(
    "piece",
    ["[[", "{{", "{|\n", "<ref>", '<ref name="a" ', "'''''", "[[File:a|", "-{", "= ", "( ,",
     "[http://aaaa", "<b", "[[a]", "<!--", "{{lang|a|", "* [[x|", "[ [[ ] ", "<span>[[",
     "{{a\n\n", "[[[", "\n*", "\n= x =", "[[a|b] ", "]]x", "[x]] ", "a''b'''s ", "-{zh:a;;", "a.{{b}}c", "， 。", "x"],
)  # fmt: skip
def test_no_page_hangs(piece: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        start = time.process_time()
        page_to_sentences(Page(1, "T", 0, False, "wikitext", text, "wikitext"), "zh")
        return time.process_time() - start

    assert seconds(100_000) < 1.5


def test_the_limit_is_a_drop_reason() -> None:
    text = "x" * (1 << 23) + "xx"
    with pytest.raises(PageLimitError):
        clean(text, language="en")
    long = Page(1, "T", 0, False, "wikitext", text, "wikitext")
    assert page_to_sentences(long, "en").drop_reason == "too long"


def test_drop_reasons() -> None:
    def reason(**change: object) -> str | None:
        fields: dict[str, object] = {
            "page_id": 1, "title": "T", "namespace": 0, "redirect": False, "model": "wikitext",
            "text": "Words.", "markup": "wikitext",
        }  # fmt: skip
        return page_to_sentences(Page(**{**fields, **change}), "en").drop_reason  # type: ignore[arg-type]

    assert reason() is None
    assert reason(namespace=1) == "namespace"
    assert reason(redirect=True) == "redirect"
    assert reason(model="json") == "model"
    assert reason(text="{{x}}") == "empty"
    assert reason(text="T\n\n", markup="extracted") == "empty"
    assert reason(text="T\n\n", markup="plain") is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_tidying_twice_changes_little_and_leaves_single_spaces(text: str) -> None:
    line = tidy_line(text)
    assert line == line.strip()
    assert "  " not in line


def test_no_leftovers_in_a_real_dump(shared_data: Path) -> None:
    (path,) = (shared_data / "wiki_xml").glob("enwiki-minidump*")
    kept = 0
    for page in iter_pages(path):
        cleaned = page_to_sentences(page, "en")
        kept += cleaned.drop_reason is None
        for sentence in (s for p in cleaned.paragraphs for s in p):
            for mark in (
                "[[",
                "]]",
                "{{",
                "}}",
                "{|",
                "<ref",
                "''",
                "==",
                "thumb|",
                "&nbsp;",
                "( )",
            ):
                assert mark not in sentence, (page.title, sentence)
    assert kept == 24
