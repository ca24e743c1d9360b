"""What a sharding job is asked to do, what it reports, and what makes two jobs the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megabert
from megabert.data.encoding import BATCH_CHARACTERS
from megabert.data.schema import InputInfo, Manifest, TokenizerInfo
from megabert.data.text.sources import source_sha256
from megabert.log import UserError


@dataclass(frozen=True)
class ShardingOptions:
    """What ``shard_wiki.py`` is asked to do. All but the last four decide the content."""

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    input_format: str = "auto"
    language: str = "en"
    lower_case: bool | None = None
    shards: int | None = None
    eval_fraction: float = 0.01
    min_document_tokens: int = 32
    max_pages: int | None = None
    seed: int = 0
    workers: int = 1
    resume: bool = False
    start_method: str = "spawn"
    batch_characters: int = BATCH_CHARACTERS

    def check(self) -> None:
        """Raise ``UserError`` for a value that makes no sense."""
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
        if self.input_format == "parquet":
            raise UserError("--input-format parquet: Parquet is not read; convert it to JSONL")


@dataclass(frozen=True)
class ShardingReport:
    """What a job did. ``text_bytes``: page text read, as UTF-8; seconds of CPU over all workers
    for cleaning and encoding; ``reused`` batches found finished by ``resume``."""

    manifest: Manifest
    seconds: float
    text_bytes: int
    worker_seconds: float
    batches: int
    reused: int


def describe_input(path: Path) -> InputInfo:
    """Name, size and SHA-256 of an input. Raises ``UserError`` when it cannot be read."""
    digest = source_sha256(path)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return InputInfo(path.resolve().name, sum(f.stat().st_size for f in files), digest)


def job_record(
    options: ShardingOptions, tokenizer: TokenizerInfo, inputs: Sequence[InputInfo]
) -> dict[str, Any]:
    """What must be equal for two jobs to have the same result."""
    return {
        "version": megabert.__version__,
        "inputs": [dataclasses.asdict(i) for i in inputs],
        "tokenizer": tokenizer.sha256,
        "options": {
            "input_format": options.input_format,
            "language": options.language,
            "shards": options.shards,
            "eval_fraction": options.eval_fraction,
            "min_document_tokens": options.min_document_tokens,
            "max_pages": options.max_pages,
            "seed": options.seed,
            "batch_characters": options.batch_characters,
        },
    }
