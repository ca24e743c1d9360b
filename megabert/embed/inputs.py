"""Texts of ``launch/embed.py``: plain lines, or a field of JSON lines or Parquet rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megabert.common.errors import UserError
from megabert.tasks.files.json_lines import has_objects, read_json_lines
from megabert.tasks.files.text_lines import read_lines

TEXT_FORMATS = ("auto", "text", "jsonl")


def read_texts(path: Path, form: str, field: str) -> Iterator[tuple[int, str]]:
    """Number of each line (from 1), and its text; of plain lines empty ones too.

    Args:
        path: the file, plain or packed.
        form: of :data:`TEXT_FORMATS`; ``auto`` goes by the first line.
        field: of the objects.

    Raises:
        UserError: a line is not of the form, or its object has no such text; the message names it.
    """
    if form == "auto":
        form = "jsonl" if has_objects(path) else "text"
    if form == "text":
        yield from read_lines(path)
        return
    for number, content in read_json_lines(path):
        if isinstance(content, str):
            raise UserError(f"{path} line {number}: {content}")
        text = content.get(field)
        if not isinstance(text, str):
            known = ", ".join(content) or "none"
            raise UserError(
                f"{path} line {number}: {field!r} is missing or not a text; its fields: {known} "
                "(--text-field chooses)"
            )
        yield number, text
