"""Lines of UTF-8 text files, plain or packed with xz, gzip or bzip2."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from megabert.common.errors import UserError
from megabert.data.text.input.streams import PIECE, open_streams, packing_of
from megabert.tasks.files.kinds import refuse_binary

MAX_LINE = 1 << 26
"""Bytes of a line."""
MAX_UNPACKED = 1 << 30
"""Bytes that a packed file may unpack to; of one that is not packed, the size can be seen."""
MAX_LINES = 1 << 24
"""Lines that a packed file may unpack to."""


def whole_content(path: Path, largest: int) -> bytes | None:
    """The bytes of a file, unpacked; None if there are more than ``largest``.

    Raises:
        UserError: the file is missing, damaged, or a tar archive.
    """
    parts: list[bytes] = []
    size = 0
    for name, stream in open_streams(path):
        _refuse_archive(path, name)
        while part := stream.read(PIECE):
            parts.append(part)
            size += len(part)
            if size > largest:
                return None
    return b"".join(parts)


def _refuse_archive(path: Path, name: str) -> None:
    if name != str(path):
        raise UserError(f"{path} is a tar archive; unpack it and name the file in it")


def _bounded_lines(path: Path, stream: io.BufferedReader) -> Iterator[bytes]:
    packed = bool(packing_of(stream))
    number = size = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            raise UserError(f"{path} line {number} is longer than {MAX_LINE >> 20} MiB")
        size += len(line)
        if packed and (size > MAX_UNPACKED or number > MAX_LINES):
            raise UserError(
                f"{path} unpacks to more than {MAX_UNPACKED >> 30} GiB or {MAX_LINES >> 20} Mi lines; "
                "give it unpacked if that is meant"
            )
        yield line


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its line feed or CR and line feed.

    Only line feeds end a line; a byte order mark at the beginning is not part of the text.

    Raises:
        UserError: the file is missing, damaged, not text or a tar archive, or a line is not UTF-8.
    """
    refuse_binary(path)
    for name, stream in open_streams(path):
        _refuse_archive(path, name)
        for number, line in enumerate(_bounded_lines(path, stream), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number} is not UTF-8 (byte {error.start} of the line); "
                    "convert the file to UTF-8"
                ) from error
            yield number, text.removesuffix("\n").removesuffix("\r")
