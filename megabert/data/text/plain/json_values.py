"""JSON that extends over lines: an array of records, or records one after the other.

The values are read one by one. Memory is bounded by the longest of them.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import parse_json_at
from megabert.data.text.pages import Page
from megabert.data.text.plain.lines import bad_line, unreadable
from megabert.data.text.plain.records import Numbering, record_page
from megabert.data.text.reading import ReadingRules

MAX_VALUE = 1 << 26
"""Characters of a value."""
_PIECE = 1 << 18  # bytes
_SPACE = re.compile(r"[ \t\n\r]*")
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8
_MARGIN = 16  # characters at the end of what was read, where an error may come from the cut


def read_json_values(
    stream: io.BufferedReader, name: str, numbering: Numbering, rules: ReadingRules
) -> Iterator[Page]:
    """The documents of an array or series of JSON values, see :func:`.records.record_page`.

    Raises:
        UserError: damaged or incomplete JSON; a record that cannot be read, unless it is skipped.
    """
    text = _Text(stream, name, rules.skip)
    for number, value in enumerate(json_values(text), 1):
        where = f"{name}: value {number:,} (it ends in line {text.line:,})"
        if text.has_escapes and _ESCAPED.search(json.dumps(value, ensure_ascii=False)):
            yield bad_line(f"{where} is not UTF-8 text", rules.skip)
        else:
            yield record_page(value, where, numbering, rules)


class _Text:
    """The characters of a stream that were not consumed yet."""

    def __init__(self, stream: io.BufferedReader, name: str, skip: bool) -> None:
        self._stream, self._name = stream, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._skip = skip
        self._bytes = 0
        self._lines = 1  # number of the line at ``_counted``
        self._counted = 0
        self.has_escapes = False
        self.buffer = ""
        self.place = 0
        self.at_end = False

    @property
    def line(self) -> int:
        """Number of the line at ``place``, from 1."""
        self._lines += self.buffer.count("\n", self._counted, self.place)
        self._counted = self.place
        return self._lines

    def more(self) -> None:
        """Read at least as much as there is already."""
        if len(self.buffer) - self.place > MAX_VALUE:
            raise UserError(
                f"{self._name}: line {self.line:,}: the JSON value that begins here is longer than "
                f"{MAX_VALUE >> 20} Mi characters"
            )
        self._lines = self.line
        self.buffer = self.buffer[self.place :]
        self.place = self._counted = 0
        data = self._stream.read(max(_PIECE, len(self.buffer)))
        self.at_end = not data
        begin = self._bytes - len(self._decoder.getstate()[0])
        text = self._decoder.decode(data, final=self.at_end)
        if not text.isascii() and (found := _ESCAPED.search(text)):
            begin += 3 if not begin and data.startswith(codecs.BOM_UTF8) else 0
            self._not_utf8(data, text, found, begin)
        self._bytes += len(data)
        self.buffer += text

    def _not_utf8(self, data: bytes, text: str, found: re.Match[str], begin: int) -> None:
        """``text`` begins at byte ``begin`` of the file."""
        self.has_escapes = True
        if self._skip:
            return
        line = self._lines + self.buffer.count("\n") + text.count("\n", 0, found.start())
        value = ord(found.group()) - 0xDC00
        offset = begin + len(text[: found.start()].encode())
        raise UserError(unreadable(f"{self._name}: line {line:,}", value, offset, data))

    def next(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        while True:
            match = _SPACE.match(self.buffer, self.place)
            assert match is not None
            self.place = match.end()
            if self.place < len(self.buffer) or self.at_end:
                return self.buffer[self.place : self.place + 1]
            self.more()

    def value(self) -> Any:
        """Read a JSON value."""
        while True:
            try:
                value, end = parse_json_at(self.buffer, self.place)
            except ValueError as error:
                if self.at_end or _is_wrong(error, len(self.buffer)):
                    raise self.fault(str(error)) from None
            else:
                if end < len(self.buffer) or self.at_end or self.buffer[end - 1] in '"]}':
                    self.place = end
                    return value
            self.more()

    def fault(self, what: str) -> UserError:
        """The error of wrong JSON at ``place``."""
        what = re.sub(r": line \d+ column \d+ \(char \d+\)$", "", what)
        return UserError(
            f"{self._name}: damaged or incomplete JSON at or after line {self.line:,} ({what})"
        )


def _is_wrong(error: Exception, read: int) -> bool:
    """Whether an error cannot come from the end of what was read so far."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return error.pos < read - _MARGIN and not error.msg.startswith("Unterminated string")


def json_values(text: _Text) -> Iterator[Any]:
    """The values of an array, or those that follow each other.

    Raises:
        UserError: wrong JSON; the message names the line.
    """
    if text.next() != "[":
        while text.next():
            yield text.value()
        return
    text.place += 1
    if text.next() == "]":
        text.place += 1
    else:
        while True:
            yield text.value()
            mark = text.next()
            text.place += 1
            if mark == "]":
                break
            if mark != ",":
                text.place -= 1
                raise text.fault(f"expected a comma or ], found {mark!r}" if mark else "it ends")
            text.next()
    if text.next():
        raise text.fault("text after the end of the array")
