"""Reading SQuAD files, v1.1 and v2.0: JSON, plain or packed with xz, gzip or bzip2.

Layout: ``{"data": [{"paragraphs": [{"context": str, "qas": [{"id": str, "question": str,
"answers": [{"text": str, "answer_start": int}], "is_impossible": bool}]}]}]}``; ``answer_start``
counts characters. In v2.0 (Rajpurkar et al. 2018) a question that its context does not answer is
marked impossible and has no answers; v1.1 has no such mark. Further keys are not read.
A file that is not of this layout is an error. A single bad entry inside a good file is not: it is
left out, counted by kind, and the first of each kind is named.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.tasks.files.problems import Problems

_LAYOUT = "expected SQuAD JSON (data > paragraphs > context, qas > id, question, answers)"
_ITEM = '{"question": "...", "context": "..."}'
_OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\xfd7zXZ\x00", lzma.open),
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
)


@dataclass(frozen=True)
class Answer:
    """A ground truth: its text and the character of the context where it starts."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about ``SquadData.contexts[context]``; ``answers`` as the file has them.

    ``marked_impossible``: the file says that the context does not answer it.
    """

    id: str
    context: int
    text: str
    answers: tuple[Answer, ...]
    marked_impossible: bool = False


@dataclass(frozen=True)
class SquadData:
    """A file's paragraphs and questions in file order."""

    path: Path
    contexts: list[str]
    questions: list[Question]
    problems: Problems

    @property
    def labelled(self) -> bool:
        """Whether any question has an answer or is marked impossible (a test file has neither)."""
        return any(q.answers or q.marked_impossible for q in self.questions)


def read_squad(path: Path) -> SquadData:
    """Read a SQuAD file of either version.

    Questions with a missing or ill-typed key, impossible ones with answers, and those whose id was
    seen before, are left out and counted in ``problems``; answers are kept as they are.

    Raises:
        UserError: the file cannot be read, is not JSON, is not SQuAD, or holds no question.
    """
    document = _load_json(path)
    articles = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(articles, list):
        raise UserError(f"{path} is not a SQuAD file: it has no list 'data'; {_LAYOUT}")
    contexts: list[str] = []
    questions: list[Question] = []
    problems = Problems()
    seen: set[str] = set()
    for place, paragraph in _paragraphs(articles, problems):
        context = paragraph.get("context")
        if not isinstance(context, str):
            problems.add("paragraph without a text 'context'", place)
            continue
        contexts.append(_valid_text(context))
        for question_place, entry in _mappings(paragraph, "qas", place, problems):
            question = _question(entry, len(contexts) - 1, question_place, problems)
            if question is None:
                continue
            if question.id in seen:
                problems.add("repeated question id", f"{question_place}, id {question.id}")
                continue
            seen.add(question.id)
            questions.append(question)
    if not questions:
        detail = f" ({problems})" if problems.counts else ""
        raise UserError(f"{path} is not a SQuAD file: it has no question{detail}; {_LAYOUT}")
    return SquadData(path, contexts, questions, problems)


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        opener = next((open_ for start, open_ in _OPENERS if magic.startswith(start)), None)
        if opener is None:
            content = path.read_bytes()
        else:
            with opener(path, "rb") as file:
                content = file.read()
    except (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged archive ({error}); fetch or pack it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: {reason}; give a readable SQuAD file") from error
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); {_LAYOUT}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{path} is not JSON ({error.msg}, {where}); {_LAYOUT}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not a SQuAD file: nested too deeply; {_LAYOUT}") from error


def _mappings(
    parent: Mapping[str, Any], key: str, place: str, problems: Problems
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of the list ``parent[key]``, each with its place; anything else is counted."""
    items = parent.get(key)
    if not isinstance(items, list):
        problems.add(f"missing list {key!r}", place)
        return
    for index, item in enumerate(items):
        inner = f"{place}.{key}[{index}]"
        if isinstance(item, Mapping):
            yield inner, item
        else:
            problems.add(f"entry of {key!r} that is not an object", inner)


def _paragraphs(articles: list[Any], problems: Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, article in enumerate(articles):
        place = f"data[{index}]"
        if isinstance(article, Mapping):
            yield from _mappings(article, "paragraphs", place, problems)
        else:
            problems.add("article that is not an object", place)


def _question(
    entry: Mapping[str, Any], context: int, place: str, problems: Problems
) -> Question | None:
    identity, text = entry.get("id"), entry.get("question")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not isinstance(text, str):
        problems.add("question without 'id' or 'question'", place)
        return None
    impossible = entry.get("is_impossible", False)
    if not isinstance(impossible, bool):
        problems.add("'is_impossible' that is neither true nor false", place)
        return None
    answers = []
    if "answers" in entry:
        for answer_place, answer in _mappings(entry, "answers", place, problems):
            content, start = answer.get("text"), answer.get("answer_start")
            if not isinstance(content, str) or type(start) is not int:
                problems.add("answer without 'text' or 'answer_start'", answer_place)
                continue
            answers.append(Answer(_valid_text(content), start))
    if impossible and answers:
        problems.add("impossible question with answers", f"{place}, id {identity}")
        return None
    return Question(_valid_text(identity), context, _valid_text(text), tuple(answers), impossible)


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
        place = contexts.setdefault(_valid_text(item["context"]), len(contexts))
        questions.append(Question(str(number - 1), place, _valid_text(item["question"]), ()))
    return SquadData(Path("items"), list(contexts), questions, Problems())


def _valid_text(text: str) -> str:
    """The text with lone surrogates, which no encoder takes, as U+FFFD: same length, same offsets."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
