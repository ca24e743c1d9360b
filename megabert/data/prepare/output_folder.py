"""The output folder of a job: whose it is, what is taken up again, and what is left behind.

A folder is one of: missing or empty; an unfinished job (``.sharding/job.json`` says which);
finished shards (``manifest.json``); something else, which is never touched.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.files import write_bytes
from megabert.data.shards.manifest import Manifest, load_manifest

WORK_FOLDER = ".sharding"
JOB_FILE = "job.json"

Job = Mapping[str, Any]
"""What must be equal for two jobs to have the same result: inputs, tokenizer, options."""


def finished_manifest(output: Path, job: Job, resume: bool) -> Manifest | None:
    """The manifest, when ``resume`` meets the finished result of this very job; None when the
    folder holds no finished result. Raises ``UserError`` for any other finished result."""
    if not (output / names.MANIFEST).exists():
        return None
    if not resume:
        raise UserError(
            f"{output}: holds finished shards already; choose another --output or remove it"
        )
    manifest = load_manifest(output)
    there = {
        "inputs": [dataclasses.asdict(i) for i in manifest.inputs],
        "tokenizer": manifest.tokenizer.sha256,
        "options": manifest.options,
    }
    _require_same(output, there, {key: job[key] for key in there})
    return manifest


@contextmanager
def output_folder(output: Path, job: Job, resume: bool) -> Iterator[Path]:
    """The work folder inside of the output, locked against a second job.

    It is gone when the block ends well. When the block fails, everything the job wrote is taken
    away, unless ``resume`` was asked for: then finished work stays for the next attempt. A killed
    or interrupted job leaves its work folder behind.
    Raises ``UserError`` when the folder belongs to something else, and for a full disk.
    """
    work = output / WORK_FOLDER
    existed = output.exists()
    _require_usable(output, job, resume)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work):
            for stale in chain(output.glob("*.tmp"), work.glob("*.tmp")):
                stale.unlink()
            write_bytes(work / JOB_FILE, json.dumps(job, indent=2).encode())
            yield work
            shutil.rmtree(work)
    except _LockedError as error:
        raise UserError(str(error)) from None
    except Exception as error:
        if not resume:
            _remove(output, existed)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = "; finished work is kept for the next --resume" if resume else ""
            raise UserError(
                f"{output}: the disk is full: free some space or choose another --output{kept}"
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from None
        raise


class _LockedError(Exception):
    pass


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _LockedError(f"{work.parent}: another job is writing here; wait for it") from None
        yield


def _require_usable(output: Path, job: Job, resume: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output}: --output is a file; give a folder")
    record = output / WORK_FOLDER / JOB_FILE
    if record.exists():
        if not resume:
            raise UserError(
                f"{output}: holds an unfinished job; continue it with --resume, or remove it"
            )
        _require_same(output, json.loads(record.read_text()), job)
    elif any(entry.name != WORK_FOLDER for entry in output.iterdir()):
        raise UserError(f"{output}: not empty and not an unfinished job; choose another --output")


def _require_same(folder: Path, there: Job, here: Job) -> None:
    """Raise ``UserError`` that names the first thing in which two jobs differ."""
    for name in ("inputs", "tokenizer", "version", "segment_bytes"):
        if name in here and there.get(name) != here[name]:
            raise UserError(
                f"{folder}: holds the work of another job (other {name}); "
                "choose another --output or remove it"
            )
    for name, value in here["options"].items():
        if there["options"].get(name) != value:
            raise UserError(
                f"{folder}: holds the work of another job ({name} {there['options'].get(name)!r} "
                f"there, {value!r} here); choose another --output or remove it"
            )


def _remove(output: Path, existed: bool) -> None:
    """Take away what this job wrote."""
    shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)
    shutil.rmtree(output / names.TOKENIZER_FOLDER, ignore_errors=True)
    for pattern in (f"*{names.SHARD_SUFFIX}", "*.tmp", names.MANIFEST):
        for path in output.glob(pattern):
            path.unlink(missing_ok=True)
    if not existed and output.is_dir() and not any(output.iterdir()):
        output.rmdir()
