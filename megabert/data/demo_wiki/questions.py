"""SQuAD v1.1 files on the invented world.

Training questions stand on lines of the register about published entities. Development questions
stand on lines about entities that have no page in the dump, over the other half of the values, and use
wordings that no training question uses (:mod:`megabert.data.demo_wiki.register`).
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from megabert.data.demo_wiki.register import (
    ASKED,
    HELD_OUT,
    QUESTIONED,
    line,
    question,
    values_of,
)
from megabert.data.demo_wiki.world import Entity

_FEWEST_VALUES = 3


def question_set(
    entities: tuple[Entity, ...], count: int, *, held_out: bool, seed: int
) -> dict[str, Any]:
    """A SQuAD v1.1 object with at most ``count`` questions, one a paragraph."""
    data: list[dict[str, Any]] = []
    for entity in entities:
        if len(data) == count:
            break
        paragraph = _paragraph(entity, held_out, seed)
        if paragraph is not None:
            title = entity.title.replace(" ", "_")
            data.append({"title": title, "paragraphs": [paragraph]})
    return {"version": "1.1", "data": data}


def _paragraph(entity: Entity, held_out: bool, seed: int) -> dict[str, Any] | None:
    """A line with its question, or None if the entity's values of this half give none."""
    split = "dev" if held_out else "train"
    rng = random.Random(f"{split} {seed} {entity.title}")
    relations = values_of(rng, entity, only=int(held_out))
    asked = next((relation for relation in relations if relation in QUESTIONED), None)
    if asked is None or len(relations) < _FEWEST_VALUES:
        return None
    told = line(rng, entity, relations)
    text, start = told.answers[asked]
    key = hashlib.sha256(f"{split} {seed} {entity.title} {asked}".encode()).hexdigest()
    qa = {
        "id": key[:24],
        "question": question(rng, HELD_OUT if held_out else ASKED, entity.title, asked),
        "answers": [{"text": text, "answer_start": start}],
    }
    return {"context": told.text, "qas": [qa]}
