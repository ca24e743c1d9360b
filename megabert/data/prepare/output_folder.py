"""The output folder of a job: which job it belongs to, resuming it, and cleaning up after errors.

A folder is one of: missing or empty; an unfinished job (described by ``.sharding/job.json``);
finished shards (``manifest.json``); something else, which is never changed.
"""

from __future__ import annotations

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
from megabert.common.json_text import read_json_object
from megabert.common.processes.locks import FolderLock, lock_inside, refuse_if_in_use
from megabert.common.storage import (
    is_storage_error,
    named_storage_errors,
    require_writable,
    storage_line,
)
from megabert.data.shards.manifest import Manifest, load_manifest

WORK_FOLDER = ".sharding"
PAIRS_FILE = "dropped_pairs.jsonl"
"""Some of the documents that are left out as copies, next to the document of which they are one."""
JOB_FILE = "job.json"

Job = Mapping[str, Any]
"""What must be equal for two jobs to give the same result: inputs, tokenizer, options."""


def check_output(output: Path, resume: bool, *, restarts: bool = False) -> None:
    """Raise ``UserError`` if no job can write into the folder, before anything is read.

    ``restarts``: as of :func:`output_folder`.

    Whether finished or unfinished work belongs to the same job is checked later, when the inputs
    are known (:func:`finished_manifest`, :func:`output_folder`).
    """
    with named_storage_errors(output):
        _require_possible(output, resume, restarts)
    place = output
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{output}: cannot be made, because {place} is a file; name another folder")
    require_writable(output)


def _require_possible(output: Path, resume: bool, restarts: bool) -> None:
    _require_folder(output)
    refuse_if_in_use(lock_inside(output / WORK_FOLDER), output)
    if (output / names.MANIFEST).exists():
        if not resume:
            raise _finished(output)
    elif (output / WORK_FOLDER / JOB_FILE).exists():
        _require_resume(output, resume or restarts)
    else:
        _require_empty(output)


def finished_manifest(output: Path, job: Job, resume: bool) -> Manifest | None:
    """The manifest if the folder holds finished shards of the same job and ``resume`` is set.

    Returns None if the folder holds no finished shards.

    Raises:
        UserError: finished shards of another job, or ``resume`` is not set.
    """
    if not (output / names.MANIFEST).exists():
        return None
    if not resume:
        raise _finished(output)
    manifest = load_manifest(output)
    there = {
        "inputs": [i.as_dict() for i in manifest.inputs],
        "tokenizer": manifest.tokenizer.sha256,
        "options": manifest.options,
    }
    _require_same(output, there, {key: job[key] for key in there})
    return manifest


@contextmanager
def output_folder(
    output: Path, job: Job, resume: bool, *, restarts: bool = False
) -> Iterator[Path]:
    """The work folder inside the output folder, locked against a second job.

    It is removed when the block ends without an error. When the block fails, everything the job
    wrote is removed; with ``resume``, finished work stays for the next attempt. A killed or
    interrupted job leaves its work folder. A job that ``restarts`` cannot be resumed: if it is
    interrupted it removes what it wrote too, and what a killed one of its kind (the same options)
    left is removed first.

    Raises:
        UserError: the folder holds something else, cannot be written, or the disk is full.
    """
    work = output / WORK_FOLDER
    existed = output.exists()
    _require_usable(output, job, resume or restarts)
    with FolderLock(lock_inside(work), output):
        _require_usable(output, job, resume or restarts)  # another job may have finished since
        if restarts and (work / JOB_FILE).exists():
            _remove_results(output)
        yield from _work_in(output, job, resume, existed, restarts)


def _work_in(output: Path, job: Job, resume: bool, existed: bool, restarts: bool) -> Iterator[Path]:
    """The work folder; what is left of it is removed as :func:`output_folder` says."""
    work = output / WORK_FOLDER
    try:
        for stale in chain(output.glob("*.tmp"), work.glob("*.tmp")):
            stale.unlink()
        write_bytes(work / JOB_FILE, json.dumps(job, indent=2).encode())
        yield work
        shutil.rmtree(work)
    except Exception as error:
        if not resume:
            _remove(output, existed)
        if isinstance(error, OSError) and is_storage_error(error):
            note = "what is finished is kept" if resume else "nothing is kept; --resume keeps work"
            line = storage_line(error, output, "cannot be written")
            raise UserError(f"{line} ({note})") from None
        raise
    except BaseException:
        if restarts:
            _remove(output, existed)
        raise


def _require_usable(output: Path, job: Job, resume: bool) -> None:
    _require_folder(output)
    record = output / WORK_FOLDER / JOB_FILE
    if record.exists():
        _require_resume(output, resume)
        _require_same(output, _job_there(record), job)
    else:
        _require_empty(output)


def _job_there(record: Path) -> Job:
    there = read_json_object(record)
    if not isinstance(there.get("options"), dict):
        raise UserError(f"{record}: not the record of a job; choose another --output or remove it")
    return there


def _finished(output: Path) -> UserError:
    return UserError(
        f"{output}: already holds finished shards; choose another --output or remove it"
    )


def _require_folder(output: Path) -> None:
    if output.is_symlink() and not output.exists():
        raise UserError(f"{output}: --output is a link to nothing; name a folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: --output is a file; name a folder")


def _require_resume(output: Path, resume: bool) -> None:
    if not resume:
        raise UserError(
            f"{output}: holds an unfinished job; continue it with --resume, or remove it"
        )


def _require_empty(output: Path) -> None:
    if output.exists() and any(entry.name != WORK_FOLDER for entry in output.iterdir()):
        raise UserError(
            f"{output}: neither empty nor the folder of an unfinished job; choose another --output"
        )


def _require_same(folder: Path, there: Job, here: Job) -> None:
    """Raise ``UserError`` naming the first difference between two jobs."""
    for name in ("inputs", "tokenizer", "version", "segment_bytes"):
        if name in here and there.get(name) != here[name]:
            raise UserError(
                f"{folder}: holds the work of another job (its {name} differs); "
                "choose another --output or remove it"
            )
    for name in {**here["options"], **there["options"]}:
        value = here["options"].get(name)
        if there["options"].get(name) != value:
            raise UserError(
                f"{folder}: holds the work of another job ({name} {there['options'].get(name)!r} "
                f"there, {value!r} here); choose another --output or remove it"
            )


def _remove(output: Path, existed: bool) -> None:
    """Remove what this job wrote."""
    shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)
    _remove_results(output)
    if not existed and output.is_dir() and not any(output.iterdir()):
        output.rmdir()


def _remove_results(output: Path) -> None:
    """Remove what lies next to the work folder, which holds the lock."""
    shutil.rmtree(output / names.TOKENIZER_FOLDER, ignore_errors=True)
    for pattern in (
        f"*{names.SHARD_SUFFIX}",
        "*.tmp",
        names.DOCUMENT_INDEX,
        PAIRS_FILE,
        names.MANIFEST,
    ):
        for path in output.glob(pattern):
            path.unlink(missing_ok=True)
