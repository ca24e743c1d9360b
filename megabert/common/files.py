"""Files and folders that appear whole or not at all, and SHA-256: the only such code of the project.

A writer fills a temporary neighbour, has it on disk (fsync), renames it, and has the parent folder's
list of names on disk. So a process killed at any moment, a full disk or a power cut leaves the old
content or the new one, never a part.

The temporary neighbour of ``NAME`` is ``NAME.tmp``. What a killed process leaves there is overwritten
by the next one. Where several processes may write the same ``NAME`` at once, ask for a unique name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from megabert.common.errors import UserError

TEMPORARY = ".tmp"
"""Ending of the name of a file that is being written."""
REMOVED = ".removed.partial"
"""Ending of the name of a folder that is being removed."""

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)

# ---------------------------------------------------------------- files


def temporary_name(path: Path, *, unique: bool = False) -> Path:
    """Where the content of ``path`` is written to before it takes that name."""
    middle = f".{uuid.uuid4().hex[:12]}" if unique else ""
    return path.with_name(f"{path.name}{middle}{TEMPORARY}")


@contextmanager
def new_file(path: Path, *, durable: bool = True, unique: bool = False) -> Iterator[Path]:
    """A temporary path to write to; it takes the name ``path`` when the block ends without an error.

    On an error the temporary file is removed and ``path`` stays as it was. An ``OSError`` about the
    temporary file names ``path`` instead.

    Args:
        path: the file to make or to replace; its folder exists.
        durable: wait for the disk. False is for scratch files, which a later run checks or makes
            again: waiting for each would cost more than writing it.
        unique: several processes may write ``path`` at once.
    """
    temporary = temporary_name(path, unique=unique)
    try:
        yield temporary
        if durable:
            sync(temporary)
        rename(temporary, path, durable=durable)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def new_text_file(path: Path) -> Iterator[TextIO]:
    """:func:`new_file`, opened for UTF-8 text."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield stream


def write_bytes(path: Path, content: bytes, *, durable: bool = True, unique: bool = False) -> None:
    """Make or replace a file; see :func:`new_file`."""
    try:
        with new_file(path, durable=durable, unique=unique) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise


def write_text(path: Path, text: str) -> None:
    """Make or replace a file of UTF-8 text; see :func:`new_file`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object, *, indent: int = 2, ensure_ascii: bool = True) -> None:
    """Make or replace a file of indented JSON; see :func:`new_file`."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + "\n")


# ---------------------------------------------------------------- folders


@contextmanager
def new_folder(
    output: Path, *, replace_existing: bool = False, unique: bool = True
) -> Iterator[Path]:
    """A temporary folder to fill; it takes the name ``output`` when the block ends without an error.

    On an error the temporary folder, and parents made for it, are removed and ``output`` stays as it
    was.

    Args:
        output: the folder to make; its parents are made too.
        replace_existing: replace a folder that is there.
        unique: the temporary folder is ``.NAME.*``, so that two processes do not meet; else it is
            ``NAME.tmp``, and one that a killed process left there is removed first.

    Raises:
        UserError: ``output`` exists (and ``replace_existing`` is false), or cannot be made.
    """
    output = Path(output)
    if output.exists() and not replace_existing:
        raise UserError(f"{output} exists: name another output folder or remove it first")
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_folder(output, unique)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    try:
        yield temporary
        sync_tree(temporary)
        _take_place(temporary, output)
        sync(output.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


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
    """Rename ``temporary`` to ``output``; an older folder goes, unless the renaming fails."""
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
    """Remove a folder, renamed first: one that a kill leaves half removed does not look whole.

    A folder that cannot be renamed stays.
    """
    removed = folder.with_name(folder.name + REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    try:
        folder.replace(removed)
    except OSError:
        return
    shutil.rmtree(removed, ignore_errors=True)


# ---------------------------------------------------------------- steps of the above


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on disk.

    A file system that cannot sync folders is left to itself.
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
    """Give ``old``, whose content is on disk already (:func:`sync`), the name ``new``.

    A file with that name is replaced. ``durable``: a power cut does not undo it.
    """
    old.replace(new)
    if durable:
        sync(new.parent)


def umask() -> int:
    """The permissions that this process takes from what it makes; ``tempfile`` gives fewer."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------- SHA-256


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises ``OSError`` where it cannot be read."""
    with path.open("rb") as file:
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
