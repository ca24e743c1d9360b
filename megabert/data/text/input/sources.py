"""Pages from a file or folder of any supported format, in one pass and in bounded memory."""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from megabert.common.errors import UserError
from megabert.common.files import require_file, sha256_of, sha256_of_file
from megabert.data.text import extracted
from megabert.data.text.input import mediawiki
from megabert.data.text.input.arrow.folders import DatasetFolder, dataset_folders
from megabert.data.text.input.formats import PARQUET, head_text, is_arrow, sniff, stream_format
from megabert.data.text.input.streams import PIECE, open_streams, packing
from megabert.data.text.pages import Page
from megabert.data.text.plain.documents import read_text
from megabert.data.text.plain.json_values import read_json_values
from megabert.data.text.plain.layout import (
    RECORD,
    SAMPLE,
    TextSample,
    joined_samples,
    resolved_rules,
    sample_of,
)
from megabert.data.text.plain.records import (
    Numbering,
    first_pages,
    read_jsonl,
    texts_wrapping,
    with_joined_lines,
)
from megabert.data.text.plain.tables import named_dialect, read_rows, table_dialect
from megabert.data.text.reading import AUTO, AUTOMATIC, RECORDS, ReadingRules

_SAMPLED_MEMBERS = 64  # of an archive


def input_files(path: Path, split: str = AUTO) -> list[Path]:
    """The file itself, or all files of a folder in path order, except hidden ones.

    Of a folder of the datasets library, and of each one in it, these are the Arrow files of ``split``.

    Raises:
        UserError: the folder has no files; the file is a pipe or a device; a folder of the datasets
            library is not complete, or has no such split.
    """
    if not path.is_dir():
        if path.exists():
            require_file(path)  # it is read more than once
        return [path]
    found = _visible_files(path)
    if not found:
        raise UserError(f"{path}: an empty folder; name a dump or a folder of text files")
    files: dict[tuple[str, ...], tuple[Path, ...]] = {
        item.relative_to(path).parts: (item,) for item in found
    }
    for dataset in dataset_folders(found, split):
        home = dataset.path.relative_to(path).parts
        files = {key: item for key, item in files.items() if key[: len(home)] != home}
        files[home] = dataset.files
    return [item for _, items in sorted(files.items()) for item in items]


def _visible_files(folder: Path) -> list[Path]:
    return [
        item
        for item in folder.rglob("*")
        if item.is_file() and not any(p.startswith(".") for p in item.relative_to(folder).parts)
    ]


def datasets_in(path: Path, split: str = AUTO) -> list[DatasetFolder]:
    """The folders of the datasets library in an input; raises as :func:`input_files`."""
    return list(dataset_folders(_visible_files(path), split)) if path.is_dir() else []


def head_of(stream: io.BufferedReader) -> bytes:
    """Up to PIECE of the next bytes, without consuming them."""
    return stream.peek(PIECE)


def column_format(file: Path, input_format: str = AUTO) -> str:
    """ "parquet" or "arrow" if a file is read as that: requested, or detected from its first bytes; else "".

    Raises:
        UserError: the file is missing or cannot be read.
    """
    if input_format not in (AUTO, "parquet", "arrow"):
        return ""
    try:
        with file.open("rb") as handle:
            head = handle.read(8)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if input_format != AUTO:
        return input_format
    if head.startswith(PARQUET):
        from megabert.data.text.input import parquet

        return "parquet" if parquet.is_parquet(head) else ""
    return "arrow" if is_arrow(head) or file.suffix == ".arrow" else ""


def detect_format(path: Path) -> str:
    """One of FORMATS, detected from the content of the file, of a tar's first member, or of the
    first file of a folder that is not empty.

    Raises:
        UserError: the input is missing, damaged, empty or of an unsupported format.
    """
    path = Path(path)
    for file in input_files(path):
        if kind := column_format(file):
            return kind
        for name, stream in open_streams(file):
            head = head_of(stream)
            if head.strip():
                return sniff(head, name)
    raise no_text(path)


def no_text(path: Path) -> UserError:
    """The error of an input without any page."""
    return UserError(f"{path}: empty: it holds no document")


def iter_pages(
    path: Path,
    rules: ReadingRules = AUTOMATIC,
    on_open: Callable[[BinaryIO], None] | None = None,
    skipped: Collection[Path] = (),
) -> Iterator[Page]:
    """Yield the pages of a file, a tar archive or a folder, in their order there.

    Compression (bzip2, gzip, xz, Zstandard, also multistream) and tar are detected from the content. Memory is
    bounded by the longest page. Pages of all namespaces and redirects are yielded;
    :func:`megabert.data.text.document.page_to_sentences` decides which to keep.

    Args:
        path: file or folder.
        rules: how to read it.
        on_open: called with each file when it is opened; its ``tell()`` gives the progress.
        skipped: files that are left out.

    Raises:
        UserError: a rule is not valid, the path is missing, the data is damaged or truncated (the
            message names file and place), or there is no page.
    """
    path = Path(path)
    rules.check()
    files = [file for file in input_files(path, rules.split) if file not in skipped]
    if rules.documents == AUTO and (path.is_dir() or packing(path)[-1:] == ("tar",)):
        rules = resolved_rules(rules, joined_samples(sample_texts(file, rules) for file in files))
    numbering = Numbering()
    any_page = False
    for file in files:
        for page in iter_file(file, rules, numbering, on_open):
            any_page = True
            yield page
    if not any_page:
        raise no_text(path)


def iter_file(
    file: Path,
    rules: ReadingRules,
    numbering: Numbering,
    on_open: Callable[[BinaryIO], None] | None = None,
) -> Iterator[Page]:
    """Yield the pages of one file of an input, as :func:`iter_pages` does.

    ``numbering`` numbers the pages without a number of their own, over the whole input.
    """
    kind = column_format(file, rules.input_format)
    if kind == "arrow":
        from megabert.data.text.input.arrow.pages import iter_arrow

        for page in iter_arrow(file, numbering.last, rules):
            numbering.last += 1
            yield page
        return
    if kind == "parquet":
        from megabert.data.text.input import parquet

        for group in range(parquet.row_groups(file, rules.text_field)):
            yield from parquet.read_row_group(file, group, rules)
        return
    for name, stream in open_streams(file, on_open):
        head = head_of(stream)
        if head.strip():
            yield from _read(stream, name, head, rules, numbering)


def _read(
    stream: io.BufferedReader, name: str, head: bytes, rules: ReadingRules, numbering: Numbering
) -> Iterator[Page]:
    kind = stream_format(head, name, rules)
    if kind == "mediawiki":
        return mediawiki.read_mediawiki(stream, name)
    if kind == "wikiextractor" and head.lstrip()[:1] == b"{":
        return read_jsonl(stream, name, numbering, rules)
    if kind == "wikiextractor":
        return extracted.read_docs(stream, name, numbering, rules.skip)
    if kind == "text":
        return read_text(stream, name, numbering, rules)
    return with_joined_lines(_records(kind, stream, name, head, rules, numbering), rules)


def _records(
    kind: str,
    stream: io.BufferedReader,
    name: str,
    head: bytes,
    rules: ReadingRules,
    numbering: Numbering,
) -> Iterator[Page]:
    if kind == "jsonl":
        return read_jsonl(stream, name, numbering, rules)
    if kind == "json":
        return read_json_values(stream, name, numbering, rules)
    sample = head_text(head)
    dialect = table_dialect(sample, name, rules) if rules.input_format == AUTO else None
    return read_rows(stream, name, numbering, rules, dialect or named_dialect(sample, kind))


def sample_texts(file: Path, rules: ReadingRules) -> TextSample:
    """What a file, or the first members of a tar, hold: formats, and the layouts of text.

    Raises:
        UserError: the file is damaged or of an unsupported format.
    """
    if kind := column_format(file, rules.input_format):
        return TextSample({kind: 1})
    samples = []
    for number, (name, stream) in enumerate(open_streams(file)):
        if number == _SAMPLED_MEMBERS:
            samples.append(TextSample(complete=False, more_files=True))
            break
        head = head_of(stream)
        if head.strip():
            samples.append(_sample(stream, name, head, rules))
    return joined_samples(samples)


def _sample(stream: io.BufferedReader, name: str, head: bytes, rules: ReadingRules) -> TextSample:
    kind = stream_format(head, name, rules)
    if kind == "text":
        return sample_of(stream.read(SAMPLE), rules)
    if kind not in RECORDS:
        return TextSample({kind: 1})
    records = _records(kind, stream, name, head, rules, Numbering())
    texts = [page.text for page in first_pages(records)]
    joined = texts_wrapping(texts, rules) is not None
    complete = next(records, None) is None
    return TextSample(
        {kind: 1}, {(RECORD, joined): 1}, 0, sum(map(len, texts)), len(texts), complete
    )


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
    return sha256_of(listing.encode(errors="surrogateescape"))
