"""An ordered queue of work over worker processes that may die, fail, or lose their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from megabert.log import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerPool:
    """``count`` worker processes; use as a context manager.

    prepare: called once in each worker with ``arguments`` before its first task; a picklable
    function of a module. start_method: ``spawn`` (default: safe with threads), ``fork`` or
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
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context(start_method),
            initializer=_begin,
            initargs=(prepare, arguments),
        )

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield results in the order of the tasks. At most two tasks a worker are in memory.

        Raises what a task raised, and ``UserError`` when a worker process died.
        """
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(self._pool.submit(function, task))
                while pending and (len(pending) >= 2 * self.count or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process died (killed, or out of memory): the job was stopped; "
                "run it again, with fewer --workers if memory is short"
            ) from None


def _begin(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the job
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
