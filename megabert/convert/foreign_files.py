"""Weight files of other projects: safetensors and PyTorch pickles, single or sharded."""

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

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import require_file
from megabert.common.schema import plain_file_name
from megabert.convert.huggingface.config import read_object
from megabert.convert.name_table import first_names
from megabert.model.plain_pickles import only_plain
from megabert.model.weight_files import read_tensors

# raised by readers that interpret damaged bytes as lengths, names and tables
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_ZIP = b"PK\x03\x04"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of a single file, or prefixes of the names of indexes of shards, in order of priority."""


def load_plain(path: Path) -> Any:
    """Read what ``torch.save`` wrote, without running any code in it.

    Tensors of a zip archive (torch 1.6 and later) stay in the file, which is mapped into memory.

    Raises:
        UserError: it holds more than tensors and plain containers, or is damaged.
    """
    check_downloaded(path)
    zipped = _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            with only_plain():
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors (or is damaged), so it is not loaded: "
            "ask its author for model.safetensors"
        ) from error
    except _UNREADABLE as error:
        kind = type(error).__name__
        raise UserError(
            f"{path} is not a file of torch.save, or it is damaged ({kind}: {_first_line(error)})"
        ) from error


def _check_archive(path: Path) -> bool:
    """Whether a file is a zip archive; verifies its records' checksums, which torch does not do.

    Raises:
        UserError: a record, or the archive's directory, is damaged.
    """
    try:
        require_file(path)
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                begins = file.read(len(_ZIP)) == _ZIP
            if begins:
                raise UserError(f"{path} is truncated: its end is missing; copy the file again")
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
    for file in weight_map.values():
        try:
            plain_file_name(file if isinstance(file, str) else "")
        except ValueError as error:
            raise UserError(
                f"{index}: a value of its weight_map is not a file name: {file!r:.60}"
            ) from error
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        path = index.parent / file
        if not path.is_file():
            raise UserError(f"{index} names {file}, which does not exist")
        part = read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        listed = {name for name, where in weight_map.items() if where == file}
        if absent := listed - part.keys():
            raise UserError(f"{path} lacks {min(absent)}, which {index.name} lists there")
        if strange := part.keys() - listed:
            raise UserError(
                f"{path} holds tensors that {index.name} does not list there: "
                f"{first_names(strange)}"
            )
        tensors.update(part)
    return tensors


def read_weight_files(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weights, under the names found there.

    ``model.safetensors`` is preferred to ``pytorch_model.bin``; both may be sharded.

    Raises:
        UserError: there are no weights, a shard is missing, a file is damaged, or a pickle holds
            code.
    """
    for name in WEIGHT_FILES:
        if (path := folder / name).is_file():
            return read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        if (path := folder / f"{name}.index.json").is_file():
            return _read_sharded(path)
    raise UserError(f"{folder} has no model.safetensors and no pytorch_model.bin")
