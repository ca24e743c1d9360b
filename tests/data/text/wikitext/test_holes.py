"""Nothing broken: unknown templates, formulas, notes without an end, tables without a beginning."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.data.text.counts import BRACKETS, HOLES, TEMPLATES, UNDERSTOOD
from megabert.data.text.document import Cleaned, page_to_sentences
from megabert.data.text.pages import Page
from megabert.data.text.wikitext.formulas import formula_text


def cleaned(wikitext: str, language: str = "en") -> Cleaned:
    return page_to_sentences(Page(1, "T", 0, False, "wikitext", wikitext, "wikitext"), language)


def sentences(wikitext: str, language: str = "en") -> list[str]:
    return [s for paragraph in cleaned(wikitext, language).paragraphs for s in paragraph]


AROUND = "It is old. {} It is big."


@pytest.mark.parametrize(
    "broken",
    [
        "The town has {{unknown|5}} people.",
        "{{unknown|5}} people live there.",
        "Its height is {{unknown|5}}.",
        "The area is {{convert|5|parrots}} in all.",
        "The {{lang|fr|mot {{unknown}}}} is French.",
        "The value of <math>\\frac{1}{2}</math> is small.",
        "The function f({{unknown}}) is even.",
        "The town<ref>Smith, A book of 1999",
        "See [[Town|the {{unknown}} town]] there.",
        "See [http://example.org] for the details.",
        "The {{nowrap|5|kilo=m}} road is old.",
        "The name is pronounced {{IPAc-en|b|ɜːr}}, and rhymes.",
        "It is O'{{unknown}} of the town.",
        "It is l’{{unknown}} of the town.",
        "It has '{{unknown}} of the town.",
        'It has "{{unknown}} of the town.',
        "It has “{{unknown}} of the town.",
        "It lies in St.{{unknown}} near the town.",
        "Its price is <s>15</s> 16 euros.",
        "Its price is <del>15</del> 16 euros.",
        "The sign <pre>-></pre> is an arrow.",
        "The song <score>{ c d }</score> is short.",
        "It is called {{IPA-fr|mo}} or {{respell|MOH}}.",
        "The name {{audio|x.ogg|Town}} is French.",
        "It is [[called]] {{IPA-fr|mo}} there.",
        "It is ''Mot'' (in Paris) {{IPA-fr|mo}}, and (here) {{IPA-en|mo}}.",
    ],
)
def test_a_sentence_with_a_hole_is_left_out_and_counted(broken: str) -> None:
    text = "It is old. " + broken + "\n\nIt is big."
    assert sentences(text) == ["It is old.", "It is big."]
    assert cleaned(text).counts[HOLES] == 1


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("{{Infobox\n| a = b\n}}\n'''Town''' is old.", ["Town is old."]),
        ("{{Infobox|a={{b}}}}'''Town''' is old.", ["Town is old."]),
        ("{{Infobox}}Town is old.", ["Town is old."]),
        ("{{Hatnote}}\n{{Box}}\n\nTown is old.\n{{Navbox}}", ["Town is old."]),
        ("Town ({{unknown}}) is old.", ["Town is old."]),
        ("Town (born {{unknown}}, in May) is old.", ["Town is old."]),
        ("Town is old.{{note|a}} It is big.", ["Town is old.", "It is big."]),
        ("Town is old.{{note|a}}It is big.", ["Town is old.", "It is big."]),
        ("Town is old. {{note|a}}", ["Town is old."]),
        ("Town{{fact}} is old{{sfn|a}}.", ["Town is old."]),
        ("[[File:a.png|thumb|b]]\n{{Box}}\nTown is old.", ["Town is old."]),
        ("It is:\n:<math>\\frac{a}{2}</math>\nIt is old.", ["It is:", "It is old."]),
        ("It is given by\n:<math>\\frac{a}{2}</math>\nwhere a is big. It is old.", ["It is old."]),
        ("It is old. It is given by\n:<math>\\frac{a}{2}</math>\n\nTown.", ["It is old.", "Town."]),
        ("The area is\n:{{math|1=''A'' = ''b''<sup>2</sup>}},\nwhere ''b'' is big. Old.", ["Old."]),
        ("The area is\n:''A'' = ''b''<sup>2</sup> + 1\nwhere ''b'' is big. Old.", ["Old."]),
        ("He said:\n:That is a = b, and more.\nIt is old.", ["He said:", "That is a = b, and more.", "It is old."]),
        ("He said:\n:<small id=x>Say it as is, 5-6.</small>\nOld.", ["He said:", "Say it as is, 5-6.", "Old."]),
        ("We know 1/3 = 0.{{overline|3}}. Old.", ["Old."]),
        ("We see {{sfrac|x + 1|2}} and {{sqrt|a + b}}. Old.", ["Old."]),
        ("It has {{#if:{{unknown|x}}|many|no}} people. Old.", ["Old."]),
        ("It has {{#if:x|many|no}} people. Old.", ["It has many people.", "Old."]),
        ("In {{del|1990}} {{ins|1991}} it came. Old.", ["Old."]),
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_sentence_leaves_no_hole(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("It is old. It is given by\n\n:<math>\\frac{a}{2}</math>\n\nTown.", ["It is old.", "Town."]),
        ("It is:\n:<math>\\frac{a}{2}</math>,\n\nwhere a is big. Old.", ["It is:", "Old."]),
        ("It is given by\n:<math>a</math>.\nIt is old.", ["It is old."]),
        ("It is given by\n<math>a = 10</math>.\nIt is old.", ["It is given by a = 10.", "It is old."]),
        ("* It is all given by\n:<math>a</math>\n* It is old and big.", ["It is old and big."]),
        ("It is\n:<math>a</math>,\n:<math>b</math>,\n:where a is b.\nIt is old.", ["It is old."]),
        ("It is old.\n:<math>a</math>\nIt is big.", ["It is old.", "It is big."]),
        ("Town of old\n\n{{Box}}\n\nIt is big.", ["Town of old", "It is big."]),
    ],
)  # fmt: skip
def test_a_displayed_formula_joins_the_halves_of_a_sentence(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept


@pytest.mark.parametrize(
    ("remark", "left"),
    [
        ("({{IPAc-en|b|ɜːr}})", ""),
        ("({{IPAc-en|b|ɜːr}}; French: ''mot'')", " (French: mot)"),
        ("(pronounced {{IPAc-en|b|ɜːr}}, {{respell|BUR}}; born 1990)", " (born 1990)"),
        ("(French: ''Mot'' {{IPA|fr|mo}})", " (French: Mot)"),
        ("({{IPA-fr|mo}}, {{unknown}})", ""),
        ("{{IPA-fr|mo}}", ""),
        ("(French: ''Mot'') {{IPA-fr|mo}}", " (French: Mot)"),
        ("{{nihongo||水|mizu}} {{IPA-ja|mizu}}", " mizu (水)"),
        ("of the word ''mot'' {{IPA-fr|mo}}", " of the word mot"),
    ],
)
def test_pronunciations_in_brackets_and_behind_a_name_are_not_missed(
    remark: str, left: str
) -> None:
    assert sentences(f"'''The Town''' {remark} is old.") == [f"The Town{left} is old."]


def test_dots_of_a_formula_end_no_sentence() -> None:
    text = "The values <math>x_1,\\ldots,x_n</math> are big."
    assert sentences(text) == ["The values x_1,…,x_n are big."]


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("'''Film'''\n\nIt is old.", ["It is old."]),
        ("It is big.\n\n'''Film''':\n* It is an old film.", ["It is big.", "It is an old film."]),
        ("'''Film'''\n[[File:a.png|thumb|b]]\nIt is old.", ["It is old."]),
        (";Films of the year\n* It is an old film.", ["It is an old film."]),
        ("'''Film'''\nis old.", ["Film is old."]),
        ("It is a\n'''film'''\n\nof old.", ["It is a film", "of old."]),
        ("It is old.\n\n'''It is big.'''\n", ["It is old.", "It is big."]),
    ],
)  # fmt: skip
def test_headings_made_of_bold_text_are_no_sentences(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept


@pytest.mark.parametrize("language", ["it", "nl"])
def test_coordinates_in_a_sentence_are_text(language: str) -> None:
    text = "It is old. It is at {{coord|1|N|2|E}} there. Town ({{coord|1|N|2|E}}) is big."
    assert sentences(text, language) == ["It is old.", "Town is big."]
    assert sentences("It is old{{coord|1|N|2|E|display=title}}.", language) == ["It is old."]


def test_chinese() -> None:
    assert sentences("{{Infobox}}\n'''城'''是古老的。", "zh") == ["城是古老的。"]
    assert sentences("{{Infobox}}'''城'''是古老的。", "zh") == ["城是古老的。"]
    assert sentences("城有{{unknown}}人。它很大。", "zh") == ["它很大。"]
    assert sentences("城（{{unknown}}）是古老的。", "zh") == ["城是古老的。"]


def test_counts() -> None:
    counts = cleaned("{{Box|{{nowrap|a}}}}\nTown ({{unknown}}) is {{nowrap|old}}.").counts
    assert (counts[TEMPLATES], counts[UNDERSTOOD], counts[BRACKETS]) == (4, 2, 1)
    counts = cleaned("Town is {{unknown|a}} and {{unknown|b}} and {{other}}.").counts
    assert {k: n for k, n in counts.items() if k.startswith("unknown")} == {
        "unknown: unknown": 2,
        "unknown: other": 1,
    }


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("x", "x"),
        ("n+1", "n+1"),
        (r"\alpha", "α"),
        (r"x_1^2 \leq \alpha", "x_1^2 ≤ α"),
        (r"10^{-3}", "10^-3"),
        (r"a^{n+1}", "a^(n+1)"),
        (r"f\colon X", None),
        (r"\mathbb{R}^n", "ℝ^n"),
        (r"\sin x", "sin x"),
        (r"\mathrm{d}x", "dx"),
        (r"2^{3}5^{2}", "2^3 5^2"),
        (r"e^{-x}y", "e^-x y"),
        (r"x_1^2", "x_1^2"),
        (r"O(n\log n)", "O(n log n)"),
        (r"2\sin\theta", "2 sin θ"),
        (r"2\pi r", "2π r"),
        (r"\{1, 2\}", "{1, 2}"),
        ("{1, 2}", "1, 2"),
        (r"x_1, \ldots, x_n", "x_1, …, x_n"),
        (r"\frac{1}{2}", None),
        (r"\sqrt{2}", None),
        (r"x_{a_b}", None),
        ("a+" * 30, None),
        ("", None),
    ],
)
def test_short_formulas_become_text(tex: str, text: str | None) -> None:
    assert formula_text(tex) == text


ROWS = "! Year !! Team\n|-\n| 1999 || North\n|-\n| 2000\n249||24||0"
CELLS = "<tr><th>Year</th><td>North 1999</td></tr>\n<tr><td>South\n2000</td></tr>"


@pytest.mark.parametrize(
    "table",
    [
        "{{table top|x}}\n" + ROWS + "\n{{table end}}",
        "{{table top|x}}\n" + ROWS + "\n|}",
        "{{table top|x}}\n|-\n! scope=row | North\n|\n\nLong cell\n\n|-\n| 5\n|}",
        "{| class=x\n" + ROWS + "\n{{end of the table}}",
        "{| class=x\n" + ROWS + "\n\n| 5 || 6\n{{end of the table}}",
        "<table>" + CELLS + "</table>",
        "<table><tr><td><table>" + CELLS + "</table> 1999</td></tr></table>",
        "<table>\n{|\n" + ROWS + "\n|}\n</table>",
        "{|\n" + ROWS + "\n|\n<table>" + CELLS + "</table>\n|}",
        "{{table top}}\n" + CELLS + "\n</table>",
        "<table>" + CELLS,
        ":{| class=x\n" + ROWS + "\n|}",
        "{{stats header}}\nNorth is the club || 5 || 7\n|-\nBob the younger || 6\n{{stats footer}}",
        "| The cell has text that is\nwrapped over lines.\n| North\nis the club.\n|}",
        "{{top}}\n| The cell has text\nwrapped over lines.\n| North is a club.",
        "<tr><td>North\n\nSecond paragraph of it.</td><td>5</td></tr>",
        "<tabbertransclude>North|The label</tabbertransclude>",
        "{{stats header}}\n! North\nText of a cell.\n\nSecond paragraph of it.\n{{stats footer}}",
    ],
)
def test_no_cell_of_a_table_becomes_text(table: str) -> None:
    text = f"The town is old.\n\n{table}\n\nIt is big."
    assert sentences(text) == ["The town is old.", "It is big."]


def test_tabs_are_paragraphs_without_labels() -> None:
    tabs = "<tabber>\nFirst=\n{|\n" + ROWS + "\n|}\nIt is big.\n|-|Second=It is red.\n</tabber>"
    assert sentences(f"It is old.\n{tabs}\nThe end.") == [
        "It is old.", "It is big.", "It is red.", "The end.",
    ]  # fmt: skip


def test_a_table_that_begins_behind_text() -> None:
    table = "It was a town.{| class=x\n| a || b\n|}\nIt is a city."
    assert sentences(table) == ["It was a town.", "It is a city."]
    assert sentences("The sign {| begins a table.\nIt is old.") == [
        "The sign {| begins a table.",
        "It is old.",
    ]


def test_prose_directly_after_a_table_stays() -> None:
    assert sentences("| stray\nIt is big.\n\n| other") == ["It is big."]
    assert sentences("Old.\n{{top}}\n" + ROWS + "\n|}\nIt is big.") == ["Old.", "It is big."]
    assert sentences("Old.\n{{top}}\n" + ROWS + "\n{{end}}\nIt is big.") == ["Old.", "It is big."]
    text = sentences("Old.\n!Kung people live there.\n\nIt is big.")
    assert " ".join(text).replace("!", "") == "Old. Kung people live there. It is big."


@pytest.mark.parametrize(
    "line",
    ["'''#1 Record''' is an album.", "'''*NSYNC''' is a band.", "<span>#1 Record</span> is old.",
     "[[NSYNC|*NSYNC]] is a band.", "[[*NSYNC]] is a band.", "''':wumpscut:''' is a band.",
     "'''::1''' is the address.", "'''; DROP TABLE''' is a command.", "'''||''' is an operator.",
     "!!! is an American band."],
)  # fmt: skip
def test_signs_inside_a_line_make_no_list_and_no_table(line: str) -> None:
    shown = re.sub(r"'''|</?span>|\[\[(?:NSYNC\|)?|\]\]", "", line)
    assert sentences(f"It is old.\n\n{line}\n\nIt is big.")[1:-1] == [shown]


@pytest.mark.parametrize(
    ("wikitext", "kept"),
    [
        ("Old.<ref>Smith, 1999\n\nBig.", ["Old.", "Big."]),
        ("Old.<ref name=a>Smith <ref>Jones</ref> It is big.", ["Old."]),
        ("Old.<ref name=a Smith, 1999\n\nBig.", ["Old.", "Big."]),
        ("Old.<ref name=a/> Big.<ref name=b/>", ["Old.", "Big."]),
        ("{{Box|a=b<ref>{{cite|c}}}}\nOld.", ["Old."]),
        ("a <refrigerator> b.", ["a <refrigerator> b."]),
        ("If a <math or b is. Old.", ["If a <math or b is.", "Old."]),
    ],
)
def test_notes_without_an_end(wikitext: str, kept: list[str]) -> None:
    assert sentences(wikitext) == kept


pieces = st.sampled_from(
    ["{{u}}", "{{nowrap|a}}", "Town", " is ", ".", "\n", "\n\n", "(", ")", "|", "!", "|-\n", "|}",
     "{|", "<ref>", "</ref>", "<table>", "<td>", "'''", "[[", "]]", "中。", ":", "* ", "\ue001", "= a ="]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=14).map("".join))
def test_no_mark_of_the_cleaner_is_left(text: str) -> None:
    for language in ("en", "zh"):
        result = cleaned(text, language)
        joined = "".join(s for paragraph in result.paragraphs for s in paragraph)
        assert not any("\ue000" <= c <= "\ue00f" or c >= "\U000f0000" for c in joined)


@pytest.mark.parametrize("call", ["convert|1234|km|mi", "circa|1990", "as of|2010"])
def test_english_words_and_figures_are_for_english(call: str) -> None:
    """A language without a table of its own has neither English words nor its marks of thousands."""
    text = f"It is {{{{{call}}}}} long. It is old."
    for language in ("vi", "nl", "tr", "sv"):
        assert sentences(text, language) == ["It is old."]
    assert len(sentences(text, "en")) == 2
