"""Entities of a text as files state them: objects with start, end and label, or lists of the three."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from megabert.tasks.files.names import is_no_name
from megabert.tasks.own_labels.values import UnusableValue
from megabert.tasks.tagging.entity_spans import Entity

_STARTS, _ENDS = ("start", "start_offset"), ("end", "end_offset")
_TYPES = ("label", "type", "entity_group", "entity")
_FORM = '{"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"], characters from 0, end exclusive'


def entities_in(text: str, value: Any) -> list[Entity]:
    """The entities of a text, in order.

    Raises:
        UnusableValue: not a list of such entities, one outside of its text or on other characters than it
            states, or two that overlap.
    """
    if not isinstance(value, list):
        raise UnusableValue("unusable entities", f"{str(value)[:40]}, not a list of {_FORM}")
    found = sorted((_entity(text, one) for one in value), key=lambda e: (e.start, e.end))
    for before, after in pairwise(found):
        if after.start < before.end:
            raise UnusableValue(
                "overlapping entities",
                f"{_told(text, before)} and {_told(text, after)}: tags cannot hold both; keep one",
            )
    return found


def _entity(text: str, one: Any) -> Entity:
    if isinstance(one, dict):
        keys = [next((n for n in names if n in one), None) for names in (_STARTS, _ENDS, _TYPES)]
        parts: list[Any] = [None if key is None else one[key] for key in keys]
        stated = one.get("text", one.get("word"))
    else:
        parts = one if isinstance(one, list) and len(one) == 3 else [None]
        stated = None
    if [type(part) for part in parts] != [int, int, str]:
        raise UnusableValue("unusable entity", f"{str(one)[:60]}; expected {_FORM}")
    start, end, kind = parts[0], parts[1], parts[2].strip()
    if is_no_name(kind):
        raise UnusableValue("unusable entity", f"its label is {parts[2]!r}")
    if not 0 <= start < end <= len(text):
        where = "entity without a character" if start == end else "entity outside its text"
        raise UnusableValue(where, f"{start} to {end} of {len(text)} characters ({kind})")
    found = Entity(kind, start, end)
    if isinstance(stated, str) and stated != text[start:end]:
        raise UnusableValue(
            "entity whose text is not at its place", f"{stated!r}, there is {_told(text, found)}"
        )
    return found


def _told(text: str, entity: Entity) -> str:
    return (
        f"{text[entity.start : entity.end][:40]!r} ({entity.type}, {entity.start} to {entity.end})"
    )
