"""Lines of text: they end at line feeds only, and one that cannot be read is named or left out."""

import io
from collections.abc import Iterator

from megabert.common.errors import UserError
from megabert.data.text.pages import Page
from megabert.data.text.plain.encodings import is_certain, likely_encoding
from megabert.data.text.reading import BAD_LINE

MAX_LINE = 1 << 26  # bytes
_CONTEXT = 1 << 16  # bytes after a fault that are looked at to name the encoding


def bad_line(message: str, skip: bool, text: str = "") -> Page:
    """A page that stands for a line or record that cannot be read, and is dropped as "bad line".

    Its title is the message.

    Raises:
        UserError: the message, unless ``skip`` is set.
    """
    if not skip:
        raise UserError(message)
    return Page(0, message, 0, False, BAD_LINE, text, "plain")


def text_lines(
    stream: io.BufferedReader, name: str, skip: bool = False
) -> Iterator[tuple[int, str | Page]]:
    """Yield (line number from 1, line without its end), decoded as UTF-8.

    A line ends at a line feed, also after a carriage return; form feeds and the separators of
    Unicode (U+0085, U+2028, U+2029) do not end it. A byte order mark that begins a line is removed.

    Args:
        stream: read to its end.
        name: of the file, for messages.
        skip: yield a page of :func:`bad_line` in place of a line that cannot be read.

    Raises:
        UserError: bytes that are not UTF-8 or are zero, unless ``skip`` is set; a line over 64 MiB.
    """
    place = 0
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            raise UserError(f"{name}: line {number:,} is longer than {MAX_LINE >> 20} MiB")
        try:
            text = line.decode("utf-8")
            fault = line.index(b"\0") if b"\0" in line else -1
        except UnicodeDecodeError as error:
            text, fault = "", error.start
        if fault >= 0:
            where = f"{name}: line {number:,}"
            data = line if skip else line + stream.peek(_CONTEXT)
            message = unreadable(where, line[fault], place + fault, data, skip)
            text = line.decode("utf-8", errors="replace").rstrip("\r\n")
            yield number, bad_line(message, skip, text)
        else:
            if text[:1] == "\ufeff":
                text = text[1:]
            yield number, text.rstrip("\r\n")
        place += len(line)


def unreadable(where: str, value: int, offset: int, data: bytes, skip: bool = False) -> str:
    """The message about a byte that is not UTF-8 text.

    Args:
        where: file, and line if known.
        value, offset: the byte and its place in the file, from 0.
        data: the bytes around it.
        skip: whether such lines are left out.
    """
    what = f"{where}: not UTF-8 text: byte {offset:,} is 0x{value:02X}"
    advice = "" if skip else "; --bad-lines skip leaves such lines out"
    encoding = likely_encoding(data)
    if encoding == "UTF-8":
        return f"{what}, although most of the text is UTF-8{advice}"
    if encoding is not None:
        command = f"iconv -f {encoding} -t UTF-8 OLD > NEW"
        if is_certain(encoding):
            return f"{what}; it is {encoding}: convert it with {command}"
        return (
            f"{what}; its encoding is not known; a guess from its letters is {encoding}: convert it "
            f"with {command}, and look at the letters outside of ASCII in NEW before you use it "
            f"(iconv -l lists other encodings){advice}"
        )
    return f"{what} (binary data, or an encoding that was not recognized){advice}"
