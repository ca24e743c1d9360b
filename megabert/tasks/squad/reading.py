"""Reading SQuAD files, v1.1 and v2.0: JSON or JSON lines, plain or packed with xz, gzip or bzip2.

    SQuAD       {"data": [{"paragraphs": [{"context": str, "qas": [{"id": str, "question": str, ...}]}]}]}
    datasets    {"id": str, "context": str, "question": str, ...} per line, in a list, or in the list "data"

The ground truths of a question are read by :mod:`megabert.tasks.squad.truths`; ``answer_start`` counts
characters. In v2.0 (Rajpurkar et al. 2018) a question that its context does not answer is marked
impossible and has no answers; v1.1 has no such mark. Further keys are not read.
A file that is not of this layout is an error. A single bad entry inside a good file is not: it is
left out, counted by kind, and the first of each kind is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, has_several_values, parse_json
from megabert.common.log import get_logger
from megabert.tasks.files.json_lines import has_objects, read_json_lines
from megabert.tasks.files.kinds import has_parquet_rows, refuse_binary
from megabert.tasks.files.problems import Problems
from megabert.tasks.files.text_lines import whole_content
from megabert.tasks.squad.data import Question, SquadData, valid_text
from megabert.tasks.squad.truths import Truths, read_truths, told_by_empty_answers

_LAYOUT = (
    "expected SQuAD JSON (data > paragraphs > context, qas > id, question, answers), or one object with "
    "id, context, question and answers per line"
)
MAX_DOCUMENT = 1 << 28
"""Bytes of a file that is one JSON document; one of lines is read line by line."""
_Place = tuple[str, Any]
"""Where a value is in the file, for messages, and the value."""


def read_squad(path: Path) -> SquadData:
    """Read a SQuAD file of either version.

    Questions with a missing or ill-typed key, and those whose id was seen before, are left out and
    counted in ``problems``. Questions whose answers cannot be read have a ``fault``.

    Raises:
        UserError: the file cannot be read, is not JSON, is not SQuAD, or holds no question.
    """
    reader = _Reader()
    for place, entry in _entries(path):
        reader.add(place, entry)
    if not reader.questions:
        detail = f" ({reader.problems})" if reader.problems.counts else ""
        raise UserError(f"{path} is not a SQuAD file: it has no question{detail}; {_LAYOUT}")
    questions = reader.questions
    if reader.flat and told_by_empty_answers(list(reader.truths.values())):
        empty = {name for name, truths in reader.truths.items() if truths.empty}
        questions = [
            replace(question, marked_impossible=True) if question.id in empty else question
            for question in questions
        ]
        if empty:
            get_logger().info(
                "%s: flat records without 'is_impossible': the %s questions with empty answers are impossible, "
                "as datasets writes them",
                path,
                f"{len(empty):,}",
            )
    return SquadData(path, list(reader.contexts), questions, reader.problems, reader.bad_answers)


class _Reader:
    """The contexts and questions read so far.

    Attributes:
        contexts: each context once, and its number.
        truths: of each question, by id.
        flat: all questions come from flat records.
    """

    def __init__(self) -> None:
        self.contexts: dict[str, int] = {}
        self.questions: list[Question] = []
        self.truths: dict[str, Truths] = {}
        self.problems, self.bad_answers = Problems(), Problems()
        self.flat = True

    def add(self, place: str, entry: Any) -> None:
        """Read an article, a paragraph or a flat record."""
        if not isinstance(entry, Mapping):
            self.problems.add("article that is not an object", place)
        elif "qas" in entry:
            self._paragraph(place, entry)
        elif "question" in entry and "paragraphs" not in entry:
            context = self._context(place, entry)
            if context is not None:
                self._question(place, entry, context)
        else:
            self.flat = False
            for inner, paragraph in self._objects(entry, "paragraphs", place):
                self._paragraph(inner, paragraph)

    def _paragraph(self, place: str, entry: Mapping[str, Any]) -> None:
        self.flat = False
        context = self._context(place, entry)
        if context is None:
            return
        for inner, question in self._objects(entry, "qas", place):
            self._question(inner, question, context)

    def _context(self, place: str, entry: Mapping[str, Any]) -> int | None:
        """Number of an entry's context, which is stored once."""
        context = entry.get("context")
        if isinstance(context, str):
            return self.contexts.setdefault(valid_text(context), len(self.contexts))
        self.problems.add("paragraph without a text 'context'", place)
        return None

    def _objects(
        self, parent: Mapping[str, Any], key: str, place: str
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The objects of the list ``parent[key]``, each with its place; anything else is counted."""
        items = parent.get(key)
        if not isinstance(items, list):
            self.problems.add(f"missing list {key!r}", place)
            return
        for index, item in enumerate(items):
            inner = f"{place}.{key}[{index}]"
            if isinstance(item, Mapping):
                yield inner, item
            else:
                self.problems.add(f"entry of {key!r} that is not an object", inner)

    def _question(self, place: str, entry: Mapping[str, Any], context: int) -> None:
        identity, text = entry.get("id"), entry.get("question")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        if not isinstance(identity, str) or not isinstance(text, str):
            self.problems.add("question without 'id' or 'question'", place)
            return
        identity = valid_text(identity)
        if identity in self.truths:
            self.problems.add("repeated question id", f"{place}, id {identity}")
            return
        truths = read_truths(entry, f"{place}, id {identity}", self.bad_answers)
        self.truths[identity] = truths
        mark, fault = truths.impossible, truths.fault
        self.questions.append(
            Question(identity, context, valid_text(text), truths.answers, mark, fault)
        )


def _entries(path: Path) -> Iterator[_Place]:
    """The articles, paragraphs or flat records of a file."""
    document, several = _load_json(path)
    if several:
        for number, line in read_json_lines(path):
            if isinstance(line, str):
                raise UserError(f"{path} line {number}: {line}; {_LAYOUT}")
            yield f"line {number}", line
        return
    entries = document.get("data") if isinstance(document, Mapping) else document
    if isinstance(document, Mapping) and entries is None and "question" in document:
        entries = [document]
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a SQuAD file: it has no list 'data'; {_LAYOUT}")
    for index, entry in enumerate(entries):
        yield f"data[{index}]", entry


def _load_json(path: Path) -> tuple[Any, bool]:
    """The file's JSON value; and whether it has several, one per line or row."""
    if has_parquet_rows(path):
        return None, True
    refuse_binary(path)
    content = whole_content(path, MAX_DOCUMENT)
    if content is None:
        if has_objects(path):
            return None, True
        raise UserError(
            f"{path}: one JSON document of more than {MAX_DOCUMENT >> 20} MiB; write one object with id, "
            "context, question and answers per line"
        )
    try:
        return parse_json(content, of_data=True), False
    except JsonError as error:
        if has_several_values(error):
            return None, True
        is_or = " is" if str(error).startswith("not ") else ":"
        raise UserError(f"{path}{is_or} {error}; {_LAYOUT}") from error
