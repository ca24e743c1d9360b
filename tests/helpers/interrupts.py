"""A request to stop, at each line that some code runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import megabert
from megabert.common.processes import stopping
from megabert.common.processes.stopping import Interrupted, StopWatch

_COUNTED = (str(Path(megabert.__file__).parent), contextlib.__file__, tempfile.__file__)


def interrupted_at_each_line(run: Callable[[], None]) -> Iterator[None]:
    """Call ``run`` again and again, with SIGTERM at its first line of Python, its second, and so on.

    Lines of this project count, and those of the modules that open and close its blocks and temporary
    folders; not those of the watch itself. Yields after each call; the last one ends before its signal.
    """
    number = 0
    done = False
    while not done:
        number += 1
        with StopWatch():
            done = not _interrupted(run, number)
        yield


def _interrupted(run: Callable[[], None], number: int) -> bool:
    """Whether the signal at line ``number`` came before the end of ``run``, which must raise it."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if not name.startswith(_COUNTED) or name == stopping.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                os.kill(os.getpid(), signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        run()
    except Interrupted:
        return True
    finally:
        sys.settrace(None)
    assert left > 0, f"nothing was raised by the signal at line {number}"
    return False
