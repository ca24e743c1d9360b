"""SQuAD files as inputs of ``launch/predict.py``, and answers in the form of evaluation scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.tasks.squad.reading import read_squad


class SquadItemFormat:
    """The format ``squad``: a :class:`megabert.tasks.base.ItemFormat`."""

    name, title, key = "squad", "SQuAD", "data"

    def read(self, path: Path) -> list[tuple[str, dict[str, Any]]]:
        """The questions of a SQuAD file, each with its context; bad entries are logged."""
        data = read_squad(path)
        if data.problems.counts:
            get_logger().warning("%s: left out: %s", path, data.problems)
        return [
            (f"id {q.id}", {"id": q.id, "question": q.text, "context": data.contexts[q.context]})
            for q in data.questions
        ]

    def document(self, answers: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Question id -> answer; answers without an id are numbered."""
        listed = list(answers)
        return {name: answer["answer"] for name, answer in zip(self.names(listed), listed)}

    def names(self, items: Sequence[dict[str, Any]]) -> list[str]:
        """The key of each item in the document.

        Raises:
            UserError: an id is not a text or whole number, or two items have the same; the item is named
                from 1.
        """
        found: dict[str, int] = {}
        for number, item in enumerate(items, start=1):
            identity = item.get("id", number - 1)
            if type(identity) not in (str, int):
                raise UserError(f"item {number}: 'id' is not a text or whole number: {identity!r}")
            first = found.setdefault(str(identity), number)
            if first != number:
                raise UserError(
                    f"item {number} has the id {identity!r} of item {first}: one object of ids and answers "
                    "cannot hold both; leave --format out, or make the ids differ"
                )
        return list(found)
