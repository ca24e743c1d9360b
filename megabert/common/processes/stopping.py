"""Requests to stop this process: signals, and the end of a launcher that started it.

    INTERRUPT   a request is raised in the main thread, as Ctrl-C is; so does every command start
    LOOK        a training loop looks at ``asked`` after each update, saves, and ends
    LEAVE       the work is done or saved: requests are ignored until the process ends

A thread receives the signals and looks at the launchers, because the main thread may wait in a
collective. It also ends the process: at a second signal, or if the main thread does not get on.
"""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from megabert.common.errors import EXIT_FAULT, EXIT_STOPPED
from megabert.common.processes.launchers import STARTED_BY, Launcher

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a process to stop; one that is ignored at its start (nohup) stays ignored."""
ONE_REQUEST_SECONDS = 2.0
"""Signals within this time of the first are the same request: a terminal sends Ctrl-C to every process,
and a launcher then sends a signal of its own."""
MAIN_THREAD_SECONDS = 10.0
"""Before the training loop: the time in which the main thread must take a request."""
CLEANUP_SECONDS = 120.0
"""Before the training loop: the time in which the main thread must have ended after a request."""
SAVES = "the run saves a checkpoint after this update and stops"
_POLL = 1.0


class Interrupted(KeyboardInterrupt):
    """This process was asked to stop; raised in the main thread."""


class _Mode(enum.Enum):
    INTERRUPT = 0
    LOOK = 1
    LEAVE = 2


def end_now(status: int) -> NoReturn:
    """End the process without any cleanup; its worker processes end with it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


class StopWatch:
    """Whether this process was asked to stop; use as a context manager in the main thread.

    Outside its block nothing is watched, and nobody asks.

    Args:
        announce: prints a line about a request that was accepted.
        last_words: is called with exit status and line when the watch ends the process itself.
        launchers: the processes whose end is a request.
        whole_command: the process ends after the block: what :meth:`leave` ignores stays ignored, and
            requests are raised in the block of :meth:`raising` only.

    Attributes:
        reason: who has asked, in words; None: nobody.
        advice: for an interruption before the training loop: what to do next.
    """

    def __init__(
        self,
        announce: Callable[[str], None] = lambda line: None,
        last_words: Callable[[int, str], None] = lambda status, line: None,
        launchers: Sequence[Launcher] = (),
        *,
        whole_command: bool = False,
    ) -> None:
        self.reason: str | None = None
        self.advice = ""
        self._announce, self._last_words, self._launchers = announce, last_words, launchers
        self._whole_command = whole_command
        self._mode = _Mode.INTERRUPT
        self._signal = 0  # the first one
        self._since = 0.0  # time of the request
        self._raised = self._lost = self._said = False
        self._holds = 1 if whole_command else 0
        self._grace = CLEANUP_SECONDS
        self._kept: Callable[[], str] = lambda: ""
        self._plan = ""
        self._resumable = False
        self._lock = threading.RLock()

    # ---------------------------------------------------------------- for the main thread

    @property
    def asked(self) -> bool:
        """Whether somebody has asked this process to stop."""
        return self.reason is not None

    @property
    def raised(self) -> bool:
        """Whether a request was raised in the main thread."""
        return self._raised

    @property
    def status(self) -> int:
        """Exit status after :class:`Interrupted`: 3 if nothing is lost, otherwise 128 + the signal's number."""
        if self._resumable:
            return EXIT_STOPPED
        return 128 + self._signal if self._signal else EXIT_FAULT

    @property
    def last_line(self) -> str:
        """The line about :class:`Interrupted`: who has asked, and what to do next."""
        reason = "interrupted" if self.reason in (None, "SIGINT") else self.reason
        advice = self.advice or "before the end; run the same command again"
        return f"{reason} {advice}".replace(" ;", ";")

    def resumable(self, advice: str) -> None:
        """From here on an interruption loses nothing: its exit status is 3, and its line ends in ``advice``."""
        self._resumable, self.advice = True, advice

    def look(self, grace: float, kept: Callable[[], str], plan: str = SAVES) -> None:
        """From here on the main thread looks at ``asked``; it must call :meth:`leave` within ``grace``
        seconds of a request. ``kept`` says what is saved if it does not, ``plan`` what the run does."""
        with self._lock:
            self._mode, self._grace, self._kept, self._plan = _Mode.LOOK, grace, kept, plan

    def ask(self, reason: str) -> None:
        """From another thread: a request that is not a signal to this process."""
        if self._note(0, reason) and self._mode is _Mode.INTERRUPT:
            signal.pthread_kill(self._main, signal.SIGTERM)

    def interrupt(self) -> None:
        """From here on a request is raised in the main thread again; one that came before is raised now."""
        with self._lock:
            self._mode, self._grace = _Mode.INTERRUPT, CLEANUP_SECONDS
            if self.reason is None or self._raised:
                return
            self._raised = True
        raise Interrupted(self.reason)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """In the block requests are raised; for a caller that catches them."""
        self._holds -= 1
        try:
            self._raise_held()
            yield
        finally:
            self._holds += 1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """In the block, which is short, a request is not raised in the main thread; at its end it is.

        In another thread, where nothing is raised, without effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._raise_held()

    def _raise_held(self) -> None:
        if not self._holds and self._mode is _Mode.INTERRUPT:
            self.interrupt()

    def leave(self) -> None:
        """From here on requests are ignored: everything is saved."""
        with self._lock:
            self._mode = _Mode.LEAVE

    def __enter__(self) -> StopWatch:
        self._pid = os.getpid()
        self._main = threading.get_ident()
        self._ended = False
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._swallowed
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._reader.setblocking(False)
        self._handlers: dict[int, Any] = {
            number: signal.signal(number, self._handle)
            for number in REQUESTS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        _watches.append(self)
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._pid:
            return
        _watches.remove(self)
        sys.unraisablehook = self._hook
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:  # otherwise somebody else has taken it
                leaving = self._whole_command and self._mode is _Mode.LEAVE
                signal.signal(number, signal.SIG_IGN if leaving else handler)
        self._ended = True
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")
        self._thread.join(5.0)
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Python's handler; it runs in the main thread, when that next runs Python code."""
        if os.getpid() != self._pid:
            return  # a forked worker leaves it to its parent
        with self._lock:
            self._note(number, signal.Signals(number).name)
            if self._mode is not _Mode.INTERRUPT or self._raised or self._holds:
                return
            if frame is not None and frame.f_code is StopWatch._swallowed.__code__:
                self._lost = True  # it would be ignored there as well
                return
            self._raised = True
        raise Interrupted(self.reason)

    def _swallowed(self, lost: sys.UnraisableHookArgs) -> None:
        """Python ignores what is raised in ``__del__`` and the like: the thread sends an interruption again."""
        if not isinstance(lost.exc_value, Interrupted):
            self._hook(lost)
            return
        with self._lock:
            self._raised, self._lost = False, True
        self._writer.send(b"\0")

    # ---------------------------------------------------------------- the watching thread

    def _watch(self) -> None:
        while not self._ended:
            ready, _, _ = select.select([self._reader], [], [], _POLL)
            if ready:
                with contextlib.suppress(BlockingIOError):
                    for number in self._reader.recv(64):
                        if number in self._handlers:
                            self._receive(number)
            if self._mode is _Mode.LEAVE or self._ended:
                continue
            if self.reason is None:
                self._look_at_launchers()
            if self.reason is not None:
                self._say_once()
                self._look_at_the_clock()

    def _note(self, number: int, reason: str) -> bool:
        """Accept a request if it is the first one; whether it is."""
        with self._lock:
            if self.reason is not None or self._mode is _Mode.LEAVE:
                return False
            self.reason, self._signal, self._since = reason, number, time.monotonic()
            return True

    def _receive(self, number: int) -> None:
        if self._note(number, signal.Signals(number).name) or self._mode is _Mode.LEAVE:
            return
        if time.monotonic() - self._since > ONE_REQUEST_SECONDS:
            again = f"{signal.Signals(number).name} after {self.reason}"
            self._end(128 + number, f"{again}: stopped at once{self._kept()}")

    def _look_at_launchers(self) -> None:
        gone = next((launcher for launcher in self._launchers if launcher.gone), None)
        if gone is not None:
            self.ask(f"the launcher {gone} is gone")

    def _say_once(self) -> None:
        """Say that a request is accepted; never with the lock held, which a handler in the midst of
        printing may want."""
        if self._mode is _Mode.LOOK and not self._said:
            self._said = True
            line = f"{self.reason}: {self._plan}"
            again = "; a second signal stops it at once" if self._signal else ""
            with contextlib.suppress(OSError, ValueError):
                self._announce(line + again)

    def _look_at_the_clock(self) -> None:
        waited = time.monotonic() - self._since
        if self._mode is _Mode.LOOK and waited > self._grace:
            what = f"no checkpoint could be saved within {self._grace:g} s"
            self._end(EXIT_FAULT, f"{self.reason}, and {what}{self._kept()}")
        if self._mode is not _Mode.INTERRUPT:
            return
        if self._lost:
            self._lost, self._since = False, time.monotonic()
            signal.pthread_kill(self._main, signal.SIGTERM)
        if waited > (CLEANUP_SECONDS if self._raised else MAIN_THREAD_SECONDS):
            self._end(self.status, self.last_line)

    def _end(self, status: int, line: str) -> NoReturn:
        try:
            self._last_words(status, line)
        finally:
            end_now(status)


_watches: list[StopWatch] = []
_NOBODY = StopWatch()


def stop_watch() -> StopWatch:
    """The watch of this process; without one, a watch that nobody ever asks."""
    return _watches[-1] if _watches else _NOBODY


def requests_held() -> contextlib.AbstractContextManager[None]:
    """:meth:`StopWatch.held` of this process's watch, around steps that must all happen or none: a file
    is created, and what will remove it knows of it."""
    return stop_watch().held()


def command_watch(
    announce: Callable[[str], None], last_words: Callable[[int, str], None]
) -> StopWatch:
    """The watch of a whole command, which looks at the launchers that started it."""
    return StopWatch(announce, last_words, STARTED_BY, whole_command=True)


def _forget() -> None:
    """In a forked process: its parent's watch is not its own."""
    if _watches:
        signal.set_wakeup_fd(-1)
        _watches.clear()


os.register_at_fork(after_in_child=_forget)
