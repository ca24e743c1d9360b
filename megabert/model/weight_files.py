"""Files of weights: safetensors in and out, the tokenizer beside them, folders that appear whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megabert.common.errors import UserError

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


@contextmanager
def new_folder(output: Path, *, replace_existing: bool = False) -> Iterator[Path]:
    """A temporary neighbour of ``output`` that takes its name when the block ends without an error.

    On an error the temporary folder is removed and ``output`` stays as it was.

    Raises:
        UserError: ``output`` exists (and ``replace_existing`` is false), or cannot be made.
    """
    output = Path(output)
    if output.exists() and not replace_existing:
        raise UserError(f"{output} exists: name another output folder or remove it first")
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _fsync(path)
        _fsync(temporary)
        _take_place(temporary, output)
        _fsync(output.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


def _take_place(temporary: Path, output: Path) -> None:
    """Rename ``temporary`` to ``output``; what stood there goes, unless the renaming fails."""
    if not output.exists():
        temporary.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    output.rename(old / "was")
    try:
        temporary.rename(output)
    except OSError:
        (old / "was").rename(output)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file of contiguous fp32 CPU tensors.

    Raises:
        OSError: the disk is full or not writable (safetensors' own error, made a standard one).
    """
    plain = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    try:
        save_file(plain, path, metadata=dict(metadata or {}))
    except SafetensorError as error:
        if "os error 28" in str(error).lower() or "no space" in str(error).lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    path.chmod(0o666 & ~_umask())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped.

    Raises:
        UserError: not a whole safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def copy_tokenizer(source: Path | None, folder: Path) -> list[str]:
    """Copy the tokenizer's files that ``source`` holds into ``folder``; their names."""
    names = [name for name in TOKENIZER_FILES if source and (Path(source) / name).is_file()]
    for name in names:
        shutil.copyfile(Path(source or ".") / name, folder / name)
    return names
