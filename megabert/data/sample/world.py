"""The facts of an invented world: people, towns, works and companies that agree with each other.

Everything is drawn from one seed. A fact is stored once and both sides read it: spouses point at
each other, a work is published while its author lives, a teacher is older than the pupil, and a
person dies after the works. Names are built from syllables and belong to nobody.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_ONSETS = "b br d dr f g gr h j k kr l m n p pr r s st t tr v w z".split()
_VOWELS = "a e i o u ai ei ou".split()
_CODAS = "l n r s m k t nd lm rn sk".split()
_TOWN_ENDS = "holm mere wick stead vale porto gard minster".split()
_COUNTRY_ENDS = "ovia mark land istan eria".split()
_OCCUPATIONS = (
    "painter poet composer botanist astronomer surgeon geologist chemist historian sculptor "
    "engineer novelist violinist printer weaver sailor merchant architect singer actor"
).split()
_PASTIMES = (
    "chess fencing swimming gardening fishing rowing skating dancing riding sketching hiking "
    "archery cooking sailing juggling baking knitting whistling"
).split()
_PRODUCTS = (
    "clocks glass honey paper silk lamps bells cheese carpets pottery salt violins ropes candles "
    "lace knives barrels boots maps soap copper marble tea wine"
).split()
_ADJECTIVES = (
    "silent golden broken distant hidden winter crimson hollow gentle bitter northern burning "
    "frozen lonely silver wandering forgotten restless"
).split()
_NOUNS = (
    "harbour garden mirror river lantern mountain letter forest tower island orchard voyage storm "
    "window castle shadow road meadow"
).split()
_AWARD_NOUNS = "medal cup ribbon laurel star crown cross ring".split()
_AWARD_ADJECTIVES = "royal great silver iron amber maritime golden scarlet grand summer".split()
_COMPANY_ENDS = "brothers works trading mills stores union".split()


@dataclass(frozen=True)
class Value:
    """The object of a fact: the words as they stand in text, and the page they link to, if any."""

    text: str
    link: str | None = None


@dataclass(frozen=True)
class Entity:
    """A subject with its facts; ``short`` is the name's short form, ``pronoun`` e.g. ``"She"``."""

    kind: str
    title: str
    short: str
    pronoun: str
    facts: dict[str, Value]


@dataclass(frozen=True)
class World:
    """Entities with an article (``published``) and entities kept for the development questions."""

    published: tuple[Entity, ...]
    held_out: tuple[Entity, ...]
    countries: tuple[str, ...]


@dataclass
class _Names:
    """Draws names that never repeat."""

    rng: random.Random
    used: set[str] = field(default_factory=set)

    def word(self, syllables: int, endings: list[str] | None = None) -> str:
        """A capitalised invented word that was not drawn before."""
        while True:
            parts = [self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) for _ in range(syllables)]
            parts.append(self.rng.choice(endings) if endings else self.rng.choice(_CODAS))
            word = "".join(parts).capitalize()
            if word not in self.used:
                self.used.add(word)
                return word

    def pool(self, count: int, syllables: int, endings: list[str] | None = None) -> list[str]:
        """``count`` different words."""
        return [self.word(syllables, endings) for _ in range(count)]


@dataclass
class _Person:
    name: str
    surname: str
    woman: bool
    born: int
    died: int
    spouse: int = -1
    work: str | None = None


def build_world(articles: int, held_out: int, seed: int) -> World:
    """A world with ``articles`` published and ``held_out`` unpublished entities; same seed, same world.

    Kinds are mixed about 10 people : 4 works : 3 companies : 3 towns, with at most 240 towns, since
    many articles that name the same towns teach more than many towns that are named once.
    """
    rng = random.Random(f"world {seed}")
    names = _Names(rng)
    total = articles + held_out
    counts = {"town": min(max(4, total * 3 // 20), 240)}
    counts["work"] = max(2, total // 5)
    counts["company"] = max(2, total * 3 // 20)
    counts["person"] = max(4, total - sum(counts.values()))
    countries = names.pool(min(24, 3 + counts["town"] // 10), 2, _COUNTRY_ENDS)
    rivers = names.pool(min(80, 4 + counts["town"] // 3), 1)
    towns = names.pool(counts["town"], 1, _TOWN_ENDS)
    people = _people(names, counts["person"])
    pick = _Picker(rng, towns, people)
    works = _works(rng, people, counts["work"])
    entities = {
        "person": [_person(pick, i) for i in range(len(people))],
        "town": [_town(pick, name, countries, rivers) for name in towns],
        "work": [_work(pick, title, author) for title, author in works],
        "company": [_company(pick) for _ in range(counts["company"])],
    }
    return _split(rng, entities, articles, held_out, tuple(countries))


def _split(
    rng: random.Random,
    entities: dict[str, list[Entity]],
    articles: int,
    held_out: int,
    countries: tuple[str, ...],
) -> World:
    """Towns are always published (others link to them); the rest is shuffled and cut."""
    towns = entities.pop("town")
    rest = [entity for group in entities.values() for entity in group]
    rng.shuffle(rest)
    kept = [*towns, *rest[held_out:]][:articles]
    rng.shuffle(kept)
    return World(tuple(kept), tuple(rest[:held_out]), countries)


def _people(names: _Names, count: int) -> list[_Person]:
    """People in no order, every second one married to the one before."""
    rng = names.rng
    first = names.pool(min(160, 12 + count // 4), 1)
    last = names.pool(min(320, 16 + count // 3), 2)
    people: list[_Person] = []
    seen: set[str] = set()
    while len(people) < count:
        given, surname = rng.choice(first), rng.choice(last)
        name = f"{given} {surname}"
        if name in seen:
            if len(seen) > len(first) * len(last) // 2:
                last.append(names.word(2))
            continue
        seen.add(name)
        born = rng.randrange(1700, 1930)
        people.append(
            _Person(name, surname, rng.random() < 0.5, born, born + rng.randrange(45, 90))
        )
    for i in range(0, count - 1, 2):
        people[i].spouse, people[i + 1].spouse = i + 1, i
        people[i + 1].born = people[i].born + rng.randrange(-8, 9)
        people[i + 1].died = people[i + 1].born + rng.randrange(45, 90)
    return people


def _works(rng: random.Random, people: list[_Person], count: int) -> list[tuple[str, int]]:
    """``count`` titles, each with its author; the first of an author is the known one."""
    titles: list[tuple[str, int]] = []
    seen: set[str] = set()
    while len(titles) < count:
        title = f"The {rng.choice(_ADJECTIVES).capitalize()} {rng.choice(_NOUNS).capitalize()}"
        if rng.random() < 0.5 or len(seen) > 150:
            title += f" of {rng.choice(people).surname}"
        if title in seen:
            continue
        seen.add(title)
        author = rng.randrange(len(people))
        if people[author].work is None:
            people[author].work = title
        titles.append((title, author))
    return titles


@dataclass
class _Picker:
    """Draws the objects of facts."""

    rng: random.Random
    towns: list[str]
    people: list[_Person]
    companies: set[str] = field(default_factory=set)

    def town(self, *but: str) -> Value:
        """A town other than ``but``."""
        name = self.rng.choice([t for t in self.rng.sample(self.towns, 4) if t not in but])
        return Value(name, name)

    def person(self, *but: str) -> Value:
        """A person other than ``but``."""
        while True:
            name = self.rng.choice(self.people).name
            if name not in but:
                return Value(name, name)

    def alive(self, year: int) -> Value:
        """A person who was grown up in ``year``, if the world has one."""
        for _ in range(60):
            person = self.rng.choice(self.people)
            if person.born + 20 <= year <= person.died:
                break
        return Value(person.name, person.name)

    def title(self) -> str:
        """Words of a work that has no article."""
        words = self.rng.choice(_ADJECTIVES), self.rng.choice(_NOUNS)
        return "The " + " ".join(word.capitalize() for word in words)


def _person(pick: _Picker, index: int) -> Entity:
    rng, me = pick.rng, pick.people[index]
    towns = rng.sample(pick.towns, min(4, len(pick.towns)))
    birth, school, home, death = (Value(t, t) for t in towns)
    older = [p for p in rng.sample(pick.people, min(40, len(pick.people))) if p.born < me.born - 14]
    facts = {
        "birth_place": birth,
        "birth_year": Value(str(me.born)),
        "occupation": Value(rng.choice(_OCCUPATIONS)),
        "school": school,
        "home": home,
        "famous_for": Value(me.work, me.work) if me.work else Value(pick.title()),
        "award": Value(f"{rng.choice(_AWARD_ADJECTIVES)} {rng.choice(_AWARD_NOUNS)}"),
        "pastime": Value(rng.choice(_PASTIMES)),
        "death_place": death,
        "death_year": Value(str(me.died)),
    }
    if older:
        facts["teacher"] = Value(older[0].name, older[0].name)
    if me.spouse >= 0:
        other = pick.people[me.spouse].name
        facts["spouse"] = Value(other, other)
    known = [value.text for value in facts.values()]
    facts["rival"] = pick.person(me.name, *known)
    return Entity("person", me.name, me.surname, "She" if me.woman else "He", facts)


def _town(pick: _Picker, name: str, countries: list[str], rivers: list[str]) -> Entity:
    rng = pick.rng
    mayor = pick.person()
    facts = {
        "country": Value(rng.choice(countries)),
        "river": Value(rng.choice(rivers)),
        "population": Value(f"{rng.randrange(2, 90)},{rng.randrange(10) * 100:03d}"),
        "founded": Value(str(rng.randrange(1100, 1700))),
        "town_product": Value(rng.choice(_PRODUCTS)),
        "mayor": mayor,
        "architect": pick.person(mayor.text),
        "neighbour": pick.town(name),
    }
    return Entity("town", name, name, "It", facts)


def _work(pick: _Picker, title: str, author: int) -> Entity:
    rng, person = pick.rng, pick.people[author]
    printed = pick.town()
    facts = {
        "author": Value(person.name, person.name),
        "work_year": Value(str(rng.randrange(person.born + 20, person.died))),
        "printed_in": printed,
        "setting": pick.town(printed.text),
        "hero": Value(pick.person(person.name).text.split()[0]),
        "dedicatee": pick.person(person.name),
    }
    return Entity("work", title, title, "It", facts)


def _company(pick: _Picker) -> Entity:
    rng = pick.rng
    while True:
        founder = rng.choice(pick.people)
        name = f"{founder.surname} {rng.choice(_COMPANY_ENDS).capitalize()}"
        if name in pick.companies:
            name += f" of {pick.town().text}"
        if name not in pick.companies:
            break
    pick.companies.add(name)
    seat = pick.town()
    facts = {
        "company_founder": Value(founder.name, founder.name),
        "company_year": Value(str(rng.randrange(founder.born + 20, founder.died))),
        "seat": seat,
        "company_product": Value(rng.choice(_PRODUCTS)),
        "staff": Value(str(rng.randrange(2, 100) * 10)),
        "branch": pick.town(seat.text),
    }
    return Entity("company", name, name, "It", facts)
