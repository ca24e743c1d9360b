"""The tasks of a worker process of the sharding job, one function each."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from megabert.common.errors import UserError
from megabert.data.prepare.batch_files import (
    batch_path,
    is_whole,
    join_batches,
    load_batch,
    save_batch,
)
from megabert.data.prepare.encode import EncodingRules, encode_pages, page_batches
from megabert.data.prepare.notices.languages import LanguageFacts, language_facts
from megabert.data.prepare.options import ShardingOptions
from megabert.data.prepare.output_folder import WORK_FOLDER
from megabert.data.prepare.plan import ShardPlan, write_planned
from megabert.data.shards.manifest import ShardInfo
from megabert.data.shards.writer import ShardHeader
from megabert.data.text.input.bzip2 import BlockFile
from megabert.data.text.input.bzip2_marks import OVERLAP, Marks, find_marks
from megabert.data.text.input.segments import FileForm, Segment, inspect_file
from megabert.data.text.input.sources import file_sha256, iter_file, sample_texts
from megabert.data.text.languages import AUTO, DEFAULT, page_language
from megabert.data.text.pages import Page
from megabert.data.text.plain.layout import TextSample
from megabert.data.text.plain.records import Numbering
from megabert.data.text.reading import BAD_LINE, ReadingRules
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.chinese_words import find_words
from megabert.data.tokenizers.load import load_tokenizer

LOGGED = 5
"""Lines left out that are logged; the others are only counted."""


class _Worker:
    """State of a worker process between tasks."""

    options: ShardingOptions
    work: Path
    tokenizer: Tokenizer
    rules: dict[str, EncodingRules]


def prepare_worker(options: ShardingOptions) -> None:
    """Set up a worker process."""
    _Worker.options = options
    _Worker.work = options.output / WORK_FOLDER
    _Worker.tokenizer = load_tokenizer(options.tokenizer, lower_case=options.lower_case)
    _Worker.rules = {}
    _rules_for(DEFAULT if options.language == AUTO else options.language)


def _rules_for(language: str) -> EncodingRules:
    """The rules of a language, made once."""
    rules = _Worker.rules.get(language)
    if rules is None:
        options = _Worker.options
        rules = _Worker.rules[language] = EncodingRules(
            language,
            options.min_document_tokens,
            options.eval_fraction,
            options.seed,
            find_words(language, options.word_boundaries),
            options.filters,
        )
    return rules


@dataclass(frozen=True)
class Survey:
    """A file's digest and how it is read.

    Attributes:
        sample: of a file without segments.
        facts: what it shows of its language.
    """

    index: int
    sha256: str
    form: FileForm
    sample: TextSample
    facts: LanguageFacts


def survey_file(task: tuple[int, Path, bool]) -> Survey:
    """Detect a file's form and digest it; task: (index, file, whether to count letters)."""
    index, path, counted = task
    options = _Worker.options
    form = inspect_file(path, options.reading)
    facts = language_facts(form, options.reading, options.language, counted)
    form = replace(form, head=facts.head)
    if form.kind == "whole":
        sample = sample_texts(path, options.reading)
    else:
        name = {"rows": "parquet", "batches": "arrow"}.get(form.kind, "mediawiki")
        sample = TextSample({name: 1} if form.kind != "empty" else {})
    return Survey(index, file_sha256(path), form, sample, facts)


def count_numbered(task: tuple[int, Path, ReadingRules]) -> tuple[int, int]:
    """Count the pages that a file numbers by their place in the input; task: (index, file, rules).

    Returns (index, count).
    """
    index, path, rules = task
    numbering = Numbering()
    for _ in iter_file(path, rules, numbering):
        pass
    return index, numbering.last


def scan_piece(
    task: tuple[tuple[int, int], Path, int, int],
) -> tuple[tuple[int, int], Marks, int]:
    """Find the bzip2 marks in bytes ``start`` to ``stop`` of a file.

    task: (label, file, start, stop). Returns (label, marks, bytes).
    """
    label, path, start, stop = task
    with BlockFile(path) as file:
        marks = find_marks(file.read(start, stop - start + OVERLAP), start, stop - start)
    return label, marks, stop - start


@dataclass(frozen=True)
class Done:
    """A finished batch ``part`` of ``unit``.

    Attributes:
        pages: pages read.
        articles: articles encoded.
        text_bytes: UTF-8 bytes of page text.
        seconds: CPU seconds.
        reused: an earlier attempt had made the batch; then text_bytes and seconds are 0.
        bad_lines: the first messages about lines that were left out.
    """

    unit: int
    part: int
    pages: int
    articles: int
    text_bytes: int
    seconds: float
    reused: bool
    bad_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodingTask:
    """Batch ``part`` of ``unit``, to be made from a segment or from pickled pages."""

    unit: int
    part: int
    source: Segment | bytes


def encode(task: EncodingTask) -> Done:
    """Read, clean and encode pages into one batch file, unless an earlier attempt finished it."""
    if isinstance(task.source, bytes):
        return _encode(task, [pickle.loads(task.source)])
    if is_whole(batch_path(_Worker.work, task.unit, task.part)):
        return reused(_Worker.work, task.unit, task.part)
    return _encode(task, page_batches(task.source.pages(), _Worker.options.batch_characters))


def reused(work: Path, unit: int, part: int) -> Done:
    """The report of a batch that an earlier attempt finished."""
    batch = load_batch(batch_path(work, unit, part))
    return Done(unit, part, batch.pages, len(batch.document_ids), 0, 0.0, True)


def _encode(task: EncodingTask, groups: Iterable[list[Page]]) -> Done:
    started = time.process_time()
    batches = []
    text_bytes = 0
    bad: list[str] = []
    for pages in groups:
        for rules, part in _by_language(pages):
            batches.append(encode_pages(part, _Worker.tokenizer, rules))
        text_bytes += sum(len(page.text.encode("utf-8", "replace")) for page in pages)
        bad += [page.title for page in pages if page.model == BAD_LINE][: LOGGED - len(bad)]
    if not batches:
        batches = [encode_pages([], _Worker.tokenizer, _rules_for(DEFAULT))]
    batch = join_batches(batches)
    if not _Worker.work.is_dir():
        raise UserError(
            f"{_Worker.options.output}: not visible on every host: give an --output on a file "
            "system that all hosts share"
        )
    save_batch(batch_path(_Worker.work, task.unit, task.part), batch)
    seconds = time.process_time() - started
    articles = len(batch.document_ids)
    return Done(task.unit, task.part, batch.pages, articles, text_bytes, seconds, False, tuple(bad))


def _by_language(pages: list[Page]) -> Iterator[tuple[EncodingRules, list[Page]]]:
    """The pages in order, as runs of one language; nearly always one run."""
    choice = _Worker.options.language
    for language, part in groupby(pages, lambda page: page_language(choice, page.site.language)):
        yield _rules_for(language), list(part)


def write_shard(task: tuple[ShardPlan, ShardHeader, list[Path]]) -> tuple[str, ShardInfo]:
    """Write one shard; task: (plan, header, the batch file of each of ``plan.parts``)."""
    plan, header, batches = task
    return plan.split, write_planned(_Worker.options.output, plan, header, batches)
