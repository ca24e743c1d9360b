"""Vectors of texts as one .npy array: ``launch/embed.py``.

check     every input is read once: it is valid, and the number of texts is known
open      checkpoint -> tokenizer, encoder on one device, without DeepSpeed
compute   chunks of texts; each is written before the next is read, so memory does not grow with N

The file is written under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megabert.common.errors import UserError
from megabert.common.files import new_file, output_file
from megabert.common.log import get_logger
from megabert.common.processes.locks import output_locked
from megabert.common.progress import Progress
from megabert.common.storage import named_storage_errors
from megabert.embed.embedder import Embedder, EmbeddingOptions, open_embedder
from megabert.embed.inputs import read_texts
from megabert.predict.inputs import STANDARD_INPUT, as_file

CHUNK = 32
"""Number of batches whose texts are sorted by length together."""

log = get_logger()


@dataclass(frozen=True)
class EmbedRequest:
    """What to compute.

    Attributes:
        checkpoint: of the model.
        inputs: files in their order; - for standard input.
        output: the .npy file.
        options: how vectors are made.
        input_format: of :data:`megabert.embed.inputs.TEXT_FORMATS`.
        text_field: of JSON lines.
    """

    checkpoint: Path
    inputs: tuple[Path, ...]
    output: Path
    options: EmbeddingOptions
    input_format: str = "auto"
    text_field: str = "text"


def embed_texts(request: EmbedRequest) -> tuple[int, int]:
    """Run ``launch/embed.py``; returns the shape of the written array.

    Raises:
        UserError: a wrong input, before anything is written.
    """
    with named_storage_errors(request.output):
        _check_output(request)
    if request.inputs.count(STANDARD_INPUT) > 1:
        raise UserError("--input names standard input (-) more than once")
    with ExitStack() as stack:
        files = [stack.enter_context(as_file(path))[0] for path in request.inputs]
        total = _count(request, files)
        embedder = open_embedder(request.checkpoint, request.options)
        with (
            named_storage_errors(request.output),
            output_locked(request.output),
            new_file(output_file(request.output)) as temporary,
            temporary.open("wb") as stream,
        ):
            _write(stream, embedder, _texts(request, files), total)
    return total, embedder.width


def _check_output(request: EmbedRequest) -> None:
    output = request.output
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    output_file(output)
    for path in request.inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise UserError(f"--output {output} is a file of --input; name another")


def _texts(request: EmbedRequest, files: list[Path]) -> Iterator[tuple[int, str]]:
    """Line and text, of all files."""
    for file in files:
        yield from read_texts(file, request.input_format, request.text_field)


def _count(request: EmbedRequest, files: list[Path]) -> int:
    """Number of texts; all of them are read and checked."""
    total = empty = first = 0
    for line, text in _texts(request, files):
        total += 1
        if not text.strip():
            empty, first = empty + 1, first or line
    if not total:
        raise UserError(f"--input {' '.join(map(str, request.inputs))}: no text")
    if empty:
        log.warning("%d texts are empty (first: line %d); they get a vector too", empty, first)
    return total


def _write(
    stream: BinaryIO, embedder: Embedder, numbered: Iterator[tuple[int, str]], total: int
) -> None:
    """The array, chunk by chunk."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (total, embedder.width)}
    np.lib.format.write_array_header_1_0(stream, header)
    texts = (text for _, text in numbered)
    progress = Progress("embed", total, interval=30.0)
    began = time.monotonic()
    done = tokens = cut = 0
    while chunk := list(itertools.islice(texts, CHUNK * embedder.batch_size)):
        found = embedder.vectors(chunk)
        stream.write(found.values.astype("<f4", copy=False).tobytes())
        done, tokens, cut = done + len(chunk), tokens + found.tokens, cut + found.cut
        if done < total:
            progress.update(done, f"{done:,} texts")
    if done != total:
        raise UserError("the input changed while it was read; run the command again")
    seconds = max(time.monotonic() - began, 1e-9)
    if cut:
        log.warning(
            "%s of %s texts were longer than %d tokens and were cut",
            *(f"{cut:,}", f"{total:,}", embedder.max_length),
        )
    log.info(
        "%s texts, %s tokens in %.2f s: %.1f texts/s, %s tokens/s",
        *(f"{total:,}", f"{tokens:,}", seconds, total / seconds, f"{tokens / seconds:,.0f}"),
    )
