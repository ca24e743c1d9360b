"""One writer for a run folder or an output: a lock file that names who holds it.

    RUN/in-use.json             the lock of a folder that a job writes into
    .NAME.in-use.json           the lock of an output that appears once it is complete, next to it

The file is created with O_EXCL, which holds on NFS too. It names host, process, start and command. Its
holder touches it every ``BEAT`` seconds, and removes it at the end. What a killed job left is
recognised and taken over, with a line in the log:

- same machine: the process is gone, or its number belongs to a process that began later;
- another machine or container: the file was not touched for ``STALE`` seconds. A job that finds it
  younger watches it until it is touched (then the job is refused) or that time is over.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from megabert.common.errors import UserError
from megabert.common.files import open_file, read_rest
from megabert.common.json_text import parse_json
from megabert.common.log import get_logger
from megabert.common.names import LOCK_FILE
from megabert.common.processes.kernel import own_start, process_stat, this_machine
from megabert.common.processes.stopping import requests_held
from megabert.common.storage import (
    RESUME,
    StorageFault,
    named_storage_errors,
    same_file,
    storage_line,
)

BEAT = 30.0
"""Seconds between two touches of a lock by its holder."""
STALE = 180.0
"""Seconds without a touch after which the lock of another machine counts as left behind."""
_WATCH = 1.0
_COMMAND = 160
_LARGEST = 1 << 20  # bytes
_GUARD = ".takeover"
_held: dict[Path, FolderLock] = {}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; ``kernel`` and ``namespace`` say where ``pid`` is a process number."""

    token: str
    host: str
    kernel: str
    namespace: str
    pid: int
    started: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


def _this_process() -> Holder:
    return Holder(
        uuid.uuid4().hex,
        *this_machine(),
        os.getpid(),
        own_start(),
        time.strftime("%Y-%m-%d %H:%M:%S %z"),
        " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_COMMAND],
    )


def _runs(holder: Holder) -> bool | None:
    """Whether a holder's process still runs; None: not to be seen from here."""
    if (holder.host, holder.kernel, holder.namespace) != this_machine():
        return None
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    stat = process_stat(holder.pid)
    if stat is None:  # hidden from this user
        return True
    return not stat.ended and holder.started in (0, stat.started)


# ---------------------------------------------------------------- the file


def lock_inside(folder: Path) -> Path:
    """The lock of a folder that a job writes into."""
    return folder / LOCK_FILE


def lock_beside(output: Path) -> Path:
    """The lock of a file or folder that appears once it is complete."""
    return output.with_name(f".{output.name}.{LOCK_FILE}")


def is_lock_name(name: str) -> bool:
    """True for the files that locks of a folder need in it."""
    return name.startswith((LOCK_FILE, f".{LOCK_FILE}"))


def _read(file: Path) -> tuple[Holder | None, float, bytes] | None:
    """Holder (None: unreadable content), time of the last touch and bytes; None: there is no lock.

    Opening the file makes NFS ask its server for the time.

    Raises:
        UserError: it is not a regular file, or too large for a lock.
    """
    try:
        with open_file(file) as stream:
            content = read_rest(stream, file, _LARGEST, "a lock")
            touched = os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        found = parse_json(content, of_data=True)  # a command line may not be UTF-8
        values = {field.name: found[field.name] for field in fields(Holder)}
        typed = all(type(values[f.name]).__name__ == f.type for f in fields(Holder))
        holder = Holder(**values) if typed else None
    except (ValueError, KeyError, TypeError):
        holder = None  # being written at this moment, or damaged
    return holder, touched, content


def _time_there(folder: Path) -> float:
    """The time of the disk's own clock, which on NFS is the server's."""
    probe = folder / f".{LOCK_FILE}.{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _left_behind(file: Path, folder: Path) -> tuple[bytes, str] | None:
    """Content and description of a lock that a dead job left; None: there is no lock any more.

    Raises:
        UserError: the lock's holder is alive.
    """
    first: float | None = None
    quiet = 0.0
    began = time.monotonic()
    while True:
        found = _read(file)
        if found is None:
            return None
        holder, touched, content = found
        runs = None if holder is None else _runs(holder)
        if runs is False:
            return content, f"{holder}, which has ended"
        if runs or (first is not None and touched != first):
            raise UserError(_in_use(folder, holder))
        if first is None:
            first, quiet = touched, max(0.0, _time_there(file.parent) - touched)
            if quiet < STALE:
                get_logger().info(
                    "%s is in use by %s: waiting up to %.0f s for a sign of life",
                    folder,
                    holder or "an unknown job",
                    STALE - quiet,
                )
        silent = quiet + time.monotonic() - began
        if silent >= STALE:
            return content, f"{holder or 'an unknown job'}, silent for {silent:.0f} s"
        time.sleep(_WATCH if holder is not None else min(_WATCH, 0.1))  # soon written


def _in_use(folder: Path, holder: Holder | None) -> str:
    return (
        f"{folder} is in use: another job is writing there: {holder or 'an unknown job'}; "
        "wait for it, stop it, or name another --output"
    )


def refuse_if_in_use(file: Path, folder: Path) -> None:
    """Raise ``UserError`` if the lock's holder runs on this machine; look only, take nothing."""
    with named_storage_errors(file, "cannot be read"):
        found = _read(file)
    if found is not None and found[0] is not None and _runs(found[0]):
        raise UserError(_in_use(folder, found[0]))


class FolderLock:
    """A lock, to hold in a ``with`` block or from :meth:`take` to :meth:`release`.

    Args:
        file: of :func:`lock_inside` or :func:`lock_beside`. Missing folders above it are made, and
            removed at the end if they are empty.
        folder: what messages name.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self._file, self._folder = file, folder
        self._mine: Holder | None = None
        self._within: os.stat_result | None = None
        self._made: list[Path] = []
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        try:
            self.take()
            return self
        except BaseException:
            self.release()
            raise

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Take the lock.

        Raises:
            UserError: another job holds it, or the file cannot be written.
        """
        above = self._file.absolute().parent
        try:
            with named_storage_errors(self._folder):
                self._made = [path for path in (above, *above.parents) if not path.exists()]
                above.mkdir(parents=True, exist_ok=True)
                while not self._create():
                    left = _left_behind(self._file, self._folder)
                    if left is not None:
                        self._remove_left(*left)
            self._within = above.stat()
            with requests_held():
                threading.Thread(target=self._beat, name="lock", daemon=True).start()
        except BaseException:
            self.release()
            raise

    def _create(self) -> bool:
        """Create the file; False if there is one."""
        mine = _this_process()
        with requests_held():
            try:
                number = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            try:
                with os.fdopen(number, "wb") as stream:
                    stream.write(json.dumps(asdict(mine), indent=1).encode())
            except OSError as error:
                self._file.unlink(missing_ok=True)
                error.filename = error.filename or str(self._file)
                raise
            self._mine = mine
            _held[self._file.absolute()] = self
        return True

    def _remove_left(self, content: bytes, who: str) -> None:
        """Remove the lock of a dead job, if it is still that one; one process at a time does this."""
        guard = self._file.with_name(self._file.name + _GUARD)
        try:
            os.close(os.open(guard, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if _time_there(guard.parent) - guard.stat().st_mtime > STALE:
                    guard.unlink()  # its process was killed
            time.sleep(0.1)
            return
        try:
            found = _read(self._file)
            if found is not None and found[2] == content:
                self._file.unlink()
                get_logger().warning("%s: taking over the lock of %s", self._folder, who)
        finally:
            guard.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                if self._is_mine():
                    os.utime(self._file)

    def _is_mine(self) -> bool:
        with contextlib.suppress(UserError):  # something else took its place
            found = None if self._mine is None else _read(self._file)
            return found is not None and found[0] == self._mine
        return False

    def require(self) -> None:
        """Check that the lock is still this process's own.

        Raises:
            StorageFault: another job has taken the folder over, because this one was silent for
                ``STALE`` seconds or its lock was removed; or the file cannot be read; or another folder
                has the name of the one that was locked.
        """
        if self._mine is None:
            return
        try:
            found = _read(self._file)
            if found is None:  # somebody removed the file, or its folder
                self._require_folder()
                if self._create():
                    return
        except OSError as error:
            raise StorageFault(storage_line(error, self._file, then=RESUME)) from error
        except UserError as error:
            raise StorageFault(str(error)) from error
        if found is None or found[0] != self._mine:
            who = None if found is None else found[0]
            raise StorageFault(
                f"{self._folder}: another job has taken this folder over: {who or 'unknown'}; this one "
                "ends and writes nothing more there"
            )

    def _require_folder(self) -> None:
        if self._within is not None and not same_file(self._within, self._file.absolute().parent):
            raise StorageFault(
                f"{self._folder} was moved, removed or replaced while this job wrote there; it writes nothing "
                "into another folder of that name: put the first one back, then continue with --resume auto"
            )

    def release(self) -> None:
        """Remove the lock, and the folders made for it if they are empty."""
        with requests_held():
            self._ended.set()
            forked = self._mine is not None and self._mine.pid != os.getpid()
            with contextlib.suppress(OSError):
                if not forked and self._is_mine():
                    self._file.unlink()
            self._mine = None
            if _held.get(self._file.absolute()) is self:
                del _held[self._file.absolute()]
            for path in self._made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            self._made = []


@atexit.register
def release_all() -> None:
    """Release the locks that this process still holds: an interruption can come at the moment at which a
    block ends, before its lock is released."""
    for lock in list(_held.values()):
        lock.release()


def is_held(file: Path) -> bool:
    """Whether this process holds the lock ``file``."""
    return file.absolute() in _held


def require_lock(folder: Path) -> None:
    """:meth:`FolderLock.require` of the lock that this process holds in ``folder``, if it holds one."""
    lock = _held.get(lock_inside(folder).absolute())
    if lock is not None:
        lock.require()


@contextlib.contextmanager
def output_locked(output: Path) -> Iterator[FolderLock]:
    """Hold the lock of an output that appears once it is complete.

    Raises:
        UserError: another job writes it, or its folder cannot be written.
    """
    with FolderLock(lock_beside(output), output) as lock:
        yield lock
