"""The processes of a training run, and the processor time that they take."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.steps.runs import ROOT

CORES = 2
"""Of a CPU track: the ranks share them."""
PATIENCE = 180.0
"""Seconds in which ranks that are asked to stop must save and end, or follow one that has ended."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Ranks:
    """Ranks of launch/pretrain.py, started without a launcher, so that nothing else takes processor time.

    Args:
        command: script and flags.
        count: ranks of a CPU run, each with its part of the two cores as threads; 0: one rank with the GPU.
        log: gets what they print.

    Attributes:
        status: the first exit status that was not 0, once all have ended; before, None.
    """

    def __init__(self, command: Sequence[str], count: int, log: Path) -> None:
        self.status: int | None = None
        self._statuses: list[int] = []
        self._ended = 0.0  # processor time of the ranks that have ended
        self._began = time.monotonic()
        self._first_end = 0.0
        self._wall = 0.0
        shared = {**os.environ, "PYTHONPATH": str(ROOT)}
        if count:
            threads = str(max(1, CORES // count))
            shared |= {
                "CUDA_VISIBLE_DEVICES": "",
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": threads,
            }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self._alive: dict[int, subprocess.Popen[bytes]] = {}
        with log.open("ab") as output:
            for rank in range(max(1, count)):
                place = {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(max(1, count)),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                }  # fmt: skip
                process = subprocess.Popen(
                    [sys.executable, *command], cwd=ROOT, env=shared | place, stdout=output, stderr=output,
                    start_new_session=True,
                )  # fmt: skip
                self._alive[process.pid] = process

    @property
    def seconds(self) -> float:
        """By the clock, so far."""
        return self._wall or time.monotonic() - self._began

    @property
    def processor_seconds(self) -> float:
        """Of all ranks and of the processes that they have waited for, so far."""
        return self._ended + sum(map(processor_time, self._alive))

    def poll(self) -> bool:
        """Whether any rank is still alive; one that outlives another one by far is ended."""
        for pid in list(self._alive):
            found, status, used = os.wait4(pid, os.WNOHANG)
            if found:
                self._ended += used.ru_utime + used.ru_stime
                self._alive.pop(pid).returncode = os.waitstatus_to_exitcode(status)
                self._statuses.append(os.waitstatus_to_exitcode(status))
                self._first_end = self._first_end or time.monotonic()
        if self._alive:
            if self._first_end and time.monotonic() - self._first_end > PATIENCE:
                self.signal(signal.SIGKILL)
            return True
        if self.status is None:
            self._wall = time.monotonic() - self._began
            self.status = next((status for status in self._statuses if status), 0)
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every rank."""
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Have all ranks save and end, and wait for them; kill them if they do not."""
        self.signal(signal.SIGTERM)
        self._wait(PATIENCE)

    def kill(self) -> None:
        """End all ranks at once."""
        self.signal(signal.SIGKILL)
        self._wait(PATIENCE)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.poll():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)


@contextlib.contextmanager
def started(command: Sequence[str], count: int, log: Path) -> Iterator[Ranks]:
    """The ranks; after the block they have ended."""
    ranks = Ranks(command, count, log)
    try:
        yield ranks
    finally:
        ranks.stop()


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process and of its children that it has waited for; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / _TICKS
