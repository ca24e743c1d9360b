"""Options and report of a sharding job, and the record that identifies a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megabert
from megabert.common.errors import UserError
from megabert.data.prepare.encode import BATCH_CHARACTERS
from megabert.data.prepare.filters.choices import NO_FILTERS, FilterOptions
from megabert.data.shards.manifest import InputInfo, Manifest, TokenizerInfo
from megabert.data.text.input.segments import SEGMENT_BYTES
from megabert.data.text.languages import AUTO, check_language, joint_language
from megabert.data.text.reading import ReadingRules


@dataclass(frozen=True)
class ShardingOptions:
    """Options of ``shard_wiki.py``. All except the last five decide the content.

    Attributes:
        workers: processes per rank; None for one per core.
        language: "auto", or a code of :mod:`megabert.data.text.languages`.
        segment_bytes: see ``text/input/segments.py``; it decides the number of a MediaWiki page
            that has none of its own, and nothing else.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    input_format: str = "auto"
    documents: str = "auto"
    line_breaks: str = "auto"
    line_marks: str = "auto"
    text_field: str = "text"
    bad_lines: str = "error"
    split: str = AUTO
    filters: FilterOptions = NO_FILTERS
    language: str = AUTO
    lower_case: bool | None = None
    shards: int | None = None
    eval_fraction: float = 0.01
    min_document_tokens: int = 32
    max_pages: int | None = None
    seed: int = 0
    word_boundaries: str = "auto"
    workers: int | None = 1
    resume: bool = False
    start_method: str = "spawn"
    batch_characters: int = BATCH_CHARACTERS
    segment_bytes: int = SEGMENT_BYTES

    @property
    def reading(self) -> ReadingRules:
        """How the inputs are read."""
        return ReadingRules(
            self.input_format,
            self.documents,
            self.line_breaks,
            self.text_field,
            self.bad_lines,
            self.line_marks,
            self.split,
        )

    def check(self) -> None:
        """Raise ``UserError`` for an invalid value."""
        self.reading.check()
        self.filters.check()
        if check_language(self.language) != self.language:
            raise UserError(f"--language {self.language}: write {check_language(self.language)}")
        if not self.inputs:
            raise UserError("--input: give at least one dump")
        if not 0.0 <= self.eval_fraction < 1.0:
            raise UserError(f"--eval-fraction {self.eval_fraction}: expected 0 <= fraction < 1")
        for name, value, least in (
            ("--workers", self.workers, 1),
            ("--shards", self.shards, 1),
            ("--min-document-tokens", self.min_document_tokens, 0),
            ("--max-pages", self.max_pages, 1),
            ("--seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} {value}: expected at least {least}")


@dataclass(frozen=True)
class ShardingReport:
    """What a job did.

    Attributes:
        input_bytes: bytes of the files read.
        text_bytes: bytes of page text read, as UTF-8.
        worker_seconds: CPU seconds of all workers for reading, cleaning and encoding.
        batches: batch files, of which ``resume`` found ``reused`` finished.
        workers: workers of all ranks.
        worker_memory, main_memory: peak memory of a worker and of the main process, in bytes.
    """

    manifest: Manifest
    seconds: float
    input_bytes: int = 0
    text_bytes: int = 0
    worker_seconds: float = 0.0
    batches: int = 0
    reused: int = 0
    workers: int = 0
    worker_memory: int = 0
    main_memory: int = 0


def input_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files)


def job_record(
    options: ShardingOptions, tokenizer: TokenizerInfo, inputs: Sequence[InputInfo]
) -> dict[str, Any]:
    """What must be equal for two jobs to give the same result.

    The language is the one that was decided: "auto" and its outcome given as a flag are one job.
    """
    return {
        "version": megabert.__version__,
        "inputs": [i.as_dict() for i in inputs],
        "tokenizer": tokenizer.sha256,
        "segment_bytes": options.segment_bytes,
        # absent where nothing was chosen, so that older folders are the same job
        "options": {
            **({"split": options.split} if options.split != AUTO else {}),
            **options.filters.record(),
            "input_format": options.input_format,
            "documents": options.documents,
            "line_breaks": options.line_breaks,
            "line_marks": options.line_marks,
            "text_field": options.text_field,
            "bad_lines": options.bad_lines,
            "language": joint_language(info.language for info in inputs),
            "shards": options.shards,
            "eval_fraction": options.eval_fraction,
            "min_document_tokens": options.min_document_tokens,
            "max_pages": options.max_pages,
            "seed": options.seed,
            "word_boundaries": options.word_boundaries,
            "batch_characters": options.batch_characters,
        },
    }
