"""Atomic writers of files and folders, and SHA-256. No other module renames, syncs or digests.

:func:`open_file` opens a file that is to be read, :func:`read_limited` reads a small one whole.

A writer fills a temporary file next to the target, syncs it to disk (fsync), renames it, and syncs
the parent folder. After a kill at any moment, a full disk or a power cut, the target holds either
the old content or the new content, never a part of it.

The temporary name of ``NAME`` is ``NAME.tmp``. The next writer overwrites what a killed one left
there. If several processes may write the same ``NAME`` at once, ask for a unique temporary name.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TextIO

from megabert.common.errors import UserError
from megabert.common.processes.stopping import requests_held
from megabert.common.storage import storage_line

TEMPORARY = ".tmp"
"""Ending of the name of a file that is being written."""
REMOVED = ".removed.partial"
"""Ending of the name of a folder that is being removed."""

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)

LONGEST_LINE = 1 << 20
"""Bytes of a line that :func:`limited_lines` reads."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

# ---------------------------------------------------------------- files


def output_file(path: Path) -> Path:
    """The file to write for a user's ``--output``: of a symbolic link, what it points to.

    Raises:
        UserError: something there is not a regular file.
        OSError: the path cannot be looked at.
    """
    with suppress(FileNotFoundError):
        _require_replaceable(path, path.stat().st_mode)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _require_replaceable(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UserError(f"{path} is {what}, not a file: name another output")


def temporary_name(path: Path, *, unique: bool = False) -> Path:
    """Where the content of ``path`` is written before it is renamed."""
    middle = f".{uuid.uuid4().hex[:12]}" if unique else ""
    return path.with_name(f"{path.name}{middle}{TEMPORARY}")


@contextmanager
def new_file(path: Path, *, durable: bool = True, unique: bool = False) -> Iterator[Path]:
    """A temporary path to write to, renamed to ``path`` when the block ends without an error.

    On an error the temporary file is removed and ``path`` is unchanged. An ``OSError`` about the
    temporary file names ``path`` instead. A link of that name is replaced, not followed; for a name
    that the user gave see :func:`output_file`.

    Args:
        path: the file to create or replace; its folder exists.
        durable: wait for the disk. False is for scratch files that a later run checks or makes
            again, because waiting for each of them would cost more than writing it.
        unique: several processes may write ``path`` at once.

    Raises:
        UserError: ``path`` is a device, a pipe or a socket.
    """
    temporary = temporary_name(path, unique=unique)
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode):  # of a folder the renaming says so
            _require_replaceable(path, mode)
    try:
        if not unique:
            temporary.unlink(missing_ok=True)  # it may be a link or a pipe
        yield temporary
        if durable:
            sync(temporary)
        rename(temporary, path, durable=durable)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and str(error.filename) in (str(temporary), "None"):
            error.filename, error.filename2 = str(path), None  # a full disk's error has no name
        raise


@contextmanager
def new_text_file(path: Path) -> Iterator[TextIO]:
    """:func:`new_file`, opened for UTF-8 text."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield stream


def write_bytes(path: Path, content: bytes, *, durable: bool = True, unique: bool = False) -> None:
    """Create or replace a file; see :func:`new_file`."""
    with new_file(path, durable=durable, unique=unique) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Create or replace a file of UTF-8 text; see :func:`new_file`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object, *, indent: int = 2, ensure_ascii: bool = True) -> None:
    """Create or replace a file of indented JSON; see :func:`new_file`."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + "\n")


def require_file(path: Path) -> None:
    """Refuse what is not a regular file, before it is opened: a pipe would be waited for.

    A folder is left to the error of opening it.

    Raises:
        UserError: it is a device, a pipe or a socket.
        OSError: it cannot be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UserError(f"{path} is {what}, it is not a regular file: use a file in its place")


def open_file(path: Path) -> BufferedReader:
    """A regular file, opened for reading; see :func:`require_file`."""
    require_file(path)
    return path.open("rb")


def read_limited(path: Path, largest: int, what: str) -> bytes:
    """The content of a regular file that has at most ``largest`` bytes (whole MiB, for the message).

    ``what``: its kind, for the message: "a manifest".

    Raises:
        UserError: it has more, or is not a regular file.
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        return read_rest(file, path, largest, what)


def read_rest(file: BinaryIO, path: Path, largest: int, what: str) -> bytes:
    """:func:`read_limited` of a file that is open."""
    too_large = os.fstat(file.fileno()).st_size > largest
    content = b"" if too_large else file.read(largest + 1)
    if too_large or len(content) > largest:
        raise UserError(f"{path}: more than {largest >> 20} MiB, which is too large for {what}")
    return content


def limited_lines(path: Path) -> Iterator[bytes]:
    """The lines of a regular file, with their line feeds, one at a time.

    Raises:
        UserError: a line is longer than ``LONGEST_LINE``; no regular file.
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE + 1)
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{path} line {number} has more than {LONGEST_LINE >> 20} MiB: the file is damaged"
                )
            if not line:
                return
            yield line


# ---------------------------------------------------------------- folders


@contextmanager
def new_folder(
    output: Path, *, replace_existing: bool = False, unique: bool = True
) -> Iterator[Path]:
    """A temporary folder to fill, renamed to ``output`` when the block ends without an error.

    On an error the temporary folder and the parents created for it are removed, and ``output`` is
    unchanged.

    Args:
        output: the folder to create, with its parents.
        replace_existing: replace an existing folder. Of a link to a folder only the link is replaced.
        unique: the temporary folder is ``.NAME.*``, so that two processes do not collide; otherwise
            it is ``NAME.tmp``, and a folder that a killed process left there is removed first.

    Raises:
        UserError: ``output`` exists (and ``replace_existing`` is false), or cannot be made.
    """
    output = Path(output)
    if output.is_symlink() and not output.exists():
        raise UserError(
            f"{output} is a link to {output.readlink()}, which is not there: name another output folder "
            "or remove the link"
        )
    if output.exists() and not replace_existing:
        raise UserError(f"{output} exists: name another output folder or remove it first")
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    temporary: Path | None = None
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with requests_held():
                temporary = _temporary_folder(output, unique)
        except OSError as error:
            raise UserError(storage_line(error, output, "cannot be written")) from error
        yield temporary
        sync_tree(temporary)
        with requests_held():
            _take_place(temporary, output)
        sync(output.parent)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                _name_target(error, temporary, output)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _name_target(error: OSError, temporary: Path, output: Path) -> None:
    """Let an error about the temporary folder name the file of ``output`` instead."""
    named = [os.fsdecode(name) for name in (error.filename2, error.filename) if name is not None]
    inside = next((name for name in named if Path(name).is_relative_to(temporary)), None)
    if not named:
        error.filename = str(output)  # the error of a full disk has no name
    elif inside is not None:  # a copy has two names
        error.filename = str(output / Path(inside).relative_to(temporary))
        error.filename2 = None


def _temporary_folder(output: Path, unique: bool) -> Path:
    if unique:
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        temporary.chmod(0o777 & ~umask())
        return temporary
    temporary = temporary_name(output)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def _take_place(temporary: Path, output: Path) -> None:
    """Rename ``temporary`` to ``output``. An old folder is removed if the renaming succeeds."""
    if not output.exists():
        temporary.replace(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    output.replace(old / "was")
    try:
        temporary.replace(output)
    except OSError:
        (old / "was").replace(output)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Rename a folder and remove it, so that a kill cannot leave a partial folder of that name.

    A folder that cannot be renamed is not removed. Of a link only the link is removed.
    """
    removed = folder.with_name(folder.name + REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    try:
        folder.replace(removed)
    except OSError:
        return
    shutil.rmtree(removed, ignore_errors=True)


# ---------------------------------------------------------------- steps of the above


def sync(path: Path) -> None:
    """Write a file's content, or a folder's list of names, to disk (fsync).

    Errors of file systems that cannot sync folders are ignored.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder or error.errno not in _NOT_FOR_FOLDERS:
            raise


def sync_tree(folder: Path) -> None:
    """:func:`sync` everything in a folder, and the folder itself."""
    for path in folder.rglob("*"):
        if path.exists():
            sync(path)
    sync(folder)


def rename(old: Path, new: Path, *, durable: bool = True) -> None:
    """Rename ``old`` to ``new``, replacing a file of that name. :func:`sync` the content first.

    With ``durable``, a power cut cannot undo the renaming.
    """
    old.replace(new)
    if durable:
        sync(new.parent)


def umask() -> int:
    """The permission bits that new files do not get; files of ``tempfile`` get fewer still."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------- SHA-256


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises as :func:`open_file`."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes | str) -> str:
    """SHA-256 of bytes, or of text as UTF-8, hexadecimal."""
    return sha256_of_parts([content.encode() if isinstance(content, str) else content])


def sha256_of_parts(parts: Iterable[bytes | memoryview]) -> str:
    """SHA-256 of the parts, one after the other, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
