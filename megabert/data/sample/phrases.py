"""Wordings of every relation of the invented world.

Each relation owns several statements and two disjoint sets of questions. ``{s}`` stands for the
subject, ``{o}`` for the value. The wordings of one relation share no content word beyond need, so
that only a reader who has met them side by side knows that they mean the same. The encyclopedia
uses all of them; training questions use ``asked`` only and development questions ``held_out`` only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: how it is stated, and how it is asked in training and in development sets."""

    name: str
    statements: tuple[str, ...]
    asked: tuple[str, ...]
    held_out: tuple[str, ...]


PERSON = (
    Relation(
        "birth_place",
        (
            "{s} was born in {o}",
            "{s} first saw the light of day in {o}",
            "{s} came into the world in {o}",
            "{s} was a native of {o}",
            "{o} was the cradle of {s}",
        ),
        ("Where was {s} born?", "In which town was {s} born?"),
        (
            "Of which town was {s} a native?",
            "Where did {s} first see the light of day?",
            "Which town was the cradle of {s}?",
        ),
    ),
    Relation(
        "birth_year",
        (
            "{s} was a child of the year {o}",
            "the birth of {s} fell in {o}",
            "the life of {s} began in {o}",
            "{s} arrived in {o}",
        ),
        ("In which year fell the birth of {s}?", "When was the birth of {s}?"),
        ("When did the life of {s} begin?", "When did {s} arrive?"),
    ),
    Relation(
        "death_place",
        (
            "{s} died in {o}",
            "{s} passed away in {o}",
            "{s} was laid to rest in {o}",
            "{o} holds the grave of {s}",
        ),
        ("Where did {s} die?", "In which town did {s} die?"),
        (
            "Where was {s} laid to rest?",
            "Where did {s} pass away?",
            "Which town holds the grave of {s}?",
        ),
    ),
    Relation(
        "death_year",
        (
            "the death of {s} came in {o}",
            "the life of {s} ended in {o}",
            "{s} was mourned in {o}",
            "the funeral of {s} took place in {o}",
        ),
        ("In which year came the death of {s}?", "When was the death of {s}?"),
        ("When did the life of {s} end?", "When was {s} mourned?", "When was the funeral of {s}?"),
    ),
    Relation(
        "occupation",
        (
            "{s} worked as a {o}",
            "{s} made a living as a {o}",
            "by trade {s} was a {o}",
            "{s} followed the calling of a {o}",
        ),
        ("What did {s} work as?", "As what did {s} work?"),
        ("What was {s} by trade?", "How did {s} make a living?", "Which calling did {s} follow?"),
    ),
    Relation(
        "school",
        (
            "{s} studied in {o}",
            "{s} was educated in {o}",
            "{s} went to college in {o}",
            "{s} attended lessons in {o}",
        ),
        ("Where did {s} study?", "In which town did {s} study?"),
        (
            "Where was {s} educated?",
            "Where did {s} go to college?",
            "In which town did {s} attend lessons?",
        ),
    ),
    Relation(
        "teacher",
        (
            "{s} was a pupil of {o}",
            "{s} was taught by {o}",
            "{s} learned the craft from {o}",
            "{o} was the master of {s}",
        ),
        ("Who taught {s}?", "By whom was {s} taught?"),
        (
            "Whose pupil was {s}?",
            "From whom did {s} learn the craft?",
            "Who was the master of {s}?",
        ),
    ),
    Relation(
        "spouse",
        (
            "{s} married {o}",
            "{s} exchanged vows with {o}",
            "{s} shared a household with {o}",
            "the wedding of {s} was with {o}",
        ),
        ("Whom did {s} marry?", "Who married {s}?"),
        (
            "With whom did {s} exchange vows?",
            "Who shared a household with {s}?",
            "With whom was the wedding of {s}?",
        ),
    ),
    Relation(
        "rival",
        (
            "{s} was a rival of {o}",
            "{s} quarrelled with {o}",
            "{s} had a feud with {o}",
            "{o} was the adversary of {s}",
        ),
        ("Who was a rival of {s}?", "Whose rival was {s}?"),
        (
            "With whom did {s} quarrel?",
            "With whom did {s} have a feud?",
            "Who was the adversary of {s}?",
        ),
    ),
    Relation(
        "home",
        (
            "{s} moved to {o}",
            "{s} settled in {o}",
            "{s} made a home in {o}",
            "{s} took up residence in {o}",
        ),
        ("Where did {s} move to?", "To which town did {s} move?"),
        (
            "Where did {s} settle?",
            "Where did {s} make a home?",
            "In which town did {s} take up residence?",
        ),
    ),
    Relation(
        "famous_for",
        (
            "{s} became known for {o}",
            "{s} rose to fame with {o}",
            "{s} is remembered for {o}",
            "the masterpiece of {s} is {o}",
        ),
        ("What did {s} become known for?", "For what did {s} become known?"),
        (
            "With what did {s} rise to fame?",
            "What is {s} remembered for?",
            "What is the masterpiece of {s}?",
        ),
    ),
    Relation(
        "award",
        (
            "{s} received the {o}",
            "{s} was honoured with the {o}",
            "{s} carried off the {o}",
            "the {o} was bestowed on {s}",
        ),
        ("What did {s} receive?", "Which prize did {s} receive?"),
        (
            "What was {s} honoured with?",
            "What was bestowed on {s}?",
            "Which prize did {s} carry off?",
        ),
    ),
    Relation(
        "pastime",
        (
            "{s} enjoyed {o}",
            "{s} was fond of {o}",
            "the hobby of {s} was {o}",
            "{s} spent idle hours on {o}",
        ),
        ("What did {s} enjoy?", "What was enjoyed by {s}?"),
        (
            "What was {s} fond of?",
            "What was the hobby of {s}?",
            "On what did {s} spend idle hours?",
        ),
    ),
)

TOWN = (
    Relation(
        "country",
        (
            "{s} is a town in {o}",
            "{s} belongs to {o}",
            "{s} is governed from the capital of {o}",
            "the flag of {o} flies over {s}",
        ),
        ("In which country is the town of {s}?", "Of which country is {s} a town?"),
        (
            "To which country does {s} belong?",
            "From the capital of which country is {s} governed?",
            "Whose flag flies over {s}?",
        ),
    ),
    Relation(
        "river",
        (
            "{s} lies on the river {o}",
            "the waters of the {o} flow through {s}",
            "{s} stands on the banks of the {o}",
            "the bridges of {s} cross the {o}",
        ),
        ("On which river does {s} lie?", "Which river does {s} lie on?"),
        (
            "Whose waters flow through {s}?",
            "On whose banks does {s} stand?",
            "What do the bridges of {s} cross?",
        ),
    ),
    Relation(
        "population",
        (
            "{s} has {o} inhabitants",
            "{o} people live in {s}",
            "{s} is home to {o} souls",
            "the census counted {o} residents in {s}",
        ),
        ("How many inhabitants has {s}?", "How many inhabitants are there in {s}?"),
        (
            "How many people live in {s}?",
            "To how many souls is {s} home?",
            "How many residents did the census count in {s}?",
        ),
    ),
    Relation(
        "founded",
        (
            "{s} was founded in {o}",
            "the first stone of {s} was laid in {o}",
            "the history of {s} begins in {o}",
            "{s} was established in {o}",
        ),
        ("When was {s} founded?", "In which year was {s} founded?"),
        (
            "When was the first stone of {s} laid?",
            "When does the history of {s} begin?",
            "When was {s} established?",
        ),
    ),
    Relation(
        "town_product",
        (
            "{s} is famous for {o}",
            "{s} exports {o}",
            "the workshops of {s} make {o}",
            "traders come to {s} for {o}",
        ),
        ("What is {s} famous for?", "For what is {s} famous?"),
        (
            "What does {s} export?",
            "What do the workshops of {s} make?",
            "For what do traders come to {s}?",
        ),
    ),
    Relation(
        "mayor",
        (
            "the first mayor of {s} was {o}",
            "{o} led the council of {s}",
            "{o} held the keys of {s}",
            "the town hall of {s} was run by {o}",
        ),
        ("Who was the first mayor of {s}?", "Who was mayor of {s}?"),
        (
            "Who led the council of {s}?",
            "Who held the keys of {s}?",
            "By whom was the town hall of {s} run?",
        ),
    ),
    Relation(
        "architect",
        (
            "the bridge of {s} was designed by {o}",
            "{o} drew the plans for {s}",
            "the streets of {s} were laid out by {o}",
            "{o} was the architect of {s}",
        ),
        ("Who designed the bridge of {s}?", "By whom was the bridge of {s} designed?"),
        (
            "Who drew the plans for {s}?",
            "By whom were the streets of {s} laid out?",
            "Who was the architect of {s}?",
        ),
    ),
    Relation(
        "neighbour",
        (
            "the nearest town to {s} is {o}",
            "{s} borders on {o}",
            "a short road joins {s} to {o}",
            "the neighbour of {s} is {o}",
        ),
        ("What is the nearest town to {s}?", "Which town is nearest to {s}?"),
        (
            "On which town does {s} border?",
            "To which town does a short road join {s}?",
            "What is the neighbour of {s}?",
        ),
    ),
)

WORK = (
    Relation(
        "author",
        (
            "{s} was written by {o}",
            "{s} is the work of {o}",
            "{s} came from the pen of {o}",
            "{o} is the creator of {s}",
        ),
        ("Who wrote {s}?", "By whom was {s} written?"),
        ("Whose work is {s}?", "From whose pen came {s}?", "Who is the creator of {s}?"),
    ),
    Relation(
        "work_year",
        (
            "{s} was published in {o}",
            "{s} reached its first readers in {o}",
            "{s} was released in {o}",
            "the first edition of {s} is dated {o}",
        ),
        ("When was {s} published?", "In which year was {s} published?"),
        (
            "When did {s} reach its first readers?",
            "When was {s} released?",
            "How is the first edition of {s} dated?",
        ),
    ),
    Relation(
        "printed_in",
        (
            "{s} was printed in {o}",
            "the presses of {o} produced {s}",
            "the copies of {s} were bound in {o}",
            "the publisher of {s} sat in {o}",
        ),
        ("Where was {s} printed?", "In which town was {s} printed?"),
        (
            "The presses of which town produced {s}?",
            "Where were the copies of {s} bound?",
            "Where did the publisher of {s} sit?",
        ),
    ),
    Relation(
        "setting",
        (
            "the story of {s} is set in {o}",
            "the action of {s} unfolds in {o}",
            "the plot of {s} takes the reader to {o}",
            "{o} is the scene of {s}",
        ),
        ("Where is the story of {s} set?", "In which town is the story of {s} set?"),
        (
            "Where does the action of {s} unfold?",
            "Where does the plot of {s} take the reader?",
            "Which town is the scene of {s}?",
        ),
    ),
    Relation(
        "hero",
        (
            "the hero of {s} is {o}",
            "the main character of {s} is called {o}",
            "{s} follows the fate of {o}",
            "{s} tells of {o}",
        ),
        ("Who is the hero of {s}?", "Which hero has {s}?"),
        (
            "What is the main character of {s} called?",
            "Whose fate does {s} follow?",
            "Of whom does {s} tell?",
        ),
    ),
    Relation(
        "dedicatee",
        (
            "{s} is dedicated to {o}",
            "{s} was written in honour of {o}",
            "the opening page of {s} thanks {o}",
            "{s} was a gift for {o}",
        ),
        ("To whom is {s} dedicated?", "Who is {s} dedicated to?"),
        (
            "In whose honour was {s} written?",
            "Whom does the opening page of {s} thank?",
            "For whom was {s} a gift?",
        ),
    ),
)

COMPANY = (
    Relation(
        "company_founder",
        (
            "{s} was started by {o}",
            "{o} set up {s}",
            "{s} owes its existence to {o}",
            "{s} was the brainchild of {o}",
        ),
        ("Who started {s}?", "By whom was {s} started?"),
        ("Who set up {s}?", "To whom does {s} owe its existence?", "Whose brainchild was {s}?"),
    ),
    Relation(
        "company_year",
        (
            "{s} opened in {o}",
            "{s} has been in business since {o}",
            "{s} entered the register in {o}",
            "the doors of {s} were unlocked in {o}",
        ),
        ("When did {s} open?", "In which year did {s} open?"),
        (
            "Since when has {s} been in business?",
            "When did {s} enter the register?",
            "When were the doors of {s} unlocked?",
        ),
    ),
    Relation(
        "seat",
        (
            "{s} is based in {o}",
            "{s} has its headquarters in {o}",
            "the main office of {s} is in {o}",
            "{s} is run from {o}",
        ),
        ("Where is {s} based?", "In which town is {s} based?"),
        (
            "Where does {s} have its headquarters?",
            "Where is the main office of {s}?",
            "From where is {s} run?",
        ),
    ),
    Relation(
        "company_product",
        (
            "{s} sells {o}",
            "{s} deals in {o}",
            "the goods of {s} are {o}",
            "customers buy {o} from {s}",
        ),
        ("What does {s} sell?", "What is sold by {s}?"),
        (
            "What does {s} deal in?",
            "What are the goods of {s}?",
            "What do customers buy from {s}?",
        ),
    ),
    Relation(
        "staff",
        (
            "{s} employs {o} workers",
            "{o} hands earn wages at {s}",
            "{s} gives jobs to {o} men and women",
            "the payroll of {s} lists {o} names",
        ),
        ("How many workers does {s} employ?", "How many workers are employed by {s}?"),
        (
            "How many hands earn wages at {s}?",
            "To how many men and women does {s} give jobs?",
            "How many names does the payroll of {s} list?",
        ),
    ),
    Relation(
        "branch",
        (
            "{s} keeps a branch in {o}",
            "a second shop of {s} stands in {o}",
            "{s} also serves {o}",
            "the warehouse of {s} is in {o}",
        ),
        ("Where does {s} keep a branch?", "In which town does {s} keep a branch?"),
        (
            "Where does a second shop of {s} stand?",
            "Which town does {s} also serve?",
            "Where is the warehouse of {s}?",
        ),
    ),
)

RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": PERSON,
    "town": TOWN,
    "work": WORK,
    "company": COMPANY,
}
BY_NAME: dict[str, Relation] = {r.name: r for group in RELATIONS.values() for r in group}
