"""Templates of Portuguese Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("séc|XX", "século XX"),
    ("-séc|V", "século V a.C."),
    ("AC|450", "450 a.C."),
    ("séc|XX|x", None),
    ("fmtn|1000", "1000"),
    ("Fmtn|5|km", "5 km"),
    ("fmtn|5|km|x=1", None),
    ("dtlink|25|12|1990", "25 de dezembro de 1990"),
    ("dtlink||12|1990", "dezembro de 1990"),
    ("dtlink|||1990", "1990"),
    ("dni|4|10|1959|si", "4 de outubro de 1959"),
    ("dni|4|10|1959|lang=br", None),
    ("dni|4|14|1959", None),
    ("PBPE|ônibus|autocarro", "ônibus (português brasileiro) ou autocarro (português europeu)"),
    ("PBPE|ônibus|autocarro|machimbombo", None),
    ("Lang-de|''Wasser''", "em alemão: ''Wasser''"),
    ("lang|de|Wasser", "Wasser"),
    ("nihongo|Água|水|mizu", "Água (水, mizu)"),
    ("quote|A água molha.|A. Silva", "\n\nA água molha.\n\n"),
    ("R$|5", "R$ 5"),
    ("sic", "[sic]"),
    ("carece de fontes|data=abril de 2017", ""),
    ("carece de fontes2|muitos acham|data=x", "muitos acham"),
    ("quem|data=x", ""),
    ("en", ""),
    ("BRA", "Brasil"),
    ("convert|5|mi|km", None),
    ("DEFAULTSORT:Agua", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("pt").text_of(body) == shown
