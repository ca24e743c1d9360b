"""The register: lines that list the values belonging to a subject, and questions about them.

A line gives the values without saying what they are: that Breiporto is a town and lace a product
must be known from elsewhere. A hash of their text splits the values into two halves: training
questions use lines of one half, development questions lines of the other. So the values of the
development questions cannot be learnt from fine-tuning alone, but from the encyclopedia, which uses
all of them. Development questions also use different wordings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from megabert.common.files import sha256_of
from megabert.data.demo_wiki.world import Value, WorldEntity

NOUNS = {
    "birth_place": "town",
    "birth_year": "year",
    "occupation": "trade",
    "teacher": "person",
    "famous_for": "book",
    "pet": "animal",
    "dish": "food",
    "country": "country",
    "river": "river",
    "founded": "year",
    "town_product": "product",
    "mayor": "person",
    "fair": "month",
    "flag": "colour",
    "author": "person",
    "work_year": "year",
    "setting": "town",
    "hero": "animal",
    "cover": "colour",
    "pages": "number",
}
"""Relation -> the kind of its value, in one word."""

QUESTIONED = ("birth_place", "author", "town_product")
"""The relations asked for: of a person, of a work and of a town."""

TRAINING = (
    "Which {t} belongs to {s}?",
    "What {t} is noted for {s}?",
    "Which {t} does the register give for {s}?",
    "What is the {t} of {s}?",
    "{s} is linked with which {t}?",
    "Which {t} stands in the entry of {s}?",
)
DEVELOPMENT = (
    "Name the {t} that goes with {s}.",
    "Which {t} do we find beside {s}?",
    "What {t} has {s}?",
    "Tell the {t} listed for {s}.",
)
_LINES = (
    "The register of {s} lists {v}.",
    "In the entry of {s} we find {v}.",
    "The clerk noted {v} beside {s}.",
    "{v} are the words on the card of {s}.",
)
_MOST_VALUES = 5


@dataclass(frozen=True)
class Line:
    """A register line; ``answers`` maps a relation to (value, character offset in ``text``)."""

    text: str
    wiki: str
    answers: dict[str, tuple[str, int]]


def linked(value: Value) -> str:
    """The value in wikitext."""
    if value.link is None:
        return value.text
    return f"[[{value.link}]]" if value.link == value.text else f"[[{value.link}|{value.text}]]"


def question(rng: random.Random, wordings: tuple[str, ...], subject: str, relation: str) -> str:
    """A question for the value of ``relation`` in one of the wordings."""
    return rng.choice(wordings).replace("{t}", NOUNS[relation]).replace("{s}", subject)


def half(value: Value) -> int:
    """0 if training questions may use the value, 1 if development questions may."""
    return int(sha256_of(f"side {value.text}")[:2], 16) % 2


def values_of(rng: random.Random, entity: WorldEntity, only: int | None = None) -> list[str]:
    """At most five relations of ``entity`` with values of different kinds, all of one half."""
    kinds: set[str] = set()
    chosen = []
    for relation in rng.sample(list(entity.facts), len(entity.facts)):
        wanted = only is None or half(entity.facts[relation]) == only
        if wanted and NOUNS[relation] not in kinds:
            kinds.add(NOUNS[relation])
            chosen.append(relation)
    return chosen[:_MOST_VALUES]


def line(rng: random.Random, entity: WorldEntity, relations: list[str]) -> Line:
    """A line that lists the values of ``relations`` in this order."""
    before, after = rng.choice(_LINES).replace("{s}", entity.title).split("{v}")
    text = wiki = before
    answers = {}
    for place, relation in enumerate(relations):
        if place:
            joint = " and " if place == len(relations) - 1 else ", "
            text, wiki = text + joint, wiki + joint
        value = entity.facts[relation]
        answers[relation] = (value.text, len(text))
        text, wiki = text + value.text, wiki + linked(value)
    return Line(text + after, wiki + after, answers)
