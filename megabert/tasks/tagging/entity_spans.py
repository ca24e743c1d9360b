"""Entities as spans, tags of a scheme for them, and the score of predicted spans against reference spans.

A tag is ``O`` or a prefix and a type, ``B-LOC`` (``B_LOC`` is read too). Schemes:

    bio     B first, I further tokens (IOB1 is read too: there B occurs only between neighbours)
    bioes   B first, I inner, E last, S single
    bmes    B first, M inner, E last, S single
    io      I every token, so that neighbours of one type are one entity

Tags in an order that the scheme does not allow are read as conlleval of CoNLL-2000 reads them: an
entity begins at a B or S, after an E or S, after O, and where the type changes; so a stray ``I-LOC``
begins an entity. Reference and prediction are read by the same rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SCHEMES = {"bio": "BI", "bioes": "BIES", "bmes": "BMES", "io": "I"}
"""Scheme -> its prefixes, in the order of labels."""
_INNER = {"bio": "I", "bioes": "I", "bmes": "M", "io": "I"}


class Tag(NamedTuple):
    """Prefix (``O``, ``B``, ``I``, ``M``, ``E`` or ``S``) and type ("" of ``O``)."""

    prefix: str
    type: str

    def __str__(self) -> str:
        return f"{self.prefix}-{self.type}" if self.type else self.prefix


OUTSIDE = Tag("O", "")


class Entity(NamedTuple):
    """A type and the half-open range of positions (characters or tokens) it covers."""

    type: str
    start: int
    end: int


def parse_tag(text: str) -> Tag | None:
    """The tag that ``text`` writes, None if it is not a tag of any scheme."""
    if text == "O":
        return OUTSIDE
    known = text[:1] in tuple("BIMES") and text[1:2] in ("-", "_")
    return Tag(text[0], text[2:]) if known and len(text) > 2 else None


def find_scheme(prefixes: Collection[str]) -> str | None:
    """The scheme that has all these prefixes (``O`` aside), or None."""
    wanted = set(prefixes) - {"O"}
    return next((name for name, known in SCHEMES.items() if wanted <= set(known)), None)


def labels_of(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """All tags of these types: ``O``, then type after type in sorted order, prefixes as in SCHEMES."""
    tags = [Tag(prefix, kind) for kind in sorted(set(types)) for prefix in SCHEMES[scheme]]
    return tuple(map(str, [OUTSIDE, *tags]))


def follows(previous: Tag | None, tag: Tag | None, scheme: str) -> bool:
    """Whether the scheme allows ``tag`` after ``previous`` (None: beginning, or end, of the text)."""
    if scheme == "io":
        return True
    inside = previous is not None and previous.prefix in "BIM"
    if tag is not None and tag.prefix in "IME":
        return inside and previous is not None and previous.type == tag.type
    return scheme == "bio" or not inside


def out_of_order(tags: Sequence[Tag], scheme: str) -> Iterator[int]:
    """Places of the tags that may not follow the one before them, or may not be the last."""
    for place, (before, tag) in enumerate(zip([None, *tags], [*tags, None])):
        if not follows(before, tag, scheme):
            yield min(place, len(tags) - 1)


def allowed_steps(labels: Sequence[str], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`follows` for all labels: bool beginning [L], end [L], steps [L, L] (from, to)."""
    tags = [parse_tag(label) for label in labels]
    start = np.array([follows(None, tag, scheme) for tag in tags], np.bool_)
    end = np.array([follows(tag, None, scheme) for tag in tags], np.bool_)
    steps = np.array([[follows(a, b, scheme) for b in tags] for a in tags], np.bool_)
    return start, end, steps


def entities_of(tags: Iterable[Tag]) -> list[Entity]:
    """The entities that tags of any scheme mark, in order, whatever their sequence."""
    found: list[Entity] = []
    previous, start = OUTSIDE, 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        cut = previous.prefix in "OES" or tag.prefix in "OBS" or previous.type != tag.type
        if cut and previous.type:
            found.append(Entity(previous.type, start, place))
        if cut:
            start = place
        previous = tag
    return found


def tags_of(entities: Iterable[Entity], length: int, scheme: str) -> list[Tag]:
    """Tags [length] of entities that do not overlap."""
    tags = [OUTSIDE] * length
    for kind, start, end in entities:
        tags[start:end] = [Tag(_INNER[scheme], kind)] * (end - start)
        if scheme == "io":
            continue
        single = scheme != "bio" and end - start == 1
        if scheme != "bio":
            tags[end - 1] = Tag("E", kind)
        tags[start] = Tag("S" if single else "B", kind)
    return tags


def precision_recall_f1(correct: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and F1 in per cent; 0 where nothing is predicted or there is nothing to find."""
    precision = 100.0 * correct / predicted if predicted else 0.0
    recall = 100.0 * correct / gold if gold else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def span_scores(
    gold: Sequence[Collection[Entity]], predicted: Sequence[Collection[Entity]]
) -> dict[str, float]:
    """``span_precision``, ``span_recall``, ``f1`` of all entities, ``f1_TYPE`` of each type, in per cent.

    An entity is right if type, start and end are (CoNLL-2003; micro average over texts). The same
    entity twice in a text counts once.
    """
    sums: dict[str, Counter[str]] = {
        "correct": Counter(),
        "predicted": Counter(),
        "gold": Counter(),
    }
    for truth, found in zip(gold, predicted, strict=True):
        for name, chosen in (
            ("correct", set(truth) & set(found)),
            ("predicted", set(found)),
            ("gold", set(truth)),
        ):
            sums[name].update(entity.type for entity in chosen)
    parts = [sums["correct"], sums["predicted"], sums["gold"]]
    scores = dict(
        zip(
            ("span_precision", "span_recall", "f1"),
            precision_recall_f1(*(part.total() for part in parts)),
        )
    )
    for kind in sorted(set(sums["predicted"]) | set(sums["gold"])):
        scores[f"f1_{kind}"] = precision_recall_f1(*(part[kind] for part in parts))[2]
    return scores
