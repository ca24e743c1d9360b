"""The shape of what a file holds, checked by pydantic before anything uses it.

A schema is a ``TypedDict`` of plain values. Nothing is converted: ``"8"`` and ``true`` are not numbers.
Keys that a schema does not name are left alone, unless it forbids them. Importing this takes as long as
importing pydantic, so that modules which a ``--help`` imports do it inside their functions.
"""

from __future__ import annotations

import re
import reprlib
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from megabert.common.errors import UserError

_LONGEST_NAME = 255  # bytes, of most file systems
_OUTSIDE = re.compile(r"[/\\\x00-\x1f\x7f]")


def plain_file_name(name: str) -> str:
    """``name`` if it is that of a file in a folder: no path, no ``..``, no control characters.

    Raises:
        ValueError: it is not.
    """
    if not name or name in (".", "..") or _OUTSIDE.search(name):
        raise ValueError("expected the plain name of a file, without a folder")
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"expected a file name of at most {_LONGEST_NAME} bytes")
    return name


FileName = Annotated[str, AfterValidator(plain_file_name)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
"""A number of things or bytes."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""64 hexadecimal digits."""


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def shape_fault(schema: Any, value: Any) -> str | None:
    """Where a value differs first from a schema, and what was expected there; None if it has its shape."""
    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        item = error.errors()[0]
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"])
        if item["type"] == "extra_forbidden":
            return f"{place.lstrip('.')[:200]}: unknown key"
        message = item["msg"].removeprefix("Value error, ")
        found = "" if item["type"] == "missing" else f", not {reprlib.repr(item['input'])}"
        return f"{place.lstrip('.')[:200]}: {message[:1].lower()}{message[1:]}{found}"
    return None


def require_shape(schema: Any, value: Any, place: object) -> None:
    """Check a value against a schema.

    Raises:
        UserError: it differs; the message begins with ``place`` and names the key.
    """
    fault = shape_fault(schema, value)
    if fault is not None:
        raise UserError(f"{place}: {fault}")
