"""A run under a launcher, as one process: signals reach its ranks, and its exit status is theirs.

The launcher is in a process group of its own, so that a terminal's Ctrl-C does not reach it: it would
kill its ranks after 30 seconds. Its orphans become this process's children and are waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert.common.errors import EXIT_FAULT, EXIT_USAGE, UserError
from megabert.common.processes.kernel import process_stat
from megabert.common.processes.reports import FOLDER_VARIABLE, Ended, read_reports
from megabert.common.processes.stopping import ONE_REQUEST_SECONDS, REQUESTS

_PR_SET_CHILD_SUBREAPER = 36
_POLL = 0.1
_SECONDS_TO_START = 60.0
"""After a signal: if no rank has reported by then, they are on other hosts, and the launcher gets it."""
_SECONDS_AFTER_RANKS = 35.0
"""After the last rank: the time in which launcher and worker processes must have ended."""


def supervise(command: Sequence[str]) -> tuple[int, str]:
    """Run a launcher until it and all that it started have ended; the run's exit status and last line.

    Raises:
        UserError: there is no such launcher.
    """
    with tempfile.TemporaryDirectory(prefix="megabert-run-") as folder:
        return _Supervisor(command, Path(folder)).run()


class _Supervisor:
    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command, self._folder = command, folder
        self._requests: list[tuple[int, float]] = []  # signal, time
        self._told: dict[int, int] = {}  # rank's process -> requests that it has got
        self._launcher_status: int | None = None

    def run(self) -> tuple[int, str]:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in REQUESTS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._request)
        environment = {**os.environ, FOLDER_VARIABLE: str(self._folder)}
        try:
            launcher = subprocess.Popen(self._command, env=environment, process_group=0)
        except OSError as error:
            raise UserError(f"{self._command[0]}: {error.strerror}; name a launcher") from error
        quiet_since = time.monotonic()
        while self._reap(launcher.pid):
            time.sleep(_POLL)
            ranks = self._ranks()
            self._pass_on(ranks, launcher.pid)
            if ranks or self._launcher_status is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _SECONDS_AFTER_RANKS:
                _kill_children()
        launcher.returncode = self._launcher_status
        return self._outcome()

    def _request(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if not self._requests or now - self._requests[-1][1] > ONE_REQUEST_SECONDS:
            self._requests.append((number, now))

    def _reap(self, launcher: int) -> bool:
        """Collect what has ended; whether anything is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == launcher:
                self._launcher_status = os.waitstatus_to_exitcode(status)

    def _ranks(self) -> list[int]:
        """Ranks on this host that take signals."""
        started, ended = read_reports(self._folder)
        return sorted(pid for pid in started - set(ended) if _alive(pid))

    def _pass_on(self, ranks: Sequence[int], launcher: int) -> None:
        """Send each request to each rank once; to the launcher where there are no ranks."""
        for pid in ranks:
            for number, _ in self._requests[self._told.get(pid, 0) :]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            self._told[pid] = len(self._requests)
        if self._told or self._launcher_status is not None or not self._requests:
            return
        again = len(self._requests) > 1
        if again or time.monotonic() - self._requests[0][1] > _SECONDS_TO_START:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher, signal.SIGTERM)
            self._told[launcher] = len(self._requests)

    def _outcome(self) -> tuple[int, str]:
        started, ended = read_reports(self._folder)
        status = self._launcher_status or 0
        status = 128 - status if status < 0 else status
        return outcome(sorted(started - set(ended)), list(ended.values()), status)


def outcome(lost: Sequence[int], ended: Sequence[Ended], launcher: int) -> tuple[int, str]:
    """Exit status and last line of a run.

    The first process that failed decides, because it is why the others ended.

    Args:
        lost: processes that ended without a report.
        ended: the reports.
        launcher: the launcher's exit status.
    """
    failed = sorted((one for one in ended if one.status), key=lambda one: one.time)
    told = [one for one in failed if one.line]
    if lost and not any(one.status == EXIT_USAGE for one in told):
        line = f"error: process {lost[0]} of the run was killed, or crashed; see above"
        return EXIT_FAULT, f"{line}; continue from the last checkpoint with --resume auto"
    if failed:
        first = failed[0]
        same = [one for one in told if one.status == first.status]
        main = min(same, key=lambda one: (one.rank, one.time)) if same else first
        return first.status, main.line
    if ended:
        return 0, ""
    return launcher, ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_children() -> None:
    """SIGKILL to all children of this process."""
    for folder in Path("/proc").iterdir():
        stat = process_stat(int(folder.name)) if folder.name.isdigit() else None
        if stat is not None and stat.parent == os.getpid():
            with contextlib.suppress(OSError):
                os.kill(int(folder.name), signal.SIGKILL)


def main(argv: Sequence[str] | None = None) -> int:
    """``launch/run.py``: run a launcher; exit with the status of its ranks and their last line."""
    command = list(sys.argv[1:] if argv is None else argv)
    if command[:1] in ([], ["-h"], ["--help"]):
        print(sys.modules["__main__"].__doc__ or "")
        return 0 if command else EXIT_USAGE
    try:
        status, line = supervise(command)
    except UserError as error:
        status, line = EXIT_USAGE, f"error: {error}"
    if status and line:
        print(line, file=sys.stderr, flush=True)
    return status
