"""Runs a function in a process of its own, for libraries that a hostile file can stop or crash.

The HDF5 library follows the headers of a file, and headers can be made in which it never arrives, or
leaves its memory. In a forked process this is an error; its time and memory are limited.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from h5py._objects import phil

from megabert.common.json_text import JsonError, parse_json

_SECONDS = 3
"""Of computing; reading the headers of a shard takes some milliseconds."""
_MOST_SECONDS = 300.0
"""Of waiting, for a slow file system."""
_MEMORY = 1 << 30
_MOST_BYTES = 1 << 22  # of an answer


class IsolatedFault(Exception):
    """The function raised an error, or its process did not end well; one line without the file's name."""


def run_isolated(function: Callable[[], Any]) -> Any:
    """What a function returns, which is plain JSON values, computed in a forked process.

    Raises:
        IsolatedFault: it raises an error, takes too long or too much memory, or its process dies.
    """
    receiving, sending = os.pipe()
    with phil:  # the lock of HDF5 is then this thread's in the fork, too
        process = os.fork()
    if process == 0:
        _answer(function, sending)
    os.close(sending)
    content = b""
    try:
        content = _received(receiving)
    finally:
        os.close(receiving)
        if not _has_ended(process):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    try:
        answer = parse_json(content) if content else None
    except JsonError:
        answer = None
    if not isinstance(answer, dict):
        raise IsolatedFault("the HDF5 library does not come to an end on it, or crashes")
    if "error" in answer:
        raise IsolatedFault(str(answer["error"]))
    return answer["value"]


def _answer(function: Callable[[], Any], sending: int) -> NoReturn:
    """The forked process; it ends here."""
    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        try:
            answer = {"value": function()}
        except BaseException as error:
            answer = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
        os.write(sending, json.dumps(answer).encode()[:_MOST_BYTES])
    finally:
        os._exit(0)


def _received(receiving: int) -> bytes:
    """What is written to a pipe until it is closed, or until too much time has passed."""
    until = time.monotonic() + _MOST_SECONDS
    content = b""
    while (left := until - time.monotonic()) > 0 and len(content) < _MOST_BYTES:
        if not select.select([receiving], [], [], left)[0]:
            break
        part = os.read(receiving, 1 << 16)
        if not part:
            return content
        content += part
    return b""


def _has_ended(process: int) -> bool:
    """Whether a process ends within a second, and is taken from the table of processes."""
    for _ in range(100):
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False
