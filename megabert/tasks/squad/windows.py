"""Windows over a long context, and the place of an answer in it.

The rules are those of Devlin et al. 2019 and its public run_squad: windows start ``doc_stride`` tokens
apart, and a token counts in the window that gives it the most context on its poorer side.
"""

from __future__ import annotations

import numpy as np

from megabert.tasks.squad.data import Answer


def windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(start, length) of the windows over ``tokens`` tokens, at most ``room`` in each.

    There is at least one window, even without tokens; the last one ends with the last token.
    """
    spans, start = [], 0
    while True:
        length = min(tokens - start, room)
        spans.append((start, length))
        if start + length >= tokens:
            return spans
        start += min(length, stride)


def best_window(spans: list[tuple[int, int]], tokens: int) -> np.ndarray:
    """For each token the window that gives it the most context, int64 [tokens].

    The score of a window for a token is the smaller of the tokens to its left and right there, plus
    a hundredth of the window's length; the first of equals wins (as in BERT's run_squad).
    """
    scores = np.full((len(spans), tokens), -1.0)
    for index, (start, length) in enumerate(spans):
        left = np.arange(length)
        scores[index, start : start + length] = np.minimum(left, length - 1 - left) + 0.01 * length
    return scores.argmax(axis=0)


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token that touch the characters ``[start, end)``; None if no token does.

    ``offsets``: int [n, 2], first character and the end (exclusive) of each token.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def locate_answer(
    context: str, offsets: np.ndarray, answers: tuple[Answer, ...]
) -> tuple[int, int] | str:
    """Token span of the first valid answer, or what is wrong with the first answer."""
    fault = "question without an answer"
    for number, answer in enumerate(answers):
        text = answer.text.strip()
        start = (answer.start or 0) + len(answer.text) - len(answer.text.lstrip())
        if not text:
            problem = "empty answer"
        elif answer.start is None:
            problem = "answer without a usable answer_start"
        elif text not in context:
            problem = "answer that is not in its context"
        elif start < 0 or context[start : start + len(text)] != text:
            problem = "answer that is not at its answer_start"
        else:
            span = token_span(offsets, start, start + len(text))
            if span is not None:
                return span
            problem = "answer without a token"
        if number == 0:
            fault = problem
    return fault
