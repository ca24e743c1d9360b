"""Pages from a file or folder of any supported format, in one pass and in bounded memory."""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from megabert.common.errors import UserError
from megabert.common.files import sha256_of, sha256_of_file
from megabert.data.text import extracted
from megabert.data.text.input import mediawiki
from megabert.data.text.input.other_forms import refuse_other_form
from megabert.data.text.input.streams import PIECE, open_streams
from megabert.data.text.pages import Page

FORMATS = ("mediawiki", "wikiextractor", "jsonl", "text", "parquet")
_XML_NAME = re.compile(r"\.xml(-[^.]*)?(\.(bz2|gz|xz))?$", re.IGNORECASE)
_FIRST_TAG = re.compile(r"<([A-Za-z][\w:.-]*)")
_PARQUET = b"PAR"
_WIKIEXTRACTOR_KEYS = {"id", "url", "title", "text"}


def input_files(path: Path) -> list[Path]:
    """The file itself, or all files of a folder in path order, except hidden ones.

    Raises:
        UserError: the folder has no files.
    """
    if not path.is_dir():
        return [path]
    found = [
        item
        for item in path.rglob("*")
        if item.is_file() and not any(p.startswith(".") for p in item.relative_to(path).parts)
    ]
    if not found:
        raise UserError(f"{path}: an empty folder; name a dump or a folder of text files")
    return sorted(found, key=lambda item: item.relative_to(path).parts)


def head_of(stream: io.BufferedReader) -> bytes:
    """Up to PIECE of the next bytes, without consuming them."""
    return stream.peek(PIECE)


def sniff(head: bytes, name: str) -> str:
    """The format of a stream, detected from its first bytes.

    Raises:
        UserError: the format is not supported.
    """
    if head.startswith(_PARQUET):
        raise UserError(f"{name}: Parquet inside an archive is not supported; extract it first")
    try:
        text = head.decode("utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            raise UserError(_unknown(name)) from None
        text = head[: error.start].decode("utf-8-sig")
    text = text.lstrip()
    if "\x00" in text:
        raise UserError(_unknown(name))
    if text.startswith("<doc "):
        return "wikiextractor"
    refuse_other_form(text, name)
    if text.startswith(("<mediawiki", "<?xml", "<!DOCTYPE")):
        return "mediawiki"
    if text.startswith("{"):
        return _sniff_json(text)
    if _XML_NAME.search(name):
        raise UserError(f"{name}: not XML, although its name says so: it begins with {text[:30]!r}")
    if text.startswith("<"):
        tag = _FIRST_TAG.match(text)
        kind = f"a file beginning with <{tag.group(1)}>" if tag else "an unknown format"
        raise UserError(f"{name}: {kind} is not supported; {_expected()}")
    return "text"


def _sniff_json(text: str) -> str:
    try:
        record = json.loads(text.split("\n", 1)[0])
    except ValueError:
        return "jsonl"
    whole = isinstance(record, dict) and set(record) >= _WIKIEXTRACTOR_KEYS
    return "wikiextractor" if whole else "jsonl"


def _expected() -> str:
    return "expected MediaWiki XML, wikiextractor output, JSONL or UTF-8 text"


def _unknown(name: str) -> str:
    return f"{name}: unknown format (binary data); {_expected()}"


def check_format(input_format: str) -> None:
    """Accept "auto" or one of FORMATS.

    Raises:
        UserError: it is something else.
    """
    if input_format not in ("auto", *FORMATS):
        raise UserError(f"input format {input_format!r} is unknown; use auto, {', '.join(FORMATS)}")


def is_parquet_file(file: Path, input_format: str = "auto") -> bool:
    """Whether to read a file as Parquet: requested, or detected from its first bytes.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    if input_format not in ("auto", "parquet"):
        return False
    try:
        with file.open("rb") as handle:
            head = handle.read(4)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if input_format == "parquet" or not head.startswith(_PARQUET):
        return input_format == "parquet"
    from megabert.data.text.input import parquet

    return parquet.is_parquet(head)


def detect_format(path: Path) -> str:
    """One of FORMATS, detected from the content of the file, of a tar's first member, or of the
    first file of a folder that is not empty.

    Raises:
        UserError: the input is missing, damaged, empty or of an unsupported format.
    """
    path = Path(path)
    for file in input_files(path):
        if is_parquet_file(file):
            return "parquet"
        for name, stream in open_streams(file):
            head = head_of(stream)
            if head.strip():
                return sniff(head, name)
    raise no_text(path)


def no_text(path: Path) -> UserError:
    """The error of an input without any page."""
    return UserError(f"{path}: empty: it holds no page")


def iter_pages(
    path: Path,
    input_format: str = "auto",
    on_open: Callable[[BinaryIO], None] | None = None,
) -> Iterator[Page]:
    """Yield the pages of a file, a tar archive or a folder, in their order there.

    Compression (bzip2, gzip, xz, also multistream) and tar are detected from the content. Memory is
    bounded by the longest page. Pages of all namespaces and redirects are yielded;
    :func:`megabert.data.text.document.page_to_sentences` decides which to keep.

    Args:
        path: file or folder.
        input_format: "auto" or one of FORMATS.
        on_open: called with each file when it is opened; its ``tell()`` gives the progress.

    Raises:
        UserError: ``input_format`` is unknown, the path is missing, the data is damaged or
            truncated (the message names file and place), or there is no page.
    """
    path = Path(path)
    check_format(input_format)
    numbering = extracted.Numbering()
    any_page = False
    for file in input_files(path):
        for page in iter_file(file, input_format, numbering, on_open):
            any_page = True
            yield page
    if not any_page:
        raise no_text(path)


def iter_file(
    file: Path,
    input_format: str,
    numbering: extracted.Numbering,
    on_open: Callable[[BinaryIO], None] | None = None,
) -> Iterator[Page]:
    """Yield the pages of one file of an input, as :func:`iter_pages` does.

    ``numbering`` numbers the pages without a number of their own, over the whole input.
    """
    if is_parquet_file(file, input_format):
        from megabert.data.text.input import parquet

        for group in range(parquet.row_groups(file)):
            yield from parquet.read_row_group(file, group)
        return
    for name, stream in open_streams(file, on_open):
        head = head_of(stream)
        if head.strip():
            yield from _read(stream, name, head, input_format, numbering)


def _read(
    stream: io.BufferedReader,
    name: str,
    head: bytes,
    input_format: str,
    numbering: extracted.Numbering,
) -> Iterator[Page]:
    kind = sniff(head, name) if input_format == "auto" else input_format
    if kind == "mediawiki":
        yield from mediawiki.read_mediawiki(stream, name)
    elif kind == "jsonl" or (kind == "wikiextractor" and head.lstrip()[:1] == b"{"):
        yield from extracted.read_jsonl(stream, name, numbering)
    elif kind == "wikiextractor":
        yield from extracted.read_docs(stream, name, numbering)
    else:
        text = head.decode("utf-8-sig", errors="ignore")
        yield from extracted.read_text(stream, name, numbering, text)


def source_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; for a folder, over each file's relative name and digest.

    Raises:
        UserError: the path is missing or cannot be read.
    """
    path = Path(path)
    files = input_files(path)
    return joined_sha256(path, files, [file_sha256(file) for file in files])


def file_sha256(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        return sha256_of_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def joined_sha256(path: Path, files: Sequence[Path], digests: Sequence[str]) -> str:
    """The digest of an input, given those of its files in the order of :func:`input_files`."""
    if not path.is_dir():
        return digests[0]
    names = (file.relative_to(path).as_posix() for file in files)
    listing = "".join(f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))
    return sha256_of(listing)
