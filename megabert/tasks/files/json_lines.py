"""JSON lines: one object per line, each key once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabert.tasks.files.text_lines import read_lines


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number (from 1) of each line that is not blank, and its object, or what is wrong with it.

    Raises:
        UserError: as :func:`read_lines`.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            content = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
        except RepeatedKey as error:
            yield number, f"the key {error} occurs twice"
        else:
            yield number, content if isinstance(content, dict) else "no JSON object"


class RepeatedKey(Exception):
    """A key that an object has twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values (an ``object_pairs_hook`` of :mod:`json`).

    Raises:
        RepeatedKey: a key occurs twice; its message is the key.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(repr(next(name for name in names if names.count(name) > 1)))
    return content
