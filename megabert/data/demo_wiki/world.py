"""The facts of an invented world: consistent people, towns and works.

Everything is drawn from one seed. Each fact is stored once, and every page reads it from there: a
work is published while its author lives, a teacher is older than the pupil, a person is known for
one of their own works. Names are built from syllables and do not belong to real people or places.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b br d dr f g gr h j k kr l m n p pr r s st t tr v w z")
_VOWELS = _words("a e i o u ai ei ou")
_CODAS = _words("l n r s m k t nd lm rn sk")
_TOWN_ENDS = _words("holm mere wick stead vale porto gard minster")
_COUNTRY_ENDS = _words("ovia mark land istan eria")
_TOWN_FRONTS = _words("Old New Upper Lower Great Little Saint Royal High Far Castle Bishops")
_OCCUPATIONS = _words(
    "painter poet composer botanist astronomer surgeon geologist chemist historian sculptor "
    "engineer novelist printer weaver sailor merchant architect singer actor baker"
)
_ANIMALS = _words("dog cat parrot pony goat raven tortoise fox hare monkey falcon donkey")
_DISHES = _words("soup bread trout figs plums rice beans eggs noodles apples cake mushrooms")
_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_COLOURS = _words("red blue green yellow black white purple orange grey brown")
_PRODUCTS = _words(
    "clocks glass paper silk lamps bells carpets pottery violins ropes candles lace knives barrels "
    "boots maps soap"
)
_ADJECTIVES = _words(
    "silent golden broken distant hidden winter crimson hollow gentle bitter northern burning "
    "frozen lonely silver wandering forgotten restless"
)
_NOUNS = _words(
    "harbour garden mirror stream lantern mountain letter forest tower island orchard voyage storm "
    "window palace shadow road meadow"
)
_MOST_TOWNS, _MOST_RIVERS, _MOST_COUNTRIES = 40, 12, 8
_FEW_FIRST_NAMES, _FEW_SURNAMES, _FEW_STEMS = 30, 40, 40


@dataclass(frozen=True)
class Value:
    """The object of a fact: its words in the text, and the page they link to, if any."""

    text: str
    link: str | None = None


@dataclass(frozen=True)
class WorldEntity:
    """A subject and its facts; ``short`` is a short form of its name, ``pronoun`` e.g. "She"."""

    kind: str
    title: str
    short: str
    pronoun: str
    facts: dict[str, Value]


@dataclass(frozen=True)
class InventedWorld:
    """Entities with an article, and ``unpublished`` ones, for the development questions only."""

    published: tuple[WorldEntity, ...]
    unpublished: tuple[WorldEntity, ...]
    countries: tuple[str, ...]


@dataclass
class _Names:
    """Draws names without repetition."""

    rng: random.Random
    used: set[str] = field(default_factory=set)

    def word(self, syllables: int, endings: tuple[str, ...] = _CODAS) -> str:
        """A new capitalised invented word, longer if all short ones are used."""
        for attempt in range(1_000_000):
            parts = [
                self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS)
                for _ in range(syllables + attempt // 100)
            ]
            word = "".join([*parts, self.rng.choice(endings)]).capitalize()
            if word not in self.used:
                break
        self.used.add(word)
        return word

    def pool(self, count: int, syllables: int, endings: tuple[str, ...] = _CODAS) -> list[str]:
        """``count`` different words."""
        return [self.word(syllables, endings) for _ in range(count)]


@dataclass
class _Person:
    first: str
    surname: str
    woman: bool
    born: int
    died: int
    works: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.first} {self.surname}"


@dataclass
class _World:
    """The names and values that facts are drawn from."""

    rng: random.Random
    names: _Names
    towns: list[str]
    countries: list[str]
    rivers: list[str]
    people: list[_Person]

    def town(self) -> Value:
        name = self.rng.choice(self.towns)
        return Value(name, name)

    def word(self, pool: tuple[str, ...]) -> Value:
        return Value(self.rng.choice(pool))


def build_world(articles: int, unpublished: int, seed: int) -> InventedWorld:
    """A world of ``articles`` published and ``unpublished`` other entities; a pure function.

    About 45 % of the articles are about people, 30 % about towns and 25 % about works. Values come
    from small pools: a model learns more from many articles that name the same few towns than from
    many towns that are named once.
    """
    rng = random.Random(f"world {seed}")
    names = _Names(rng)
    total = articles + unpublished
    places, books = max(4, total * 3 // 10), max(2, total // 4)
    towns = names.pool(min(_MOST_TOWNS, places, articles), 1, _TOWN_ENDS)
    world = _World(
        rng,
        names,
        towns,
        names.pool(_MOST_COUNTRIES, 2, _COUNTRY_ENDS),
        names.pool(_MOST_RIVERS, 1),
        _people(names, total - places - books),
    )
    titles = _works(world, books)
    entities = [_town(world, name) for name in towns]
    rest = [_town(world, name) for name in _small_towns(names, places - len(towns))]
    rest += [_work(world, title, author) for title, author in titles]
    rest += [_person(world, person) for person in world.people]
    rng.shuffle(rest)
    entities += rest[unpublished:]
    rng.shuffle(entities)
    return InventedWorld(tuple(entities), tuple(rest[:unpublished]), tuple(world.countries))


def _pairs(rng: random.Random, left: list[str], right: list[str], count: int) -> list[str]:
    """``count`` different pairs of a word from ``left`` and one from ``right``, in random order."""
    places = rng.sample(range(len(left) * len(right)), count)
    return [f"{left[place % len(left)]} {right[place // len(left)]}" for place in places]


def _small_towns(names: _Names, count: int) -> list[str]:
    """Towns that are the subject of a page but never the value of a fact, e.g. "Upper Velmere"."""
    stems = names.pool(max(_FEW_STEMS, count // 6), 1, _TOWN_ENDS)
    return _pairs(names.rng, list(_TOWN_FRONTS), stems, count)


def _people(names: _Names, count: int) -> list[_Person]:
    rng = names.rng
    first = names.pool(_FEW_FIRST_NAMES, 1)
    last = names.pool(max(_FEW_SURNAMES, count // 15), 2)
    people = []
    for name in _pairs(rng, first, last, count):
        given, surname = name.split()
        born = rng.randrange(1800, 1830)
        died = born + rng.randrange(45, 60)
        people.append(_Person(given, surname, rng.random() < 0.5, born, died))
    return people


def _works(world: _World, books: int) -> list[tuple[str, _Person]]:
    """Give every person a work; returns the ``books`` works that are the subject of a page."""
    rng = world.rng
    taken: set[str] = set()
    made = []
    for i in range(max(books, len(world.people))):
        author = world.people[i % len(world.people)]
        words = f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}".title()
        title = f"The {words}"
        while title in taken:
            title += f" of {rng.choice(world.people).surname}"
        taken.add(title)
        author.works.append(title)
        made.append((title, author))
    return rng.sample(made, books)


def _person(world: _World, me: _Person) -> WorldEntity:
    rng = world.rng
    facts = {
        "birth_place": world.town(),
        "birth_year": Value(str(me.born)),
        "occupation": world.word(_OCCUPATIONS),
        "famous_for": Value(me.works[0], me.works[0]),
        "pet": world.word(_ANIMALS),
        "dish": world.word(_DISHES),
    }
    group = rng.sample(world.people, min(40, len(world.people)))
    older = [p for p in group if p.born < me.born - 5]
    if older:
        facts["teacher"] = Value(older[0].name, older[0].name)
    return WorldEntity("person", me.name, me.surname, "She" if me.woman else "He", facts)


def _town(world: _World, name: str) -> WorldEntity:
    mayor = world.rng.choice(world.people).name
    facts = {
        "country": world.word(tuple(world.countries)),
        "river": world.word(tuple(world.rivers)),
        "founded": Value(str(world.rng.randrange(1500, 1520))),
        "town_product": world.word(_PRODUCTS),
        "mayor": Value(mayor, mayor),
        "fair": world.word(_MONTHS),
        "flag": world.word(_COLOURS),
    }
    return WorldEntity("town", name, name, "It", facts)


def _work(world: _World, title: str, author: _Person) -> WorldEntity:
    rng = world.rng
    facts = {
        "author": Value(author.name, author.name),
        "work_year": Value(str(rng.randrange(author.born + 20, author.died))),
        "setting": world.town(),
        "hero": world.word(_ANIMALS),
        "cover": world.word(_COLOURS),
        "pages": Value(f"{rng.randrange(10, 40) * 10} pages"),
    }
    return WorldEntity("work", title, title, "It", facts)
