"""SQuAD v1.1 files on the invented world.

Training questions stand on paragraphs about published entities and use the ``asked`` wordings.
Development questions stand on entities that have no page in the dump and use the ``held_out``
wordings, which no training question uses.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from megabert.data.sample.articles import fact_paragraph, groups
from megabert.data.sample.phrases import BY_NAME
from megabert.data.sample.world import Entity

_FACTS_A_PARAGRAPH = 6


def question_set(
    entities: tuple[Entity, ...], count: int, *, held_out: bool, seed: int
) -> dict[str, Any]:
    """A SQuAD v1.1 object with at most ``count`` questions, half the facts of a paragraph asked."""
    split = "dev" if held_out else "train"
    data: list[dict[str, Any]] = []
    left = count
    for entity in entities:
        if left <= 0:
            break
        paragraph = _paragraph(entity, held_out, seed, left, split)
        left -= len(paragraph["qas"])
        data.append({"title": entity.title.replace(" ", "_"), "paragraphs": [paragraph]})
    return {"version": "1.1", "data": data}


def _paragraph(entity: Entity, held_out: bool, seed: int, most: int, split: str) -> dict[str, Any]:
    rng = random.Random(f"{split} {seed} {entity.title}")
    relations = [r for group in groups(rng, entity) for r in group][:_FACTS_A_PARAGRAPH]
    told, _ = fact_paragraph(rng, entity, relations)
    answers = told.answers
    asked = rng.sample(relations, min(most, (len(relations) + 1) // 2))
    qas = []
    for relation in asked:
        wordings = BY_NAME[relation]
        template = rng.choice(wordings.held_out if held_out else wordings.asked)
        text, start = answers[relation]
        key = hashlib.sha256(f"{split} {seed} {entity.title} {relation}".encode()).hexdigest()
        qas.append(
            {
                "id": key[:24],
                "question": template.replace("{s}", entity.title),
                "answers": [{"text": text, "answer_start": start}],
            }
        )
    return {"context": told.text, "qas": qas}
