"""Files of weights: safetensors, and the tokenizer's files next to them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megabert.common.downloads import check_downloaded
from megabert.common.errors import UserError
from megabert.common.files import umask
from megabert.common.storage import system_error

TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""File names under which tokenizers are stored, by transformers and here."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file of contiguous fp32 CPU tensors.

    Raises:
        OSError: the disk is full or not writable. This replaces safetensors' own error.
    """
    plain = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    try:
        save_file(plain, path, metadata=dict(metadata or {}))
    except SafetensorError as error:
        found = system_error(error, path)
        if found is None:
            raise
        raise found from error
    path.chmod(0o666 & ~umask())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped.

    Raises:
        UserError: the file is not a complete safetensors file.
    """
    check_downloaded(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file: {error}") from error


def copy_tokenizer(source: Path | None, folder: Path) -> list[str]:
    """Copy the tokenizer's files in ``source`` into ``folder``; returns their names."""
    names = [name for name in TOKENIZER_FILES if source and (Path(source) / name).is_file()]
    for name in names:
        shutil.copyfile(Path(source or ".") / name, folder / name)
    return names
