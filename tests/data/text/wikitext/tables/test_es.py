"""Templates of Spanish Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.holes import SPOKEN
from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("siglo|XIX||s", "siglo XIX"),
    ("Siglo|XIX||S", "Siglo XIX"),
    ("siglo|I|a|s|1", "siglo I a. C."),
    ("siglo|X|d|s", "siglo X d. C."),
    ("siglo|XVII", "XVII"),
    ("Siglo|XVI|3=s", "siglo XVI"),
    ("siglo|XVI||x", None),
    ("unidad|2000|m", "2000 m"),
    ("unidad|5|km|2", "5 km<sup>2</sup>"),
    ("unidad|5|e=6|m", "5 × 10^6 m"),
    ("unidad|5|km|otro=x", None),
    ("formatnum:6000.5", "6000,5"),
    ("fecha|25|12|1990", "25 de diciembre de 1990"),
    ("nacimiento|1|5|1990", "1 de mayo de 1990"),
    ("fecha|25|13|1990", None),
    ("a. C.", "a. C."),
    ("esd", " "),
    ("esd|5 km", "5 km"),
    ("versalita|xix", "xix"),
    ("lang|de|Wasser", "Wasser"),
    ("lang-de|Wasser", "en alemán: Wasser"),
    ("nihongo|Agua|水|mizu", "Agua (水, mizu)"),
    ("AFI|ˈaɣwa", "ˈaɣwa"),
    ("IPA-de|a|pron", SPOKEN),
    ("cita|El agua moja.|A. Pérez", "\n\nEl agua moja.\n\n"),
    ("sic", "[sic]"),
    ("abreviatura|EE.UU.|Estados", "EE.UU."),
    ("cita requerida|t=2010", ""),
    ("cuándo|2015", ""),
    ("en idioma|en", ""),
    ("bandera|España", ""),
    ("ESP", "España"),
    ("ESP|x", None),
    ("convertir|5|mi|km", None),
    ("Población|ES|43011", None),
    ("ORDENAR:Agua", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("es").text_of(body) == shown
