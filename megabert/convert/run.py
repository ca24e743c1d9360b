"""One conversion: read, write beside the output, check both sides, and only then take its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from megabert.common.errors import UserError
from megabert.common.files import new_folder, sha256_of_file, sha256_of_parts
from megabert.common.log import get_logger
from megabert.convert.check import (
    Comparison,
    Side,
    check_tokenizer,
    compare,
    our_side,
    their_side,
)
from megabert.convert.formats import (
    HUGGINGFACE,
    MEGABERT,
    WRITTEN,
    Format,
    Source,
    known,
    looks_like,
)
from megabert.convert.huggingface import model as huggingface
from megabert.convert.name_table import first_names
from megabert.convert.read_back import same_tensors
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenizers.base import Tokenizer
from megabert.data.tokenizers.load import load_tokenizer

RECORD = "conversion.json"

log = get_logger("megabert.convert")


@dataclass(frozen=True)
class Request:
    """What to convert.

    Attributes:
        source: format of the input, one of ``formats.FORMATS``.
        input: its folder; a file or a checkpoint's prefix for some formats.
        target: format of the output.
        output: folder to make.
        tokenizer: folder of tokenizer files, or vocabulary file, where the input has none.
        force: replace an output folder that is there.
        model_config: JSON with the encoder's shape, where the input has none.
    """

    source: str
    input: Path
    target: str
    output: Path
    tokenizer: Path | None = None
    force: bool = False
    model_config: Path | None = None


@dataclass(frozen=True)
class Result:
    """What a conversion did."""

    output: Path
    unchanged: bool
    comparison: Comparison | None
    model: WholeModel

    def left_out(self) -> list[str]:
        """What the source holds and the output does not, one line a reason, with counts."""
        return [
            f"left out: {first_names(names)}: {reason}"
            for reason, names in by_reason(self.model).items()
        ]


def by_reason(model: WholeModel) -> dict[str, list[str]]:
    """Names of what is left out, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in model.left_out:
        reasons.setdefault(reason, []).append(name)
    return reasons


def convert(request: Request) -> Result:
    """Convert, check, and put the result in place.

    An output folder that holds the result of the same conversion is left as it is.

    Raises:
        UserError: the input is not what it should be, the output is in the way, or both sides do not
            compute the same. Nothing is left behind.
    """
    source, target = known(request.source), known(request.target)
    if target.write is None:
        raise UserError(
            f"{target.name} is read, not written; --to takes one of {', '.join(WRITTEN)}"
        )
    old = _existing(request)
    model, trained_with = _read(source, request)
    tokenizer = None
    if model.tokenizer is None:
        log.warning("%s has no tokenizer files: none are written", model.origin)
    else:
        vocab_size = model.config.vocab_size
        tokenizer = open_tokenizer(model.tokenizer, vocab_size, model.origin, trained_with)
    if model.trained_positions < model.config.max_position_embeddings:
        log.warning(
            "positions from %d on have not been trained (of %d)",
            model.trained_positions,
            model.config.max_position_embeddings,
        )
    fingerprint = _fingerprint(model)
    if old is not None and old.get("sha256") == fingerprint and old.get("to") == request.target:
        if _unharmed(request.output, old):
            return Result(request.output, True, None, model)
    elif old is not None and not request.force:
        raise UserError(
            f"{request.output} holds another conversion; name another folder, or --force replaces it"
        )
    with new_folder(request.output, replace_existing=old is not None) as temporary:
        target.write(temporary, model, tokenizer)
        comparison = _check(request, target, model, tokenizer, temporary)
        _write_record(request, model, comparison, fingerprint, temporary)
    return Result(request.output, False, comparison, model)


def _read(source: Format, request: Request) -> tuple[WholeModel, str | None]:
    try:
        return source.read(_place(request))
    except UserError as error:
        others = looks_like(request.input)
        if not others or request.source in others:
            raise
        hint = " or ".join(f"--from {name}" for name in sorted(others))
        raise UserError(f"{error} (what lies there looks like {hint})") from error


def _place(request: Request) -> Source:
    beside = next(p for p in request.output.absolute().parents if p.is_dir())
    return Source(request.input, request.tokenizer, request.model_config, beside)


def _write_record(
    request: Request, model: WholeModel, comparison: Comparison, fingerprint: str, folder: Path
) -> None:
    record = {
        "from": request.source,
        "to": request.target,
        "input": model.origin,
        "sha256": fingerprint,
        "head": model.head.name,
        "task": model.task,
        "labels": list(model.labels),
        "trained_positions": model.trained_positions,
        "left_out": dict(model.left_out),
        "left_out_counts": {reason: len(names) for reason, names in by_reason(model).items()},
        "check": comparison.as_dict(),
        "files": {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def _existing(request: Request) -> dict[str, Any] | None:
    """The record of an earlier conversion in the output folder; None if the folder is free.

    Raises:
        UserError: the folder holds something else.
    """
    output = request.output
    try:
        if not output.exists() and not output.is_symlink():
            return None
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
        return dict(record)
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{output} exists and was not made by launch/convert.py: name another output folder"
        ) from None


def _check(
    request: Request, target: Format, model: WholeModel, tokenizer: Tokenizer | None, folder: Path
) -> Comparison:
    """Compare what is read back from the written folder with the source.

    The source's side runs what the source's own software is, where it is here (transformers), and
    else our model of its tensors, read a second time. So does the output's side.

    Raises:
        UserError: the sides differ.
    """
    reference = model
    if request.source != MEGABERT:
        reference, _ = known(request.source).read(_place(request))
    again, _ = target.read(Source(folder))
    tensors = same_tensors(reference, again)
    left, ran_left = _source_side(request, reference)
    right, ran_right = _side(request.target, folder, again)
    if tokenizer is not None:
        check_tokenizer(folder, tokenizer)
    names = (f"{request.source} (input)", f"{request.target} (output)")
    comparison = compare(left, right, model, tokenizer, names)
    if comparison.failures:
        raise UserError(
            f"the converted model does not compute the same: {'; '.join(comparison.failures)}; "
            "nothing was written"
        )
    comparison.tensors = tensors
    comparison.note = f"input run by {ran_left}, output by {ran_right}"
    return comparison


def _source_side(request: Request, model: WholeModel) -> tuple[Side, str]:
    if request.source != HUGGINGFACE:
        return _side(request.source, request.input, model)
    folder, _ = huggingface.model_folder(request.input)
    return _side(HUGGINGFACE, folder, model, request.model_config)


def _side(
    format_name: str, folder: Path, model: WholeModel, config: Path | None = None
) -> tuple[Side, str]:
    """What runs a folder, and who that is."""
    if format_name != HUGGINGFACE:
        return our_side(model), "megabert"
    family = huggingface.family_of(model.config)
    if not family.runnable:
        return our_side(model), f"megabert (transformers has no {family.class_prefix} any more)"
    if config is None and not (folder / "config.json").is_file():
        config = huggingface.config_file(folder)
    return their_side(folder, model, config), "transformers"


def _fingerprint(model: WholeModel) -> str:
    """SHA-256 over configuration, task, tensors and tokenizer files: equal for equal results."""

    def parts() -> Iterator[bytes | memoryview]:
        about = [model.config.to_dict(), model.task, list(model.labels), model.task_record]
        yield json.dumps(about, sort_keys=True).encode()
        for name in sorted(model.tensors):
            yield f"\n{name} {list(model.tensors[name].shape)}\n".encode()
            yield _bytes(model.tensors[name])
        if model.tokenizer is not None:
            yield load_tokenizer(model.tokenizer).sha256.encode()

    return sha256_of_parts(parts())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().numpy().data.cast("B")


def _unharmed(folder: Path, record: dict[str, Any]) -> bool:
    """Whether every file of an earlier conversion still has the content its record states."""
    files = record.get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and sha256_of_file(folder / name) == digest
        for name, digest in files.items()
    )
