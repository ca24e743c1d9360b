"""Answers of a fine-tuned model to new inputs, and of a pretrained one to masks: ``launch/predict.py``.

open       checkpoint -> task, tokenizer, model on one device, without DeepSpeed
read       flags, file or terminal -> items; all are checked before the first answer is written
answer     chunks of items: rows of similar length share a packed batch; one JSON line per item, in order
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from megabert.common.errors import UserError
from megabert.common.files import new_text_file, output_file
from megabert.common.log import get_logger
from megabert.common.processes.locks import output_locked
from megabert.common.progress import Progress
from megabert.common.storage import named_storage_errors
from megabert.predict.inputs import STANDARD_INPUT, Items, as_file, item_of, read_items
from megabert.predict.predictor import AnswerOptions, Predictor, open_predictor
from megabert.tasks.base import Features, ItemFormat

CHUNK = 16
"""Number of batches whose items are sorted by length together."""
PROMPT = ">>> "
LINES = "jsonl"
"""The format of answers that every task has: one JSON object per line."""

log = get_logger()


@dataclass(frozen=True)
class Request:
    """What to answer.

    Attributes:
        checkpoint: of a fine-tuned or pretrained model.
        choices: how.
        texts: of one item, by flag: text, text_b, question, context.
        input: file, or - for standard input; None for the texts, or a terminal.
        output: file, or - for standard output.
        input_format: of :data:`megabert.predict.inputs.INPUT_FORMATS`, or a task's.
        format: :data:`LINES`, or the name of the task's document format.
    """

    checkpoint: Path
    choices: AnswerOptions
    texts: dict[str, str | None]
    input: Path | None = None
    output: Path = STANDARD_INPUT
    input_format: str = "auto"
    format: str = LINES


def predict(request: Request) -> None:
    """Run ``launch/predict.py``.

    Raises:
        UserError: a wrong input, before anything is written.
    """
    if request.input is not None and _has_texts(request):
        raise UserError("--input and texts on the command line are both given; keep one")
    if request.input is None and not _has_texts(request) and not sys.stdin.isatty():
        request = replace(request, input=STANDARD_INPUT)
    with named_storage_errors(request.output):
        _check_output(request)
    predictor = open_predictor(request.checkpoint, request.choices)
    fields = predictor.task.input_fields
    own = predictor.task.item_format
    if request.format != LINES and (own is None or own.name != request.format):
        raise UserError(
            f"--format {request.format} does not apply to the task {predictor.task.name}; "
            "leave it out"
        )
    item = item_of(request.texts, fields)
    if item is not None:
        answer_all(predictor, Items([item], ["this input"]), "", request)
    elif request.input is not None:
        with as_file(request.input) as (path, name):
            items = read_items(path, fields, request.input_format, own)
            if own is not None and request.format == own.name:
                own.names(items.items)  # before the first answer
            answer_all(predictor, items, name, request)
    else:
        converse(predictor, fields)


def _check_output(request: Request) -> None:
    """Raise UserError if the output cannot be a file, or nothing would be written to it."""
    output = request.output
    if output == STANDARD_INPUT:
        return
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    output_file(output)
    given = request.input
    if given is not None and output.exists() and given.exists() and output.samefile(given):
        raise UserError(f"--output {output} is the file of --input; name another")
    if given is None and not _has_texts(request):
        raise UserError(
            "--output needs inputs from --input or flags; typed inputs are answered on the terminal"
        )


def _has_texts(request: Request) -> bool:
    return any(text is not None for text in request.texts.values())


def answer_all(predictor: Predictor, found: Items, name: str, request: Request) -> None:
    """Check all items, then answer them chunk by chunk."""
    size = CHUNK * predictor.batch_size
    began = time.monotonic()
    chunks = [
        _checked(predictor, found, slice(first, first + size), name)
        for first in range(0, len(found.items), size)
    ]
    prepared = time.monotonic()
    progress = Progress("predict", len(found.items), interval=30.0)
    with _opened(request.output) as stream:
        own = None if request.format == LINES else predictor.task.item_format
        write = _line_writer(stream) if own is None else _document_writer(stream, own)
        for number, features in enumerate(chunks):
            items = found.items[number * size : (number + 1) * size]
            write(
                [
                    {**_identity(item), **answer}
                    for item, answer in zip(items, predictor.answers(features), strict=True)
                ],
                number + 1 == len(chunks),
            )
            if number + 1 < len(chunks):
                progress.update((number + 1) * size, f"{(number + 1) * size:,} inputs")
    _warn_of_cut_texts(predictor, found, chunks)
    if request.input is not None:
        _report(found, chunks, prepared - began, time.monotonic() - prepared)


def _warn_of_cut_texts(predictor: Predictor, found: Items, chunks: list[Features]) -> None:
    """Say how many inputs were answered from their beginning only."""
    cut = sum(getattr(chunk, "cut", 0) for chunk in chunks)
    if cut:
        log.warning(
            "%s of %s inputs were cut to %d tokens (--max-length)",
            f"{cut:,}",
            f"{len(found.items):,}",
            predictor.task.max_length,
        )


def _checked(predictor: Predictor, found: Items, part: slice, name: str) -> Features:
    """Rows of some items; an error about one of them names its place."""
    try:
        return predictor.features(found.items[part])
    except UserError as error:
        numbered = re.match(r"item (\d+)\b:?\s*", str(error))
        if numbered is None:
            raise
        place = f"{name} {found.places[part][int(numbered[1]) - 1]}".strip()
        text = str(error)[numbered.end() :]
        raise UserError(f"{place}: {text}" if place else text) from error


def _identity(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"]} if "id" in item else {}


AnswerWriter = Callable[[list[dict[str, Any]], bool], None]


def _line_writer(stream: TextIO) -> AnswerWriter:
    def write(answers: list[dict[str, Any]], last: bool) -> None:
        for answer in answers:
            stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
        stream.flush()

    return write


def _document_writer(stream: TextIO, own: ItemFormat) -> AnswerWriter:
    """All answers as one document of the task's own."""
    gathered: list[dict[str, Any]] = []

    def write(answers: list[dict[str, Any]], last: bool) -> None:
        gathered.extend(answers)
        if last:
            json.dump(own.document(gathered), stream, ensure_ascii=False, indent=1)
            stream.write("\n")
            stream.flush()

    return write


@contextmanager
def _opened(output: Path) -> Iterator[TextIO]:
    """Standard output, or a file that appears once it is complete."""
    if output == STANDARD_INPUT:
        yield sys.stdout
        return
    with (
        named_storage_errors(output),
        output_locked(output),
        new_text_file(output_file(output)) as stream,
    ):
        yield stream


def _report(found: Items, chunks: list[Features], reading: float, seconds: float) -> None:
    rows = sum(len(chunk.lengths) for chunk in chunks)
    tokens = sum(int(chunk.lengths.sum()) for chunk in chunks)
    log.info(
        "%s inputs, %s rows, %s tokens: %.2f s to tokenize, %.2f s to answer, %.1f inputs/s, "
        "%s tokens/s",
        *(f"{count:,}" for count in (len(found.items), rows, tokens)),
        reading,
        seconds,
        len(found.items) / max(seconds, 1e-9),
        f"{tokens / max(seconds, 1e-9):,.0f}",
    )


def converse(predictor: Predictor, fields: tuple[tuple[str, ...], ...]) -> None:
    """Answer typed inputs until the end of input or Ctrl-C; an error is printed and the prompt returns.

    A task of two texts asks for one after the other; an empty second one repeats the previous one.
    """
    import readline  # noqa: F401  (input() edits lines with it)

    names = [some[0] for some in fields]
    print(f"{predictor.task.name}: {' and '.join(names)}; Ctrl-D exits", file=sys.stderr)
    before: dict[str, str] = {}
    while True:
        try:
            item = {name: _asked(name, len(names) > 1) for name in names}
            if not item[names[0]].strip():
                continue
            item = {name: text or before.get(name, "") for name, text in item.items()}
            before = item
            (answer,) = predictor.answers(_checked(predictor, Items([item], [""]), slice(1), ""))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        else:
            print(json.dumps(answer, ensure_ascii=False), flush=True)


def _asked(name: str, named: bool) -> str:
    prompt = f"{name} {PROMPT}" if named else PROMPT
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)  # the answers go to a file
    return input()
