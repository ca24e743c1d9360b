"""Values of flags and settings: their types in words, and reading them from text or YAML.

A type is a Python annotation: ``int``, ``PositiveInt``, ``Path``, ``Literal["a", "b"]``, ``X | None``,
``tuple[X, ...]`` for a list. pydantic checks it. What this module adds is what people read and write:
a switch is on, off, true or false; the numbers of a list may be separated by commas; a message says
what was expected instead of what pydantic found.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from megabert.common.errors import printable

if TYPE_CHECKING:  # pydantic takes half of the time of --help, which reads no value
    from pydantic import ConfigDict, TypeAdapter, ValidationError

DEFERRED: ConfigDict = {"defer_build": True}
"""Configuration of settings dataclasses: pydantic prepares one when it is first made, not for --help."""
LEAST_NUMBER = 1e-37
"""A number closer to 0, or above the inverse of this, is refused: float32 does not hold it well."""
SWITCH_WORDS = {"on": True, "true": True, "off": False, "false": False}
"""What a switch may be set to, in any case."""


class WrongValue(ValueError):
    """A value that does not have its type; the message says what was expected."""


def suggestion(word: object, known: Iterable[object]) -> str:
    """``; did you mean 'x'?`` if a known name begins with the word or is similar, else nothing."""
    names = [str(name) for name in known]
    longer = [name for name in names if name.lower().startswith(f"{word}-".lower())]
    if longer:
        return f"; did you mean {' or '.join(map(repr, longer[:4]))}?"
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if not close:
        by_case = {name.lower(): name for name in names}
        close = difflib.get_close_matches(str(word).lower(), by_case, n=1, cutoff=0.6)
        close = [by_case[name] for name in close]
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(word: object, known: Iterable[object]) -> str:
    """What to say of a word that is not one of the known names."""
    names = [str(name) for name in known]
    return f"expected one of {', '.join(names)}{suggestion(word, names)}"


_LONGEST_SHOWN = 200  # characters


def shown_value(value: object) -> str:
    """A value that was given, as messages show it: quoted if it is empty, and cut if it is long."""
    text = str(value)
    if len(text) > _LONGEST_SHOWN:
        return f"{text[: _LONGEST_SHOWN // 2]}... ({len(text):,} characters)"
    return text or "''"


def utf8_path(value: str | Path) -> Path:
    """A path that every library can open (an argparse ``type``).

    Raises:
        WrongValue: it is empty, or has bytes that are not UTF-8.
    """
    path: Path = read(Path, value)
    if printable(str(path)) != str(path):
        raise WrongValue(
            "a name that is not UTF-8, which torch and safetensors cannot open: rename it"
        )
    return path


def _parts(kind: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations, and these."""
    if get_origin(kind) is Annotated:
        bare, *notes = get_args(kind)
        return bare, notes
    return kind, []


def alternatives(kind: Any) -> list[Any]:
    """The types of a union, without None; a type that is not a union alone."""
    bare, _ = _parts(kind)
    if get_origin(bare) in (Union, types.UnionType):
        return [part for part in get_args(bare) if part is not type(None)]
    return [kind]


def list_item(kind: Any) -> Any:
    """The type of a list's items (``X`` of ``tuple[X, ...]``); None for a single value."""
    for part in alternatives(kind):
        bare, _ = _parts(part)
        if get_origin(bare) is tuple:
            return get_args(bare)[0]
    return None


def is_switch(kind: Any) -> bool:
    """Whether a value of this type is on or off."""
    return any(part is bool or words(part) == ("on", "off") for part in alternatives(kind))


def words(kind: Any) -> tuple[Any, ...]:
    """The names that a value of this type may be, if these are all; else ()."""
    found: list[Any] = []
    for part in alternatives(kind):
        bare, _ = _parts(part)
        if get_origin(bare) is not Literal:
            return ()
        found += get_args(bare)
    return tuple(found)


def describe(kind: Any) -> str:
    """What a value of this type is, in words: "a whole number of 1 or more"."""
    item = list_item(kind)
    if item is not None:
        return f"one or more values, each {describe(item)}"
    return ", or ".join(_describe_one(part) for part in alternatives(kind))


def _describe_one(kind: Any) -> str:
    bare, notes = _parts(kind)
    if bare is bool or words(kind) == ("on", "off"):
        return "on or off"
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    if bare is int or bare is float:
        return ("a whole number" if bare is int else "a number") + _bounds(bare, notes)
    return "a path" if bare is Path else "a text"


def _bounds(bare: type, notes: list[Any]) -> str:
    """The limits of a number: "from 0 to 1", "of 1 or more", "above 0"."""
    limits: dict[str, float] = {}
    for note in notes:
        for part in (note, *getattr(note, "metadata", ())):
            for name in ("ge", "gt", "le", "lt"):
                value = getattr(part, name, None)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    limits[name] = value
    if bare is int and "gt" in limits:
        limits["ge"] = limits.pop("gt") + 1
    shown = {name: _shown(value) for name, value in limits.items()}
    low = f"{shown['ge']} or more" if "ge" in limits else ""
    low = f"above {shown['gt']}" if "gt" in limits else low
    high = f"{shown['le']} or less" if "le" in limits else ""
    high = f"below {shown['lt']}" if "lt" in limits else high
    if "ge" in limits and "le" in limits:
        return f" from {shown['ge']} to {shown['le']}"
    text = " and ".join(part for part in (low, high) if part)
    return f" {text}" if text.startswith(("above", "below")) else f" of {text}" if text else ""


def _shown(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read(kind: Any, value: Any) -> Any:
    """``value``, a text or what YAML made of one, as a value of type ``kind``.

    Raises:
        WrongValue: it is not one; the message says what was expected.
    """
    from pydantic import ValidationError

    if value is None and type(None) in get_args(_parts(kind)[0]):
        return None
    if list_item(kind) is not None:
        return _read_list(list_item(kind), value)
    if bool in alternatives(kind):
        value = _read_switch(value)
    elif isinstance(value, bool) and not is_switch(kind):
        raise WrongValue(f"expected {describe(kind)}")  # 1 and True are the same to pydantic
    elif value == "" and Path in alternatives(kind):  # it would be the working folder
        raise WrongValue("expected a path, and this one is empty")
    known = words(kind)
    if known and not is_switch(kind):
        value = {str(name): name for name in known}.get(str(value), value)
        if value not in known:
            raise WrongValue(one_of(value, known))
    try:
        made = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise WrongValue(_reason(kind, error)) from error
    if isinstance(made, float) and not math.isfinite(made):
        raise WrongValue(f"expected {describe(kind)}")
    if isinstance(made, int) and not -(2**63) <= made < 2**63:
        raise WrongValue(f"expected {describe(kind)}, below 2^63")
    if isinstance(made, float) and made and not LEAST_NUMBER <= abs(made) <= 1 / LEAST_NUMBER:
        raise WrongValue(
            f"expected {describe(kind)}, and neither below 1e-37 nor above 1e37 in size"
        )
    return made


def _reason(kind: Any, error: ValidationError) -> str:
    """The type's own message where it has a check of its own, else what was expected."""
    for item in error.errors():
        if item["type"] == "value_error":
            return item["msg"].removeprefix("Value error, ")
    return f"expected {describe(kind)}"


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in SWITCH_WORDS:
        return SWITCH_WORDS[value.lower()]
    raise WrongValue("expected on or off")


def _read_list(item: Any, value: Any) -> tuple[Any, ...]:
    """A list from a YAML list, from a text with commas, or from several such texts.

    The items of a list of paths are not separated by commas: a path may hold one.
    """
    given = value if isinstance(value, list | tuple) else [] if value is None else [value]
    pieces: list[Any] = []
    for piece in given:
        split = isinstance(piece, str) and _parts(item)[0] is not Path
        pieces += [part.strip() for part in piece.split(",")] if split else [piece]
    made = []
    for piece in pieces:
        try:
            made.append(read(item, piece))
        except WrongValue as error:
            raise WrongValue(
                f"{shown_value(repr(piece))}: {error}" if len(pieces) > 1 else str(error)
            ) from error
    return tuple(made)


def metavar(kind: Any) -> str:
    """The short form of what is expected, for ``--help``: N, FRACTION, on|off."""
    if is_switch(kind):
        return "on|off"
    if known := words(kind):
        return "|".join(map(str, known))
    item = list_item(kind)
    names = [metavar(item)] if item is not None else []
    for part in alternatives(kind) if not names else ():
        bare, notes = _parts(part)
        if get_origin(bare) is Literal:
            names += map(str, get_args(bare))
        elif bare is float and _bounds(float, notes).startswith(
            (" from 0 to 1", " of 0 or more and below 1")
        ):
            names.append("FRACTION")
        else:
            names.append({int: "N", float: "X", Path: "PATH"}.get(bare, "NAME"))
    return "|".join(names)


class ValueReader:
    """An argparse ``type`` that reads one value of a type; see :func:`read`.

    parser.add_argument("--workers", type=ValueReader(PositiveInt), metavar="N")
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __call__(self, text: str) -> Any:
        """The value; raises WrongValue."""
        return read(self.kind, text)


def hints(section: type) -> dict[str, Any]:
    """Field name -> type, with its annotations."""
    return typing.get_type_hints(section, include_extras=True)
