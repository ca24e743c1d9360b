"""A task queue over worker processes, which may die, fail, or lose their parent."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from megabert.common.errors import UserError
from megabert.common.processes.stopping import REQUESTS

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

POLL = 0.01
"""Seconds between two requests to a source of tasks that has none yet."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def process_peak_memory() -> int:
    """Peak memory of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # no Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))


class TaskPool(ABC):
    """Gives tasks to idle workers, in this process's pool or on other ranks."""

    count: int
    """Number of workers."""
    peak_memory: int = 0
    """Peak memory of a worker so far, in bytes."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether a worker is free to take a task."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a task is running."""

    @abstractmethod
    def submit(self, function: Callable[[Any], Any], task: Any) -> None:
        """Give a task to an idle worker. ``function`` must be defined at module level."""

    @abstractmethod
    def results(self, timeout: float | None) -> list[Any]:
        """Wait at most ``timeout`` seconds; return the results that have arrived.

        Raises what a task raised, and ``UserError`` when a worker process died.
        """

    @abstractmethod
    def kill(self) -> None:
        """Stop all work; when this returns, no task is running."""

    def run_unordered(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task | None]
    ) -> Generator[_Result, None, None]:
        """Yield results as they arrive.

        A task is taken from ``tasks`` when a worker is idle; the value None means that no task is
        available yet.

        Raises what a task raised, and ``UserError`` when a worker process died. After an error, and
        when the caller closes the iterator, no task is running.
        """
        source = iter(tasks)
        more = True
        try:
            while more or self.busy:
                timeout = None
                while more and self.idle:
                    task: Any = next(source, _END)
                    if task is None:
                        timeout = POLL
                        break
                    if task is _END:
                        more = False
                    else:
                        self.submit(function, task)
                if more or self.busy:
                    yield from self.results(timeout)
        finally:
            if self.busy:
                self.kill()

    def run(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]
    ) -> Generator[_Result, None, None]:
        """Yield results in the order of the tasks; raises as :meth:`run_unordered`.

        At most two tasks per worker are running or wait for an earlier one.
        """
        done = 0

        def numbered() -> Iterator[tuple[int, _Task] | None]:
            for number, task in enumerate(tasks):
                while number >= done + 2 * self.count:
                    yield None
                yield number, task

        early: dict[int, _Result] = {}
        for number, result in self.run_unordered(partial(_numbered, function), numbered()):
            early[number] = result
            while done in early:
                yield early.pop(done)
                done += 1


_END = object()


def _numbered(
    function: Callable[[_Task], _Result], numbered: tuple[int, _Task]
) -> tuple[int, _Result]:
    number, task = numbered
    return number, function(task)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    waited_for: bool = True  # until it is ready, then while it has a task
    ready: bool = False


class WorkerPool(TaskPool):
    """Processes on this machine; use as a context manager. They start with the first task.

    Args:
        count: number of processes.
        prepare: called in each worker with ``arguments`` before its first task; a function defined
            at module level.
        arguments: see ``prepare``; picklable.
        start_method: ``spawn`` (the default, safe with threads and MPI), ``fork`` or
            ``forkserver``.
    """

    def __init__(
        self,
        count: int,
        prepare: Callable[..., None],
        arguments: tuple[Any, ...],
        *,
        start_method: str = "spawn",
    ) -> None:
        self.count = count
        self._prepare = (prepare, arguments)
        self._context: Any = multiprocessing.get_context(start_method)
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self.busy:
            self.close()
        else:
            self.kill()

    def close(self) -> None:
        """Tell the workers to end, and wait for them."""
        for worker in self._workers:
            try:
                worker.connection.send(None)
            except BrokenPipeError:
                continue
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _start(self) -> None:
        for _ in range(self.count):
            here, there = self._context.Pipe()
            process = self._context.Process(target=_work, args=(there, *self._prepare), daemon=True)
            process.start()
            there.close()
            self._workers.append(_Worker(process, here))

    @property
    def idle(self) -> bool:
        if not self._workers:
            self._start()
        return any(not worker.waited_for for worker in self._workers)

    @property
    def busy(self) -> bool:
        return any(worker.waited_for and worker.ready for worker in self._workers)

    def submit(self, function: Callable[[Any], Any], task: Any) -> None:
        worker = next(worker for worker in self._workers if not worker.waited_for)
        worker.waited_for = True
        try:
            worker.connection.send((function, task))
        except BrokenPipeError:
            raise _died() from None

    def results(self, timeout: float | None) -> list[Any]:
        asked = {worker.connection: worker for worker in self._workers if worker.waited_for}
        if not asked:
            time.sleep(timeout or 0.0)
            return []
        found = []
        for connection in wait(list(asked), timeout):
            assert isinstance(connection, Connection)
            worker = asked[connection]
            try:
                error, result, memory = connection.recv()
            except (EOFError, ConnectionResetError):
                raise _died() from None
            if error is not None:
                worker.waited_for = False
                raise error
            if worker.ready:
                found.append(result)
            worker.ready, worker.waited_for = True, False
            self.peak_memory = max(self.peak_memory, memory)
        return found


def _died() -> UserError:
    return UserError(
        "a worker process died (killed, or out of memory), and the job stopped: run it again, with "
        "fewer --workers if memory is short"
    )


def begin_child() -> None:
    """Make a child process leave signals such as Ctrl-C to its parent, and end when the parent ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def portable(error: Exception) -> Exception:
    """The error for another process to raise, with this process's traceback."""
    if not isinstance(error, (UserError, OSError)):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    return error


def _work(connection: Connection, prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """A worker process: it reports that it is ready, then runs tasks until it receives None."""
    begin_child()
    function: Callable[[Any], Any] = partial(_call, prepare)
    task: Any = arguments
    while True:
        answer: tuple[Exception | None, Any, int]
        try:
            answer = (None, function(task), process_peak_memory())
        except Exception as error:  # raised in the parent
            answer = (portable(error), None, process_peak_memory())
        connection.send(answer)
        try:
            message = connection.recv()
        except EOFError:
            return
        if message is None:
            return
        function, task = message


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
