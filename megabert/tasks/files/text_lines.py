"""Lines of UTF-8 text files, plain or packed with xz, gzip or bzip2."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from megabert.common.errors import UserError
from megabert.data.text.input.streams import open_streams
from megabert.tasks.files.kinds import refuse_binary


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its line feed or CR and line feed.

    Only line feeds end a line; a byte order mark at the beginning is not part of the text.

    Raises:
        UserError: the file is missing, damaged, not text or a tar archive, or a line is not UTF-8.
    """
    refuse_binary(path)
    for name, stream in open_streams(path):
        if name != str(path):
            raise UserError(f"{path} is a tar archive; unpack it and name the file in it")
        for number, line in enumerate(stream, start=1):
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
