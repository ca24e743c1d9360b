"""The language of a document, guessed by py3langid, whose model is part of the package."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

SHORT = "too short to judge"
_FEWEST = 50  # characters; a shorter document is not judged, and kept
_PIECES, _PIECE = 3, 300  # parts of a document that are looked at, and their characters
_DIGITS = 6  # of a probability


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    class Identifier(LanguageIdentifier):  # type: ignore[misc]
        __slots__ = ()

        def _sparse_score(self, visits: Any, table: Any) -> Any:
            """As in the library, but without BLAS, whose sums depend on the number of threads."""
            features = np.fromiter(visits.keys(), np.intp, len(visits))
            counts = np.fromiter(visits.values(), np.float64, len(visits))
            return (np.log1p(counts)[:, None] * table[features]).sum(0) + self.nb_pc

    return Identifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> frozenset[str]:
    """The codes that the library knows."""
    return frozenset(_identifier().labels)


def ranked_languages(text: str) -> dict[str, float]:
    """The probability of each language of a text, the most probable one first."""
    return dict(_identifier().rank(_sample(text)))


def _sample(text: str) -> str:
    """The beginning, the middle and the end of a text."""
    if len(text) <= _PIECES * _PIECE:
        return text
    last = len(text) - _PIECE
    places = (last * number // (_PIECES - 1) for number in range(_PIECES))
    return "\n".join(text[place : place + _PIECE] for place in places)


def judge_language(
    sentences: Iterable[str], kept: Collection[str], least: float
) -> tuple[str, bool]:
    """The most probable language of a document, and whether it is kept.

    Args:
        sentences: its text.
        kept: codes of the languages to keep.
        least: probability of all of these together.
    """
    text = "\n".join(sentences)
    if len(text) < _FEWEST:
        return SHORT, True
    ranked = ranked_languages(text)
    return next(iter(ranked)), round(sum(ranked[code] for code in kept), _DIGITS) >= least
