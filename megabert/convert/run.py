"""One conversion: read, write beside the output, check both sides, and only then take its name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from megabert.convert import checkpoint, huggingface
from megabert.convert.check import (
    Comparison,
    Side,
    check_tokenizer,
    compare,
    our_side,
    their_side,
)
from megabert.convert.tokenizer import complete, open_tokenizer
from megabert.convert.whole_model import WholeModel
from megabert.data.tokenization import Tokenizer, load_tokenizer
from megabert.log import UserError, get_logger
from megabert.model.weight_files import new_folder
from megabert.model.weights import write_weights

MEGABERT = "megabert"
HUGGINGFACE = "huggingface"
LATER = ("google-tf", "nvidia", "mindspore")
"""Formats whose names are reserved; asking for one is refused."""
FORMATS = (MEGABERT, HUGGINGFACE, *LATER)
RECORD = "conversion.json"

log = get_logger("megabert.convert")


@dataclass(frozen=True)
class Request:
    """What to convert.

    Attributes:
        source: format of the input, one of ``FORMATS``.
        input: its folder.
        target: format of the output.
        output: folder to make.
        tokenizer: folder of tokenizer files where the input has none, or None.
        force: replace an output folder that is there.
    """

    source: str
    input: Path
    target: str
    output: Path
    tokenizer: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Result:
    """What a conversion did."""

    output: Path
    unchanged: bool
    comparison: Comparison | None
    model: WholeModel


def convert(request: Request) -> Result:
    """Convert, check, and put the result in place.

    An output folder that holds the result of the same conversion is left as it is.

    Raises:
        UserError: the input is not what it should be, the output is in the way, or both sides do not
            compute the same. Nothing is left behind.
    """
    for name in (request.source, request.target):
        if name in LATER:
            raise UserError(
                f"the format {name} is not converted yet; there are: {MEGABERT}, {HUGGINGFACE}"
            )
    old = _existing(request)
    model, trained_with = _read(request)
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
    for name, reason in model.left_out:
        log.info("left out: %s (%s)", name, reason)
    fingerprint = _fingerprint(model)
    if old is not None and old.get("sha256") == fingerprint and old.get("to") == request.target:
        if _unharmed(request.output, old):
            return Result(request.output, True, None, model)
    elif old is not None and not request.force:
        raise UserError(
            f"{request.output} holds another conversion; name another folder, or --force replaces it"
        )
    with new_folder(request.output, replace_existing=old is not None) as temporary:
        comparison = _write_and_check(request, model, tokenizer, temporary)
        record = {
            "from": request.source,
            "to": request.target,
            "input": model.origin,
            "sha256": fingerprint,
            "head": model.head,
            "trained_positions": model.trained_positions,
            "left_out": dict(model.left_out),
            "check": comparison.as_dict(),
            "files": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(temporary.iterdir())
            },
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (temporary / RECORD).write_text(text, encoding="utf-8")
    return Result(request.output, False, comparison, model)


def _existing(request: Request) -> dict[str, Any] | None:
    """The record of an earlier conversion in the output folder; None if the folder is free.

    Raises:
        UserError: the folder holds something else.
    """
    output = request.output
    if not output.exists():
        return None
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
        return dict(record)
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{output} exists and was not made by launch/convert.py: name another output folder"
        ) from None


def _read(request: Request) -> tuple[WholeModel, str | None]:
    if request.source == HUGGINGFACE:
        model, trained_with = huggingface.read(request.input), None
    else:
        beside = next(p for p in request.output.absolute().parents if p.is_dir())
        model, trained_with = checkpoint.read(
            request.input, scratch=beside, tokenizer=request.tokenizer
        )
    if request.tokenizer is not None:
        model.tokenizer = request.tokenizer
    return model, trained_with


def _write_and_check(
    request: Request, model: WholeModel, tokenizer: Tokenizer | None, folder: Path
) -> Comparison:
    """Fill the folder and compare what is read back from it with the source.

    Raises:
        UserError: the sides differ.
    """
    if request.target == HUGGINGFACE:
        huggingface.write(folder, model, tokenizer.special.pad if tokenizer else 0)
        right: Side = their_side(folder, model)
    else:
        write_weights(
            folder,
            model.config,
            model.tensors,
            model.tokenizer,
            trained_positions=model.trained_positions,
            source=model.origin,
            tokenizer_sha256=tokenizer.sha256 if tokenizer else None,
        )
        again, _ = checkpoint.read(folder)
        right = our_side(again)
    if tokenizer is not None:
        complete(folder, tokenizer)
    if request.source == HUGGINGFACE:
        source_folder, _ = huggingface.model_folder(request.input)
        left = their_side(source_folder, model)
    else:
        left = our_side(model)
    if tokenizer is not None:
        check_tokenizer(folder, tokenizer)
    names = (f"{request.source} (input)", f"{request.target} (output)")
    comparison = compare(left, right, model, tokenizer, names)
    if comparison.failures:
        raise UserError(
            f"the converted model does not compute the same: {'; '.join(comparison.failures)}; "
            "nothing was written"
        )
    return comparison


def _fingerprint(model: WholeModel) -> str:
    """SHA-256 over configuration, tensors and tokenizer files: equal for equal results."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name in sorted(model.tensors):
        digest.update(f"\n{name} {list(model.tensors[name].shape)}\n".encode())
        digest.update(_bytes(model.tensors[name]))
    if model.tokenizer is not None:
        digest.update(load_tokenizer(model.tokenizer).sha256.encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().numpy().data.cast("B")


def _unharmed(folder: Path, record: dict[str, Any]) -> bool:
    """Whether every file of an earlier conversion still has the content its record states."""
    files = record.get("files", {})
    return bool(files) and all(
        (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in files.items()
    )
