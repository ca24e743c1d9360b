"""Apostrophes that mark italic and bold text, by MediaWiki's rules."""

import re

from megabert.data.text.wikitext.tidy import MARK

_POSSESSIVE = re.compile(r"s(?![^\W_])")
_ELISION = re.compile(
    r"(?:^|(?<=[\s(\"«“’'-]))(?:[cdjlmnst]|(?:jus|lors|puis)?qu|(?:d|da|de|ne|su|co|a|que|be)ll|un|sant)$",
    re.IGNORECASE,
)
# inches: two quotes behind a figure and before a space or stop
_INCHES = re.compile(r"''(?<=\d'')(?!')(?=[\s.,;:)-]|$)")
_RUNS = re.compile(r"('{2,})")


def strip_quotes(line: str) -> str:
    """Remove the marks of bold and italic text from one line, but not an apostrophe next to them.

    As ``Parser::doQuotes`` of MediaWiki does: four quotes are an apostrophe and bold, and of more
    than five the surplus remains; if a line has an odd number of bold and of italic marks, one
    triple is an apostrophe and italic: the first one after a word of one letter (``d'un l'''or''``),
    else the first one after a longer word, else the first one after a space.

    That rule finds at most one apostrophe per line. Before it, the triples of ``''Eagle'''s`` and
    ``l'''amour''`` are read as apostrophe and italic wherever they occur, as their authors meant, and
    quotes that could only begin italics before a space are inches behind a figure (``a 12'' disc``).
    """
    if _INCHES.search(line):
        line = _with_inches(line)
    bold = line.count("'''")
    italic = line.count("''") - bold
    if "''''" not in line and not (bold and italic):
        return line.replace("'''", "").replace("''", "")
    # text, run, text, run, ..., text
    pieces = _RUNS.split(line)
    lengths = [min(len(run), 5) if len(run) != 4 else 3 for run in pieces[1::2]]
    in_bold = False
    for index, length in enumerate(lengths):
        surplus = len(pieces[2 * index + 1]) - length
        if length == 3 and not surplus and not in_bold and _is_meant(pieces, index):
            lengths[index], surplus = 2, 1
        elif length != 2:
            in_bold = not in_bold
        pieces[2 * index] += "'" * surplus
    bold = sum(length in (3, 5) for length in lengths)
    italic = sum(length in (2, 5) for length in lengths)
    if bold % 2 and italic % 2:
        triples = [2 * index for index, length in enumerate(lengths) if length == 3]
        if triples:
            pieces[min(triples, key=lambda place: (_rank(pieces[place]), place))] += "'"
    return "".join(pieces[::2])


def _with_inches(line: str) -> str:
    """The line with the signs of inches kept: quotes that could only begin italics before a space."""
    pieces = _RUNS.split(line)
    in_italics = opened = False  # by the number of marks, and by the look of the last one
    place = 0
    for index in range(1, len(pieces), 2):
        place += len(pieces[index - 1])
        run = pieces[index]
        if run == "''" and not (in_italics or opened) and _INCHES.match(line, place):
            pieces[index] = f"'{MARK}'"
        else:
            in_italics ^= len(run) not in (3, 4)
            before, after = pieces[index - 1][-1:], pieces[index + 1][:1]
            opened = after.strip() != "" and not before.isalnum()
        place += len(run)
    return "".join(pieces)


def _is_meant(pieces: list[str], index: int) -> bool:
    """Whether a triple is a possessive after italics or an elision before them."""
    before, after = pieces[2 * index], pieces[2 * index + 2]
    previous = pieces[2 * index - 1] if index else ""
    if previous == "''" and _POSSESSIVE.match(after) and before[-1:].strip():
        return True
    following = pieces[2 * index + 3] if 2 * index + 3 < len(pieces) else ""
    return following == "''" and _ELISION.search(before[-10:]) is not None


def _rank(before: str) -> int:
    """How likely a triple behind this text begins with an apostrophe; 0 is most likely.

    MediaWiki compares bytes, so that only a letter of ASCII is a word of one letter.
    """
    if before.endswith(" "):
        return 2
    return 0 if before[-1:].isascii() and before[-2:-1] == " " else 1


def shown_text(text: str, is_label: bool) -> str:
    """The text of a link, so that its quotes do not join those around the link.

    MediaWiki reads the marks of a label on their own and none in the target: in
    ``[[Eagle (ship)|''Eagle'']]'s`` the three quotes in a row do not mark bold text.
    """
    if "''" in text:
        text = strip_quotes(text) if is_label else text.replace("''", f"'{MARK}'")
    return f"{MARK}{text}{MARK}" if text[:1] == "'" or text[-1:] == "'" else text
