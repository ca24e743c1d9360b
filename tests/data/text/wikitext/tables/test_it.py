"""Templates of Italian Wikipedia: what a reader sees, None if a call is not understood."""

import pytest

from megabert.data.text.wikitext.templates.table import template_table

CALLS = [
    ("M|4|k|B", "4 kB"),
    ("M|61.000||km/h", "61.000 km/h"),
    ("M|5|ul=km", "5 km"),
    ("M|5|e=3|u=m", "5 × 10^3 m"),
    ("M|5|x|y|z", None),
    ("M|cinque||m", None),
    ("Exp|1,56|7", "1,56 × 10^7"),
    ("formatnum:6000.5", "6000,5"),
    ("TA|55 km", "55 km"),
    ("m s.l.m.", "m s.l.m."),
    ("passo biblico|Rm|16,11", "Rm 16,11"),
    ("citazione necessaria|molti pensano", "molti pensano"),
    ("citazione necessaria", ""),
    ("chiarire|oggi|quando?", "oggi"),
    ("cn|oggi|sconosciuto=x", None),
    ("Quote|L'acqua bagna.|A. Rossi", "\n\n«L'acqua bagna.»\n\n"),
    ("colore|red|acqua", "acqua"),
    ("maiuscoletto|acqua", "acqua"),
    ("IPA|/ˈakkwa/", "/ˈakkwa/"),
    ("lang|de|Wasser", "Wasser"),
    ("nihongo|Acqua|水|mizu", "Acqua (水 mizu)"),
    ("nihongo|Acqua|水|mizu|altro", None),
    ("lingue|de|it", ""),
    ("EN", ""),
    ("bandiera|Italia", ""),
    ("ESP", "Spagna"),
    ("convert|5|mi|km", None),
    ("DEFAULTSORT:Acqua", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("it").text_of(body) == shown
