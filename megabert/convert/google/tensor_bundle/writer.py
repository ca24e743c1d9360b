"""Writes a tensor bundle: one data file, with the tensors in the order of their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from megabert.convert.google.tensor_bundle.entries import CODES, BundleEntry, Header
from megabert.convert.google.tensor_bundle.reader import data_file, index_file
from megabert.convert.google.tensor_bundle.table import LONGEST_KEY, table_bytes
from megabert.data.foreign.tfrecord import masked_crc32c


def write_bundle(prefix: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``PREFIX.data-00000-of-00001`` and then ``PREFIX.index``, as TensorFlow's saver does.

    Args:
        prefix: path without ``.index``; its folder exists.
        tensors: of any data type in ``entries.CODES``, on any device.

    Raises:
        ValueError: a name is empty, too long or begins with a zero byte, or a data type has no
            number.
    """
    prefix = Path(prefix)
    entries = [(b"", Header(shards=1).encoded())]
    offset = 0
    with data_file(prefix, 0, 1).open("wb") as file:
        for key, name in sorted((name.encode(), name) for name in tensors):
            tensor = tensors[name]
            if not key or key[0] == 0 or len(key) > LONGEST_KEY or tensor.dtype not in CODES:
                raise ValueError(f"{name!r} of {tensor.dtype} cannot be stored in a tensor bundle")
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            checksum = masked_crc32c(content.tobytes())
            file.write(content.data)
            code, shape = CODES[tensor.dtype], tuple(tensor.shape)
            entry = BundleEntry(code, shape, offset=offset, size=len(content), checksum=checksum)
            entries.append((key, entry.encoded()))
            offset += len(content)
    index_file(prefix).write_bytes(table_bytes(entries))
