"""Errors of the operating system as one line: what could not be done, where, why, and what to do."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabert.common.errors import TrainingStopped, UserError

AGAIN = "run the same command again"
"""What follows the cure, where nothing else is said."""
RESUME = "run it again with --resume auto"
"""The same, for a run that has checkpoints."""

_CURES = {
    errno.ENOSPC: "free some space on that disk{free}, then {then}",
    errno.EDQUOT: "your quota there is used up: remove files of yours or ask for more, then {then}",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then {then}",
    errno.EACCES: "{owner}run as a user who may, change the permissions, or name another place",
    errno.EPERM: "{owner}the system forbids it (see lsattr and mount): allow it, or name another place",
    errno.EROFS: "that disk is mounted read-only: mount it for writing, or name another place",
    errno.EIO: "the disk, or the network to it, fails: see the system's log (dmesg), then {then}",
    errno.ESTALE: "the folder was replaced on its server: mount it again, then {then}",
    errno.ENXIO: "the device is gone: see the system's log (dmesg), then {then}",
    errno.ENODEV: "the device is gone: see the system's log (dmesg), then {then}",
    errno.ENOENT: "it or a folder above it is missing: check the name, then {then}",
    errno.ENOTDIR: "a part of that path is a file: name another place",
    errno.EISDIR: "a folder has that name: name another place",
    errno.EEXIST: "something else has that name: name another place",
    errno.ENOTEMPTY: "another process writes there: wait for it, then {then}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links there point to each other: name another place",
    errno.EMFILE: "raise the number of open files (ulimit -n), then {then}",
    errno.ENFILE: "the machine has too many open files: close some programs, then {then}",
    errno.EBUSY: "another program uses it: wait for it, then {then}",
    errno.ETXTBSY: "another program runs it: wait for it, then {then}",
    errno.EMLINK: "that folder is full: name another place",
    errno.ENOTSUP: "that file system cannot do this: name a place on another one",
}

_TAKEN_AWAY = (
    "it or a folder above it is gone: was the run's folder removed, renamed or unmounted while the run used "
    "it? Bring it back and {then}, or start a new run"
)
_PLENTY = 1 << 26
"""Bytes: where more are free, a quota or a device is full, and the number would mislead."""

_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


_NUMBER = re.compile(r"(?:os error|errno =) (\d+)")


def system_error(error: Exception, path: Path) -> OSError | None:
    """The system's error that a library's own error (of HDF5, safetensors) quotes; None: it quotes none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    found = _NUMBER.search(str(error))
    if found is None:
        return None
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path))


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
)
_DEVICES = ("CUDA", "HIP", "Cuda failure", "CUBLAS", "CUDNN")


def memory_line(error: Exception) -> str | None:
    """One line for an error of too little memory, of Python, torch or a device; None: it is another one."""
    text = " ".join(str(error).split())
    said = isinstance(error, OSError | RuntimeError) and any(s in text.lower() for s in _NO_MEMORY)
    if not said and not isinstance(error, MemoryError):
        return None
    reason = text[:300] or type(error).__name__
    if any(name in text for name in _DEVICES):
        return (
            "out of memory on the GPU: use a smaller --micro-batch-size, --activation-checkpointing on, or a "
            "higher --zero-stage; launch/plan.py computes what fits; is another program on this GPU "
            f"(nvidia-smi)? {reason}"
        )
    return (
        "out of memory: give this process more, or less to do at once (a smaller --micro-batch-size, fewer "
        f"workers): {reason}"
    )


class StorageFault(TrainingStopped):
    """A run that ends because a disk is full, fails, or was taken away."""


def is_storage_error(error: BaseException) -> bool:
    """True for an error of a disk, a file system or a permission that :func:`storage_line` explains."""
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | BrokenPipeError):
        return False
    return error.errno in _CURES


def same_file(known: os.stat_result, path: Path) -> bool:
    """Whether ``path`` still leads to the file or folder of ``known``; another error than that of a missing
    one does not say that it does not."""
    try:
        return os.path.samestat(known, path.stat())
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)


def storage_line(
    error: OSError,
    place: Path | str | None = None,
    what: str = "cannot be used",
    then: str = AGAIN,
) -> str:
    """One line for an error: the file, what failed, the system's own reason, and what to do.

    Args:
        place: named where the error has no file name of its own.
        what: "cannot be written", "cannot be read"; a full disk cannot be written in any case.
        then: what to do once the cause is gone.
    """
    writing = error.errno in _OF_WRITING
    what = "cannot be written" if writing else what
    file = error.filename2 if writing and error.filename2 else error.filename  # a copy names both
    named = file if isinstance(file, str | bytes | os.PathLike) else place
    reason = error.strerror or str(error) or type(error).__name__
    cure = _CURES.get(error.errno or 0, "remove the cause, then {then}")
    if error.errno == errno.ENOENT and then == RESUME:
        cure = _TAKEN_AWAY
    where = None if named is None else Path(os.fsdecode(named))
    cure = cure.format(then=then, free=_free(where), owner=_owner(where))
    return f"{where if where is not None else 'a file'} {what}: {reason}; {cure}"


@contextmanager
def named_storage_errors(
    place: Path | str, what: str = "cannot be written", then: str = AGAIN
) -> Iterator[None]:
    """Turn errors of the disk within the block into a :class:`UserError` with :func:`storage_line`."""
    try:
        yield
    except OSError as error:
        if not is_storage_error(error):
            raise
        raise UserError(storage_line(error, place, what, then)) from error


def require_writable(output: Path) -> None:
    """Refuse an output whose nearest folder cannot be written, before long work for it.

    Raises:
        UserError: it cannot, with the system's reason.
    """
    place = _nearest(output)
    if place is None or not place.is_dir() or os.access(place, os.W_OK | os.X_OK):
        return
    read_only = os.statvfs(place).f_flag & os.ST_RDONLY
    number = errno.EROFS if read_only else errno.EACCES
    raise UserError(storage_line(OSError(number, os.strerror(number)), output, "cannot be written"))


def _nearest(place: Path | None) -> Path | None:
    """``place``, or the nearest folder above it that this process can look at."""
    for path in () if place is None else (place, *place.absolute().parents):
        try:
            path.stat()
        except OSError:
            continue
        return path
    return None


def _free(place: Path | None) -> str:
    found = _nearest(place)
    if found is None:
        return ""
    try:
        free = shutil.disk_usage(found).free
    except OSError:
        return ""
    if free > _PLENTY:
        return ""
    return f" ({free / 1e6:,.1f} MB are free)"


def _owner(place: Path | None) -> str:
    found = _nearest(place)
    if found is None:
        return ""
    status = found.stat()
    return (
        f"{found} belongs to {_user(status.st_uid)} ({stat.filemode(status.st_mode)}), and this process "
        f"runs as {_user(os.geteuid())}: "
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
