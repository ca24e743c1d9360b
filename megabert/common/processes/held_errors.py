"""Standard error of this process, held back while a library runs that prints lines of its own."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from megabert.common.processes.stopping import requests_held

_STANDARD_ERROR = 2
_PANIC = re.compile(rb"^\s*thread '.*' (?:\(\d+\) )?panicked at ", re.MULTILINE)
_lock = threading.Lock()


@contextmanager
def without_panic_lines() -> Iterator[None]:
    """Hold back what is written to standard error by this process, and drop it from a panic of Rust on.

    Rust writes to the file itself, so the other threads' lines are held back, too: for short work only,
    such as loading a file.
    """
    with _lock, requests_held():
        try:
            real = os.dup(_STANDARD_ERROR)
        except OSError:  # it is closed
            yield
            return
        held = os.memfd_create("standard-error")
        try:
            _flush()
            os.dup2(held, _STANDARD_ERROR)
            try:
                yield
            finally:
                _flush()
                os.dup2(real, _STANDARD_ERROR)
                _relay(held, real)
        finally:
            os.close(held)
            os.close(real)


def _flush() -> None:
    with suppress(OSError, ValueError):
        sys.stderr.flush()


def _relay(held: int, real: int) -> None:
    os.lseek(held, 0, os.SEEK_SET)
    with os.fdopen(held, "rb", closefd=False) as file:
        content = file.read()
    panic = _PANIC.search(content)
    if panic is not None:
        content = content[: panic.start()]
    with suppress(OSError):
        while content:
            content = content[os.write(real, content) :]
