"""Templates that all languages share: what a reader sees, None if a call is not understood."""

from pathlib import Path

import pytest

from megabert.data.text.wikitext.templates.pattern import PatternError, read_pattern
from megabert.data.text.wikitext.templates.table import TemplateTable, template_table
from megabert.data.text.wikitext.templates.wording import Figures, Wording

CALLS = [
    ("convert|6|ft|2|in|m", "6 ft 2 in"),
    ("convert|12|km|mi|0", "12 km"),
    ("convert|5|to|7|C", "5 to 7 °C"),
    ("convert|3|x|4|x|5|m", "3 × 4 × 5 m"),
    ("convert|1|-|2|km|abbr=on", "1–2 km"),
    ("convert|1500|m", "1,500 m"),
    ("convert|5|e6acre", "5 million acres"),
    ("convert|1|acre", "1 acre"),
    ("convert|40|acre|adj=on", "40-acre"),
    ("convert|5|e6acre|adj=on", None),
    ("convert|5|oilbbl|m3", "5 bbl"),
    ("convert|2|Tcuft", "2 trillion cu ft"),
    ("convert|30|mpgimp|L/100 km", "30 mpg-imp"),
    ("convert|5|koilbbl/d", "5 thousand bbl/d"),
    ("convert|1|cuft/s", "1 cu ft/s"),
    ("convert|40|cuft/s|adj=on", "40 cu ft/s"),
    ("convert|20|fathom", "20 fathoms"),
    ("convert|20|Mt", "20 Mt"),
    ("convert|1/2|acre", "1/2 acre"),
    ("convert|30|knot|adj=on", "30-knot"),
    ("convert|3|LT", "3 long tons"),
    ("convert|9|PD/ha", "9 inhabitants per ha"),
    ("convert|7|lb/USgal", "7 lb/US gal"),
    ("convert|7|lbf.in", "7 lbf⋅in"),
    ("convert|7|uSv", "7 μSv"),
    ("convert|7|km/parrot", None),
    ("convert|7|" + "m/" * 5000 + "s", None),
    ("convert|7|" + "e3" * 5000 + "m", None),
    ("convert|5|parrots|km", None),
    ("convert|6|ft|2|parrots|m", None),
    ("convert|6|ft|adj=mid|tall", None),
    ("convert|2|mi|disp=out", None),
    ("convert|2|mi|spell=in", None),
    ("convert|5", None),
    ("convert|5|to", None),
    ("val|1.23|e=5|u=m", "1.23×10^5 m"),
    ("val|1.5|0.2", "1.5±0.2"),
    ("val|1.5|0.2|e=-3|ul=kg", "(1.5±0.2)×10^-3 kg"),
    ("val|1.5|0.2|0.3", None),
    ("val|1.5|e=x", None),
    ("val|1.5|errend=2", None),
    ("e|5", "×10^5"),
    ("10^|16", "10<sup>16</sup>"),
    ("frac|1|2", "1/2"),
    ("frac|3|1|2", "3 1/2"),
    ("chem|H|2|O", "H2O"),
    ("chem|NH|4|+", "NH4+"),
    ("chem|O|2|2-", None),
    ("as of|2010", "As of 2010"),
    ("as of|2010|6|lc=y", "as of June 2010"),
    ("as of|2010|6|30|df=US", "As of June 30, 2010"),
    ("as of|2010|6|30|since=y", None),
    ("circa|1500|1510", "c. 1500 – c. 1510"),
    ("née|'''Kasner'''", "née '''Kasner'''"),
    ("lang|fr|eau", "eau"),
    ("langx|fr|eau|water", None),
    ("langx|fr|eau|lit=water", "French: eau"),
    ("langx|xx|eau|lit=water", "eau"),
    ("langx|fr|eau|label=none", "eau"),
    ("Lang-la|terra", "Latin: terra"),
    ("Lang-ru|вода|voda|translit=voda", "Russian: вода, romanized: voda"),
    ("ill|A|de|B|lt=C", "C"),
    ("link-fr|a|b", "a"),
    ("Dash_year|1943|1945", "1943–1945"),
    ("spaces|2", " "),
    ("gaps|1|234", "1234"),
    ("resize|70%|small", "small"),
    ("USS|Enterprise|CVN-65|6", "USS Enterprise"),
    ("US$|5", "US$5"),
    ("flag|France", "France"),
    ("flag|FRA", None),
    ("lc:ABC", "abc"),
    ("formatnum:1234567.5", "1,234,567.5"),
    ("template:nowrap|x", "x"),
    ("PAGENAME", "T"),
    ("#if:x|y|z", "y"),
    ("#if:|y|z", "z"),
    ("#ifeq:a|b|y|z", "z"),
    ("#tag:ref|x", ""),
    ("#invoke:x|y", None),
    ("sfn|Smith|2000|p=3", ""),
    ("nobody knows|x", None),
    ("nowrap|x|unknown=y", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("en").text_of(body, "T") == shown


@pytest.mark.parametrize(
    ("pattern", "arguments", "shown"),
    [
        ("{1}[ {2}]", {"1": "a"}, "a"),
        ("{1}[ {2}]", {"1": "a", "2": "b"}, "a b"),
        ("{1}[ {2}]", {"1": "a", "3": "c"}, None),
        ("{text|1}", {"text": "a", "1": "b"}, None),
        ("{text|1}{1=*}", {"text": "a", "1": "b"}, "a"),
        ("{1}{df=yes}", {"1": "a"}, None),
        ("{1}{df=yes}", {"1": "a", "df": "yes"}, "a"),
        ("{1}{df=y|yes}", {"1": "a", "df": "y"}, "a"),
        ("{1}{df=y|yes}", {"1": "a", "df": "no"}, None),
        ("{0:first-upper}[ {1}]", {"1": "a"}, "Old name a"),
        ("{0}", {"1": "a"}, None),
        ("{*, }", {"1": "a", "2": "b"}, "a, b"),
        ("{1}: {2*–}", {"1": "a", "2": "b", "3": "c"}, "a: b–c"),
        ("{1}{2..=*}", {"1": "a", "2": "b", "9": "c"}, "a"),
        ("{1}{2..=*}", {"1": "a", "x": "b"}, None),
        ("{1}{..=*}", {"1": "a", "x": "b"}, "a"),
        ("{2:month} {1:int}", {"1": "03", "2": "2"}, "II 3"),
        ("{2:month}", {"1": "3", "2": "14"}, None),
        (r"\{{1}\|\]", {"1": "a"}, "{a|]"),
        ("{1:number}", {"1": "1.234,5"}, "1.234,5"),
        ("{1:number}", {"1": "many"}, None),
        ("{1:figure}", {"1": "1234.5"}, "1234,5"),
        ("{1:figure}", {"1": "1.234,5"}, None),
        ("{1:day}", {"1": "07"}, "7"),
        ("{1:day}", {"1": "1973"}, None),
        ("{1:country}", {"1": "JPN"}, "日本"),
        ("{1:country}", {"1": "XYZ"}, None),
    ],
)
def test_patterns(pattern: str, arguments: dict[str, str], shown: str | None) -> None:
    maps = {"country": {"JPN": "日本"}}
    read = read_pattern(pattern, Wording(("I", "II", "III"), maps=maps, figures=Figures("", ",")))
    assert read.shown({**arguments, "0": "Old name"}, ("0",)) == shown


def test_a_name_that_shows_nothing_is_not_a_code_of_the_same_letters() -> None:
    table = TemplateTable("xx", calls={"col": ()}, codes={"COL": "Colombia"})
    for _ in range(2):
        assert table.text_of("COL|x") == ""
        assert table.text_of("COL") == "Colombia"
        assert table.text_of("col") == ""


@pytest.mark.parametrize(
    ("language", "prefix"),
    [("en", "Template"), ("de", "Vorlage"), ("fr", "modèle"), ("ko", "틀"), ("zh", "模板"), ("sv", "Mall"),
     ("en", "Vorlage"), ("en", "subst")],
)  # fmt: skip
def test_the_namespace_may_precede_a_name(language: str, prefix: str) -> None:
    assert template_table(language).text_of(f"{prefix}:nowrap|x") == "x"


@pytest.mark.parametrize("pattern", ["{1", "[{1}", "{1:nothing}", "}", "a]", "{}"])
def test_a_pattern_that_cannot_be_read(pattern: str) -> None:
    with pytest.raises(PatternError):
        read_pattern(pattern)


def test_cantonese_has_the_templates_of_chinese() -> None:
    assert template_table("yue").text_of("link-en|水|Water") == "水"
    assert template_table("lzh").text_of("bd|1900年|1月|1950年|2月") is None


def test_simple_english_has_the_templates_of_english() -> None:
    assert template_table("simple").text_of("USS|Hornet|CV-12|6") == "USS Hornet"


def test_all_tables_can_be_read(root: Path) -> None:
    folder = root / "megabert" / "data" / "text" / "wikitext" / "tables"
    codes = sorted(file.stem for file in folder.glob("*.toml"))
    assert "common" in codes
    for code in codes:
        table = template_table(code)
        assert table.calls
        assert table.text_of("nowrap|x") == "x"
