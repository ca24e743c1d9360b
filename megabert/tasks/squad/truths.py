"""The ground truths of one question, in the forms in which they are common.

    SQuAD               "answers": [{"text": "Bob", "answer_start": 8}]
    datasets            "answers": {"text": ["Bob"], "answer_start": [8]}
    texts only          "answers": ["Bob"], or "answer": "Bob"
    other keys          "answer" for "answers"; "answer_text" for "text"; "answer_starts" or "start" for "answer_start"

A start may be a whole number as text ("8") or as a float (8.0). What cannot be read never becomes a
label: an answer that cannot be read is counted, and a question that has no other one has a fault. It is
impossible only if the file says so (``is_impossible``); see also :func:`told_by_empty_answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megabert.tasks.files.problems import Problems
from megabert.tasks.squad.data import Answer, valid_text

UNREADABLE = "answers that cannot be read"
MARKED_WITH_ANSWERS = "impossible question with answers"
WRONG_MARK = "'is_impossible' that is neither true nor false"
_MARK = "is_impossible"
_HOLDERS = ("answers", "answer")
_TEXTS = ("text", "answer_text", "answer")
_STARTS = ("answer_start", "answer_starts", "start")
_WHOLE = re.compile(r"\s*-?[0-9]{1,15}\s*")


@dataclass(frozen=True)
class Truths:
    """What a question's entry says about its answer.

    Attributes:
        answers: those that can be read.
        impossible: the entry says that there is none.
        fault: see :class:`megabert.tasks.squad.data.Question`.
        marked: the entry has a mark, true or false.
        empty: the entry has a list of answers, and nothing is in it.
    """

    answers: tuple[Answer, ...] = ()
    impossible: bool = False
    fault: str = ""
    marked: bool = False
    empty: bool = False


def read_truths(entry: Mapping[str, Any], place: str, problems: Problems) -> Truths:
    """The ground truths of a question; single answers that cannot be read are counted.

    Args:
        entry: the question's object.
        place: of the entry, for messages.
        problems: gets the answers that have no text.
    """
    mark, marked = entry.get(_MARK), _MARK in entry
    if marked and not isinstance(mark, bool):
        return Truths(fault=WRONG_MARK, marked=True)
    given = [entry[key] for key in _HOLDERS if entry.get(key) is not None]
    holder = next((value for value in given if value), given[0] if given else None)
    if holder is None:
        return Truths(impossible=bool(mark), marked=marked)
    listed = list(_listed(holder))
    found = [(_answer(text, start), text) for text, start in listed]
    if mark:
        blank = all(isinstance(text, str) and not text.strip() for text, _ in listed)
        fault = "" if blank else MARKED_WITH_ANSWERS
        return Truths(impossible=blank, fault=fault, marked=True)
    for answer, text in found:
        if answer is None:
            blank = isinstance(text, str)
            problems.add("empty answer" if blank else "answer without a text", place)
    answers = tuple(answer for answer, _ in found if answer is not None)
    fault = UNREADABLE if listed and not answers else ""
    return Truths(answers, fault=fault, marked=marked, empty=not listed)


def _listed(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Text and start of each answer, as they are; (None, None) for what has no such form."""
    if isinstance(holder, list):
        for item in holder:
            if isinstance(item, Mapping):
                yield _value(item, _TEXTS), _value(item, _STARTS)
            else:
                yield (item, None) if isinstance(item, str) else (None, None)
    elif isinstance(holder, Mapping) and holder:
        texts, starts = _value(holder, _TEXTS), _value(holder, _STARTS)
        if not isinstance(texts, list):
            yield texts, starts
            return
        yield from zip(texts, _aligned(starts, len(texts)))
    elif not isinstance(holder, Mapping):
        yield (holder, None) if isinstance(holder, str) else (None, None)


def _aligned(starts: Any, count: int) -> Sequence[Any]:
    """One start per text; where their numbers differ, none can be trusted."""
    fits = isinstance(starts, list) and len(starts) == count
    return starts if fits else [None] * count


def _value(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _answer(text: Any, start: Any) -> Answer | None:
    """The answer if its text can be read; its start is None if it has none that can be read."""
    if not isinstance(text, str) or not text.strip():
        return None
    if (isinstance(start, str) and _WHOLE.fullmatch(start)) or (
        isinstance(start, float) and start.is_integer()
    ):
        start = int(start)
    return Answer(valid_text(text), start if type(start) is int else None)


def told_by_empty_answers(found: Sequence[Truths]) -> bool:
    """Whether an empty list of answers marks a question as impossible in a file of flat records.

    ``datasets`` writes SQuAD v2.0 so: it has no mark, and the lists of such questions are empty. A file in
    which all lists are empty is a test file.
    """
    return any(truths.answers for truths in found) and not any(truths.marked for truths in found)
