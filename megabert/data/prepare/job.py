"""The sharding job: it turns dumps into a folder of shards.

    inputs --workers--> digests, segments                              (inputs)
    segments --workers--> one batch file each                          (read, clean, split, encode)
    streams --reader processes--> batches of pages --workers--> batch files   (page_streams)
    batch files --main process--> plan                                 (duplicates, splits, bounds)
    plan --workers--> shards --main process--> tokenizer/, manifest.json

The content of every file depends only on (inputs, tokenizer, options): documents keep the order of
the input, and shards are cut by tokens. Neither the number of ranks and workers nor a kill followed
by ``resume`` changes a byte. Batch files stay in ``OUTPUT/.sharding`` until the manifest is
written.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.progress import Progress
from megabert.data.prepare.batch_files import batch_path
from megabert.data.prepare.filters.pairs import write_pairs
from megabert.data.prepare.inputs import DigestedInputs, Units, cut_inputs, survey_inputs
from megabert.data.prepare.mpi_ranks import task_pool
from megabert.data.prepare.notices.duplicates import duplicate_causes, duplicates_line
from megabert.data.prepare.options import ShardingOptions, ShardingReport, job_record
from megabert.data.prepare.output_folder import check_output, finished_manifest, output_folder
from megabert.data.prepare.page_streams import PageStreams
from megabert.data.prepare.plan import CorpusPlan, as_splits, header_of, make_plan
from megabert.data.prepare.text_layouts import warn_of_short_documents
from megabert.data.prepare.worker import (
    LOGGED,
    Done,
    EncodingTask,
    encode,
    prepare_worker,
    reused,
    write_shard,
)
from megabert.data.prepare.worker_pool import TaskPool, process_peak_memory
from megabert.data.shards.document_index import restore_document_index, write_document_index
from megabert.data.shards.manifest import (
    InputInfo,
    Manifest,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    save_manifest,
)
from megabert.data.text.counts import split_unknown
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer

_WORKERS_PER_READER = 16  # that one reader of a stream can keep busy


def shard(options: ShardingOptions) -> ShardingReport | None:
    """Run the whole job. Under MPI all ranks call this, and ranks above 0 get None.

    On an error the job removes what it wrote; with ``resume`` it leaves the finished batches for
    the next attempt.

    Raises:
        UserError: wrong inputs or options, an output folder that holds something else, a full disk,
            a dead worker.
    """
    options.check()
    started = time.monotonic()
    tokenizer = load_tokenizer(options.tokenizer, lower_case=options.lower_case)
    with task_pool(
        options.workers, prepare_worker, (options,), start_method=options.start_method
    ) as pool:
        return None if pool is None else _lead(options, tokenizer, pool, started)


def _lead(
    options: ShardingOptions, tokenizer: Tokenizer, pool: TaskPool, started: float
) -> ShardingReport:
    check_output(options.output, options.resume)
    inputs = survey_inputs(options, pool)
    info = tokenizer.info()
    job = job_record(options, info, inputs.infos)
    options = dataclasses.replace(options, language=job["options"]["language"])
    if (finished := finished_manifest(options.output, job, options.resume)) is not None:
        if restore_document_index(options.output, finished):
            get_logger().info("%s is written again", options.output / names.DOCUMENT_INDEX)
        return ShardingReport(finished, time.monotonic() - started)
    with output_folder(options.output, job, options.resume) as work:
        units = cut_inputs(options, inputs, work, pool)
        encoding = _Encoding(options, inputs, units, work, pool)
        batches = encoding.run()
        plan = make_plan(batches, options.shards, options.filters)
        _require_documents(plan, options, inputs.is_wiki)
        named = _units_by_name(units, inputs)
        compared = plan.documents + sum(len(copies.batches) for copies in plan.copies)
        for copies in plan.copies:
            causes = duplicate_causes(copies, batches, named)
            others = compared - sum(causes.values())
            if line := duplicates_line(causes, others, copies.reason):
                get_logger().warning(line)
        warn_of_short_documents(inputs.layouts, plan.documents, plan.sentences)
        splits = _write_shards(options, plan, batches, info, inputs.infos, pool)
        tokenizer.save(options.output / names.TOKENIZER_FOLDER)
        if options.filters.compares_text:
            write_pairs(options.output, plan.copies, batches, named, tokenizer)
        markup, unknown = split_unknown(plan.counts)
        manifest = Manifest(
            tokenizer=info,
            language=options.language,
            seed=options.seed,
            splits=splits,
            inputs=inputs.infos,
            options=job["options"],
            articles_read=plan.pages,
            dropped=plan.dropped,
            repeated_sentence_share=plan.repeated_sentence_share,
            markup=markup,
            unknown_templates=unknown,
            languages=plan.languages,
        )
        write_document_index(options.output, manifest)
        save_manifest(options.output, manifest)
    return ShardingReport(
        manifest=manifest,
        seconds=time.monotonic() - started,
        input_bytes=inputs.bytes,
        text_bytes=encoding.text_bytes,
        worker_seconds=encoding.worker_seconds,
        batches=len(batches),
        reused=encoding.reused,
        workers=pool.count,
        worker_memory=pool.peak_memory,
        main_memory=process_peak_memory(),
    )


# --- step 1: units to batch files ------------------------------------------------------------


class _Encoding:
    """Makes the batch files of all units and counts the work done."""

    def __init__(
        self,
        options: ShardingOptions,
        inputs: DigestedInputs,
        units: Units,
        work: Path,
        pool: TaskPool,
    ) -> None:
        self._options, self._units, self._work, self._pool = options, units, work, pool
        self._progress = Progress("reading, cleaning, encoding", inputs.bytes)
        self._words = ("pages", "articles") if inputs.is_wiki else ("documents", "kept")
        self._pages = [0] * len(units.units)  # read from each unit
        self._position = {unit: 0 for unit, _ in units.streams}  # bytes read from each stream
        self._bytes = 0  # of the input, read so far
        self._articles = 0
        self._logged = 0  # lines left out
        self._batches: set[tuple[int, int]] = set()
        self.text_bytes = 0
        self.worker_seconds = 0.0
        self.reused = 0

    def run(self) -> list[Path]:
        """Make all batch files; return their paths in the order of the input.

        Raises:
            UserError: a damaged input, or one without a page.
        """
        readers = 1 + self._pool.count // _WORKERS_PER_READER
        with (
            PageStreams(
                self._units.streams,
                self._work,
                batch_characters=self._options.batch_characters,
                at_once=readers,
                start_method=self._options.start_method,
            ) as streams,
            closing(self._pool.run_unordered(encode, self._tasks(streams))) as results,
        ):
            for done in results:
                self._count(done)
        self._progress.close(self._describe())
        self._units.require_pages(self._pages)
        there = {path.name for path in self._work.iterdir()}
        batches = [batch_path(self._work, *batch) for batch in sorted(self._batches)]
        for path in batches:
            if path.name not in there:
                raise UserError(
                    f"{path}: a worker wrote this file, but it is not visible here: give an "
                    "--output on a file system that all hosts share"
                )
        return batches

    def _tasks(self, streams: PageStreams) -> Iterator[EncodingTask | None]:
        segments = iter(self._units.segments)
        while True:
            batch = streams.poll()
            if batch is not None:
                self._bytes += batch.position - self._position[batch.unit]
                self._position[batch.unit] = batch.position
                if batch.pages is None:
                    self._count(reused(self._work, batch.unit, batch.part))
                else:
                    yield EncodingTask(batch.unit, batch.part, batch.pages)
            elif (segment := next(segments, None)) is not None:
                yield EncodingTask(segment[0], 0, segment[1])
            elif streams.finished:
                return
            else:
                yield None

    def _count(self, done: Done) -> None:
        self._batches.add((done.unit, done.part))
        self._pages[done.unit] += done.pages
        self._articles += done.articles
        for message in done.bad_lines[: LOGGED - self._logged]:
            get_logger().warning(f"left out: {message}")
            self._logged += 1
        self.text_bytes += done.text_bytes
        self.worker_seconds += done.seconds
        self.reused += done.reused
        if done.unit not in self._position:
            self._bytes += self._units.units[done.unit].size
        self._progress.update(self._bytes, self._describe())

    def _describe(self) -> str:
        elapsed = max(time.monotonic() - self._progress.started, 1e-9)
        pages, size = sum(self._pages), self._bytes / 1e6
        read, kept = self._words
        again = f"  {self.reused} batches finished earlier" if self.reused else ""
        return (
            f"{pages} {read}  {self._articles} {kept}  {pages / elapsed:.0f} {read}/s  "
            f"{size / elapsed:.2f} MB/s of input  {self.text_bytes / 1e6:.1f} MB of text{again}"
        )


# --- step 2: batch files to shards -----------------------------------------------------------


def _write_shards(
    options: ShardingOptions,
    plan: CorpusPlan,
    batches: Sequence[Path],
    tokenizer: TokenizerInfo,
    inputs: Sequence[InputInfo],
    pool: TaskPool,
) -> dict[str, SplitInfo]:
    progress = Progress("writing shards", len(plan.shards))
    tasks = (
        (
            piece,
            header_of(piece, options.language, tokenizer, options.seed, inputs),
            [batches[number] for number, _ in piece.parts],
        )
        for piece in plan.shards
    )
    written: list[tuple[str, ShardInfo]] = []
    with closing(pool.run_unordered(write_shard, tasks)) as results:
        for made in results:
            written.append(made)
            progress.update(len(written), f"{len(written)} of {len(plan.shards)} shards")
    progress.close(f"{len(written)} shards")
    return as_splits(written)


def _units_by_name(units: Units, inputs: DigestedInputs) -> list[tuple[str, range]]:
    """Each input's name and its units; nothing if all inputs are one stream."""
    names_of = {layout.path: info.name for layout, info in zip(inputs.layouts, inputs.infos)}
    return [(names_of[path], found) for path, found in units.inputs]


def _require_documents(plan: CorpusPlan, options: ShardingOptions, is_wiki: bool) -> None:
    documents, read = ("articles", "pages") if is_wiki else ("documents", "documents read")
    if not plan.shards:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(plan.dropped.items()))
        raise UserError(
            f"{options.inputs[0]}: 0 {documents} kept of {plan.pages} {read} ({reasons}): "
            "check --input-format, --language and --min-document-tokens"
        )
    present = {piece.split for piece in plan.shards}
    if names.TRAIN not in present:
        raise UserError(
            f"{options.inputs[0]}: all {documents} are in the evaluation split: "
            "lower --eval-fraction"
        )
    if options.eval_fraction > 0 and names.EVAL not in present:
        get_logger().warning("the evaluation split is empty: the input is small")
