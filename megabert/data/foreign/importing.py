"""The import job: it converts foreign shards into a folder of our own shards.

    samples --recovery--> documents of sentences --repetition--> new text --> batch files
    batch files --make_plan--> shards, tokenizer/, manifest.json

One process works in the order of the files. A pair whose B follows A becomes one document; any
other sample becomes one document per segment. Text of files named for evaluation goes into the
evaluation split.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import megabert
from megabert.common import names
from megabert.common.errors import UserError, printable
from megabert.common.files import sha256_of_file
from megabert.common.log import get_logger
from megabert.common.progress import Progress
from megabert.data.foreign.files import ForeignData, open_foreign
from megabert.data.foreign.fit import check_fit
from megabert.data.foreign.recovery import Counts, Recovery, Sentence, segments_of
from megabert.data.foreign.repetition import SeenText
from megabert.data.foreign.source import check_ids, check_text
from megabert.data.foreign.static import ForeignFile
from megabert.data.prepare.batch_files import EncodedPages, load_batch, save_batch
from megabert.data.prepare.encode import SHORT, in_eval_split
from megabert.data.prepare.output_folder import check_output, finished_manifest, output_folder
from megabert.data.prepare.plan import CorpusPlan, as_splits, header_of, make_plan, write_planned
from megabert.data.shards.document_index import write_document_index
from megabert.data.shards.layout import token_dtype
from megabert.data.shards.manifest import (
    InputInfo,
    Manifest,
    SplitInfo,
    save_manifest,
)
from megabert.data.text.scripts import count_scripts, other_script
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.chinese_words import find_words
from megabert.data.tokenizers.load import load_tokenizer

REPEATED = "repeated"
"""Drop reason of a document whose text occurs in earlier ones."""
EVAL_FRACTION = 0.01
_SAMPLES_AT_ONCE = 512
_BATCH_TOKENS = 2**22
_SAMPLED_TOKENS = 5000  # whose letters are counted


@dataclass(frozen=True)
class ImportOptions:
    """Options of ``import_shards.py``.

    ``eval_fraction``: None for 0.01, or for 0 if files are named for evaluation.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    language: str = "en"
    shards: int | None = None
    eval_fraction: float | None = None
    min_document_tokens: int = 8
    seed: int = 0

    def check(self) -> None:
        """Raise ``UserError`` for an invalid value."""
        if self.eval_fraction is not None and not 0.0 <= self.eval_fraction < 1.0:
            raise UserError(f"--eval-fraction {self.eval_fraction}: expected 0 <= fraction < 1")
        for name, value, least in (
            ("--shards", self.shards, 1),
            ("--min-document-tokens", self.min_document_tokens, 0),
            ("--seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} {value}: expected at least {least}")


@dataclass(frozen=True)
class ImportReport:
    """The result of an import. ``repeated_tokens`` were left out, as they occur in earlier text."""

    manifest: Manifest
    layout: str
    samples: int
    tokens: int
    repeated_tokens: int
    counts: Counts
    seconds: float


def import_shards(options: ImportOptions) -> ImportReport:
    """Run the whole job; on an error it removes what it wrote.

    Raises:
        UserError: wrong inputs or options, shards whose text cannot be recovered, an output folder
            that holds something else, a full disk.
    """
    options.check()
    check_output(options.output, resume=False, restarts=True)
    started = time.monotonic()
    tokenizer = load_tokenizer(options.tokenizer)
    data = open_foreign(options.inputs)
    check_fit(data.files, tokenizer)
    fraction = options.eval_fraction
    if fraction is None:
        fraction = 0.0 if data.evaluation else EVAL_FRACTION
    inputs = tuple(
        InputInfo(printable(file.path.name), file.path.stat().st_size, sha256_of_file(file.path))
        for file in data.files
    )
    chosen = {
        "imported_from": data.layout,
        "language": options.language,
        "shards": options.shards,
        "eval_fraction": fraction,
        "min_document_tokens": options.min_document_tokens,
        "seed": options.seed,
    }
    job = {
        "version": megabert.__version__,
        "inputs": [dataclasses.asdict(i) for i in inputs],
        "tokenizer": tokenizer.sha256,
        "options": chosen,
    }
    finished_manifest(options.output, job, resume=False)
    with output_folder(options.output, job, resume=False, restarts=True) as work:
        reader = _Reader(options, tokenizer, fraction)
        paths = _save(reader, data, tokenizer, work)
        plan = make_plan(paths, options.shards)
        _require_text(plan, options)
        _warn_of_script(load_batch(paths[0]).tokens[:_SAMPLED_TOKENS], tokenizer, options.language)
        splits = _write(options, plan, paths, tokenizer, inputs)
        tokenizer.save(options.output / names.TOKENIZER_FOLDER)
        manifest = Manifest(
            tokenizer=tokenizer.info(),
            language=options.language,
            seed=options.seed,
            splits=splits,
            inputs=inputs,
            options=chosen,
            articles_read=plan.pages,
            dropped=plan.dropped,
        )
        write_document_index(options.output, manifest)
        save_manifest(options.output, manifest)
    return ImportReport(
        manifest,
        data.layout,
        reader.samples,
        reader.tokens,
        reader.repeated_tokens,
        reader.recovery.counts,
        time.monotonic() - started,
    )


def _warn_of_script(ids: npt.NDArray[np.integer], tokenizer: Tokenizer, language: str) -> None:
    """Warn if the text that these ids stand for is not written as the language is."""
    what = other_script(count_scripts(tokenizer.decode(ids)), language)
    if what is not None:
        get_logger().warning(f"the text is split into sentences as {language}, but {what}")


@dataclass(frozen=True)
class _Document:
    sentences: list[Sentence]
    evaluation: bool

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.sentences)


class _Reader:
    """Makes documents of new text from samples, with counts."""

    def __init__(self, options: ImportOptions, tokenizer: Tokenizer, fraction: float) -> None:
        self.options, self.tokenizer, self.fraction = options, tokenizer, fraction
        self.info = tokenizer.info()
        words = find_words(options.language)
        self.recovery = Recovery(tokenizer, options.language, words)
        self.seen = SeenText()
        self.samples = self.tokens = self.repeated_tokens = self.pages = 0
        self.dropped: Counter[str] = Counter()

    def documents(self, file: ForeignFile, rows: range, evaluation: bool) -> Iterator[_Document]:
        """The new text of these samples of a file."""
        samples = file.read_rows(rows)
        parts = []
        for row, sample in zip(rows, samples):
            check_ids(file, row, sample, self.info)
            check_text(file, row, sample.unmasked(), self.info)
            parts.append(segments_of(file, row, sample, self.tokenizer))
        sentences = iter(self.recovery.sentences([segment for part in parts for segment in part]))
        for sample, part in zip(samples, parts):
            segments = [next(sentences) for _ in part]
            self.samples += 1
            if sample.next_sentence == 0:
                segments = [[s for segment in segments for s in segment]]
            for segment in segments:
                yield from self._new(segment, evaluation)

    def _new(self, segment: Sequence[Sentence], evaluation: bool) -> Iterator[_Document]:
        self.pages += 1
        size = sum(len(s.ids) for s in segment)
        self.tokens += size
        stretches = self.seen.take_new(segment)
        self.repeated_tokens += size - sum(len(s.ids) for part in stretches for s in part)
        documents = [_Document(list(part), evaluation) for part in stretches]
        long = [d for d in documents if d.tokens >= self.options.min_document_tokens]
        if not long:
            self.dropped[SHORT if documents else REPEATED] += 1
        for document in long:
            yield dataclasses.replace(
                document, evaluation=evaluation or self._is_evaluation(document)
            )

    def _is_evaluation(self, document: _Document) -> bool:
        first = document.sentences[0].ids
        return in_eval_split(len(first), str(first.tolist()), self.options.seed, self.fraction)


def _save(reader: _Reader, data: ForeignData, tokenizer: Tokenizer, work: Path) -> list[Path]:
    """Write the text of all samples as batch files."""
    total = sum(file.samples for file in data.files)
    progress = Progress("unmasking, splitting, comparing", total)
    paths: list[Path] = []
    documents: list[_Document] = []
    written = 0

    def flush() -> None:
        nonlocal written
        path = work / f"batch-{len(paths):08d}"
        save_batch(path, _as_batch(documents, tokenizer, reader, written))
        paths.append(path)
        written += len(documents)
        documents.clear()

    for number, file in enumerate(data.files):
        for first in range(0, file.samples, _SAMPLES_AT_ONCE):
            rows = range(first, min(file.samples, first + _SAMPLES_AT_ONCE))
            documents += reader.documents(file, rows, evaluation=number >= len(data.train))
            if sum(d.tokens for d in documents) >= _BATCH_TOKENS:
                flush()
            progress.update(reader.samples, f"{reader.samples} samples")
        file.close()
    flush()
    progress.close(f"{reader.samples} samples")
    return paths


def _as_batch(
    documents: Sequence[_Document], tokenizer: Tokenizer, reader: _Reader, before: int
) -> EncodedPages:
    """The content of a batch file; it takes the reader's counts of documents read and dropped."""
    sentences = [s for document in documents for s in document.sentences]
    tokens = np.concatenate([np.zeros(0, np.int64), *(s.ids for s in sentences)])
    words = np.concatenate([np.zeros(0, np.bool_), *(s.word_starts for s in sentences)])
    numbers = np.arange(before + 1, before + 1 + len(documents), dtype=np.int64)
    batch = EncodedPages(
        tokens=tokens.astype(token_dtype(tokenizer.vocab_size)),
        word_bits=np.packbits(words, bitorder="little"),
        sentence_lengths=np.array([len(s.ids) for s in sentences], np.uint32),
        document_sentences=np.array([len(d.sentences) for d in documents], np.uint32),
        document_tokens=np.array([d.tokens for d in documents], np.uint32),
        document_ids=numbers,
        document_eval=np.array([d.evaluation for d in documents], np.uint8),
        document_digest=np.stack([numbers, numbers], axis=1).astype(
            np.uint64
        ),  # no document repeats another
        sentence_sample=np.zeros(0, np.uint64),
        pages=reader.pages,
        dropped=dict(reader.dropped),
    )
    reader.pages = 0
    reader.dropped.clear()
    return batch


def _write(
    options: ImportOptions,
    plan: CorpusPlan,
    batches: Sequence[Path],
    tokenizer: Tokenizer,
    inputs: Sequence[InputInfo],
) -> dict[str, SplitInfo]:
    written = []
    for piece in plan.shards:
        header = header_of(piece, options.language, tokenizer.info(), options.seed, inputs)
        files = [batches[number] for number, _ in piece.parts]
        written.append((piece.split, write_planned(options.output, piece, header, files)))
    return as_splits(written)


def _require_text(plan: CorpusPlan, options: ImportOptions) -> None:
    if not any(piece.split == names.TRAIN for piece in plan.shards):
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(plan.dropped.items()))
        raise UserError(
            f"{options.inputs[0]}: no training text is left of {plan.pages} documents "
            f"({reasons or 'none dropped'}): check --min-document-tokens and --eval-fraction"
        )
