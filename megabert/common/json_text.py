"""The one reader of JSON: whatever is wrong with a text is one line that says what and where.

Every reader of JSON in this package goes through :func:`parse_json`. Beyond what :mod:`json` checks, it
refuses what no reader here can use: nesting of more than ``MAX_DEPTH`` levels, numbers that no float
holds, NaN, an object that has one key twice, and text that is not valid Unicode. UTF-8 with or without a
byte order mark is read. In data, which other programs wrote, NaN and texts with half a surrogate pair are
read, since they may be in parts that nobody looks at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import read_limited, sha256_of

MAX_DEPTH = 100
"""Levels of lists and objects inside each other."""
MAX_JSON_BYTES = 1 << 26
"""Bytes of a JSON file that is read whole. Its values take up to some 25 times as much memory."""

_MAX_DIGITS = 300
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text that is not JSON, or JSON that is refused; the message says what and where.

    Attributes:
        reason: the message; of a text that is not JSON, without these words.
    """

    def __init__(self, reason: str, *, syntax: bool = False) -> None:
        super().__init__(f"not JSON: {reason}" if syntax else reason)
        self.reason = reason


def has_several_values(error: JsonError) -> bool:
    """Whether what is wrong with a text is that another value follows its first one."""
    cause = error.__cause__
    return isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values (an ``object_pairs_hook`` of :mod:`json`).

    Raises:
        JsonError: a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"the key {name[:60]!r} occurs twice in an object")
            seen.add(name)
    return content


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonError(f"the number {text[:20]} is too large")
    return number


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise JsonError(f"the number {text[:20]}... has more than {_MAX_DIGITS} digits")
    return int(text)


def _no_constant(name: str) -> Any:
    raise JsonError(f"{name}, which JSON does not have")


_STRICT = json.JSONDecoder(
    object_pairs_hook=unique_keys,
    parse_float=_finite,
    parse_int=_whole_number,
    parse_constant=_no_constant,
)
_OF_DATA = json.JSONDecoder(object_pairs_hook=unique_keys)


def parse_json(text: str | bytes, *, of_data: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: the text, or its bytes in UTF-8; a byte order mark at the beginning is skipped.
        of_data: read NaN, and texts with half a surrogate pair.

    Raises:
        JsonError: see the module.
    """
    if isinstance(text, bytes):
        text = _decoded(text)
    try:
        value = (_OF_DATA if of_data else _STRICT).decode(text.removeprefix("\ufeff"))
        if _opens_often(text) and _deeper(value, MAX_DEPTH):
            raise _too_deep()
        if not of_data and _SURROGATE.search(text) and not _is_unicode(value):
            raise JsonError("an escape \\uD800 to \\uDFFF that is not one of a pair")
    except RecursionError as error:
        raise _too_deep() from error
    except (ValueError, MemoryError) as error:
        raise _as_json_error(error) from error
    return value


def parse_json_at(text: str, place: int) -> tuple[Any, int]:
    """The value of data that begins at a character of a text, and its end (``JSONDecoder.raw_decode``).

    Raises:
        json.JSONDecodeError: the text is not JSON there, or ends in the value.
        JsonError: JSON that is refused.
    """
    try:
        value, end = _OF_DATA.raw_decode(text, place)
        if _deeper(value, MAX_DEPTH):
            raise _too_deep()
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise _as_json_error(error) from error
    return value, end


def read_json(path: Path, *, of_data: bool = False, largest: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        of_data: as for :func:`parse_json`.
        largest: bytes that it may have.

    Raises:
        UserError: it is not JSON, or too large; the message begins with the file's name.
        OSError: it cannot be read.
    """
    try:
        return parse_json(read_json_text(path, largest=largest), of_data=of_data)
    except JsonError as error:
        raise UserError(f"{path} cannot be read as JSON: {error.reason}") from error


def read_json_text(path: Path, *, largest: int = MAX_JSON_BYTES) -> str:
    """The text of a JSON file, for a library that reads it too.

    Raises:
        UserError: it is not UTF-8, or too large.
        OSError: it cannot be read.
    """
    content = read_limited(path, largest, "a JSON file that is read whole")
    try:
        return _decoded(content)
    except JsonError as error:
        raise UserError(f"{path}: {error.reason}") from error


def read_json_object(path: Path, *, of_data: bool = False) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: as :func:`read_json`; the value is not an object.
        OSError: it cannot be read.
    """
    value = read_json(path, of_data=of_data)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {json_kind(value)}")
    return value


def json_kind(value: Any) -> str:
    """What a JSON value is, in words, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return kinds.get(type(value), "an object")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JsonError(
            f"not UTF-8 (line {line}, byte {error.start} of the file)", syntax=True
        ) from None


def _as_json_error(error: ValueError | MemoryError) -> JsonError:
    if isinstance(error, JsonError):
        return error
    if isinstance(error, json.JSONDecodeError):
        return JsonError(str(error), syntax=True)
    if isinstance(error, MemoryError):
        return JsonError("too large for this machine's memory")
    return JsonError("a whole number of more than 4,300 digits")  # all that int() refuses here


def _too_deep() -> JsonError:
    return JsonError(f"nested too deeply, in more than {MAX_DEPTH} levels", syntax=True)


def _opens_often(text: str) -> bool:
    return text.count("[") + text.count("{") > MAX_DEPTH


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more levels than these."""
    found: Sequence[Any] = [value]
    for _ in range(levels):
        found = [
            inner
            for outer in found
            if type(outer) in (list, dict)
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (list, dict)
        ]
        if not found:
            return False
    return True


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


RECORD_SUM = "record_sha256"
"""The value of a record that is :func:`record_sum` of the others."""


def record_sum(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's other values as canonical JSON; values as after a round trip through JSON."""
    rest = {key: value for key, value in record.items() if key != RECORD_SUM}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_of(canonical)
