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
    ("nihongo|Acqua|水|mizu|altro", "Acqua (水 mizu, altro)"),
    ("nihongo|Acqua|水|extra=altro", None),
    ("lingue|de|it", ""),
    ("EN", ""),
    ("bandiera|Italia", ""),
    ("ESP", "Spagna"),
    ("convert|5|mi|km", None),
    ("DEFAULTSORT:Acqua", ""),
    (
        "Bio\n|Nome = Anna\n|Cognome = Rossi\n|Sesso = F\n|LuogoNascita = Lodi\n"
        "|GiornoMeseNascita = 1º maggio\n|AnnoNascita = 1900\n|LuogoMorte = Bari\n|AnnoMorte = 1980\n"
        "|Attività = attrice\n|Attività2 = cantante\n|Nazionalità = italiana\n|Immagine = a.jpg\n",
        "'''Anna Rossi''' (Lodi, 1º maggio 1900 – Bari, 1980) è stata un'attrice e cantante italiana.",
    ),
    (
        "Bio|Nome=Ugo|PostCognomeVirgola=detto Ug|Sesso=M|AnnoNascita=1950|Attività=scrittore"
        "|Nazionalità=svizzero|PostNazionalità=, noto per i gialli",
        "'''Ugo''', detto Ug (1950) è uno scrittore svizzero, noto per i gialli.",
    ),
    (
        "Bio|Nome=Ugo|Sesso=M|AnnoNascita=30 a.C.|AnnoMorte=40|FineIncipit=fu re dei Sassi|Punto=no",
        "'''Ugo''' (30 a.C. – 40) fu re dei Sassi",
    ),
    ("Bio|Nome=Ugo|Sesso=M|AnnoNascita=1900|Attività=poeta|Nazionalità=svizzero", None),
    ("Bio|Nome=Ugo|Sesso=M|AnnoNascita=?|AnnoMorte=40|FineIncipit=fu re", None),
    ("Bio|Nome=Ugo|Sesso=M|AnnoNascita=1950|Attività=poeta|Nazionalità=svizzero|Altro=x", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "shown"), CALLS)
def test_calls(body: str, shown: str | None) -> None:
    assert template_table("it").text_of(body) == shown
