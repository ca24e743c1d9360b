"""Objects of a file: JSON lines, one object per line with each key once, or the rows of a Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, parse_json
from megabert.tasks.files.kinds import has_parquet_rows
from megabert.tasks.files.text_lines import read_lines, whole_content

_MOST_BYTES_OF_LIST = 1 << 29
_TO_LINES = "convert it with jq -c '.[]' or pandas' to_json(orient='records', lines=True)"


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number (from 1) of each line that is not blank, and its object, or what is wrong with it.

    The rows of a Parquet file count as lines.

    Raises:
        UserError: as :func:`read_lines`; the whole file is one JSON list; as :func:`read_parquet_objects`.
    """
    if has_parquet_rows(path):
        from megabert.tasks.files.parquet_objects import read_parquet_objects

        yield from read_parquet_objects(path)
        return
    first = True
    for number, line in read_lines(path):
        if not line.strip():
            continue
        if first:
            _refuse_list(path, line)
        first = False
        try:
            content = parse_json(line, of_data=True)
        except JsonError as error:
            yield number, str(error)
        else:
            yield number, content if isinstance(content, dict) else "no JSON object"


def read_objects(path: Path) -> tuple[str, list[tuple[int, dict[str, Any] | str]]]:
    """The same for one JSON list too, whose items count from 1; and what numbers count: line, row or item.

    Raises:
        UserError: as :func:`read_json_lines`; a list that is damaged or too large.
    """
    if has_parquet_rows(path):
        return "row", list(read_json_lines(path))
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if not begins_list(first):
        return "line", list(read_json_lines(path))
    content = whole_content(path, _MOST_BYTES_OF_LIST)
    if content is None:
        raise UserError(
            f"{path} is one JSON list of more than {_MOST_BYTES_OF_LIST >> 20} MiB: {_TO_LINES}"
        )
    try:
        items = parse_json(content, of_data=True)
    except JsonError as error:
        raise UserError(f"{path} is not a list in JSON: {error}") from error
    return "item", [
        (number, item if isinstance(item, dict) else "no JSON object")
        for number, item in enumerate(items, start=1)
    ]


def usual_keys(contents: Iterable[dict[str, Any] | str]) -> list[str]:
    """The keys that at least half of the objects have, in the order in which they are met."""
    objects = [content for content in contents if isinstance(content, dict)]
    counts = Counter(key for content in objects for key in content)
    return [key for key, count in counts.items() if 2 * count >= len(objects)]


def begins_list(line: str) -> bool:
    """Whether the first line of a file begins a JSON list of objects."""
    text = line.strip()
    return text[:1] == "[" and text[1:].lstrip()[:1] in ("", "{")


def _refuse_list(path: Path, line: str) -> None:
    if begins_list(line):
        raise UserError(
            f"{path} is one JSON list, but one JSON object per line is expected: {_TO_LINES}"
        )


def has_objects(path: Path) -> bool:
    """Whether a file is Parquet, or its first line that is not blank is a JSON object or begins a list.

    Raises:
        UserError: as :func:`read_lines`.
    """
    if has_parquet_rows(path):
        return True
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if begins_list(first):
        return True
    try:
        return isinstance(parse_json(first, of_data=True), dict)
    except JsonError:
        return False
