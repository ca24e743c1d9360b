"""Sentences of a line of text, by sentencex (Wikimedia's splitter, about 300 languages)."""

import re

import sentencex

from megabert.data.text.wikitext.tidy import has_word

# a full stop in Chinese or Japanese directly before a digit or Latin letter: sentencex splits there
# only before an ideograph
_WIDE_STOP = re.compile(r"(?<=[。！？])(?=[0-9A-Za-z])")
_STOP_AND_WORD = re.compile(r"[。！？][0-9A-Za-z]")
_PAIRS = (("“", "”"), ("「", "」"), ("『", "』"), ("《", "》"), ("（", "）"), ("(", ")"))


def _has_wide_stop(text: str) -> bool:
    return ("。" in text or "！" in text or "？" in text) and bool(_STOP_AND_WORD.search(text))


def _at_wide_stops(piece: str) -> list[str]:
    """Cut at wide full stops outside quotes and brackets."""
    parts = _WIDE_STOP.split(piece)
    if len(parts) == 1:
        return parts
    joined = [parts[0]]
    for part in parts[1:]:
        if any(joined[-1].count(a) > joined[-1].count(b) for a, b in _PAIRS):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def split_sentences(paragraph: str, language: str) -> list[str]:
    """Sentences in order, stripped; pieces without a letter or digit are removed.

    Args:
        paragraph: a line of text.
        language: a code such as "en" or "zh"; for codes that it does not know, sentencex uses the
            rules of related languages, or English ones.
    """
    code = language.replace("_", "-").lower()
    pieces = sentencex.segment(code, paragraph)
    if _has_wide_stop(paragraph):
        pieces = [part for piece in pieces for part in _at_wide_stops(piece)]
    return [sentence for piece in pieces if has_word(sentence := piece.strip())]
