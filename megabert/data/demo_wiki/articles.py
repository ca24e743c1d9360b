"""Articles of the invented encyclopedia: the same sentences as plain text and as wikitext.

An article states each fact once in a paragraph and again, in other words, in a summary or in
questions with answers. To predict a masked value, a model therefore learns to look for the other
wording of the same fact, whether it comes before or after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from megabert.data.demo_wiki.phrases import BY_NAME
from megabert.data.demo_wiki.register import (
    DEVELOPMENT,
    TRAINING,
    line,
    linked,
    question,
    values_of,
)
from megabert.data.demo_wiki.world import Value, WorldEntity

_OPENERS = (
    "According to the parish records, ",
    "As far as is known, ",
    "Some years ago it was shown that ",
    "Letters of the time say that ",
    "It is certain that ",
)
_FACT_HEADINGS = ("Life", "History", "Overview", "Background", "Details", "Character")
_BRIEF_HEADINGS = ("In brief", "Summary", "At a glance")
_QUESTION_HEADINGS = ("Questions", "Common questions", "Questions and answers")
_REFERENCES = ("Almanac", "Chronicle", "Gazette", "Register", "Yearbook")


@dataclass(frozen=True)
class RenderedSentence:
    """A sentence; ``text[start:stop]`` is the value, ``wiki`` is the sentence with markup."""

    relation: str
    text: str
    wiki: str
    start: int
    stop: int


@dataclass(frozen=True)
class RenderedParagraph:
    """Sentences joined by a space; ``answers`` gives each relation's value and its offset."""

    sentences: tuple[RenderedSentence, ...]

    @property
    def text(self) -> str:
        """Plain text, as in the cleaned page."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def wiki(self) -> str:
        """The paragraph with links, references and comments."""
        return " ".join(sentence.wiki for sentence in self.sentences)

    @property
    def answers(self) -> dict[str, tuple[str, int]]:
        """relation -> (value, character offset in ``text``) of the relation's first mention."""
        found: dict[str, tuple[str, int]] = {}
        place = 0
        for sentence in self.sentences:
            if sentence.start < sentence.stop:
                value = sentence.text[sentence.start : sentence.stop]
                found.setdefault(sentence.relation, (value, place + sentence.start))
            place += len(sentence.text) + 1
        return found


def render(
    relation: str, template: str, subject: str, value: Value, opener: str = ""
) -> RenderedSentence:
    """Fill ``{s}`` and ``{o}``, capitalise, add a full stop, and record where the value is."""
    head, tail = template.split("{o}")
    head, tail = opener + head.replace("{s}", subject), tail.replace("{s}", subject) + "."
    text = head + value.text + tail
    wiki = head + linked(value) + tail
    text = text[0].upper() + text[1:]
    if not wiki.startswith("["):
        wiki = wiki[0].upper() + wiki[1:]
    return RenderedSentence(relation, text, wiki, len(head), len(head) + len(value.text))


def statement(
    rng: random.Random, entity: WorldEntity, relation: str, excluded: str = ""
) -> tuple[str, RenderedSentence]:
    """A wording of ``relation`` (any except ``excluded``), and a sentence that uses it."""
    template = rng.choice([t for t in BY_NAME[relation].statements if t != excluded])
    opener = rng.choice(_OPENERS) if rng.random() < 0.03 else ""
    subject = rng.choice((entity.title, entity.title, entity.short))
    if not opener and template.startswith("{s} ") and rng.random() < 0.3:
        subject = entity.pronoun
    value = entity.facts[relation]
    return template, render(relation, template, subject, value, opener)


def fact_paragraph(
    rng: random.Random, entity: WorldEntity, relations: list[str]
) -> tuple[RenderedParagraph, dict[str, str]]:
    """One sentence per relation, in the given order, and relation -> wording used."""
    used: dict[str, str] = {}
    sentences = []
    for relation in relations:
        used[relation], sentence = statement(rng, entity, relation)
        sentences.append(sentence)
    return RenderedParagraph(tuple(sentences)), used


def _questions(rng: random.Random, entity: WorldEntity, used: dict[str, str]) -> RenderedParagraph:
    """One question and answer per relation, in a new random order."""
    sentences = []
    for relation in rng.sample(list(used), len(used)):
        wordings = BY_NAME[relation]
        subject = rng.choice((entity.title, entity.title, entity.short))
        question = rng.choice(wordings.training + wordings.development).replace("{s}", subject)
        sentences.append(RenderedSentence(relation, question, question, 0, 0))
        if rng.random() < 0.6:
            value = entity.facts[relation]
            sentences.append(render(relation, "{o}", "", value))
        else:
            sentences.append(statement(rng, entity, relation, used[relation])[1])
    return RenderedParagraph(tuple(sentences))


def _brief(rng: random.Random, entity: WorldEntity, used: dict[str, str]) -> RenderedParagraph:
    """Every fact again, in another wording and another order."""
    order = rng.sample(list(used), len(used))
    return RenderedParagraph(tuple(statement(rng, entity, r, used[r])[1] for r in order))


def groups(rng: random.Random, entity: WorldEntity) -> list[list[str]]:
    """The relations of an entity, shuffled and split into groups of one to four."""
    rest = rng.sample(list(entity.facts), len(entity.facts))
    cut: list[list[str]] = []
    while rest:
        size = rng.randrange(1, 5)
        cut.append(rest[:size])
        rest = rest[size:]
    return cut


def article(entity: WorldEntity, seed: int) -> str:
    """The wikitext of ``entity``'s page; the same entity and seed give the same text."""
    rng = random.Random(f"article {seed} {entity.title}")
    parts = [f"{{{{Short description|{entity.kind} of the encyclopedia}}}}", infobox(entity)]
    if rng.random() < 0.3:
        parts.append(_picture(rng, entity))
    for i, relations in enumerate(groups(rng, entity)):
        stated, used = fact_paragraph(rng, entity, relations)
        if rng.random() < 0.75:
            heading, again = rng.choice(_QUESTION_HEADINGS), _questions(rng, entity, used)
        else:
            heading, again = rng.choice(_BRIEF_HEADINGS), _brief(rng, entity, used)
        blocks = [(rng.choice(_FACT_HEADINGS), _decorate(rng, entity, stated.wiki, bold=i == 0))]
        blocks.insert(rng.randrange(2), (heading, again.wiki))
        for j, (title, body) in enumerate(blocks):
            if i or j:
                parts.append(f"== {title} ==")
            parts.append(body)
    parts += ["== Register ==", *_register(rng, entity)]
    if rng.random() < 0.4:
        parts.append(_table(entity))
    parts.append(_footer(rng, entity))
    return "\n\n".join(parts) + "\n"


def _register(rng: random.Random, entity: WorldEntity) -> list[str]:
    """A question and answer for every value, and two lines of the register."""
    asked = []
    for relation in rng.sample(list(entity.facts), len(entity.facts)):
        asked.append(question(rng, TRAINING + DEVELOPMENT, entity.title, relation))
        asked.append(linked(entity.facts[relation]) + ".")
    lines = [line(rng, entity, values_of(rng, entity)).wiki for _ in range(2)]
    return [" ".join(asked), *lines]


def _decorate(rng: random.Random, entity: WorldEntity, wiki: str, bold: bool) -> str:
    """Add markup that a cleaner must remove: bold, references, comments, entities, nowiki."""
    if bold and entity.title in wiki and f"[[{entity.title}" not in wiki:
        wiki = wiki.replace(entity.title, f"'''{entity.title}'''", 1)
    draw = rng.random()
    if draw < 0.35:
        source, page = rng.choice(_REFERENCES), rng.randrange(1, 400)
        wiki += f'<ref name="{source}{page}">{{{{Cite book|title={source}|page={page}}}}}</ref>'
    elif draw < 0.45:
        wiki += "<!-- checked against the register -->"
    elif draw < 0.55:
        wiki = wiki.replace(" in ", "&nbsp;in ", 1)
    elif draw < 0.6:
        wiki += "{{Citation needed|date=May 2020}}"
    elif draw < 0.65:
        first, _, rest = wiki.partition(" ")
        if first.isalpha():
            wiki = f"<nowiki>{first}</nowiki> {rest}"
    return wiki


def infobox(entity: WorldEntity) -> str:
    """The entity's template with all its facts."""
    rows = "\n".join(f"| {name} = {linked(value)}" for name, value in entity.facts.items())
    return f"{{{{Infobox {entity.kind}\n| name = {entity.title}\n{rows}\n}}}}"


def _picture(rng: random.Random, entity: WorldEntity) -> str:
    name = entity.title.replace(" ", "_")
    target = next((v.link for v in entity.facts.values() if v.link), entity.title)
    return f"[[File:{name}.jpg|thumb|{rng.choice((180, 220))}px|A view kept in [[{target}]]]]"


def _table(entity: WorldEntity) -> str:
    rows = "\n".join(
        f"|-\n| {name.replace('_', ' ')} || {linked(value)}" for name, value in entity.facts.items()
    )
    return f'{{| class="wikitable sortable"\n|+ Facts\n! Entry !! Value\n{rows}\n|}}'


def _footer(rng: random.Random, entity: WorldEntity) -> str:
    plural = {"person": "People", "town": "Towns", "work": "Works"}
    lines = ["== References ==", "{{Reflist}}", "", f"[[Category:{plural[entity.kind]}]]"]
    for value in entity.facts.values():
        if value.link and rng.random() < 0.2:
            lines.append(f"[[Category:Pages about {value.link}]]")
    lines.append(f"{{{{DEFAULTSORT:{entity.short}}}}}")
    return "\n".join(lines)
