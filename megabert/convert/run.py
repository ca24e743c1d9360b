"""A conversion: read, write to a temporary folder, compare, and only then move it into place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from megabert.common.errors import UserError, printable
from megabert.common.files import new_folder, sha256_of_file, sha256_of_parts
from megabert.common.json_text import read_json_object
from megabert.common.log import get_logger
from megabert.common.processes.locks import lock_beside, output_locked, refuse_if_in_use
from megabert.common.storage import named_storage_errors, storage_line
from megabert.convert.changes.request import ModelChanges, change_lines
from megabert.convert.check import TOLERANCE, Comparison, Side, compare, our_side
from megabert.convert.exports.history import CONVERSION_RECORD
from megabert.convert.exports.model_card import CARD
from megabert.convert.file_kinds import FILE_FORMATS, wrong_file
from megabert.convert.format import Format, ModelSource, OutputOptions
from megabert.convert.formats import find_format, looks_like, written_formats
from megabert.convert.huggingface.transformers_model import check_tokenizer
from megabert.convert.name_table import first_names
from megabert.convert.own_weights import FORMAT as OWN_FORMAT
from megabert.convert.read_back import same_tensors
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import WholeModel, with_plain_outputs
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer

log = get_logger("megabert.convert")


@dataclass(frozen=True)
class ConversionRequest:
    """What to convert.

    Attributes:
        source: name of the input's format.
        input: its folder; a file or a checkpoint's prefix for some formats.
        target: name of the output's format.
        output: folder to create.
        tokenizer: folder of tokenizer files, or vocabulary file, if the input has none.
        force: replace an output folder that an earlier conversion made.
        model_config: JSON with the encoder's shape, if the input has none.
        averaged: take the moving average of the weights of a megabert checkpoint.
        changes: what becomes another model; none by default.
        options: what the user chose about the output.
    """

    source: str
    input: Path
    target: str
    output: Path
    tokenizer: Path | None = None
    force: bool = False
    model_config: Path | None = None
    averaged: bool = False
    changes: ModelChanges = field(default_factory=ModelChanges)
    options: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did; ``unchanged``: the output already held the same conversion."""

    output: Path
    unchanged: bool
    comparison: Comparison | None
    model: WholeModel
    changes: dict[str, Any] = field(default_factory=dict)

    def changed(self) -> list[str]:
        """What the output's model has otherwise than the source's, in lines."""
        return change_lines(self.changes)

    def left_out(self) -> list[str]:
        """The parts of the source that the output lacks: one line per reason, with counts."""
        return [
            f"left out: {first_names(names)}: {reason}"
            for reason, names in by_reason(self.model).items()
        ]


def by_reason(model: WholeModel) -> dict[str, list[str]]:
    """Names of the parts that are left out, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in model.left_out:
        reasons.setdefault(reason, []).append(name)
    return reasons


def convert(request: ConversionRequest) -> ConversionResult:
    """Convert, compare, and move the result into place.

    An output folder that already holds the result of the same conversion stays as it is.

    Raises:
        UserError: a format is unknown, the input is invalid, the output folder holds something
            else, or both sides do not compute the same. Nothing is left behind.
    """
    source, target = find_format(request.source), _target(request)
    if target.write is None:
        others = [name for name in written_formats() if name != request.target]
        raise UserError(
            f"{request.target} can be read but not written; --to takes one of {', '.join(others)}"
        )
    if request.averaged and source is not OWN_FORMAT:
        raise UserError(
            f"--ema takes the averaged weights of a megabert checkpoint, and --from {request.source} has none; "
            "leave it out"
        )
    _warn_unused(request, target)
    old = _existing(request)
    refuse_if_in_use(lock_beside(request.output), request.output)
    places = [_place(request, path) for path in request.changes.places(request.input)]
    model, changes = _read_changed(source, request, places)
    if target is not OWN_FORMAT:
        model = with_plain_outputs(model)
    model = _prepared(target, model)
    if changes:  # the places of averaged models are paths, which do not travel
        stage = {"kind": "conversion", "changes": change_lines(_without_places(changes))}
        model = replace(model, history=[*model.history, stage])
    tokenizer = None
    if model.tokenizer is None:
        log.warning("%s has no tokenizer files, so none are written", model.origin)
    else:
        tokenizer = open_tokenizer(
            model.tokenizer, model.config.vocab_size, model.origin, model.tokenizer_sha256
        )
    if model.trained_positions < model.config.max_position_embeddings:
        log.warning(
            "only the first %d of %d positions have been trained",
            model.trained_positions,
            model.config.max_position_embeddings,
        )
    fingerprint = _fingerprint(model, request.options)
    if old is not None and old.get("sha256") == fingerprint and old.get("to") == request.target:
        if _intact(request.output, old):
            return ConversionResult(request.output, True, None, model, changes)
    elif old is not None and not request.force:
        raise UserError(
            f"{request.output} holds another conversion; choose another folder, or set --force to "
            "replace it"
        )
    with named_storage_errors(request.output), output_locked(request.output):
        if _existing(request) != old:
            raise UserError(
                f"{request.output} was changed by another job during this conversion; choose another folder"
            )
        with new_folder(request.output, replace_existing=old is not None) as temporary:
            target.write(temporary, model, tokenizer)
            comparison = _check(request, places, model, tokenizer, temporary)
            more = {"sha256": fingerprint, "changes": changes}
            _write_record(request, model, comparison, more, temporary)
    return ConversionResult(request.output, False, comparison, model, changes)


def _target(request: ConversionRequest) -> Format:
    """The output's format with the user's options."""
    target = find_format(request.target)
    return target if target.configured is None else target.configured(request.options)


def _warn_unused(request: ConversionRequest, target: Format) -> None:
    for name in request.options.given().keys() - set(target.options):
        log.warning("--%s has no effect on --to %s", name.replace("_", "-"), request.target)


def _without_places(changes: dict[str, Any]) -> dict[str, Any]:
    names = [Path(str(place)).name for place in changes.get("average") or ()]
    return changes | ({"average": names} if names else {})


def _prepared(target: Format, model: WholeModel) -> WholeModel:
    return model if target.prepare is None else target.prepare(model)


def _read_changed(
    source: Format, request: ConversionRequest, places: list[ModelSource]
) -> tuple[WholeModel, dict[str, Any]]:
    by_path = {place.path: place for place in places}
    return request.changes.apply(lambda path: _read(source, request, by_path[path]), by_path)


def _read(source: Format, request: ConversionRequest, place: ModelSource) -> WholeModel:
    try:
        return source.read(place)
    except UserError as error:
        others = looks_like(place.path) if place.path.is_dir() else set()
        wrong = wrong_file(place.path, request.source)
        # the name of a single file (*.ckpt) says less about it than its content
        if wrong is not None and not others - set(FILE_FORMATS):
            raise UserError(wrong) from error
        if not others or request.source in others:
            raise
        hint = " or ".join(f"--from {name}" for name in sorted(others))
        raise UserError(f"{error} (the files there look like {hint})") from error


def _place(request: ConversionRequest, path: Path) -> ModelSource:
    return ModelSource(path, request.tokenizer, request.model_config, request.averaged)


def _write_record(
    request: ConversionRequest,
    model: WholeModel,
    comparison: Comparison,
    more: dict[str, Any],
    folder: Path,
) -> None:
    record = {
        "from": request.source,
        "to": request.target,
        "input": printable(str(model.origin)),
        **more,
        "head": model.head.name,
        "task": model.task,
        "labels": list(model.labels),
        "trained_positions": model.trained_positions,
        "left_out": dict(model.left_out),
        "left_out_counts": {reason: len(names) for reason, names in by_reason(model).items()},
        **({"history": model.history} if model.history else {}),
        **({"embedding": model.embedding} if model.embedding else {}),
        **({"options": request.options.given()} if request.options.given() else {}),
        "check": comparison.as_dict(),
        "files": {
            path.relative_to(folder).as_posix(): sha256_of_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != CARD  # the card may be edited
        },
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / CONVERSION_RECORD).write_text(text, encoding="utf-8")


def _existing(request: ConversionRequest) -> dict[str, Any] | None:
    """The record of an earlier conversion in the output folder; None if the folder does not exist.

    Raises:
        UserError: the folder holds something else.
    """
    output = request.output
    try:
        if not output.exists() and not output.is_symlink():
            return None
    except OSError as error:
        raise UserError(storage_line(error, output, "cannot be written")) from error
    try:
        return read_json_object(output / CONVERSION_RECORD, of_data=True)
    except PermissionError as error:
        raise UserError(storage_line(error, output, "cannot be read")) from error
    except (OSError, UserError):
        raise UserError(
            f"{output} exists and was not made by launch/convert.py; choose another output folder"
        ) from None


def _check(
    request: ConversionRequest,
    places: list[ModelSource],
    model: WholeModel,
    tokenizer: Tokenizer | None,
    folder: Path,
) -> Comparison:
    """Compare the model read back from the written folder with the source.

    Each side runs the software of its format if that is available (transformers), else megabert's
    model of the tensors, which are read a second time. If the conversion changes the model, the
    source's software is compared with megabert's model of each input instead.

    Raises:
        UserError: the sides differ.
    """
    source, target = find_format(request.source), _target(request)
    written = ModelSource(folder)
    reference, again, tensors = model, model, 0
    if source.read_again:
        reference = _prepared(target, _read_changed(source, request, places)[0])
    if target.reads_back:
        again = target.read(written)
        tensors = same_tensors(reference, again)
    ours = our_side if target.reference is None else target.reference
    if request.changes:
        also = (
            f"; before them, {ran} gives the same" if (ran := _check_inputs(source, places)) else ""
        )
        left, ran_left = ours(reference), f"megabert (after the changes{also})"
    elif target.reference is not None:
        left, ran_left = ours(reference), "megabert"
    else:
        left, ran_left = _side(source, places[0], reference)
    right, ran_right = _side(target, written, again)
    if tokenizer is not None:
        check_tokenizer(folder, tokenizer)
    names = (f"{request.source} (input)", f"{request.target} (output)")
    comparison = compare(left, right, model, tokenizer, names, target.tolerance or TOLERANCE)
    _refuse_failures(comparison, "the converted model does not compute the same")
    comparison.tensors = tensors
    comparison.note = f"input run by {ran_left}, output by {ran_right}"
    return comparison


def _check_inputs(source: Format, places: list[ModelSource]) -> str:
    """Compare the source's own software with megabert's model of each input.

    Returns:
        the name of the software; "" if the format runs none.

    Raises:
        UserError: they do not compute the same.
    """
    ran = ""
    if source.run is None:
        return ran
    for place in places:
        model = source.read(place)
        words = load_tokenizer(model.tokenizer) if model.tokenizer is not None else None
        left, ran = source.run(place, model)
        comparison = compare(left, our_side(model), model, words, (ran, "megabert"))
        _refuse_failures(comparison, f"{model.origin}: megabert does not compute the same as {ran}")
    return ran


def _refuse_failures(comparison: Comparison, what: str) -> None:
    if comparison.failures:
        raise UserError(f"{what}: {'; '.join(comparison.failures)}; nothing was written")


def _side(kind: Format, place: ModelSource, model: WholeModel) -> tuple[Side, str]:
    """The forward pass of one side, and the name of the software that runs it."""
    return kind.run(place, model) if kind.run is not None else (our_side(model), "megabert")


def _fingerprint(model: WholeModel, options: OutputOptions) -> str:
    """SHA-256 of configuration, task, tensors, tokenizer files and options: equal for equal results."""

    def parts() -> Iterator[bytes | memoryview]:
        about = [model.config.to_dict(), model.task, list(model.labels), model.task_record]
        about += [more for more in (model.embedding, options.given()) if more]
        yield json.dumps(about, sort_keys=True).encode()
        for name in sorted(model.tensors):
            yield f"\n{name} {list(model.tensors[name].shape)}\n".encode()
            yield _bytes(model.tensors[name])
        if model.tokenizer is not None:
            yield load_tokenizer(model.tokenizer).sha256.encode()

    return sha256_of_parts(parts())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().numpy().data.cast("B")


def _intact(folder: Path, record: dict[str, Any]) -> bool:
    """Whether every file of an earlier conversion still has the content that its record states."""
    files = record.get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and sha256_of_file(folder / name) == digest
        for name, digest in files.items()
    )
