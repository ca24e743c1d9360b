"""Runs functions in a process of their own, for libraries that a hostile file can stop or crash.

The HDF5 library follows the headers of a file, and headers can be made in which it never arrives, or
leaves its memory; Arrow unpacks pages of any size. In a forked process this is an error; its time and memory are limited.
:func:`run_isolated` forks for one function, :class:`IsolatedWorker` for many requests.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import multiprocessing
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from h5py._objects import phil

from megabert.common.json_text import JsonError, parse_json

Row = TypeVar("Row")

_SECONDS = 3
"""Of computing; reading the headers of a shard takes some milliseconds."""
_MOST_SECONDS = 300.0
"""Of waiting, for a slow file system."""
_MEMORY = 1 << 30
_WORKER_MEMORY = 3 << 29
_MOST_BYTES = 1 << 22  # of an answer
_NO_ANSWER = "the library that reads it does not come to an end on it, or crashes"


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
        answer = parse_json(content, of_data=True) if content else None
    except JsonError:
        answer = None
    if not isinstance(answer, dict):
        raise IsolatedFault(_NO_ANSWER)
    if "error" in answer:
        raise IsolatedFault(str(answer["error"]))
    return answer["value"]


def _answer(function: Callable[[], Any], sending: int) -> NoReturn:
    """The forked process; it ends here."""
    try:
        _limit_memory(_MEMORY)
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
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


class IsolatedWorker:
    """A forked process that answers one request after another.

    It is forked for the first request, again after it was lost, and by each fork of this process for
    itself. It ends when this process does. ``answer`` runs in it; it is given requests, and says by
    :func:`allow_seconds` how long it may compute.
    """

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._process = 0
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    @property
    def runs(self) -> bool:
        """Whether there is a process, which may have something open."""
        return self._pipe is not None

    def ask(self, request: bytes) -> bytes:
        """Its answer.

        Raises:
            IsolatedFault: there is none; the process is ended.
        """
        with self._lock:
            pipe = self._pipe or self._start()
            answer = None
            try:
                with suppress(EOFError, OSError):
                    pipe.send_bytes(request)
                    if pipe.poll(_MOST_SECONDS):
                        answer = pipe.recv_bytes()
            finally:
                if answer is None:
                    self._end()
        if answer is None:
            raise IsolatedFault(_NO_ANSWER)
        return answer

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        with phil:
            process = os.fork()
        if process == 0:
            self._serve(theirs)
        theirs.close()
        self._pipe, self._process = ours, process
        return ours

    def _serve(self, pipe: Connection) -> NoReturn:
        """The forked process; it ends here."""
        try:
            _limit_memory(_WORKER_MEMORY)
            _let_go(pipe.fileno())
            while True:
                pipe.send_bytes(self._answer(pipe.recv_bytes()))
        finally:
            os._exit(0)

    def _end(self) -> None:
        if self._process:  # 0 would be this process's whole group
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
        self._forget()

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process, self._pipe, self._lock = 0, None, threading.Lock()


def rows_in_batches(read: Callable[[int, int], Sequence[Row] | None], batch: int) -> Iterator[Row]:
    """The rows that ``read(first, count)`` returns, at most ``count`` from ``first`` on, until there are none.

    None from it means that an :class:`IsolatedWorker` could not read them: from there on it is asked
    for one row at a time.

    Raises:
        IsolatedFault: one row alone cannot be read.
    """
    first = 0
    while True:
        rows = read(first, batch)
        if rows is None and batch == 1:
            raise IsolatedFault(_NO_ANSWER)
        if rows is None:
            batch = 1
        elif rows:
            yield from rows
            first += len(rows)
        else:
            return


def allow_seconds(seconds: int) -> None:
    """Let this process compute for so long from now on; then it is killed."""
    used = int(time.process_time())
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + seconds, most))


def _limit_memory(size: int) -> None:
    """Let this process take ``size`` bytes more than it has, and write no report if it crashes."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + size if most == resource.RLIM_INFINITY else min(used + size, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _let_go(kept: int) -> None:
    """In a fork: leave signals and all open files but one to the parent."""
    gc.freeze()  # what the parent left over would close files of this process
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(sent, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number < 3:
            os.dup2(null, number)
        elif number not in (kept, null):
            with suppress(OSError):
                os.close(number)
