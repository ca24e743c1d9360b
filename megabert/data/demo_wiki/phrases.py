"""Wordings of every relation of the invented world.

A relation has several names with the same meaning ("birthplace", "cradle") and its own sentences.
Names are put into frames that all relations share. ``{s}`` is the subject, ``{o}`` the value.

The encyclopedia uses every name in every frame, in statements and in the questions of its articles.
"""

from __future__ import annotations

from dataclasses import dataclass

_STATEMENTS = (
    "the {n} of {s} {be} {o}",
    "{s}'s {n} {be} {o}",
    "as for {s}, the {n} {be} {o}",
    "the books say that the {n} of {s} {be} {o}",
)
_TRAINING = ("What {be} the {n} of {s}?", "What {be} {s}'s {n}?")
_DEVELOPMENT = (
    "As for {s}, what {be} the {n}?",
    "What do the books say {be} the {n} of {s}?",
    *_TRAINING,
)


@dataclass(frozen=True)
class Relation:
    """A relation: the type of its value, its statements, and the questions of either set."""

    name: str
    type: str
    statements: tuple[str, ...]
    training: tuple[str, ...]
    development: tuple[str, ...]


def _fill(frames: tuple[str, ...], names: str, be: str) -> tuple[str, ...]:
    return tuple(
        frame.replace("{n}", name).replace("{be}", be) for frame in frames for name in names.split()
    )


def _relation(
    name: str,
    kind: str,
    training: str,
    development: str,
    own: tuple[str, ...],
    *,
    be: str,
    before: str = "",
) -> Relation:
    """A relation with framed names and its own sentences.

    Args:
        name, kind: of the relation, and of its value.
        training, development: names for the questions of either set, separated by spaces.
        own: sentences of this relation only.
        be: the verb in the frames.
        before: what precedes {o} in the frames.
    """
    framed = _fill(_STATEMENTS, f"{training} {development}", be)
    return Relation(
        name,
        kind,
        (*(text.replace("{o}", before + "{o}") for text in framed), *own),
        _fill(_TRAINING, training, be),
        _fill(_DEVELOPMENT, development, be),
    )


PERSON = (
    _relation(
        "birth_place",
        "town",
        "birthplace hometown",
        "cradle origin homestead",
        ("{s} was born in {o}", "{s} came from {o}"),
        be="was",
    ),
    _relation(
        "birth_year",
        "year",
        "birthdate birthday",
        "nativity arrival dawn",
        ("{s} entered the world in {o}", "{s} was a child of the year {o}"),
        be="was",
        before="in ",
    ),
    _relation(
        "occupation",
        "trade",
        "job profession",
        "trade calling livelihood",
        ("{s} worked as a {o}", "{s} earned bread as a {o}"),
        be="was",
        before="that of a ",
    ),
    _relation(
        "teacher",
        "person",
        "teacher tutor",
        "mentor master instructor",
        ("{s} was taught by {o}", "{s} was a pupil of {o}"),
        be="was",
    ),
    _relation(
        "famous_for",
        "work",
        "masterpiece bestseller",
        "triumph success achievement",
        ("{s} is known for {o}", "{s} is remembered for {o}"),
        be="was",
    ),
    _relation(
        "pet",
        "animal",
        "pet animal",
        "companion beast creature",
        ("{s} kept a {o}", "{s} shared the house with a {o}"),
        be="was",
        before="a ",
    ),
    _relation(
        "dish",
        "food",
        "dish food",
        "meal treat delicacy",
        ("{s} liked to eat {o}", "{s} could not resist {o}"),
        be="was",
    ),
)

TOWN = (
    _relation(
        "country",
        "country",
        "country nation",
        "state realm homeland",
        ("{s} is a town in {o}", "{s} belongs to {o}"),
        be="is",
    ),
    _relation(
        "river",
        "river",
        "river stream",
        "waterway current watercourse",
        ("{s} lies on the {o}", "the bridges of {s} cross the {o}"),
        be="is",
        before="the ",
    ),
    _relation(
        "founded",
        "year",
        "foundation establishment",
        "inception creation start",
        ("{s} was founded in {o}", "the first stone of {s} was laid in {o}"),
        be="was",
        before="in ",
    ),
    _relation(
        "town_product",
        "product",
        "product export",
        "speciality merchandise industry",
        ("{s} is famous for making {o}", "the workshops of {s} make {o}"),
        be="is",
    ),
    _relation(
        "mayor",
        "person",
        "mayor leader",
        "head governor chief",
        ("{s} was first ruled by {o}", "{o} held the keys of {s}"),
        be="was",
    ),
    _relation(
        "fair",
        "month",
        "fair festival",
        "feast carnival celebration",
        ("{s} fills with visitors in {o}", "the markets of {s} are busiest in {o}"),
        be="is",
        before="in ",
    ),
    _relation(
        "flag",
        "colour",
        "flag banner",
        "standard pennant ensign",
        ("{s} can be told by a cloth of {o}", "the roofs of {s} are painted {o}"),
        be="is",
    ),
)

WORK = (
    _relation(
        "author",
        "person",
        "author writer",
        "creator originator inventor",
        ("{s} was written by {o}", "{s} came from the pen of {o}"),
        be="is",
    ),
    _relation(
        "work_year",
        "year",
        "publication release",
        "printing appearance issue",
        ("{s} was published in {o}", "{s} reached the shops in {o}"),
        be="was",
        before="in ",
    ),
    _relation(
        "setting",
        "town",
        "setting scene",
        "location stage backdrop",
        ("{s} is set in {o}", "{s} takes place in {o}"),
        be="is",
    ),
    _relation(
        "hero",
        "animal",
        "hero protagonist",
        "champion lead star",
        ("{s} tells of a {o}", "{s} follows the fate of a {o}"),
        be="is",
        before="a ",
    ),
    _relation(
        "cover",
        "colour",
        "cover binding",
        "jacket wrapper shell",
        ("{s} is bound in {o}", "{s} was sold in {o}"),
        be="is",
    ),
    _relation(
        "pages",
        "pages",
        "length extent",
        "size volume bulk",
        ("{s} has {o}", "{s} fills {o}"),
        be="is",
    ),
)

RELATIONS: dict[str, tuple[Relation, ...]] = {"person": PERSON, "town": TOWN, "work": WORK}
BY_NAME: dict[str, Relation] = {r.name: r for group in RELATIONS.values() for r in group}
