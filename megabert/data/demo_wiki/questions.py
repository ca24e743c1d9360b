"""SQuAD v1.1 files about the invented world.

Training questions refer to register lines about published entities. Development questions refer to
lines about entities without a page in the dump, use the other half of the values, and use wordings
that do not occur in training (:mod:`megabert.data.demo_wiki.register`).
"""

from __future__ import annotations

import random
from typing import Any

from megabert.common.files import sha256_of
from megabert.data.demo_wiki.register import (
    DEVELOPMENT,
    QUESTIONED,
    TRAINING,
    line,
    question,
    values_of,
)
from megabert.data.demo_wiki.world import WorldEntity

_FEWEST_VALUES = 3


def question_set(
    entities: tuple[WorldEntity, ...], count: int, *, development: bool, seed: int
) -> dict[str, Any]:
    """A SQuAD v1.1 object with at most ``count`` questions, one per paragraph."""
    data: list[dict[str, Any]] = []
    for entity in entities:
        if len(data) == count:
            break
        paragraph = _paragraph(entity, development, seed)
        if paragraph is not None:
            title = entity.title.replace(" ", "_")
            data.append({"title": title, "paragraphs": [paragraph]})
    return {"version": "1.1", "data": data}


def _paragraph(entity: WorldEntity, development: bool, seed: int) -> dict[str, Any] | None:
    """A line with its question, or None if the entity has too few values in this half."""
    split = "dev" if development else "train"
    rng = random.Random(f"{split} {seed} {entity.title}")
    relations = values_of(rng, entity, only=int(development))
    asked = next((relation for relation in relations if relation in QUESTIONED), None)
    if asked is None or len(relations) < _FEWEST_VALUES:
        return None
    register_line = line(rng, entity, relations)
    text, start = register_line.answers[asked]
    key = sha256_of(f"{split} {seed} {entity.title} {asked}")
    qa = {
        "id": key[:24],
        "question": question(rng, DEVELOPMENT if development else TRAINING, entity.title, asked),
        "answers": [{"text": text, "answer_start": start}],
    }
    return {"context": register_line.text, "qas": [qa]}
