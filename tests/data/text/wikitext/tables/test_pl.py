"""Templates of Polish Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.holes import SPOKEN
from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("fakt|wiele osób|data=2017-11", "wiele osób"),
    ("Fakt|data=2017-11", ""),
    ("r|woda", ""),
    ("odn|Nowak|2005|s=12", ""),
    ("kiedy|data=x", ""),
    ("lang|de", ""),
    ("lang|de|en", ""),
    ("lang|en|hello", None),
    ("ang.|water", "ang. water"),
    ("chiń.|水", "chiń. 水"),
    ("ros.|вода|woda", None),
    ("w języku|de|Wasser", "niem. Wasser"),
    ("link-interwiki|Woda|Q=Q1|tekst=wody", "wody"),
    ("link-interwiki|Woda|Q=Q1", "Woda"),
    ("link-interwiki|Woda|obcy=x", None),
    ("liczba|5000", "5000"),
    ("formatnum:5000", "5000"),
    ("ułamek|1|2", "1/2"),
    ("p.n.e.", "p.n.e."),
    ("dymek|a|b", "a"),
    ("kolor|red|woda", "woda"),
    ("cytat|Woda jest mokra.|A. Nowak", "\n\nWoda jest mokra.\n\n"),
    ("unikod|水", "水"),
    ("IPA3|a", SPOKEN),
    ("sic", "[sic!]"),
    ("Clear", ""),
    ("convert|5|mi|km", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("pl").text_of(body) == shown
