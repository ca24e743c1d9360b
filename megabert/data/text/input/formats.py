"""The format of a stream, detected from its first bytes."""

from __future__ import annotations

import json
import re

from megabert.common.errors import UserError
from megabert.common.json_text import JsonError, parse_json, parse_json_at
from megabert.data.text.input.compression import PIECE
from megabert.data.text.input.other_forms import READ_FORMS, first_tag, refuse_other_form
from megabert.data.text.input.text_forms import text_form
from megabert.data.text.plain.encodings import is_encoded_twice, likely_encoding
from megabert.data.text.plain.lines import unreadable
from megabert.data.text.plain.records import is_wiki_address
from megabert.data.text.plain.tables import table_dialect
from megabert.data.text.reading import AUTO, ReadingRules

PARQUET = b"PAR"
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
_LARGEST_SCHEMA = 1 << 26  # bytes
_XML_NAME = re.compile(r"\.xml(-[^.]*)?(\.(bz2|gz|xz|zst))?$", re.IGNORECASE)
_FIRST_TAG = re.compile(r"<([A-Za-z!?][\w:.-]*)")
_WIKIEXTRACTOR_KEYS = {"id", "url", "title", "text"}
_BINARY = (
    (b"{\\rtf", "RTF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Word, Excel or PowerPoint file"),
    (b"%!PS", "PostScript"),
    (b"FEA1", "Feather version 1"),
    (b"Obj\x01", "Avro"),
    (b"WARC/", "WARC"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
)
# of text: what it is, and what shows it
_OTHER_TEXT = (
    ("subtitles", re.compile(r"WEBVTT\b|\d+\s*\n\d\d:\d\d:\d\d[,.]\d{3} --> ")),
    ("LaTeX", re.compile(r"(?:%[^\n]*\n|\s)*\\(?:documentclass|documentstyle|begin\{document\}|input\b|section\b)")),
    (
        "JSON in another form, or the literal of a program",
        re.compile(
            r"""(?:(?:var|let|const)\s+)?[\w.$]+\s*=\s*[\[{(]\s*[\[{("']|[\[{(]\s*\n\s*(["'])[^\n]*\1,[ \t\r]*\n"""
        ),
    ),
    ("wikitext outside of a MediaWiki export", re.compile(r"\{\{[A-Za-z][^{}|\n]*(?:\||\}\}|\n)|\{\|\s*class=")),
)  # fmt: skip
_OBJECT = re.compile(r'\{\s*(?:"(?:[^"\\]|\\.)*"\s*:|\})')
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CLOSING_TAG = re.compile(
    r"</(?:p|div|span|a|li|ul|ol|td|tr|table|h[1-6]|html|body|head|title|script|b|i|em|strong)>",
    re.IGNORECASE,
)
_JSON_NAME = re.compile(r"\.(?:jsonl?|ndjson|geojson)(?:\.(?:bz2|gz|xz|zst))?$", re.IGNORECASE)
# a line of a literal or of JSON that something surrounds
_LITERAL_LINE = re.compile(
    r"""\s*(?:[\[{(][\s\[{(]*['"]|['"][^'"\n]{1,60}['"]\s*:|[\[\]{}()]+[;,]?\s*$|(?:var|let|const)\s+\w+\s*=\s*[\[{])"""
)
_DICTIONARY = re.compile(r"\[?\{\s*'\w+'\s*:")
_SOFT_END = re.compile(r"[^=\n]=\r?\n(?=[^\n])")  # of quoted-printable text
_QUOTED_BYTE = re.compile(r"=[0-9A-F]{2}")
_FEWEST_LINES = 3  # of a literal
_FEWEST_STRINGS = 3  # lines of nothing but a quoted string
_WIKITEXT = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\[\[[^\[\]\n]+\]\]",
        r"'''[^'\n]+'''",
        r"\{\{[^{}]+\}\}",
        r"^==+[^=\n]+==+\s*$",
    )
)
_WIKITEXT_EVERY = 300  # characters of wikitext, at most
_TAG_EVERY = 500  # characters of HTML, at most


def stream_format(head: bytes, name: str, rules: ReadingRules) -> str:
    """The format by which a stream is read: that of ``rules``, or the detected one.

    Args:
        head: the first bytes, up to PIECE of them.
        name: of the stream.
        rules: how to read it.

    Raises:
        UserError: the format is not supported, or the stream is JSON and not the plain text that
            the rules say.
    """
    if rules.input_format == "text" and (kind := _json_format(_decoded(head).lstrip(), head)):
        raise UserError(
            f"{name}: JSON, not plain text; give --input-format {kind}, or leave the flag out"
        )
    kind = sniff(head, name, rules) if rules.input_format == AUTO else rules.input_format
    if kind in ("text", "csv", "tsv") and b"\n" not in head and head.count(b"\r") > 1:
        raise UserError(
            f"{name}: its lines end with a carriage return alone, as on old Macintoshes; convert "
            "them with tr '\\r' '\\n' < OLD > NEW"
        )
    return kind


def is_arrow(head: bytes) -> bool:
    """Whether a file that begins with these bytes is Arrow, in the file or the stream format."""
    length = int.from_bytes(head[4:8], "little", signed=True)
    is_stream = head.startswith(ARROW_STREAM) and 0 < length < _LARGEST_SCHEMA
    return is_stream or head.startswith(ARROW_FILE)


def sniff(head: bytes, name: str, rules: ReadingRules | None = None) -> str:
    """The format of a stream, detected from its first bytes.

    Raises:
        UserError: the format is not supported.
    """
    rules = rules or ReadingRules()
    if head.startswith(PARQUET):
        raise UserError(f"{name}: Parquet inside an archive is not supported; extract it first")
    if is_arrow(head):
        raise UserError(f"{name}: Arrow inside an archive is not supported; extract it first")
    _refuse_binary(head, name, rules)
    text = _decoded(head).lstrip()
    if text.startswith("<doc "):
        return "wikiextractor"
    refuse_other_form(text, name)
    if text.startswith(("<?xml", "<!DOCTYPE")) or first_tag(text) == "mediawiki":
        return "mediawiki"
    if kind := _json_format(text, head):
        return kind
    if _XML_NAME.search(name):
        raise UserError(f"{name}: not XML, although its name says so: it begins with {text[:30]!r}")
    if tag := _FIRST_TAG.match(text):
        raise UserError(
            f"{name}: a file beginning with <{tag.group(1)}> is not supported; {_EXPECTED}"
        )
    if what := text_form(text):
        raise UserError(
            f"{name}: looks like {what} (--input-format text reads its lines as they are)"
        )
    if dialect := table_dialect(_whole_lines(text, head), name, rules):
        return dialect.name
    _refuse_other_text(text, name)
    return "text"


_EXPECTED = f"{READ_FORMS} are read (--input-format text reads it as it is)"


def _decoded(head: bytes) -> str:
    """The head as text; a character that its end cuts is left out."""
    text = head.decode("utf-8-sig", errors="replace")
    return text.rstrip("\ufffd") if len(head) >= PIECE else text


def head_text(head: bytes) -> str:
    """The text of the first bytes of a stream, without leading space and a line that they cut."""
    return _whole_lines(_decoded(head).lstrip(), head)


def _whole_lines(text: str, head: bytes) -> str:
    return text[: text.rindex("\n")] if len(head) >= PIECE and "\n" in text else text


def _refuse_binary(head: bytes, name: str, rules: ReadingRules) -> None:
    for magic, kind in _BINARY:
        if head.startswith(magic):
            raise UserError(f"{name}: {kind} is not supported; convert it to UTF-8 text or JSON")
    fault, nul = -1, head.count(b"\0")
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(head) >= PIECE and error.start >= len(head) - 4
        fault = -1 if cut else error.start
    if fault < 0 and not nul and b"\x1b$" not in head:
        return
    encoding = likely_encoding(head)
    if fault < 0 and not nul:
        if encoding == "ISO-2022-JP":
            raise UserError(
                f"{name}: Japanese text in ISO-2022-JP; convert it with "
                "iconv -f ISO-2022-JP -t UTF-8 OLD > NEW"
            )
        return
    if encoding is None and 20 * len(_CONTROLS.findall(head)) > len(head):
        raise UserError(f"{name}: unknown format (binary data); {_EXPECTED}")
    if rules.skip and not (encoding or "").startswith(("UTF-16", "UTF-32")):
        return
    fault = head.index(b"\0") if fault < 0 else fault
    line = head.count(b"\n", 0, fault) + 1
    raise UserError(unreadable(f"{name}: line {line:,}", head[fault], fault, head))


def _json_format(text: str, head: bytes) -> str:
    """ "jsonl", "wikiextractor" or "json" if the text is JSON, else ""."""
    if text.startswith("{"):
        return _object_format(text)
    if text.startswith("["):
        return "json" if _is_array(text, len(head) >= PIECE) else ""
    return "jsonl" if text.startswith('"') and _are_strings(_whole_lines(text, head)) else ""


def _object_format(text: str) -> str:
    if not _OBJECT.match(text):
        return ""
    line = text.split("\n", 1)[0].rstrip()
    try:
        record = parse_json_at(line, 0)[0]
    except json.JSONDecodeError as error:
        # a value that the next line continues, not a damaged line
        continued = error.pos >= len(line) and not error.msg.startswith("Unterminated")
        return "json" if continued and len(line) < len(text.rstrip()) else "jsonl"
    except JsonError:
        return "jsonl"
    of_wiki = set(record) >= _WIKIEXTRACTOR_KEYS and is_wiki_address(record["url"])
    return "wikiextractor" if of_wiki else "jsonl"


def _is_array(text: str, cut: bool) -> bool:
    """Whether text that begins with a bracket is a JSON array (``cut``: it is not the whole text).

    The first element, and the mark after it, must be those of an array.
    """
    inner = text[1:].lstrip()
    if inner.startswith("{"):
        return _OBJECT.match(inner) is not None  # damaged or not
    if inner[:1] not in tuple('"[]'):
        return not cut and _is_json(text)
    if inner.startswith("]"):
        return not inner[1:].strip()
    try:
        _, end = parse_json_at(inner, 0)
    except ValueError:
        return False
    rest = inner[end:].lstrip()
    if not rest:
        return True
    if rest.startswith("]"):
        return not rest[1:].strip()
    return rest.startswith(",") and rest[1:].lstrip()[:1] in tuple('"{[')


def _is_json(text: str) -> bool:
    try:
        parse_json(text, of_data=True)
    except JsonError:
        return False
    return True


def _are_strings(text: str) -> bool:
    """Whether each line is a JSON string, and they are several or one has an escape."""
    lines = [line for line in text.split("\n") if line.strip()]
    certain = "\\" in text or len(lines) >= _FEWEST_STRINGS
    return certain and all(line.startswith('"') and _is_json(line) for line in lines)


def _refuse_other_text(text: str, name: str) -> None:
    if not text.isascii() and is_encoded_twice(text):
        raise UserError(
            f"{name}: looks like UTF-8 that was converted to UTF-8 a second time; "
            "iconv -f UTF-8 -t WINDOWS-1252 OLD > NEW undoes it (--input-format text reads it as "
            "it is)"
        )
    kind = next((kind for kind, pattern in _OTHER_TEXT if pattern.match(text)), None)
    if kind is None and _is_quoted_printable(text):
        kind = "mail in quoted-printable form"
    if kind is None and len(_CLOSING_TAG.findall(text)) * _TAG_EVERY > len(text) + 4 * _TAG_EVERY:
        kind = "HTML"
    if kind is None and _is_wikitext(text):
        kind = "wikitext outside of a MediaWiki export"
    if kind is None and (_JSON_NAME.search(name) or _is_literal(text)):
        kind = "JSON in another form, or the literal of a program"
    if kind is not None:
        raise UserError(
            f"{name}: looks like {kind}, which is not read: extract the text first "
            "(--input-format text reads its lines as they are)"
        )


def _is_quoted_printable(text: str) -> bool:
    lines = text.count("\n") + 1
    cut = len(_SOFT_END.findall(text))
    return cut >= _FEWEST_LINES and (len(_QUOTED_BYTE.findall(text)) >= cut or 4 * cut >= lines)


def _is_wikitext(text: str) -> bool:
    found = [len(pattern.findall(text)) for pattern in _WIKITEXT]
    kinds = sum(count > 0 for count in found)
    return kinds > 1 and sum(found) >= 4 and sum(found) * _WIKITEXT_EVERY > len(text)


def _is_literal(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    found = sum(_LITERAL_LINE.match(line) is not None for line in lines)
    certain = found >= _FEWEST_LINES or _DICTIONARY.match(text) is not None
    return certain and 2 * found > len(lines)
