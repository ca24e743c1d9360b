"""The inputs of a sharding job: checked, digested, and cut into units of work.

A *unit* is a segment that a worker reads by itself, or a stream that one process reads for all
workers. Units are numbered in the order of the input, and so are their batch files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megabert.common.files import new_file
from megabert.common.progress import Progress
from megabert.data.prepare.options import ShardingOptions, input_bytes
from megabert.data.prepare.worker import Survey, scan_piece, survey_file
from megabert.data.prepare.worker_pool import TaskPool
from megabert.data.shards.manifest import InputInfo
from megabert.data.text.input.bzip2 import BlockFile, find_blocks
from megabert.data.text.input.bzip2_marks import Marks
from megabert.data.text.input.mediawiki import no_page
from megabert.data.text.input.segments import (
    UNPACKED_FACTOR,
    FileForm,
    FirstPages,
    Segment,
    Stream,
    WholeFile,
    block_segments,
    byte_segments,
    row_group_segments,
)
from megabert.data.text.input.sources import check_format, input_files, joined_sha256, no_text

_SCAN_BYTES = 1 << 24  # searched for bzip2 blocks in one task


@dataclass(frozen=True)
class InputFile:
    """A file of an input, and how many of the input's pages numbered by position precede it."""

    form: FileForm
    before: int


@dataclass(frozen=True)
class DigestedInputs:
    """All inputs, in order: their descriptions and their files."""

    infos: tuple[InputInfo, ...]
    files: tuple[tuple[InputFile, ...], ...]

    @property
    def bytes(self) -> int:
        """Total size of the files that are read."""
        return sum(file.form.size for files in self.files for file in files)


def survey_inputs(options: ShardingOptions, pool: TaskPool) -> DigestedInputs:
    """Digest all files and detect how each is to be read.

    Raises:
        UserError: a missing, unreadable or unknown input.
    """
    check_format(options.input_format)
    files = [input_files(path) for path in options.inputs]
    tasks = [
        (path, place + 1 < len(group) and options.max_pages is None)
        for group in files
        for place, path in enumerate(group)
    ]
    progress = Progress("checking inputs", sum(input_bytes(path) for path in options.inputs))
    surveys: list[Survey] = []
    size = 0
    numbered = ((index, path, count) for index, (path, count) in enumerate(tasks))
    with closing(pool.run_unordered(survey_file, numbered)) as results:
        for survey in results:
            surveys.append(survey)
            size += survey.form.size
            progress.update(size, f"{size / 1e6:.1f} MB")
    found = iter(sorted(surveys, key=lambda survey: survey.index))
    infos, groups = [], []
    for path, group in zip(options.inputs, files):
        own = [next(found) for _ in group]
        digest = joined_sha256(path, group, [survey.sha256 for survey in own])
        infos.append(InputInfo(path.resolve().name, input_bytes(path), digest))
        before = np.cumsum([0, *(survey.numbered for survey in own)]).tolist()
        groups.append(tuple(InputFile(s.form, before[i]) for i, s in enumerate(own)))
    return DigestedInputs(tuple(infos), tuple(groups))


@dataclass(frozen=True)
class Units:
    """The units of a job in order, and which of them belong to which file and input."""

    units: tuple[Segment | Stream, ...]
    segments: tuple[tuple[int, Segment], ...]
    streams: tuple[tuple[int, Stream], ...]
    files: tuple[tuple[FileForm, range], ...]
    inputs: tuple[tuple[Path, range], ...]

    def require_pages(self, pages: Sequence[int]) -> None:
        """Raise ``UserError`` for an input or a MediaWiki file without a page.

        Args:
            pages: pages read from each unit.
        """
        for form, units in self.files:
            if form.kind in ("blocks", "bytes") and not sum(pages[unit] for unit in units):
                raise no_page(str(form.path))
        for path, units in self.inputs:
            if not sum(pages[unit] for unit in units):
                raise no_text(path)


def cut_inputs(
    options: ShardingOptions, inputs: DigestedInputs, work: Path, pool: TaskPool
) -> Units:
    """Cut the inputs into units. The tables of bzip2 blocks are written into the folder ``work``.

    With ``max_pages`` all inputs together are one stream.

    Raises:
        UserError: a bzip2 file whose block structure is damaged.
    """
    if options.max_pages is not None:
        stream = FirstPages(options.inputs, options.input_format, options.max_pages, inputs.bytes)
        return Units((stream,), (), ((0, stream),), (), ())
    tables = _block_tables(inputs, work, pool)
    units: list[Segment | Stream] = []
    segments: list[tuple[int, Segment]] = []
    streams: list[tuple[int, Stream]] = []
    files: list[tuple[FileForm, range]] = []
    groups: list[tuple[Path, range]] = []
    for path, group in zip(options.inputs, inputs.files):
        first_of_input = len(units)
        for file in group:
            first = len(units)
            for unit in _cut_file(file, options, tables):
                if isinstance(unit, WholeFile) and unit.size > options.segment_bytes:
                    streams.append((len(units), unit))
                else:
                    segments.append((len(units), unit))
                units.append(unit)
            files.append((file.form, range(first, len(units))))
        groups.append((path, range(first_of_input, len(units))))
    return Units(tuple(units), tuple(segments), tuple(streams), tuple(files), tuple(groups))


def _cut_file(
    file: InputFile, options: ShardingOptions, tables: dict[Path, Path]
) -> Sequence[Segment]:
    form = file.form
    if form.kind == "blocks":
        table = tables[form.path]
        return block_segments(form, table, np.load(table), options.segment_bytes)
    if form.kind == "bytes":
        return byte_segments(form, UNPACKED_FACTOR * options.segment_bytes)
    if form.kind == "rows":
        return row_group_segments(form)
    if form.kind == "whole":
        return [WholeFile(form.path, options.input_format, file.before, form.size)]
    return []


def _block_tables(inputs: DigestedInputs, work: Path, pool: TaskPool) -> dict[Path, Path]:
    """Find the blocks of all bzip2 dumps; return the file that holds each dump's table."""
    forms = {file.form.path: file.form for files in inputs.files for file in files}
    dumps = [form for form in forms.values() if form.kind == "blocks"]
    if not dumps:
        return {}
    progress = Progress("finding bzip2 blocks", sum(form.size for form in dumps))
    pieces = [-(-form.size // _SCAN_BYTES) for form in dumps]
    marks: list[dict[int, Marks]] = [{} for _ in dumps]
    tables: dict[Path, Path] = {}
    size = 0

    def tasks() -> Iterator[tuple[tuple[int, int], Path, int, int]]:
        for index, form in enumerate(dumps):
            for piece, start in enumerate(range(0, form.size, _SCAN_BYTES)):
                yield (index, piece), form.path, start, min(start + _SCAN_BYTES, form.size)

    with closing(pool.run_unordered(scan_piece, tasks())) as results:
        for (index, piece), found, length in results:
            marks[index][piece] = found
            size += length
            if len(marks[index]) == pieces[index]:
                parts = marks[index]
                joined = Marks.joined([parts[number] for number in range(len(parts))])
                tables[dumps[index].path] = _save_table(dumps[index], joined, work, index)
                marks[index] = {}
            progress.update(size, f"{size / 1e6:.1f} MB")
    return tables


def _save_table(form: FileForm, marks: Marks, work: Path, index: int) -> Path:
    with BlockFile(form.path) as source:
        blocks = find_blocks(marks, source)
    path = work / f"blocks-{index:06d}.npy"
    with new_file(path, durable=False) as temporary, temporary.open("wb") as file:
        np.save(file, blocks)
    return path
