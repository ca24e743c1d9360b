"""The sharding job: dumps in, a folder of shards out.

    pages --main process--> batches --workers--> one file a batch     (clean, split, encode)
    batch files --main process--> plan                                (duplicates, splits, bounds)
    plan --workers--> shards --main process--> tokenizer/, manifest.json

The content of every file is a pure function of (inputs, tokenizer, options): a batch is cut by
the length of its pages' text, documents keep the order of the input, and shards are cut by
tokens. Neither the number of workers nor a kill and ``resume`` changes a byte. Batch files live
in ``OUTPUT/.sharding`` until the manifest is written.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from megabert import naming
from megabert.data.encoding import EncodingRules, encode_pages, page_batches
from megabert.data.output_folder import finished_manifest, output_folder
from megabert.data.planning import Plan, ShardPlan, make_plan
from megabert.data.schema import (
    InputInfo,
    Manifest,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    save_manifest,
)
from megabert.data.shard_writer import ShardHeader, ShardWriter
from megabert.data.sharding_options import (
    ShardingOptions,
    ShardingReport,
    describe_input,
    job_record,
)
from megabert.data.spill import is_whole, load_batch, save_batch
from megabert.data.text.pages import Page
from megabert.data.text.sources import iter_pages
from megabert.data.tokenization import Tokenizer, load_tokenizer
from megabert.data.workers import WorkerPool
from megabert.log import Progress, UserError, get_logger


@dataclass(frozen=True)
class _Done:
    """Work done: pages read, articles kept, text in bytes, CPU seconds of the workers."""

    pages: int
    articles: int
    text_bytes: int
    seconds: float

    def plus(self, other: _Done) -> _Done:
        return _Done(
            self.pages + other.pages,
            self.articles + other.articles,
            self.text_bytes + other.text_bytes,
            self.seconds + other.seconds,
        )

    def describe(self, elapsed: float) -> str:
        size = self.text_bytes / 1e6
        return (
            f"{self.pages} pages  {self.articles} articles  {size:.1f} MB of text  "
            f"{size / max(elapsed, 1e-9):.2f} MB/s  {size / max(self.seconds, 1e-9):.2f} MB/s a core"
        )


def shard(options: ShardingOptions) -> ShardingReport:
    """Run the whole job.

    Raises ``UserError`` in one line for wrong inputs and options, an output folder of something
    else, a full disk, a dead worker; then nothing of this job stays behind, except that with
    ``resume`` the finished batches are kept for the next attempt.
    """
    options.check()
    started = time.monotonic()
    tokenizer = load_tokenizer(options.tokenizer, lower_case=options.lower_case)
    inputs = tuple(describe_input(path) for path in options.inputs)
    job = job_record(options, tokenizer.info(), inputs)
    if (finished := finished_manifest(options.output, job, options.resume)) is not None:
        return ShardingReport(finished, time.monotonic() - started, 0, 0.0, 0, 0)
    with output_folder(options.output, job, options.resume) as work:
        with WorkerPool(
            options.workers, _prepare, (options, work), start_method=options.start_method
        ) as pool:
            batches, reused, done = _encode(options, inputs, work, pool)
            plan = make_plan([_batch_path(work, i) for i in range(batches)], options.shards)
            _require_articles(plan, options)
            splits = _write_shards(options, plan, tokenizer.info(), inputs, pool)
        tokenizer.save(options.output / naming.TOKENIZER_FOLDER)
        manifest = Manifest(
            tokenizer=tokenizer.info(),
            language=options.language,
            seed=options.seed,
            splits=splits,
            inputs=inputs,
            options=job["options"],
            articles_read=plan.pages,
            dropped=plan.dropped,
            repeated_sentence_share=plan.repeated_sentence_share,
        )
        save_manifest(options.output, manifest)
    seconds = time.monotonic() - started
    return ShardingReport(manifest, seconds, done.text_bytes, done.seconds, batches, reused)


# --- step 1: pages to batch files ------------------------------------------------------------


class _Reading:
    """How many bytes of the inputs were read so far, for progress."""

    def __init__(self) -> None:
        self._before = 0
        self._file: BinaryIO | None = None
        self._size = 0

    def opened(self, file: BinaryIO) -> None:
        self._before += self._size
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    @property
    def done(self) -> int:
        if self._file is None or self._file.closed:
            return self._before + self._size
        return self._before + self._file.tell()


def _encode(
    options: ShardingOptions, inputs: Sequence[InputInfo], work: Path, pool: WorkerPool
) -> tuple[int, int, _Done]:
    """Make all batch files; return how many there are, how many were there, and the work done."""
    reading = _Reading()
    progress = Progress("reading, cleaning, encoding", sum(i.bytes for i in inputs))
    batches = reused = 0
    total = _Done(0, 0, 0, 0.0)

    def tasks() -> Iterator[tuple[int, list[Page]]]:
        nonlocal batches, reused
        for pages in page_batches(_pages(options, reading), options.batch_characters):
            batches += 1
            if is_whole(_batch_path(work, batches - 1)):
                reused += 1
                progress.update(reading.done, f"{reused} batches finished earlier")
            else:
                yield batches - 1, pages

    for done in pool.run(_encode_batch, tasks()):
        total = total.plus(done)
        progress.update(reading.done, total.describe(time.monotonic() - progress.started))
    progress.close(total.describe(time.monotonic() - progress.started))
    return batches, reused, total


def _pages(options: ShardingOptions, reading: _Reading) -> Iterator[Page]:
    pages = chain.from_iterable(
        iter_pages(path, options.input_format, reading.opened) for path in options.inputs
    )
    return islice(pages, options.max_pages)


class _Worker:
    """What a worker process keeps between tasks."""

    options: ShardingOptions
    work: Path
    tokenizer: Tokenizer
    rules: EncodingRules


def _prepare(options: ShardingOptions, work: Path) -> None:
    _Worker.options = options
    _Worker.work = work
    _Worker.tokenizer = load_tokenizer(options.tokenizer, lower_case=options.lower_case)
    _Worker.rules = EncodingRules(
        options.language, options.min_document_tokens, options.eval_fraction, options.seed
    )


def _encode_batch(task: tuple[int, list[Page]]) -> _Done:
    index, pages = task
    started = time.process_time()
    batch = encode_pages(pages, _Worker.tokenizer, _Worker.rules)
    save_batch(_batch_path(_Worker.work, index), batch)
    text_bytes = sum(len(page.text.encode("utf-8", "replace")) for page in pages)
    return _Done(len(pages), len(batch.document_ids), text_bytes, time.process_time() - started)


def _batch_path(work: Path, index: int) -> Path:
    return work / f"batch-{index:08d}"


# --- step 2: batch files to shards -----------------------------------------------------------


def _write_shards(
    options: ShardingOptions,
    plan: Plan,
    tokenizer: TokenizerInfo,
    inputs: Sequence[InputInfo],
    pool: WorkerPool,
) -> dict[str, SplitInfo]:
    progress = Progress("writing shards", len(plan.shards))
    name, digest = _source(inputs)
    tasks = [
        (
            piece,
            ShardHeader(
                options.language,
                tokenizer,
                piece.split,
                piece.index,
                piece.count,
                options.seed,
                name,
                digest,
            ),
        )
        for piece in plan.shards
    ]
    infos: dict[str, list[ShardInfo]] = {split: [] for split in naming.SPLITS}
    written = 0
    for split, info in pool.run(_write_shard, tasks):
        infos[split].append(info)
        written += 1
        progress.update(written, f"{written} of {len(tasks)} shards")
    progress.close(f"{written} shards")
    return {
        split: SplitInfo(tuple(sorted(found, key=lambda info: info.file)))
        for split, found in infos.items()
    }


def _write_shard(task: tuple[ShardPlan, ShardHeader]) -> tuple[str, ShardInfo]:
    plan, header = task
    path = _Worker.options.output / naming.shard_file(plan.split, plan.index, plan.count)
    with ShardWriter(
        path,
        header,
        documents=plan.documents,
        sentences=plan.sentences,
        tokens=plan.tokens,
    ) as writer:
        for batch, documents in plan.parts:
            writer.append(load_batch(_batch_path(_Worker.work, batch)).piece(documents))
        return plan.split, writer.finish()


def _source(inputs: Sequence[InputInfo]) -> tuple[str, str]:
    """Name and digest of all inputs together, for the attributes of a shard."""
    if len(inputs) == 1:
        return inputs[0].name, inputs[0].sha256
    listing = "".join(f"{i.sha256}  {i.name}\n" for i in inputs)
    return f"{inputs[0].name} and {len(inputs) - 1} more", hashlib.sha256(
        listing.encode()
    ).hexdigest()


def _require_articles(plan: Plan, options: ShardingOptions) -> None:
    if not plan.shards:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(plan.dropped.items()))
        raise UserError(
            f"{options.inputs[0]}: 0 articles kept of {plan.pages} pages ({reasons}): "
            "check --input-format, --language and --min-document-tokens"
        )
    present = {piece.split for piece in plan.shards}
    if naming.TRAIN not in present:
        raise UserError(
            f"{options.inputs[0]}: no article is left to train on: lower --eval-fraction"
        )
    if options.eval_fraction > 0 and naming.EVAL not in present:
        get_logger().warning("no article fell into the evaluation split: the input is small")
