"""The first sentence of Italian biographies, which ``{{Bio}}`` writes from its arguments."""

import re
from collections.abc import Mapping, Sequence

from megabert.data.text.wikitext.templates.calendar import written_date

# arguments that the sentence does not use: links, categories, notes, the picture
_HIDDEN = frozenset(
    [
        "LuogoNascitaLink",
        "LuogoMorteLink",
        "ForzaOrdinamento",
        "Epoca",
        "Epoca2",
        "Categorie",
        "Immagine",
        "Didascalia",
        "Didascalia2",
        "DimImmagine",
        "NoteNascita",
        "NoteMorte",
    ]
)
_USED = frozenset(
    [
        "Titolo",
        "Nome",
        "Cognome",
        "PostCognome",
        "PostCognomeVirgola",
        "PreData",
        "Sesso",
        "LuogoNascita",
        "GiornoMeseNascita",
        "AnnoNascita",
        "LuogoMorte",
        "GiornoMeseMorte",
        "AnnoMorte",
        "Attività",
        "Attività2",
        "Attività3",
        "Nazionalità",
        "PostNazionalità",
        "FineIncipit",
        "Punto",
    ]
)
_YEAR = re.compile(r"\d{1,4}(?: a\.C\.)?")
_ONE_OF_TODAY = 1930  # born since then and without a year of death: alive
_VOWEL = re.compile("[aeiouàèéìòù]", re.IGNORECASE)
_UNO = re.compile("s[^aeiouàèéìòù]|z|gn|ps|pn", re.IGNORECASE)
_DOUBTFUL = re.compile("[hjwxy]|i[aeou]", re.IGNORECASE)


def italian_lead(arguments: Mapping[str, str], months: Sequence[str]) -> str | None:
    """The sentence "Name (place, date – place, date) è stato un chimico svedese."

    Args:
        arguments: of the call.
        months: names of the months.

    Returns:
        The sentence, or None if an argument is not understood.
    """
    if arguments.keys() - _HIDDEN - _USED or arguments.get("Sesso") not in ("M", "F"):
        return None
    name = " ".join(arguments[key] for key in ("Nome", "Cognome") if key in arguments)
    dates, predicate = _dates(arguments, months), _predicate(arguments)
    if not name or dates is None or predicate is None:
        return None
    title = f"{arguments['Titolo']} " if "Titolo" in arguments else ""
    text = f"{title}'''{name}'''"
    if "PostCognome" in arguments:
        text += f" {arguments['PostCognome']}"
    if "PostCognomeVirgola" in arguments:
        text += f", {arguments['PostCognomeVirgola'].rstrip(',')}"
    before = f"{arguments['PreData']}; " if "PreData" in arguments else ""
    text += f" ({before}{dates}) {predicate}"
    open_end = "Punto" in arguments or predicate in ("e", "ed")  # a second person follows
    return text if open_end or text.endswith(".") else f"{text}."


def _dates(arguments: Mapping[str, str], months: Sequence[str]) -> str | None:
    found = []
    for when in ("Nascita", "Morte"):
        year = arguments.get(f"Anno{when}")
        if year is None:
            if when == "Nascita" or not arguments.keys().isdisjoint(
                (f"Luogo{when}", f"GiornoMese{when}")
            ):
                return None
            continue
        if not _YEAR.fullmatch(year):
            return None
        day = arguments.get(f"GiornoMese{when}")
        if day and not written_date(day.replace("º", ""), months):
            return None
        place = arguments.get(f"Luogo{when}")
        found.append(f"{place}, " * bool(place) + f"{day} " * bool(day) + year)
    return " – ".join(found)


def _predicate(arguments: Mapping[str, str]) -> str | None:
    if "FineIncipit" in arguments:
        return arguments["FineIncipit"]
    first, nation = arguments.get("Attività", ""), arguments.get("Nazionalità", "")
    trades = [first, *(arguments[k] for k in ("Attività2", "Attività3") if k in arguments)]
    word = first.lstrip("[")
    woman = arguments["Sesso"] == "F"
    if not word or not nation or _DOUBTFUL.match(word):
        return None
    if len(trades) > 1 and trades[-1].lstrip("[")[:1].lower() == "e":
        return None  # "e" or "ed"
    if "AnnoMorte" in arguments:
        verb = "è stata" if woman else "è stato"
    elif arguments["AnnoNascita"].isdecimal() and int(arguments["AnnoNascita"]) >= _ONE_OF_TODAY:
        verb = "è"
    else:
        return None
    if woman:
        article = "un'" if _VOWEL.match(word) else "una "
    else:
        article = "uno " if _UNO.match(word) else "un "
    listed = ", ".join(trades[:-1]) + " e " * (len(trades) > 1) + trades[-1]
    after = arguments.get("PostNazionalità", "")
    gap = "" if not after or after[0] in ",;:.&" else " "
    return f"{verb} {article}{listed} {nation}{gap}{after}"
