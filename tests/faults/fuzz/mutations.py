"""Named changes to the bytes of a valid file. Each draws from a generator, so an input has a number."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = (
    "0", "-1", "1e999", "-0.0", "NaN", "255", "65536", "2147483648", "4294967296", "-9223372036854775809",
    "18446744073709551616", "1000000000000", "9" * 40, "1" * 5000, "٣", "１２", "0x10", "1_000",
)  # fmt: skip
_WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NESTS = (
    (b"[", b"]"), (b'{"a":', b"}"), (b"<a>", b"</a>"), (b"<text>", b"</text>"), (b"{{", b"}}"),
    (b"[[", b"]]"), (b"(", b")"), (b'"', b'"'), (b"<!--", b"-->"), (b"&", b";"), (b"- ", b""),
)  # fmt: skip
_PLACES = (
    "..", "../../planted", "/tmp/planted", "a\x00b", "", "x" * 5000, "\ud800", "é", "CON", "a/b", "-", "\n",
)  # fmt: skip
_NUMBER = re.compile(rb"\d+")
_REDUCE = b"cos\nsystem\n(S'touch planted'\ntR."
"""A pickle that runs a command."""


def _place(data: bytes, draw: random.Random) -> int:
    """A place in the data, half of the time near its beginning, where formats say what they are."""
    most = len(data) if draw.random() < 0.5 else min(len(data), 96)
    return draw.randrange(most) if most else 0


def bits(data: bytes, draw: random.Random) -> bytes:
    """One to eight bits change."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        if changed:
            changed[_place(data, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end, the beginning or a part in the middle is missing."""
    first, last = sorted((_place(data, draw), _place(data, draw)))
    return draw.choice((data[:last], data[first:], data[:first] + data[last:]))


def doubled(data: bytes, draw: random.Random) -> bytes:
    """A part occurs several times, or another one stands in its place."""
    first, last = sorted((_place(data, draw), _place(data, draw)))
    other = _place(data, draw)
    part = data[first : min(last, first + 2000)]
    return data[:first] + part * draw.choice((2, 3, 20)) + data[other:]


def numbers(data: bytes, draw: random.Random) -> bytes:
    """A number in text, or four or eight bytes, have an extreme value."""
    found = list(_NUMBER.finditer(data)) if draw.random() < 0.7 else []
    if found:
        match = draw.choice(found)
        return data[: match.start()] + draw.choice(_NUMBERS).encode() + data[match.end() :]
    form = draw.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
    size = struct.calcsize(form)
    place = _place(data, draw)
    word = struct.pack(form, draw.choice(_WORDS) & ((1 << (8 * size)) - 1))
    return data[:place] + word + data[place + size :]


def nul(data: bytes, draw: random.Random) -> bytes:
    """NULs or other control characters, or bytes that are not UTF-8, stand somewhere."""
    place = _place(data, draw)
    some = draw.choice(
        (b"\0", b"\0" * 64, b"\x1a", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\r")
    )
    return data[:place] + some + data[place + draw.choice((0, len(some))) :]


def nesting(data: bytes, draw: random.Random) -> bytes:
    """Brackets, elements or templates are opened thousands of times, and closed or not."""
    begin, end = draw.choice(_NESTS)
    deep = draw.choice((3, 200, 3000))
    place = _place(data, draw)
    inside = draw.choice((b"", b"1", data[place : place + 50]))
    return data[:place] + begin * deep + inside + end * draw.choice((0, deep)) + data[place:]


def planted(data: bytes, draw: random.Random) -> bytes:
    """A pickle that runs a command stands somewhere."""
    place = _place(data, draw)
    return data[:place] + _REDUCE + data[place + draw.choice((0, len(_REDUCE))) :]


def typed_json(data: bytes, draw: random.Random) -> bytes:
    """A value or key of a JSON text becomes one of another type, or is missing."""
    try:
        whole = [json.loads(data)]
    except (ValueError, RecursionError):
        return numbers(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change_one(whole, draw)
    return json.dumps(whole[0], ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def typed_json_lines(data: bytes, draw: random.Random) -> bytes:
    """:func:`typed_json` of one line."""
    lines = data.split(b"\n")
    number = draw.randrange(len(lines))
    lines[number] = typed_json(lines[number], draw)
    return b"\n".join(lines)


def _change_one(whole: list[Any], draw: random.Random) -> None:
    holder: Any = whole
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.85:
        holder = holder[key]
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = draw.randrange(8)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(_PLACES)] = holder.pop(key)
    else:
        holder[key] = _any_value(holder[key], draw)


def _any_value(value: Any, draw: random.Random) -> Any:
    nested: Any = value
    for _ in range(draw.choice((1, 50, 400))):
        nested = [nested]
    return draw.choice(
        (
            None, True, False, 0, -1, 1, 1.5, -1e308, 10**12, 2**31, 2**63, 10**100, "", "yes", "1", "auto",
            draw.choice(_PLACES), [], {}, [value], {"a": value}, [1, 2, 3], nested, float("nan"),
        )
    )  # fmt: skip


BYTES: tuple[Mutation, ...] = (bits, cut, doubled, numbers, nul)
TEXT: tuple[Mutation, ...] = (*BYTES, nesting)
JSON: tuple[Mutation, ...] = (*TEXT, typed_json, typed_json, typed_json)
JSON_LINES: tuple[Mutation, ...] = (*TEXT, typed_json_lines, typed_json_lines)
PICKLES: tuple[Mutation, ...] = (*BYTES, planted)
