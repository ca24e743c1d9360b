"""What a command needs of its process before it begins: standard streams, and enough open files."""

from __future__ import annotations

import os
import resource
import sys

from megabert.common.errors import UserError

_WANTED_FILES = 1024
_FEWEST_FILES = 64


def open_closed_streams() -> None:
    """Open closed standard streams on the null device, before anything else is opened.

    The next file or socket would otherwise get the number of a closed stream, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def allow_files() -> None:
    """Raise a low limit of open files as far as this process may.

    Raises:
        UserError: it may open too few.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= _WANTED_FILES:
        return
    allowed = _WANTED_FILES if most == resource.RLIM_INFINITY else min(_WANTED_FILES, most)
    if allowed < _FEWEST_FILES:
        raise UserError(
            f"this process may open {allowed} files only: raise the limit (ulimit -n {_WANTED_FILES}), then "
            "run the same command again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
