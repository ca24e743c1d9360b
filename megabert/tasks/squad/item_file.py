"""SQuAD files as inputs of ``launch/predict.py``, and answers in the form of evaluation scripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
        texts: dict[str, str] = {}
        for answer in answers:
            texts[str(answer.get("id", len(texts)))] = answer["answer"]
        return texts
