"""Apostrophes that mark italic and bold text, by MediaWiki's rules."""

import re

from megabert.data.text.wikitext.tidy import MARK

_RUNS = re.compile(r"('{2,})")


def strip_quotes(line: str) -> str:
    """Remove the marks of bold and italic text from one line, but not an apostrophe next to them.

    As ``Parser::doQuotes`` of MediaWiki does: four quotes are an apostrophe and bold, and of more
    than five the surplus remains; if a line has an odd number of bold and of italic marks, one
    triple is an apostrophe and italic: the first one after a word of one letter (``d'un l'''or''``),
    else the first one after a longer word, else the first one after a space.
    """
    bold = line.count("'''")
    if "''''" not in line and not (bold % 2 and (line.count("''") - bold) % 2):
        return line.replace("'''", "").replace("''", "")
    # text, run, text, run, ..., text
    pieces = _RUNS.split(line)
    lengths = [min(len(run), 5) if len(run) != 4 else 3 for run in pieces[1::2]]
    for index, length in enumerate(lengths):
        pieces[2 * index] += "'" * (len(pieces[2 * index + 1]) - length)
    bold = sum(length in (3, 5) for length in lengths)
    italic = sum(length in (2, 5) for length in lengths)
    if bold % 2 and italic % 2:
        triples = [2 * index for index, length in enumerate(lengths) if length == 3]
        if triples:
            pieces[min(triples, key=lambda place: (_rank(pieces[place]), place))] += "'"
    return "".join(pieces[::2])


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
