"""Templates of German Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("Zahl|5000", "5000"),
    ("ZahlExp|1,5|9|suffix=m", "1,5 · 10^9 m"),
    ("Bruch|1|2", "1/2"),
    ("Bruch|1|2|3", None),
    ("formatnum:1234.5", "1234,5"),
    ("Höhe|115|DE-NHN", "115 m ü. NHN"),
    ("Höhe|450.2|CH|link=true", "450,2 m ü. M."),
    ("Höhe|115|XX", None),
    ("Höhe|115–120|AT", None),
    ("§|812|bgb|juris", "§ 812 BGB"),
    ("§|5|xyzg|juris", None),
    ("Bibel|Mt|5|3", "Mt 5,3 EU"),
    ("\"|Wasser ist nass.", "„Wasser ist nass.“"),
    ("\"|Water|lang=en", None),
    ("Zitat|Text=Wasser ist nass.|Autor=A. Müller", "\n\n„Wasser ist nass.“\n\n"),
    ("enS|water", "englisch water"),
    ("RuS|вода", "russisch вода"),
    ("ruS|вода|woda", None),
    ("laS|aqua", "lateinisch aqua"),
    ("lang|la|aqua", "aqua"),
    ("IPA|ˈvasɐ|Tondatei=x.ogg", "[ˈvasɐ]"),
    ("Audio|x.ogg|Wasser", "Wasser"),
    ("nowrap|5 km", "5 km"),
    ("0", ""),
    ("Anker|Wasser", ""),
    ("Zukunft|2021|09", ""),
    ("Rp|12", ""),
    ("ISSN|1234-5678", "ISSN 1234-5678"),
    ("SORTIERUNG:Wasser", ""),
    ("Österreich", "Österreich"),
    ("Polen|#", ""),
    ("FRA|#", ""),
    ("DE-TH|#", ""),
    ("FRA", None),
    ("convert|5|mi|km", None),
    ("Metadaten Einwohnerzahl DE-BE|Berlin", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("de").text_of(body) == shown
