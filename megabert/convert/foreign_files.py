"""Weight files of other projects: safetensors and PyTorch pickles, whole or in shards."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.huggingface.config import read_object
from megabert.convert.name_table import first_names
from megabert.model.weight_files import read_tensors

# what readers raise that take damaged bytes for lengths, names and tables
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Whole, or as the beginning of the name of an index of shards; the first that is there counts."""


def load_plain(path: Path) -> Any:
    """What ``torch.save`` wrote, read so that no code in it can run.

    Tensors of a zip archive (torch 1.6 and later) stay in the file, which is mapped into memory.

    Raises:
        UserError: it holds more than tensors and plain containers, or is no whole file.
    """
    zipped = _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors (or is damaged), so it is not opened: "
            "ask its author for model.safetensors"
        ) from error
    except _UNREADABLE as error:
        raise UserError(f"{path} is not a whole weight file: {_first_line(error)}") from error


def _check_archive(path: Path) -> bool:
    """Whether a file is a zip archive; its records are compared with their checksums, as torch does not.

    Raises:
        UserError: a record, or the archive's table of them, is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, *_UNREADABLE) as error:
        raise UserError(f"{path} is a damaged archive: {_first_line(error)}") from error
    if record is not None:
        raise UserError(f"{path} is damaged: {record} does not match its checksum")
    return True


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_pickled(path: Path) -> dict[str, Tensor]:
    values = load_plain(path)
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    ):
        raise UserError(f"{path} is not a plain table of tensors")
    return values


def _read_sharded(index: Path) -> dict[str, Tensor]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise UserError(f"{index}: a value of its weight_map is no file name")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        path = index.parent / Path(file).name
        if not path.is_file():
            raise UserError(f"{index} names {file}, which is not there")
        part = read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        listed = {name for name, where in weight_map.items() if where == file}
        if absent := listed - part.keys():
            raise UserError(f"{path} lacks {min(absent)}, which {index.name} says it holds")
        if strange := part.keys() - listed:
            raise UserError(
                f"{path} holds tensors that {index.name} does not list there: "
                f"{first_names(strange)}"
            )
        tensors.update(part)
    return tensors


def read_weight_files(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's weights under the names found there.

    Safetensors first, whole or sharded; else ``pytorch_model.bin``, whole or sharded.

    Raises:
        UserError: no weights, a missing shard, a damaged file, a pickle that holds code.
    """
    for name in WEIGHT_FILES:
        if (path := folder / name).is_file():
            return read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        if (path := folder / f"{name}.index.json").is_file():
            return _read_sharded(path)
    raise UserError(f"{folder} holds no model.safetensors and no pytorch_model.bin")
