"""The file of a MindSpore checkpoint: a sequence of protocol-buffer messages.

The layout is that of MindSpore's ``ccsrc/utils/checkpoint.proto`` and ``train/serialization.py``::

    message Checkpoint { repeated Value value = 1; string model_type = 2 (until 2020); }
    message Value { string tag = 1; TensorProto tensor = 2; MapTensor maptensor = 3; }
    message TensorProto {
        repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3;
    }

Each value is written as a separate Checkpoint; concatenated messages are one message. A tensor
above 512 MiB is written in pieces: values with the same tag and the dims of the whole, with
consecutive contents. dims [0] with content is a scalar. With ``crc_check`` (2024 and later) the
file ends with ``crc_num`` and the CRC-32 of everything before it, 10 bytes, the highest first. An
encrypted file begins with one of three magic numbers and is not supported.

The file is mapped into memory and read in place: only requested tensors are copied, once.
"""

from __future__ import annotations

import math
import mmap
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.data.tokenizers.protobuf import fields, packed_varints

_VALUE, _MODEL_TYPE = 1, 2
_TAG, _TENSOR = 1, 2
_DIMS, _TYPE, _CONTENT = 1, 2, 3
_ENCRYPTED = tuple(number.to_bytes(4, "little") for number in (0x7F3A5ED8, 0x7F3A5ED9, 0x7F3A5EDA))
_LARGEST = 2**40  # of a shape's sizes; larger numbers are damaged
_CHECKSUM_MARK, _CHECKSUM_BYTES = b"crc_num", 10
_TYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@dataclass
class Stored:
    """A parameter in the file.

    Attributes:
        name: its tag.
        kind: its type, as ``float32``.
        dims: its shape as written.
        pieces: its content, little-endian, row by row; views of the mapped file.
    """

    name: str
    kind: str
    dims: tuple[int, ...]
    pieces: list[memoryview] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; () for a scalar, written as [0]."""
        return () if self.dims == (0,) and any(map(len, self.pieces)) else self.dims

    def tensor(self, source: object) -> Tensor:
        """A copy in memory.

        Raises:
            UserError: the type is not supported, or the number of bytes does not match the shape.
        """
        if self.kind not in _TYPES:
            raise UserError(
                f"{source}: {self.name} is of type {self.kind!r}, which is not supported"
            )
        dtype, found = _TYPES[self.kind], sum(map(len, self.pieces))
        expected = math.prod(self.shape) * dtype.itemsize
        if found != expected or not all(0 <= size < _LARGEST for size in self.shape):
            raise UserError(
                f"{source}: {self.name} of shape {list(self.shape)} and type {self.kind} has "
                f"{found} bytes instead of {expected}: the file is damaged or incomplete"
            )
        made = torch.empty(self.shape, dtype=dtype)
        room, place = made.reshape(-1).view(torch.uint8).numpy(), 0
        for piece in self.pieces:
            room[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
        return made


def read_parameters(path: Path) -> dict[str, Stored]:
    """Every parameter of a checkpoint by name, without copying any.

    Raises:
        UserError: the file is encrypted, damaged, or not a checkpoint.
    """
    message = _without_checksum(_mapped(path), path)
    stored: dict[str, Stored] = {}
    last = "its beginning"
    try:
        for number, value in fields(message):
            if number == _MODEL_TYPE and not isinstance(value, int):
                continue
            if number != _VALUE or isinstance(value, int):
                raise ValueError(f"a field {number} that such a file does not have")
            piece = _parameter(value)
            last = piece.name
            _join(stored, piece)
    except ValueError as error:
        raise UserError(
            f"{path} is not a complete MindSpore checkpoint: after {last}: {error} (files saved "
            "with enc_key are not supported either)"
        ) from error
    return stored


def _mapped(path: Path) -> memoryview:
    check_downloaded(path)
    try:
        with path.open("rb") as file:
            message = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise UserError(f"{path} cannot be read: {error}") from error
    if bytes(message[:4]) in _ENCRYPTED:
        raise UserError(
            f"{path} is encrypted; load it in MindSpore with its key and save it without enc_key"
        )
    return message


def _without_checksum(message: memoryview, path: Path) -> memoryview:
    end = len(message) - len(_CHECKSUM_MARK) - _CHECKSUM_BYTES
    if end < 0 or message[end : end + len(_CHECKSUM_MARK)] != _CHECKSUM_MARK:
        return message
    stated = int.from_bytes(message[-_CHECKSUM_BYTES:], "big")
    if zlib.crc32(message[:end]) != stated:
        raise UserError(f"{path} is damaged: its content does not match its checksum (crc_num)")
    return message[:end]


def _parameter(value: memoryview) -> Stored:
    """A parameter, or a piece of one, from a message Value.

    Raises:
        ValueError: damaged, or not a plain tensor.
    """
    parts = dict(fields(value))
    name, message = parts.get(_TAG), parts.get(_TENSOR)
    if not isinstance(name, memoryview):
        raise ValueError("a value without a name")
    made = Stored(bytes(name).decode("utf-8"), "", ())
    if not isinstance(message, memoryview):
        raise ValueError(f"{made.name} is not a tensor (a hash table, or a damaged file)")
    for number, content in fields(message):
        if number == _DIMS:
            sizes = [content] if isinstance(content, int) else packed_varints(content).tolist()
            made.dims += tuple(sizes)
        elif number == _TYPE and not isinstance(content, int):
            made.kind = bytes(content).decode("utf-8").lower()
        elif number == _CONTENT and not isinstance(content, int):
            made.pieces.append(content)
    return made


def _join(stored: dict[str, Stored], piece: Stored) -> None:
    """Add a parameter, or another piece of one.

    Raises:
        ValueError: pieces with the same name differ in shape or type.
    """
    first = stored.setdefault(piece.name, piece)
    if first is piece:
        return
    if (first.kind, first.dims) != (piece.kind, piece.dims):
        raise ValueError(f"{piece.name} occurs twice, with different shapes or types")
    first.pieces += piece.pieces
