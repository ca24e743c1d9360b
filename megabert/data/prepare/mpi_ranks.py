"""The task queue of an MPI job: rank 0 owns it, and every rank has workers.

    rank 0: task pool = its own workers + the other ranks
    rank r: "here" with its host; rank 0: "all here", and only then calls that need all ranks
    rank r: "ready" with its number of workers; then for every task a result or an error
    rank 0: "stop" when the job fails, and "end" when it is over
    rank r: "stopped"; "goodbye", when its workers have ended

A rank that does not answer "stop" or "end" in time is named, and ended when rank 0 exits. One that is
not "here" or "ready" in time is named, and the job ends.

Messages are small (what to read, or a batch of pages), and rank 0 sends them to a rank only while
it has an idle worker. Only the main process of a rank uses MPI; the workers are spawned and never
load it. mpi4py is imported only if a launcher started more than one rank.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megabert.common.errors import EXIT_FAULT, EXIT_USAGE, UserError
from megabert.common.log import print_error
from megabert.common.processes.stopping import requests_held, stop_watch
from megabert.data.prepare.worker_pool import TaskPool, WorkerPool, available_cores, portable

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_POLL = 0.002  # seconds between two checks for messages
_STOP_TIMEOUT = 60.0  # seconds in which a rank must stop its work, or say goodbye
_START_TIMEOUT = 300.0  # seconds in which one more rank must be here, or ready


def launched_ranks() -> int:
    """Number of ranks that an MPI launcher started (mpirun of Open MPI or MPICH, srun), or 1."""
    sizes = (os.environ.get(name, "") for name in _SIZES)
    return max([1, *(int(size) for size in sizes if size.isdigit())])


@contextmanager
def task_pool(
    workers: int | None,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    start_method: str = "spawn",
) -> Iterator[TaskPool | None]:
    """The workers of this process, or under MPI those of all ranks.

    On ranks above 0 the block gets None, once the job is over.

    Args:
        workers: processes per rank; None for one per core, where the ranks of a host share its
            cores.
        prepare, arguments, start_method: see :class:`.worker_pool.WorkerPool`.

    Raises:
        UserError: mpi4py is missing, or belongs to another MPI than the launcher.
    """
    expected = launched_ranks()
    if expected == 1:
        count = workers or available_cores()
        with WorkerPool(count, prepare, arguments, start_method=start_method) as pool:
            yield pool
        return
    ranks, led = None, False
    try:
        with requests_held():  # what all ranks do together
            ranks = Ranks(expected)
            count = workers or ranks.available_cores()
        with WorkerPool(count, prepare, arguments, start_method=start_method) as pool:
            if ranks.rank:
                _serve(ranks, pool)
            else:
                with _RankedPool(ranks, pool) as all_ranks:
                    led = True
                    yield all_ranks
        if ranks.rank:
            ranks.send(0, ("goodbye",))
            ranks.flush()
    except BaseException as error:
        # a rank cannot end before all do: the others must know
        if ranks is not None and ranks.rank and isinstance(error, KeyboardInterrupt):
            ranks.send(0, ("interrupted",))
        elif ranks is not None and not ranks.rank and not led:
            for rank in set(range(1, ranks.size)) - ranks.ended:
                ranks.send(rank, ("end",))
        raise
    if ranks.rank:
        yield None


class Ranks:
    """Messages between the ranks of an MPI job.

    Attributes:
        ended: ranks that have said that they end.
    """

    def __init__(self, expected: int) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"an MPI launcher started {expected} ranks, but mpi4py cannot be used ({reason}): "
                "pip install 'megabert[mpi]'"
            ) from None
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank = self._comm.Get_rank()
        self.size = self._comm.Get_size()
        if self.size != expected:
            raise UserError(
                f"the launcher started {expected} ranks, but mpi4py finds {self.size}: it uses "
                f"another MPI ({MPI.Get_library_version().split(',')[0].strip()}); use the mpirun "
                "of that MPI"
            )
        self._sent: list[Any] = []
        self.hosts: dict[int, str] = {}
        self.ended: set[int] = set()
        self._meet()

    def _meet(self) -> None:
        """Wait until every rank is here; rank 0 ends the job if one does not come."""
        if self.rank == 0:
            for rank, content in self.wait_for_all("here"):
                self.hosts[rank] = content[0]
            for rank in self.hosts:
                self.send(rank, ("all here",))
            return
        self.send(0, ("here", socket.gethostname()))
        while self.receive() is None:
            time.sleep(_POLL)

    def wait_for_all(self, kind: str) -> Iterator[tuple[int, Sequence[Any]]]:
        """On rank 0: sender and content of each other rank's message of this kind, as they come.

        The job ends if no further one comes in :data:`_START_TIMEOUT` seconds.

        Raises:
            KeyboardInterrupt: a rank was interrupted.
        """
        waiting, deadline = set(range(1, self.size)), time.monotonic() + _START_TIMEOUT
        while waiting:
            news = self.receive()
            if news is not None:
                if news[1][0] == "interrupted":
                    raise KeyboardInterrupt
                waiting.discard(news[0])
                deadline = time.monotonic() + _START_TIMEOUT
                yield news[0], news[1][1:]
            elif time.monotonic() > deadline:
                print_error(
                    f"error: {self.names(waiting)} not get {kind} within {_START_TIMEOUT:g} s: it hangs, or "
                    "cannot be reached; see its output, then run the same command again"
                )
                self.abort()
                raise SystemExit(EXIT_FAULT)  # some MPIs return
            else:
                time.sleep(_POLL)

    def names(self, ranks: Iterable[int]) -> str:
        """As ``rank 1 on host7 does`` and ``rank 1 on host7, rank 2 on host8 do``."""
        named = [
            f"rank {rank}" + (f" on {self.hosts[rank]}" if rank in self.hosts else "")
            for rank in sorted(ranks)
        ]
        return ", ".join(named) + (" does" if len(named) == 1 else " do")

    def available_cores(self) -> int:
        """Cores for this rank, at least 1: ranks of a host divide the cores they share evenly."""
        mine = (socket.gethostname(), sorted(os.sched_getaffinity(0)))
        everyone = self._comm.allgather(mine)
        same_host = [cores for host, cores in everyone if host == mine[0]]
        total = sum(1 / sum(core in cores for cores in same_host) for core in mine[1])
        return max(1, int(total + 1e-9))

    def send(self, rank: int, message: tuple[Any, ...]) -> None:
        """Send without waiting."""
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(message, rank))

    def receive(self) -> tuple[int, tuple[Any, ...]] | None:
        """The next message and its sender; None if no message has arrived."""
        status = self._mpi.Status()
        message = self._comm.improbe(status=status)
        if message is None:
            return None
        rank, content = status.Get_source(), message.recv()
        if content[0] in ("goodbye", "interrupted"):
            self.ended.add(rank)
        return rank, content

    def flush(self) -> None:
        """Wait until all messages have been sent."""
        self._mpi.Request.Waitall(self._sent)
        self._sent = []

    def abort(self, status: int = EXIT_FAULT) -> None:
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.5)  # mpirun must have read it
        self._comm.Abort(status)


class _RankedPool(TaskPool):
    """All workers, as rank 0 uses them; use as a context manager."""

    def __init__(self, ranks: Ranks, local: WorkerPool) -> None:
        self._ranks, self._local = ranks, local
        self._others = range(1, ranks.size)
        self._free: dict[int, int] = {}
        self._given: dict[int, int] = dict.fromkeys(self._others, 0)
        self._lost: set[int] = set()
        self.count = local.count
        for rank, (workers,) in ranks.wait_for_all("ready"):
            self._free[rank] = workers
            self.count += workers

    def __enter__(self) -> _RankedPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        asked = set(self._others) - self._lost - self._ranks.ended
        for rank in asked:
            self._ranks.send(rank, ("end",))
        self._wait_for(asked, ("goodbye", "interrupted"))
        if not self._lost:
            self._ranks.flush()
            return
        state = "the result is complete" if error is None else "there is no result"
        print_error(
            f"error: {self._ranks.names(self._lost)} not answer within {_STOP_TIMEOUT:g} s; {state}"
        )
        # a rank that hangs would keep MPI, and with it this process, from ending
        atexit.register(self._ranks.abort, _status_after(error))

    def _wait_for(self, ranks: set[int], answers: tuple[str, ...]) -> None:
        """Wait for one of ``answers`` from each of ``ranks``; those that do not answer are lost."""
        waiting, deadline = set(ranks) - self._ranks.ended, time.monotonic() + _STOP_TIMEOUT
        while waiting:
            news = self._ranks.receive()
            if news is not None:
                if news[1][0] in answers:
                    waiting.discard(news[0])
            elif time.monotonic() > deadline:
                self._lost |= waiting
                return
            else:
                time.sleep(_POLL)

    @property
    def idle(self) -> bool:
        return self._local.idle or any(self._free.values())

    @property
    def busy(self) -> bool:
        return self._local.busy or any(self._given.values())

    def submit(self, function: Callable[[Any], Any], task: Any) -> None:
        rank = max(self._free, key=lambda rank: self._free[rank])
        if self._local.idle or not self._free[rank]:
            self._local.submit(function, task)
            return
        self._free[rank] -= 1
        self._given[rank] += 1
        self._ranks.send(rank, ("task", function, task))

    def results(self, timeout: float | None) -> list[Any]:
        found = self._local.results(_POLL if timeout is None else min(timeout, _POLL))
        found += self._take_messages()
        self.peak_memory = max(self.peak_memory, self._local.peak_memory)
        return found

    def _take_messages(self) -> list[Any]:
        found = []
        while (news := self._ranks.receive()) is not None:
            rank, (kind, *content) = news
            if kind == "result":
                result, memory = content
                self._free[rank] += 1
                self._given[rank] -= 1
                self.peak_memory = max(self.peak_memory, memory)
                found.append(result)
            elif kind == "error":
                raise self._located(rank, content[0])
            elif kind == "interrupted":
                self._given[rank] = 0
                raise KeyboardInterrupt
        return found

    def _located(self, rank: int, error: Exception) -> Exception:
        """The error of another rank, with the name of its host if it is not this one."""
        if isinstance(error, UserError) and self._ranks.hosts[rank] != socket.gethostname():
            return UserError(f"{error} (on {self._ranks.hosts[rank]})")
        return error

    def kill(self) -> None:
        self._local.kill()
        waiting = {rank for rank in self._others if self._given[rank]}
        for rank in waiting:
            self._ranks.send(rank, ("stop",))
        self._wait_for(waiting, ("stopped", "interrupted"))
        for rank in self._others:
            self._free[rank] += self._given[rank]
            self._given[rank] = 0


def _status_after(error: BaseException | None) -> int:
    """Exit status of the job, as its command gives it."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return stop_watch().status
    return EXIT_USAGE if isinstance(error, UserError) else EXIT_FAULT


def _serve(ranks: Ranks, pool: WorkerPool) -> None:
    """Run the tasks that rank 0 sends, until it sends "end"."""
    tasks: deque[tuple[Callable[[Any], Any], Any]] = deque()
    ranks.send(0, ("ready", pool.count))
    try:
        while True:
            kind, *content = (ranks.receive() or (0, ("nothing",)))[1]
            if kind == "task":
                tasks.append((content[0], content[1]))
            elif kind == "stop":
                tasks.clear()
                pool.kill()
                ranks.send(0, ("stopped",))
            elif kind == "end":
                break
            try:
                while tasks and pool.idle:
                    pool.submit(*tasks.popleft())
                for result in pool.results(_POLL):
                    ranks.send(0, ("result", result, pool.peak_memory))
            except Exception as error:  # raised on rank 0
                tasks.clear()
                pool.kill()
                ranks.send(0, ("error", portable(error)))
        ranks.flush()
    except KeyboardInterrupt:
        raise
    except BaseException:
        traceback.print_exc()
        ranks.abort()
