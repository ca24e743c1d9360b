"""How a watched run ends: its files in ``RUN/faults``, one line for all ranks, status 1."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from megabert.common.errors import EXIT_FAULT, EXIT_USAGE
from megabert.common.log import show_alone
from megabert.common.names import RUN_FAULTS
from megabert.common.processes.launchers import STARTED_BY, Launcher
from megabert.common.processes.reports import FOLDER_VARIABLE, report_end
from megabert.common.processes.stopping import end_now
from megabert.engine.watch.judge import Beat, Verdict
from megabert.engine.watch.processes import STOPPED, end_process, stacks, state_of

_FILES_SECONDS = 5.0
"""A run folder that does not answer must not keep the run from ending."""
_LAUNCHER_SECONDS = 60
OUT_OF_REACH = "it is stopped, or its host or network is down"
_WITH_TABLES = ("torchrun", "torch.distributed", "deepspeed")
_LAST_WORDS = """
import os, select, sys
line, pid, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
try:
    select.select([os.pidfd_open(pid)], [], [], seconds)
except (OSError, AttributeError):
    pass
print(line, file=sys.stderr, flush=True)
"""


@dataclass(frozen=True)
class WatchedRun:
    """What the watch must know of a run.

    Attributes:
        limit: ``--hang-timeout`` in seconds; 0 judges only ranks that are lost.
        folder: the run folder, on a file system that all hosts share.
        kept: what is left of the run and how to continue it, in words.
    """

    limit: float
    folder: Path
    kept: Callable[[], str]


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Do ``act`` in a thread of its own; False if it fails, or takes longer."""
    good: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(OSError):
            act()
            good.append(True)

    thread = threading.Thread(target=attempt, name="watch-files", daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(good)


def _launcher_to_outlive() -> Launcher | None:
    """The topmost launcher that prints tables of its own when a rank has failed.

    Not beyond a remote shell: that, and all above it, wait until nobody holds their output.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) < int(
        os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0
    ):
        return None  # it starts the run again
    if FOLDER_VARIABLE in os.environ:
        return None  # launch/run.py prints the last line
    above = list(takewhile(lambda one: any(n in one.name for n in _WITH_TABLES), STARTED_BY))
    return next((one for one in reversed(above) if one.pid and not one.gone), None)


class Ending:
    """The end of one rank's run.

    Attributes:
        folder: ``RUN/faults/TIME``, the same on every rank; made only when there is a fault.
    """

    def __init__(self, run: WatchedRun, own: Beat, started: str) -> None:
        self.run, self.own = run, own
        self.folder = run.folder / RUN_FAULTS / started
        self._error = os.dup(2)
        self._lock = threading.Lock()

    @property
    def log(self) -> Path:
        """This rank's file: its stack, and what libraries said."""
        return self.folder / f"rank-{self.own.rank}.log"

    def note(self, text: str) -> None:
        """Append to this rank's file; no effect where that cannot be written."""

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text.rstrip() + "\n")

        within(_FILES_SECONDS, write)

    def silence_libraries(self) -> None:
        """Send what libraries write to standard error from now on to this rank's file."""

        def redirect() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(target, 2)

        if not within(_FILES_SECONDS, redirect):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def end(self, verdict: Verdict, first: bool) -> None:
        """Write this rank's stack, have one rank print the line, and exit; does not return.

        Args:
            first: this rank prints the line, unless another has; the others wait a moment for it.
        """
        with self._lock:  # the first verdict counts
            self._end(verdict, first)

    def _end(self, verdict: Verdict, first: bool) -> None:
        said, status = "", EXIT_USAGE if verdict.wrong_input else EXIT_FAULT
        try:
            with contextlib.suppress(Exception):
                show_alone(None)
                sys.stdout.flush()
            self.silence_libraries()
            within(_FILES_SECONDS, self._write_stack)
            if verdict.text or verdict.wrong_input:
                if not first:
                    time.sleep(0.5)
                line = f"error: {verdict.wrong_input or self._full_text(verdict)}"
                if within(_FILES_SECONDS, lambda: self._claim(line)) or self._unwritable():
                    said = line
                    self._print(line)
            time.sleep(0.5)  # the others must have read the verdict
            self._kill(verdict)
            if FOLDER_VARIABLE in os.environ:
                report_end(self.own.rank, status, said)
        finally:
            end_now(status)

    def _full_text(self, verdict: Verdict) -> str:
        return f"{verdict.text}{self._look_at(verdict)}; {self._kept()}"

    def _write_stack(self) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"\n{self.own.name()}, process {self.own.pid}, at the end:\n\n{stacks()}")

    def _kept(self) -> str:
        found: list[str] = []
        within(_FILES_SECONDS, lambda: found.append(self.run.kept()))
        return found[0] if found else "continue with --resume auto"

    def _claim(self, line: str) -> None:
        """Be the rank that prints; OSError if another one is."""
        with (self.folder / "line.txt").open(
            "x", encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(line + "\n")

    def _unwritable(self) -> bool:
        """Whether nobody can claim the line: then every host's ranks say it."""
        return not (self.folder / "line.txt").exists()

    def _look_at(self, verdict: Verdict) -> str:
        """What more is known of the first culprit, and where its stack is."""
        culprit = verdict.culprits[0]
        path = self.folder / f"rank-{culprit.rank}.log"
        if not verdict.kill:
            return f"; its stack is in {path}" if verdict.hangs else ""
        if culprit.machine != self.own.machine:
            return f"; {OUT_OF_REACH}"
        state, fetched = state_of(culprit.pid, culprit.born), self._fetch_stack(culprit)
        if STOPPED in state:
            return f"; {state}, so that it cannot write its stack"
        return f"; {state or OUT_OF_REACH}" + (f"; its stack is in {path}" if fetched else "")

    def _fetch_stack(self, culprit: Beat) -> bool:
        """Copy the stack that a timer has written in a rank whose Python threads cannot run."""
        source = Path(f"/proc/{culprit.pid}/fd/{culprit.stack_file}")

        def copy() -> None:
            with source.open("rb") as file:
                if not file.read(1):
                    raise FileNotFoundError
                file.seek(0)
                with (self.folder / f"rank-{culprit.rank}.log").open("ab") as target:
                    shutil.copyfileobj(file, target)

        return culprit.stack_file >= 0 and within(_FILES_SECONDS, copy)

    def _print(self, line: str) -> None:
        """Print the line, after the last of the launcher's if that has tables of its own."""
        launcher = _launcher_to_outlive()
        if launcher is not None:
            command = [sys.executable, "-S", "-c", _LAST_WORDS, line, str(launcher.pid)]
            with contextlib.suppress(OSError):
                subprocess.Popen(
                    [*command, str(_LAUNCHER_SECONDS)],
                    stdin=subprocess.DEVNULL,
                    stderr=self._error,
                    start_new_session=True,  # the launcher ends this rank's process group
                )
                return
        os.write(self._error, (line + "\n").encode(errors="backslashreplace"))

    def _kill(self, verdict: Verdict) -> None:
        """End the culprits of this machine that do not answer: nobody else may do it."""
        for culprit in verdict.culprits if verdict.kill else ():
            if culprit.machine == self.own.machine and culprit.machine:
                end_process(culprit.pid, culprit.born)
