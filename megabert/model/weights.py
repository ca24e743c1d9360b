"""Whole weights: on disk (the "megabert folder"), and into a model of any tensor parallel degree.

A megabert folder holds ``megabert.json`` (the model, and how its tensors are laid out),
``model.safetensors`` (whole fp32 tensors under our parameter names; the vocabulary has its true size,
without padding rows) and the tokenizer's files. It is written to a temporary folder next to it, which
is then renamed, so no incomplete folder ever has its name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megabert.common.errors import UserError, first_fault
from megabert.common.files import new_folder, read_limited, sha256_of_file
from megabert.common.json_text import MAX_JSON_BYTES, RECORD_SUM, parse_json, read_json, record_sum
from megabert.common.log import get_logger
from megabert.common.names import WEIGHTS_FILE, WEIGHTS_FORMAT, WEIGHTS_RECORD
from megabert.common.storage import storage_line
from megabert.config.model import ModelConfig
from megabert.model.head_registry import head_modules
from megabert.model.parameters import (
    ENCODER,
    VOCABULARY_TENSORS,
    pretraining_parameters,
    whole_parameter,
)
from megabert.model.weight_files import copy_tokenizer, read_tensors, write_tensors
from megabert.parallel.layers import TensorParallel

VERSION = 1
QKV_LAYOUT = "separate"
"""Query, key and value are three tensors; other layouts are not supported."""

_WEIGHTS_SUM = "weights_sha256"
_RECORDED: dict[str, type] = {
    "model": dict,
    "trained_positions": int,
    "tokenizer_sha256": str,
    "task": str,
    "labels": list,
    "task_record": dict,
    "history": list,
    "embedding": dict,
    _WEIGHTS_SUM: str,
}
"""Types of further values of a record; all except the model may be absent or null."""


def true_vocabulary(name: str, tensor: Tensor, vocab_size: int) -> Tensor:
    """``tensor`` without the padding rows of the vocabulary ([Vp, ...] -> [V, ...])."""
    return tensor[:vocab_size] if name in VOCABULARY_TENSORS else tensor


def padded_vocabulary(name: str, tensor: Tensor, padded_size: int) -> Tensor:
    """``tensor`` with rows of zeros up to the padded vocabulary ([V, ...] -> [Vp, ...]).

    These rows are never looked up or scored, so their values have no effect.
    """
    if name not in VOCABULARY_TENSORS or tensor.shape[0] >= padded_size:
        return tensor
    padding = tensor.new_zeros(padded_size - tensor.shape[0], *tensor.shape[1:])
    return torch.cat([tensor, padding])


def true_config(config: ModelConfig) -> ModelConfig:
    """The same model without padding in its vocabulary, like the whole tensors on disk."""
    return replace(config, vocab_multiple=1)


def write_weights(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer_folder: Path | None,
    **info: Any,
) -> None:
    """Fill an existing folder; arguments as in :func:`save_weights`."""
    whole = {name: true_vocabulary(name, t, config.vocab_size) for name, t in tensors.items()}
    write_tensors(folder / WEIGHTS_FILE, whole, {"format": "pt"})
    copy_tokenizer(tokenizer_folder, folder)
    record = {
        "format": WEIGHTS_FORMAT,
        "version": VERSION,
        "model": config.to_dict(),
        "qkv_layout": QKV_LAYOUT,
        "trained_positions": info.pop("trained_positions", config.max_position_embeddings),
        "source": info.pop("source", None),
        **info,
    }
    record[_WEIGHTS_SUM] = sha256_of_file(folder / WEIGHTS_FILE)
    record[RECORD_SUM] = record_sum(parse_json(json.dumps(record), of_data=True))
    (folder / WEIGHTS_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def save_weights(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer_folder: Path | None,
    **info: Any,
) -> None:
    """Write a megabert folder.

    Args:
        folder: must not exist.
        config: the model.
        tensors: whole tensors under our names, any float dtype; padding rows are removed.
        tokenizer_folder: its tokenizer files are copied; None: the folder gets none.
        info: further values of ``megabert.json``: ``trained_positions`` (rows of the position table
            that training has seen), ``source``, ``tokenizer_sha256``, ...

    Raises:
        UserError: the folder exists.
    """
    with new_folder(folder) as temporary:
        write_weights(temporary, config, tensors, tokenizer_folder, **info)


def is_weights_folder(folder: Path) -> bool:
    """Whether ``folder`` is a megabert folder, possibly without its weights.

    The record of a checkpoint has the same file name, but not this format.
    """
    record = folder / WEIGHTS_RECORD
    if not record.is_file() or (folder / WEIGHTS_FILE).is_file():
        return record.is_file()
    return f'"{WEIGHTS_FORMAT}"'.encode() in read_limited(record, MAX_JSON_BYTES, "a record")


def read_weights_record(folder: Path) -> dict[str, Any]:
    """The checked ``megabert.json`` of a megabert folder.

    Raises:
        UserError: the file is missing, damaged, of another format or version, or states an unknown
            layout of query, key and value; its content does not match its SHA-256, if it has one.
    """
    path = Path(folder) / WEIGHTS_RECORD
    try:
        record = read_json(path, of_data=True)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a megabert folder: it has no {WEIGHTS_RECORD} "
            "(launch/convert.py makes one from a checkpoint or from a Hugging Face folder)"
        ) from None
    except OSError as error:
        raise UserError(storage_line(error, path, "cannot be read")) from error
    if not isinstance(record, dict) or record.get("format") != WEIGHTS_FORMAT:
        raise UserError(f"{path} does not describe a megabert folder of weights")
    if record.get("version") != VERSION:
        raise UserError(
            f"{path} has version {record.get('version')!r}; this megabert reads version {VERSION}"
        )
    if RECORD_SUM in record and record[RECORD_SUM] != record_sum(record):
        raise _changed(path)
    if record.get("qkv_layout") != QKV_LAYOUT:
        raise UserError(
            f"{path} states the query-key-value layout {record.get('qkv_layout')!r}; this megabert "
            f"supports only {QKV_LAYOUT!r}"
        )
    for name, kind in _RECORDED.items():
        value = record.get(name)
        if not isinstance(value, kind) and (value is not None or name == "model"):
            raise UserError(f"{path}: {name} is {value!r:.60}, not of the type {kind.__name__}")
    return record


def load_weights(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Read a megabert folder.

    Returns:
        The model, its whole fp32 tensors (true vocabulary), and the other values of
        ``megabert.json`` (``trained_positions``, ``source``, ...).

    Raises:
        UserError: this is not a megabert folder, or one of its files is damaged; by the SHA-256 that
            the record states, if it does.
    """
    record = read_weights_record(folder)
    try:
        config = ModelConfig.from_dict(record["model"])
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{Path(folder) / WEIGHTS_RECORD}: {first_fault(error)}") from error
    file = Path(folder) / WEIGHTS_FILE
    tensors = read_tensors(file)
    if record.get(_WEIGHTS_SUM) not in (None, sha256_of_file(file)):
        raise _changed(file)
    _require_size(config, tensors, Path(folder) / WEIGHTS_RECORD)
    skip = {"format", "version", "model", "qkv_layout", _WEIGHTS_SUM, RECORD_SUM}
    return config, tensors, {key: value for key, value in record.items() if key not in skip}


def _changed(path: Path) -> UserError:
    return UserError(
        f"{path} has changed since it was written (SHA-256 differs); copy the folder again, or make it again"
    )


def _require_size(config: ModelConfig, tensors: Mapping[str, Tensor], record: Path) -> None:
    """Raise UserError if an encoder is larger than the tensors of its file, before memory is taken for it."""
    stored = sum(tensor.numel() for tensor in tensors.values())
    padding = config.hidden_size * (config.padded_vocab_size - config.vocab_size)
    if config.num_hidden_layers <= len(tensors):
        try:
            whole = pretraining_parameters(config)
        except RuntimeError:  # a size that overflows
            whole = {}
        wanted = sum(p.numel for name, p in whole.items() if name.startswith(f"{ENCODER}."))
        pooler = sum(p.numel for name, p in whole.items() if name.startswith(f"{ENCODER}.pooler."))
        if whole and wanted - pooler - padding <= stored:
            return
    raise UserError(f"{record} describes a larger model than {WEIGHTS_FILE} next to it holds")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_into` did, by parameter name.

    Attributes:
        matched: parameters that were loaded.
        new: parameters of heads that the file does not hold; they keep their initial values.
        unused: tensors of heads in the file that this model does not have.
    """

    matched: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"weights: {len(self.matched)} tensors loaded"
        if self.new:
            text += f", {len(self.new)} new ({_heads(self.new)})"
        if self.unused:
            text += f", {len(self.unused)} in the file unused ({_heads(self.unused)})"
        return text


def _heads(names: Collection[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 2)[0] for name in names}))


def load_into(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    tp: TensorParallel,
    *,
    new_heads: Collection[str] = (),
    source: object = "the checkpoint",
) -> LoadReport:
    """Load whole tensors into a model, of which this rank takes its tensor parallel part.

    Every encoder tensor (``bert.`` except the pooler) must exist on both sides with the same shape. The
    vocabulary is padded to the model's size.

    Args:
        model: with parameters that ZeRO 3 has not partitioned, any device and float dtype.
        tensors: whole tensors under our names; true or padded vocabulary.
        tp: this rank's place among the tensor parallel ranks.
        new_heads: prefixes of parameters that may be absent from ``tensors`` and then keep their
            initial values, such as ``("qa", "bert.pooler")``.
        source: path, for messages.

    Raises:
        UserError: a tensor is missing, has another shape, or is not part of this model.
    """
    parameters = dict(model.named_parameters())
    prefixes = tuple(f"{head}." for head in new_heads)
    absent = [name for name in parameters if name not in tensors]
    missing = [name for name in absent if not name.startswith(prefixes)] if prefixes else absent
    extra = [name for name in tensors if name not in parameters]
    known = {ENCODER, *head_modules()}
    unexpected = [
        n for n in extra if n.startswith(f"{ENCODER}.") and not n.startswith(f"{ENCODER}.pooler.")
    ]
    unexpected += [n for n in extra if n.split(".")[0] not in known]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    if problems:
        matched = len(parameters) - len(absent)
        raise UserError(
            f"{source} does not fit this model: {matched} tensors matched, {', '.join(problems)}"
        )
    for name, parameter in parameters.items():
        if name in tensors:
            _load_one(name, parameter, tensors[name], tp, source)
    report = LoadReport(
        tuple(name for name in parameters if name in tensors), tuple(absent), tuple(extra)
    )
    get_logger("megabert.weights").info("%s", report)
    return report


def _load_one(
    name: str, parameter: nn.Parameter, whole: Tensor, tp: TensorParallel, source: object
) -> None:
    expected = whole_parameter(parameter, tp.size)
    whole = padded_vocabulary(name, whole, expected.shape[0])
    if tuple(whole.shape) != expected.shape:
        raise UserError(
            f"{source}: {name} has shape {list(whole.shape)}, this model needs "
            f"{list(expected.shape)}"
        )
    with torch.no_grad():
        parameter.copy_(tp.cut(whole, expected.split_dim))


def _first(names: Collection[str], most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")
