"""The inputs of a sharding job: checked, digested, and cut into units of work.

A *unit* is a segment that a worker reads by itself, or a stream that one process reads for all
workers. Units are numbered in the order of the input, and so are their batch files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megabert.common.errors import UserError, printable
from megabert.common.files import new_file
from megabert.common.progress import Progress
from megabert.data.prepare.notices.datasets import log_datasets
from megabert.data.prepare.notices.languages import decide_languages, is_sampled
from megabert.data.prepare.notices.namespaces import log_assumed_namespaces
from megabert.data.prepare.notices.repeated import log_repeated, same_contents, same_places
from megabert.data.prepare.options import ShardingOptions
from megabert.data.prepare.text_layouts import InputLayout, input_layouts, log_layouts
from megabert.data.prepare.worker import Survey, count_numbered, scan_piece, survey_file
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
    arrow_segments,
    block_segments,
    byte_segments,
    row_group_segments,
)
from megabert.data.text.input.sources import input_files, joined_sha256, no_text
from megabert.data.text.plain.layout import joined_samples
from megabert.data.text.reading import ReadingRules

_SCAN_BYTES = 1 << 24  # searched for bzip2 blocks in one task


@dataclass(frozen=True)
class InputFile:
    """A file of an input.

    Attributes:
        before: how many of the input's pages numbered by position precede it.
        repeated: an earlier file is the same, and this one is not read.
    """

    form: FileForm
    before: int
    repeated: bool = False


@dataclass(frozen=True)
class DigestedInputs:
    """All inputs, in order: their descriptions, how they are read, and their files."""

    infos: tuple[InputInfo, ...]
    layouts: tuple[InputLayout, ...]
    files: tuple[tuple[InputFile, ...], ...]

    @property
    def bytes(self) -> int:
        """Total size of the files that are read."""
        return sum(file.form.size for files in self.files for file in files if not file.repeated)

    @property
    def is_wiki(self) -> bool:
        """Whether any input is a wiki."""
        return any(layout.is_wiki for layout in self.layouts)


def survey_inputs(options: ShardingOptions, pool: TaskPool) -> DigestedInputs:
    """Digest all files, and decide how and in which language each is to be read.

    What was decided, and files that are given twice, are logged.

    Raises:
        UserError: a missing, unreadable or unknown input.
    """
    log_datasets(options.inputs, options.split)
    options.filters.warn_idle()
    files = [input_files(path, options.split) for path in options.inputs]
    every = [path for group in files for path in group]
    surveys = _surveys(files, every, pool)
    repeated = same_contents(every, lambda index: surveys[index].sha256, same_places(every))
    log_repeated(every, repeated)
    found = iter(surveys)
    groups = [[next(found) for _ in group] for group in files]
    layouts = input_layouts(
        options.inputs,
        [joined_samples(survey.sample for survey in group) for group in groups],
        options.reading,
    )
    log_layouts(layouts)
    languages = decide_languages(
        options.language,
        [
            (path, [s.facts.read_unless(s.index in repeated) for s in group])
            for path, group in zip(options.inputs, groups)
        ],
    )
    log_assumed_namespaces(
        (path, [s.form.head for s in group if s.form.head and s.index not in repeated])
        for path, group in zip(options.inputs, groups)
    )
    infos = []
    for layout, group, language in zip(layouts, groups, languages):
        paths = [survey.form.path for survey in group]
        digest = joined_sha256(layout.path, paths, [survey.sha256 for survey in group])
        name = printable(layout.path.resolve().name)
        size = sum(survey.form.size for survey in group)
        again = sum(survey.index in repeated for survey in group)
        infos.append(InputInfo(name, size, digest, layout.read_as, language, again))
    numbered = _numbered(options, layouts, groups, pool)
    inputs = []
    for group in groups:
        before = np.cumsum([0, *(numbered.get(survey.index, 0) for survey in group)]).tolist()
        inputs.append(
            tuple(
                InputFile(survey.form, count, survey.index in repeated)
                for survey, count in zip(group, before)
            )
        )
    return DigestedInputs(tuple(infos), tuple(layouts), tuple(inputs))


def _surveys(
    files: Sequence[Sequence[Path]], every: Sequence[Path], pool: TaskPool
) -> list[Survey]:
    """The survey of every file; one that is given by two paths is read once."""
    for path in every:
        if not path.exists():
            raise UserError(f"{path}: no such file")
    places = same_places(every)
    counted = [is_sampled(place, len(group)) for group in files for place in range(len(group))]
    tasks = [(i, path, counted[i]) for i, path in enumerate(every) if i not in places]
    progress = Progress("checking inputs", sum(path.stat().st_size for _, path, _ in tasks))
    found: dict[int, Survey] = {}
    size = 0
    with closing(pool.run_unordered(survey_file, tasks)) as results:
        for survey in results:
            found[survey.index] = survey
            size += survey.form.size
            progress.update(size, f"{size / 1e6:.1f} MB")
    for index, first in places.items():
        form = dataclasses.replace(found[first].form, path=every[index])
        found[index] = dataclasses.replace(found[first], index=index, form=form)
    return [found[index] for index in range(len(every))]


def _numbered(
    options: ShardingOptions,
    layouts: Sequence[InputLayout],
    groups: Sequence[Sequence[Survey]],
    pool: TaskPool,
) -> dict[int, int]:
    """How many pages a file numbers by their place, by the file's index.

    Files that no other file of the input follows are not counted.
    """
    counts: dict[int, int] = {}
    tasks = []
    for layout, group in zip(layouts, groups):
        for survey in group[:-1] if options.max_pages is None else ():
            form, sample = survey.form, survey.sample
            if form.kind == "batches":
                counts[survey.index] = form.rows
            if form.kind != "whole":
                continue
            if layout.rules.documents == "file" and dict(sample.formats) == {"text": 1}:
                counts[survey.index] = 1
            else:
                tasks.append((survey.index, form.path, layout.rules))
    with closing(pool.run_unordered(count_numbered, iter(tasks))) as results:
        counts.update(results)
    return counts


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
        sources = tuple(
            (layout.path, layout.rules, frozenset(f.form.path for f in files if f.repeated))
            for layout, files in zip(inputs.layouts, inputs.files)
            if not all(file.repeated for file in files)
        )
        stream = FirstPages(sources, options.max_pages, inputs.bytes)
        return Units((stream,), (), ((0, stream),), (), ())
    tables = _block_tables(inputs, work, pool)
    units: list[Segment | Stream] = []
    segments: list[tuple[int, Segment]] = []
    streams: list[tuple[int, Stream]] = []
    files: list[tuple[FileForm, range]] = []
    groups: list[tuple[Path, range]] = []
    for layout, group in zip(inputs.layouts, inputs.files):
        first_of_input = len(units)
        if all(file.repeated for file in group):
            continue
        for file in group:
            if file.repeated:
                continue
            first = len(units)
            for unit in _cut_file(file, layout.rules, options, tables):
                if isinstance(unit, WholeFile) and unit.size > options.segment_bytes:
                    streams.append((len(units), unit))
                else:
                    segments.append((len(units), unit))
                units.append(unit)
            files.append((file.form, range(first, len(units))))
        groups.append((layout.path, range(first_of_input, len(units))))
    return Units(tuple(units), tuple(segments), tuple(streams), tuple(files), tuple(groups))


def _cut_file(
    file: InputFile, rules: ReadingRules, options: ShardingOptions, tables: dict[Path, Path]
) -> Sequence[Segment]:
    form = file.form
    if form.kind == "blocks":
        table = tables[form.path]
        return block_segments(form, table, np.load(table), options.segment_bytes)
    if form.kind == "bytes":
        return byte_segments(form, UNPACKED_FACTOR * options.segment_bytes)
    if form.kind == "rows":
        return row_group_segments(form, rules)
    if form.kind == "batches":
        return arrow_segments(form, file.before, rules)
    if form.kind == "whole":
        return [WholeFile(form.path, rules, file.before, form.size)]
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
