"""Questions, their contexts and their ground truths, as the other modules use them.

:mod:`megabert.tasks.squad.reading` makes them from a file, :func:`squad_items` from inputs without answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems

_ITEM = '{"question": "...", "context": "..."}'


@dataclass(frozen=True)
class Answer:
    """A ground truth: its text, and the character of the context where it starts.

    ``start`` is None where the file does not give it: such an answer can be scored, but not trained on.
    """

    text: str
    start: int | None


@dataclass(frozen=True)
class Question:
    """A question about ``SquadData.contexts[context]``; ``answers`` as the file has them.

    Attributes:
        marked_impossible: the file says that the context does not answer it.
        fault: why the file gives neither answers nor that mark in a form that can be read; "" if it does,
            or if it gives neither. A question with a fault can be answered, but not trained on or scored.
    """

    id: str
    context: int
    text: str
    answers: tuple[Answer, ...]
    marked_impossible: bool = False
    fault: str = ""


@dataclass(frozen=True)
class SquadData:
    """A file's paragraphs and questions in file order.

    Attributes:
        problems: paragraphs and questions that are left out.
        bad_answers: answers that are left out of their questions.
    """

    path: Path
    contexts: list[str]
    questions: list[Question]
    problems: Problems = field(default_factory=Problems)
    bad_answers: Problems = field(default_factory=Problems)

    @property
    def labelled(self) -> bool:
        """Whether any question has an answer, a mark or a fault (a test file has none of them)."""
        return any(q.answers or q.marked_impossible or q.fault for q in self.questions)


def squad_items(items: list[dict[str, Any]]) -> SquadData:
    """Questions given one by one: objects with the texts ``question`` and ``context``.

    A question's id is its place in the list; equal contexts are stored once.

    Raises:
        UserError: one of the two is missing or not a text; the message names the item from 1.
    """
    contexts: dict[str, int] = {}
    questions = []
    for number, item in enumerate(items, start=1):
        for key in ("question", "context"):
            if not isinstance(item.get(key), str):
                raise UserError(f"item {number}: '{key}' is missing or not a text; give {_ITEM}")
        place = contexts.setdefault(valid_text(item["context"]), len(contexts))
        questions.append(Question(str(number - 1), place, valid_text(item["question"]), ()))
    return SquadData(Path("items"), list(contexts), questions)


def valid_text(text: str) -> str:
    """The text with lone surrogates, which no encoder takes, as U+FFFD: same length, same offsets."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
