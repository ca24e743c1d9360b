"""What the cleaner's fast ways leave out must be nothing: twins, gaps, lists, names."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.pages import Site
from megabert.data.text.wikitext.links import LinkRules, strip_links
from megabert.data.text.wikitext.sections import clean
from megabert.data.text.wikitext.templates.expand import Calls, _strip_nested, strip_templates
from megabert.data.text.wikitext.templates.table import template_table
from megabert.data.text.wikitext.tidy import GAP, MARK, gap, tidy_line

HOLES = re.compile("\ue001.")
RULES = LinkRules.of(Site(), "en")


def lines_of(wikitext: str, language: str = "en") -> list[str]:
    sections = clean(wikitext, language=language, title="T")
    return [line for s in sections for p in s.paragraphs for line in p.lines]


templates = st.recursive(
    st.sampled_from(["a", "B.", " ", "中", "x|y", "\n", "{{!}}", "[[a|b]]", " c"]),
    lambda inner: st.lists(inner, max_size=4).map("".join).flatmap(
        lambda body: st.sampled_from(["cite|", "lang|fr|", "nowrap|", ""]).map(
            lambda name: "{{" + name + body + "}}"
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(templates, max_size=6).map("".join))
def test_templates_from_inside_out_and_by_the_stack(text: str) -> None:
    table = template_table("en")
    fast, slow = strip_templates(text, Calls(table)), _strip_nested(text, Calls(table))
    fast, slow = HOLES.sub("H", fast), HOLES.sub("H", slow)
    assert fast.replace(" ", "") == slow.replace(" ", "")


@pytest.mark.parametrize(
    ("before", "after", "space"),
    [("breaks", "in", " "), ("end.", "The", " "), ('said."', "The", " "), ("6", "million", " "),
     ("end.", "5", " "), ("(", "a", ""), ("中", "文", ""), ("中。", "A", ""), ("a", ",", ""),
     ("a", " b", ""), ("", "a", ""), ("I", "5", " "), ("3", "[[4", GAP), ("]]", "4", GAP), ('"', "a", ""), ("2", "3", " "), ("(", ")", MARK),
     ("a, ", ", b", MARK), ("''", "''", GAP), ("", ", b", MARK), ("a", ".", ""), ("a ", " b", "")],
)  # fmt: skip
def test_gap(before: str, after: str, space: str) -> None:
    assert gap(before, after) == space


def test_nothing_is_glued_where_markup_was_dropped() -> None:
    text = "One breaks{{clarify}}in two.<ref>x</ref>The{{cn}}{{fact}}end.[[File:a.png]]Then <!-- -->so."
    assert lines_of(text) == ["One breaks in two. The end. Then so."]
    assert lines_of("Dog<nowiki/>s and Ge{{shy}}setz.") == ["Dogs and Gesetz."]
    assert lines_of("句。<ref>x</ref>又一句{{fact}}在此。", "zh") == ["句。又一句在此。"]


@pytest.mark.parametrize(
    ("wikitext", "shown"),
    [
        ("[computer|a machine]] x", "a machine x"),
        ("[[computer|a machine] x", "a machine x"),
        ("x [[File:a|thumb|Row [left] and [b]]] y", "x  y"),
        ("[[a [b]]] c", "a [b] c"),
        ("a ]] b [[File:x|thumb|never closed\nz", "a  b \nz"),
        ("[[never|closed label", "closed label"),
        ("f([a|b])", "f([a|b])"),
    ],
)
def test_tangled_links(wikitext: str, shown: str) -> None:
    assert strip_links(wikitext, RULES) == shown


def test_an_address_made_by_a_template_goes() -> None:
    assert lines_of("See [{{fullurl:X}} the page] and read [on].") == [
        "See the page and read [on]."
    ]


def test_a_list_next_to_a_broken_link_stays_a_list() -> None:
    wikitext = "* The first of the items]]\n* The second of the items\n* The third of the items"
    assert lines_of(wikitext)[1:] == ["The second of the items", "The third of the items"]


def test_sections_of_sentences_at_the_end_stay() -> None:
    events = "\n".join(
        f"* In {year} the town was {what} by a great and terrible storm."
        for year, what in ((1900, "hit"), (1910, "flooded"))
    )
    works = "* Smith, J. ''A book with a very long title about the town'', 1900.\n" * 3
    authors = "* Smith, J. A book with a very long title about the town, 1900.\n" * 3
    names = "* [[List of towns that were hit by storms]]\n* [[Another list of such towns]]\n"
    page = f"Lead has text.\n== Events ==\n{events}\n== Books ==\n{{}}"
    for tail in (works, authors, names):
        assert [s.heading for s in clean(page.format(tail), language="en")] == ["", "Events"]
    chinese = "导言。\n== 大事 ==\n* 一九零零年该镇遭到一场可怕的大风暴袭击。\n* 一九一零年该镇又被一场大洪水完全淹没了。"
    assert [s.heading for s in clean(chinese, language="zh")] == ["", "大事"]


def test_stops_and_commas() -> None:
    assert lines_of("方向345°。{{fact}}，外长18米", "zh") == ["方向345°。外长18米"]
    assert tidy_line("方向345°。，外长18米") == "方向345°。，外长18米"
    assert tidy_line("a\ufffcb\u00ad \u3000c") == "ab c"


def test_content_depends_on_the_page_alone(root: Path) -> None:
    for path in (root / "megabert" / "data" / "text").rglob("*.py"):
        imported = {
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for name in node.names
        }
        assert not imported & {"time", "random", "locale", "datetime"}, path
