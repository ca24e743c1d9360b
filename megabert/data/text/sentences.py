"""Sentences of a line of text, by sentencex (Wikimedia's splitter, about 300 languages)."""

import sentencex

from megabert.data.text.tidy import has_word


def split_sentences(paragraph: str, language: str) -> list[str]:
    """Sentences in order, without space around them; pieces without any letter or digit go.

    language: a code such as "en" or "zh"; sentencex falls back to related languages, and to
    English rules for codes it does not know.
    """
    code = language.replace("_", "-").lower()
    pieces = (piece.strip() for piece in sentencex.segment(code, paragraph))
    return [piece for piece in pieces if has_word(piece)]
