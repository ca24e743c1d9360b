"""Records with a field of text: JSON Lines, JSON values, and the rows of tables."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from megabert.common.json_text import JsonError, parse_json
from megabert.data.text.namespaces import canonical_namespace
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line, text_lines
from megabert.data.text.plain.wrapping import JOIN_ALL, Wrapping, join_lines, wrapping_of
from megabert.data.text.reading import AUTO, ReadingRules

_WRAP_SAMPLE = 1 << 17  # characters of text
_SHOWN_FIELDS = 8
_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass
class Numbering:
    """Numbers documents that have no number of their own by their place in the source, from 1."""

    last: int = 0

    def number(self, given: object = None) -> int:
        """The document's own number if it is a valid one, else its place."""
        self.last += 1
        text = str(given).strip() if given is not None else ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else self.last


def is_wiki_address(url: object) -> bool:
    """Whether the address of a document is that of a wiki's page, so that an extractor made it."""
    return isinstance(url, str) and ("/wiki/" in url or "curid=" in url)


def extracted_page(number: int, title: str, text: str, namespace: int) -> Page:
    """A page that an extractor made from wikitext."""
    return Page(number, title, namespace, False, "wikitext", text, "extracted")


def plain_page(number: int, title: str, text: str, namespace: int = 0) -> Page:
    """A page without wikitext."""
    return Page(number, title, namespace, False, "wikitext", text, "plain")


def record_page(record: Any, where: str, numbering: Numbering, rules: ReadingRules) -> Page:
    """The page of a JSON value: a string, or an object with the text field.

    ``title`` and ``id`` are used if they are there. A null is an empty text.

    Raises:
        UserError: another value, unless it is skipped; the message begins with ``where``.
    """
    if isinstance(record, str):
        return plain_page(numbering.number(), "", record)
    if not isinstance(record, dict):
        kind = _KINDS.get(type(record), "null")
        return bad_line(
            f"{where} is {kind}, not an object with a {rules.text_field!r} field", rules.skip
        )
    if rules.text_field not in record:
        return bad_line(f"{where} {missing_field(record, rules.text_field)}", rules.skip)
    text = record[rules.text_field]
    if text is None:
        text = ""
    if not isinstance(text, str):
        kind = _KINDS.get(type(text), "null")
        return bad_line(
            f"{where}: the field {rules.text_field!r} is {kind}, not a string", rules.skip
        )
    title = record.get("title")
    title = title if isinstance(title, str) and rules.text_field != "title" else ""
    namespace = canonical_namespace(title) if "url" in record else 0
    page = extracted_page if is_wiki_address(record.get("url")) else plain_page
    return page(numbering.number(record.get("id")), title, text, namespace)


def missing_field(record: Mapping[str, Any], field: str) -> str:
    """The end of a message about a record without the text field: which fields there are."""
    names = [repr(str(name)[:40]) for name in list(record)[:_SHOWN_FIELDS]]
    names += ["..."] if len(record) > _SHOWN_FIELDS else []
    array = next((name for name, value in record.items() if _is_of_records(value)), None)
    return (
        f"has no field {field!r} (it has {', '.join(names) or 'none'}); "
        "name the field that holds the text with --text-field"
        + (f", or extract its array: jq -c '.{array}[]' OLD > NEW.jsonl" if array else "")
    )


def _is_of_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def read_jsonl(
    stream: io.BufferedReader, name: str, numbering: Numbering, rules: ReadingRules
) -> Iterator[Page]:
    """JSON Lines: one JSON value per line, see :func:`record_page`.

    wikiextractor's ``--json`` output has this format.
    """
    for place, line in text_lines(stream, name, rules.skip):
        if isinstance(line, Page):
            yield line
        elif line.strip():
            where = f"{name}: line {place:,}"
            try:
                record = parse_json(line, of_data=True)
            except JsonError as error:
                hint = _array_hint(line) if place == 1 else ""
                yield bad_line(f"{where} is not complete JSON ({error.reason}){hint}", rules.skip)
                continue
            yield record_page(record, where, numbering, rules)


def _array_hint(line: str) -> str:
    array = line.lstrip().startswith("[")
    return "; --input-format json reads an array over several lines" if array else ""


def texts_wrapping(texts: list[str], rules: ReadingRules) -> Wrapping | None:
    """How the lines of the first texts of a file are hard-wrapped; None to keep line ends."""
    if rules.line_breaks != AUTO:
        return JOIN_ALL if rules.line_breaks == "join" else None
    lines = "\n\n".join(text.replace("\r\n", "\n") for text in texts)[:_WRAP_SAMPLE].split("\n")
    return wrapping_of(lines)


def first_pages(pages: Iterator[Page]) -> list[Page]:
    """The first pages, 128 Ki characters of text, taken from ``pages``."""
    first: list[Page] = []
    size = 0
    for page in pages:
        first.append(page)
        size += len(page.text)
        if size >= _WRAP_SAMPLE:
            break
    return first


def with_joined_lines(pages: Iterator[Page], rules: ReadingRules) -> Iterator[Page]:
    """The pages; if the texts of the first ones are hard-wrapped, with the lines of all joined."""
    first = first_pages(pages)
    wrapping = texts_wrapping([page.text for page in first], rules)
    for group in (first, pages):
        for page in group:
            yield joined_page(page, wrapping)


def joined_page(page: Page, wrapping: Wrapping | None) -> Page:
    """The page with the lines of its text joined, if they are hard-wrapped."""
    if wrapping is None or "\n" not in page.text:
        return page
    lines = page.text.replace("\r\n", "\n").split("\n")
    return replace(page, text="\n".join(join_lines(lines, wrapping)))
