"""Files of ``torch.save``, read without running code that they bring.

A pickle is a program: it names functions, and the reader calls them. Within :func:`only_plain`,
``torch.load`` calls only those that make tensors and plain containers, and the classes named there.
This holds for calls in other libraries too, also for those that pass ``weights_only=False``.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from megabert.common.errors import UserError
from megabert.common.files import open_file

_ALWAYS, _NEVER = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Environment variables of torch that overrule the argument ``weights_only``."""
_ZIP = b"PK\x03\x04"
_NAMED = re.compile(r"GLOBAL (\S+)")


@contextmanager
def only_plain(classes: Sequence[type] = ()) -> Iterator[None]:
    """Within the block, ``torch.load`` makes tensors, plain containers and ``classes``, nothing else.

    Classes that other libraries have declared safe are not allowed here. Not for several threads.
    """
    before = {name: os.environ.pop(name, None) for name in (_ALWAYS, _NEVER)}
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    os.environ[_ALWAYS] = "1"
    try:
        yield
    finally:
        del os.environ[_ALWAYS]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(declared)


def load_plain_archive(path: Path, classes: Sequence[type] = (), *, mapped: bool) -> Any:
    """The content of a zip archive of ``torch.save``, on the CPU.

    Args:
        path: the file.
        classes: what it may hold besides tensors and plain containers.
        mapped: leave the tensors in the file, which is mapped into memory.

    Raises:
        UserError: it holds something else, which is named, or is damaged, or of another form (tar
            archives, bare pickles and TorchScript included).
    """
    try:
        with open_file(path) as file:
            if file.read(len(_ZIP)) != _ZIP:
                raise UserError(f"{path} is not an archive of torch.save, or its start is damaged")
        with only_plain(classes), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        named = _NAMED.search(str(error))
        what = f"it refers to {named[1]}" if named else "it holds more than tensors, or is damaged"
        raise UserError(
            f"{path} is not loaded: {what}, and no file of a checkpoint does that; use a checkpoint from a "
            "source that you trust"
        ) from error
    except Exception as error:  # damaged bytes are taken for lengths, names and arguments
        raise UserError(
            f"{path} cannot be read, it is damaged: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else "no details"
