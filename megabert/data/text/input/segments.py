"""Inputs split into segments that any process can read independently.

| file | segment |
|---|---|
| MediaWiki XML in bzip2, of any number of streams | the pages that begin in a run of blocks |
| MediaWiki XML, uncompressed | the pages that begin in a range of bytes |
| Parquet | a row group |
| Arrow | a run of record batches of about 8 MiB |
| any other file | the whole file |

The split is a pure function of the file's bytes and ``segment_bytes``. Read segment by segment, the
pages and their order are those of :func:`megabert.data.text.input.sources.iter_pages`, except that
a MediaWiki page without a number of its own is numbered by segment and place.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from megabert.data.text.input import mediawiki
from megabert.data.text.input.bzip2 import BlockFile
from megabert.data.text.input.compression import PIECE, compressed_fault
from megabert.data.text.input.formats import stream_format
from megabert.data.text.input.sources import column_format, head_of, iter_file, iter_pages
from megabert.data.text.input.streams import open_streams, packing_of
from megabert.data.text.pages import Page, Site
from megabert.data.text.plain.records import Numbering
from megabert.data.text.reading import AUTOMATIC, ReadingRules

if TYPE_CHECKING:
    from megabert.data.text.input.arrow.pages import ArrowPiece

SEGMENT_BYTES = 1 << 21
"""Compressed bytes of a segment: 8 to 10 MB of XML, a few seconds of work."""
MAX_BLOCKS = 32
"""Blocks of a segment at most: 29 MB of XML of the usual kind, of which 10 MB are usual."""
UNPACKED_FACTOR = 4
"""Size of the segments of an uncompressed file, as a multiple of ``SEGMENT_BYTES``."""
_PAGES_OF_A_SEGMENT = 32  # bits of a page's number that count within a segment
_ENCODING = re.compile(rb"<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"']+)")

OnOpen = Callable[[BinaryIO], None]


@dataclass(frozen=True)
class FileForm:
    """How a file is read.

    Attributes:
        path, size: the file, and its bytes.
        kind: "blocks" (MediaWiki XML in bzip2), "bytes" (the same, uncompressed), "rows" (Parquet),
            "batches" (Arrow), "whole" (any other file) or "empty" (no text).
        head: what MediaWiki XML says at its beginning (of an archive, the first member); None for
            other files.
        groups: number of Parquet row groups.
        pieces: of an Arrow file.
    """

    path: Path
    size: int
    kind: Literal["blocks", "bytes", "rows", "batches", "whole", "empty"]
    head: mediawiki.DumpHead | None = field(default=None, repr=False)
    groups: int = 0
    pieces: tuple[ArrowPiece, ...] = field(default=(), repr=False)

    @property
    def rows(self) -> int:
        """Rows of an Arrow file."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def site(self) -> Site:
        """The wiki of MediaWiki XML."""
        return Site() if self.head is None else self.head.site


def inspect_file(path: Path, rules: ReadingRules = AUTOMATIC) -> FileForm:
    """How to read a file, by its first bytes.

    Raises:
        UserError: the format is unknown, or another than the rules say.
    """
    size = path.stat().st_size if path.is_file() else 0
    columns = column_format(path, rules.input_format)
    if columns == "arrow":
        from megabert.data.text.input.arrow.pages import arrow_pieces

        return FileForm(path, size, "batches", pieces=arrow_pieces(path, rules.text_field))
    if columns == "parquet":
        from megabert.data.text.input import parquet

        return FileForm(path, size, "rows", groups=parquet.row_groups(path, rules.text_field))
    for name, stream in open_streams(path):
        start = head_of(stream)
        if not start.strip():
            continue
        if stream_format(start, name, rules) != "mediawiki":
            return FileForm(path, size, "whole")
        head = mediawiki.read_head(stream, name)
        packed = packing_of(stream)
        if packed not in ((), ("bz2",)) or not _is_utf8(start):
            return FileForm(path, size, "whole", head)
        return FileForm(path, size, "blocks" if packed else "bytes", head)
    return FileForm(path, size, "empty")


def _is_utf8(head: bytes) -> bool:
    declared = _ENCODING.search(head[:512])
    return declared is None or declared.group(1).lower() in (b"utf-8", b"us-ascii", b"ascii")


@dataclass(frozen=True)
class BlockSegment:
    """Blocks ``first`` to ``last`` (exclusive) of the table in ``table``, a .npy file made by
    :func:`megabert.data.text.input.bzip2.find_blocks`; ``index`` is the segment's place in the
    file."""

    path: Path
    table: Path
    first: int
    last: int
    index: int
    site: Site
    size: int

    def pages(self) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        table = np.load(self.table, mmap_mode="r")
        with BlockFile(self.path) as source:
            blocks = _Blocks(source)
            yield from mediawiki.read_segment(
                blocks.decode(table[self.first : self.last]),
                blocks.decode(table[self.last :]),
                source.name,
                base=self.index << _PAGES_OF_A_SEGMENT,
                site=self.site,
                place=blocks.place if self.index else mediawiki.line_and_byte,
            )


class _Blocks:
    """Decodes blocks in order, and keeps track of its place in the file."""

    def __init__(self, source: BlockFile) -> None:
        self._source = source
        self._byte = 0

    def decode(self, blocks: npt.NDArray[np.int64]) -> Iterator[bytes]:
        for row in blocks:
            start, stop, level = (int(value) for value in row)
            self._byte = start // 8
            try:
                yield self._source.decode(start, stop, level)
            except OSError as error:
                what = f"damaged bz2 data ({error})"
                raise compressed_fault(self._source.name, what, self._byte) from None

    def place(self, _error: expat.ExpatError, _byte: int) -> str:
        return f"the block at compressed byte {self._byte:,}"


@dataclass(frozen=True)
class ByteSegment:
    """Bytes ``start`` to ``stop`` of an uncompressed file; ``index``: the segment's place in it."""

    path: Path
    start: int
    stop: int
    index: int
    site: Site

    @property
    def size(self) -> int:
        return self.stop - self.start

    def pages(self) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            owned = (
                file.read(min(PIECE, self.stop - at)) for at in range(self.start, self.stop, PIECE)
            )
            yield from mediawiki.read_segment(
                owned,
                iter(lambda: file.read(PIECE), b""),
                str(self.path),
                base=self.index << _PAGES_OF_A_SEGMENT,
                site=self.site,
                place=self._near(file) if self.index else mediawiki.line_and_byte,
            )

    @staticmethod
    def _near(file: io.BufferedReader) -> mediawiki.Place:
        return lambda _error, _byte: f"at most {PIECE:,} bytes before byte {file.tell():,}"


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file."""

    path: Path
    group: int
    size: int
    rules: ReadingRules = AUTOMATIC

    def pages(self) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        from megabert.data.text.input import parquet

        yield from parquet.read_row_group(self.path, self.group, self.rules)


@dataclass(frozen=True)
class ArrowRows:
    """A piece of an Arrow file, after ``before`` rows of its input."""

    path: Path
    piece: ArrowPiece
    before: int
    rules: ReadingRules = AUTOMATIC

    @property
    def size(self) -> int:
        return self.piece.size

    def pages(self) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        from megabert.data.text.input.arrow.pages import read_arrow_piece

        yield from read_arrow_piece(self.path, self.piece, self.before, self.rules)


@dataclass(frozen=True)
class WholeFile:
    """A whole file, after ``before`` pages of earlier files of its input."""

    path: Path
    rules: ReadingRules
    before: int
    size: int

    def pages(self, on_open: OnOpen | None = None) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        yield from iter_file(self.path, self.rules, Numbering(self.before), on_open)


@dataclass(frozen=True)
class FirstPages:
    """The first ``limit`` pages of all inputs, read one after the other.

    ``inputs`` holds each input's path, its rules, and files of it that are not read.
    """

    inputs: tuple[tuple[Path, ReadingRules, frozenset[Path]], ...]
    limit: int
    size: int

    def pages(self, on_open: OnOpen | None = None) -> Iterator[Page]:
        """Its pages. Raises ``UserError`` for damage."""
        pages = chain.from_iterable(
            iter_pages(path, rules, on_open, skipped) for path, rules, skipped in self.inputs
        )
        yield from islice(pages, self.limit)


Segment = BlockSegment | ByteSegment | RowGroup | ArrowRows | WholeFile
"""What a worker reads independently."""
Stream = WholeFile | FirstPages
"""What one process reads for all workers."""


def block_segments(
    form: FileForm, table: Path, blocks: npt.NDArray[np.int64], segment_bytes: int
) -> list[BlockSegment]:
    """Runs of blocks of at least ``segment_bytes`` each, or of MAX_BLOCKS, except for the last one.

    What a block unpacks to is known only when it is read, but it is rarely more than 900 kB.

    Args:
        form: the file.
        table: the .npy file that holds ``blocks``.
        blocks: [n, 3] of :func:`megabert.data.text.input.bzip2.find_blocks`.
        segment_bytes: minimum compressed size of a segment.
    """
    segments: list[BlockSegment] = []
    sizes = np.diff(blocks[:, 0] // 8, append=form.size)
    first = size = 0
    for index, block in enumerate(sizes.tolist()):
        size += block
        if size >= segment_bytes or index + 1 in (first + MAX_BLOCKS, len(sizes)):
            place = len(segments)
            segments.append(
                BlockSegment(form.path, table, first, index + 1, place, form.site, size)
            )
            first, size = index + 1, 0
    return segments


def byte_segments(form: FileForm, segment_bytes: int) -> list[ByteSegment]:
    """Ranges of ``segment_bytes`` each, except for the last one."""
    return [
        ByteSegment(form.path, start, min(start + segment_bytes, form.size), index, form.site)
        for index, start in enumerate(range(0, form.size, segment_bytes))
    ]


def arrow_segments(form: FileForm, before: int, rules: ReadingRules = AUTOMATIC) -> list[ArrowRows]:
    """All pieces of an Arrow file, after ``before`` rows of earlier files of its input."""
    segments = []
    for piece in form.pieces:
        segments.append(ArrowRows(form.path, piece, before, rules))
        before += piece.rows
    return segments


def row_group_segments(form: FileForm, rules: ReadingRules = AUTOMATIC) -> list[RowGroup]:
    """All row groups of a Parquet file."""
    size = form.size // max(1, form.groups)
    return [RowGroup(form.path, group, size, rules) for group in range(form.groups)]
