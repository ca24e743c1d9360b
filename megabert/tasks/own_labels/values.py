"""Label values of a file as names of classes, sets of names, or numbers."""

from __future__ import annotations

import math
import re
from typing import Any

from megabert.data.tokenizers.base import without_surrogates

_MISSING = frozenset({"", "nan", "<na>"})
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LARGEST = 1e30
"""A number must be smaller than this: its square is a float64, its scale a float32."""


class UnusableValue(ValueError):
    """What is wrong with a value, in words, and its kind."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def label_name(value: Any) -> str:
    """The name of the class that a text, a whole number, or true or false stands for."""
    if value is None or (type(value) is float and math.isnan(value)):
        raise UnusableValue("missing label", "it has none")
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    if type(value) is float:
        raise UnusableValue(
            "unusable label", f"{value}, a number with a point: write a name or a whole number"
        )
    if not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else "an object"
        raise UnusableValue("unusable label", f"{kind}, where other rows have one label")
    name = without_surrogates([value])[0].strip()
    if name.lower() in _MISSING:
        raise UnusableValue("missing label", repr(value))
    return name


def label_names(value: Any, separator: str | None) -> tuple[str, ...]:
    """The names in a list, or in a text between ``separator``; possibly none."""
    if isinstance(value, str) and separator is not None:
        value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, list):
        kind = "missing label" if value is None else "unusable label"
        raise UnusableValue(kind, f"{value!r}, where other rows have a list of labels")
    names = tuple(label_name(one) for one in value)
    if len(set(names)) < len(names):
        raise UnusableValue("repeated label", ", ".join(names))
    return names


def finite_number(value: Any) -> float:
    """A finite number."""
    if type(value) in (int, float):
        found = float(value) if abs(value) < _LARGEST else math.inf
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    elif value is None or value == "":
        raise UnusableValue("missing label", "it has no number")
    else:
        text = value.strip() if isinstance(value, str) else ""
        comma = re.fullmatch(r"[+-]?[0-9.]+,[0-9]+", text)
        hint = " (decimals are written with a point)" if comma else ""
        raise UnusableValue("unusable label", f"{value!r} is not a number{hint}")
    if not abs(found) < _LARGEST:
        raise UnusableValue("unusable label", f"{value} is not a finite number of float32")
    return found
