"""An independent writer of MindSpore checkpoints: the protocol-buffer runtime and a schema."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")


def _messages() -> Any:
    """The message class Checkpoint, made from a schema written out here."""
    from google.protobuf import descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="checkpoint_for_tests.proto", package="mindspore_test", syntax="proto2"
    )

    def add(message: Any, name: str, number: int, kind: int, repeated: bool, of: str = "") -> None:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        made = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            made.type_name = f".mindspore_test.{of}"

    tensor = file.message_type.add(name="TensorProto")
    add(tensor, "dims", 1, field.TYPE_INT64, True)
    add(tensor, "tensor_type", 2, field.TYPE_STRING, False)
    add(tensor, "tensor_content", 3, field.TYPE_BYTES, False)
    value = file.message_type.add(name="Value")
    add(value, "tag", 1, field.TYPE_STRING, False)
    add(value, "tensor", 2, field.TYPE_MESSAGE, False, "TensorProto")
    checkpoint = file.message_type.add(name="Checkpoint")
    add(checkpoint, "value", 1, field.TYPE_MESSAGE, True, "Value")
    add(checkpoint, "model_type", 2, field.TYPE_STRING, False)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mindspore_test.Checkpoint"))


CHECKPOINT = _messages()


def one(name: str, kind: str, dims: Iterable[int], content: bytes) -> bytes:
    """A value as a message of its own."""
    message = CHECKPOINT()
    value = message.value.add()
    value.tag = name
    value.tensor.dims.extend(dims)
    value.tensor.tensor_type = kind
    value.tensor.tensor_content = content
    return bytes(message.SerializeToString())


def encode(name: str, tensor: Tensor, pieces: int = 1) -> bytes:
    """A tensor in ``pieces`` pieces of whole values."""
    kind = {
        torch.float32: "Float32",
        torch.float16: "Float16",
        torch.bfloat16: "BFloat16",
        torch.float64: "Float64",
        torch.int32: "Int32",
        torch.int8: "Int8",
    }[tensor.dtype]
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dims = list(tensor.shape) or [0]
    size = tensor.dtype.itemsize * max(1, math.ceil(tensor.numel() / pieces))
    parts = [raw[at : at + size] for at in range(0, len(raw), size)] or [b""]
    return b"".join(one(name, kind, dims, part) for part in parts)


def write(
    path: Path, tensors: dict[str, Tensor], *, checksum: bool = False, pieces: int = 1
) -> Path:
    """A checkpoint of these parameters."""
    content = b"".join(encode(name, tensor, pieces) for name, tensor in tensors.items())
    if checksum:
        content += b"crc_num" + zlib.crc32(content).to_bytes(10, "big")
    path.write_bytes(content)
    return path
