"""A checkpoint's record, ``megabert.json``: written last, read first, used if checksums match.

    {"version": 2, "step": 500, "consumed_samples": ..., "model": {...}, ...,
     "files": {"mp_rank_00_model_states.pt": {"bytes": ..., "sha256": ...}, ...},
     "record_sha256": SHA-256 of all the rest as canonical JSON}

Version 1 had no sum over itself and fewer fields of the layout; it is still read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabert.checkpoint.record_schema import record_fault
from megabert.common.errors import UserError
from megabert.common.files import sha256_of_file, write_json
from megabert.common.json_text import RECORD_SUM, JsonError, parse_json, read_json_text, record_sum
from megabert.common.names import CHECKPOINT_RECORD, WEIGHTS_FORMAT, step_of_tag
from megabert.common.storage import storage_line

PARTIAL = ".partial"
"""Ending of a folder that is being written, or removed."""

RECORD_VERSION = 2
_READABLE = (1, 2)


class UnreadableCheckpoint(UserError):
    """A checkpoint that may be whole, but not for this process: no permission, a failing disk, or a newer
    version of this program. A run must not start from an earlier one instead, and remove this one."""


class Unreadable(str):
    """A fault of a checkpoint's file that says nothing about its content; see `UnreadableCheckpoint`."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder and record."""

    folder: Path
    record: dict[str, Any]

    def field(self, name: str) -> Any:
        """A value of the record that not every reader of checkpoints needs.

        Raises:
            UserError: the record does not have it.
        """
        if name not in self.record:
            raise UserError(
                f"{self.folder / CHECKPOINT_RECORD} has no {name}: use another checkpoint"
            )
        return self.record[name]

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.record["step"])

    @property
    def consumed_samples(self) -> int:
        """Position in the data: sequences consumed since the start of the run's schedule."""
        return int(self.record["consumed_samples"])


# ---------------------------------------------------------------- the record


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` as it is after a round trip through JSON."""
    return json.loads(json.dumps(record))


def write_checkpoint_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` (plain values, including ``files``) into ``folder``, with its own sum."""
    content = plain({**record, "version": RECORD_VERSION})
    write_json(folder / CHECKPOINT_RECORD, {**content, RECORD_SUM: record_sum(content)})


def read_checkpoint_record(folder: Path) -> Checkpoint:
    """The record of a checkpoint folder.

    Raises:
        UserError: the folder is not a whole checkpoint of this program, or its record has changed.
        UnreadableCheckpoint: it cannot be read, or a newer program wrote it.
    """
    path = folder / CHECKPOINT_RECORD
    try:
        record = parse_json(read_json_text(path), of_data=True)
        if isinstance(record, dict) and record.get("format") == WEIGHTS_FORMAT:
            raise UserError(
                f"{folder} is a megabert folder: it has weights but no training state; name a run or "
                "one of its checkpoints"
            )
        if RECORD_SUM in record and record[RECORD_SUM] != record_sum(record):
            raise UserError(f"{path} has changed since it was written (SHA-256 differs)")
        version = record["version"]
        if version not in _READABLE:
            raise UnreadableCheckpoint(f"{path}: version {version} is newer than this program")
        if version > 1:
            record[RECORD_SUM]
        for name in ("step", "consumed_samples", "files", "model"):
            record[name]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a complete checkpoint: no {CHECKPOINT_RECORD}") from error
    except OSError as error:
        raise UnreadableCheckpoint(storage_line(error, path, "cannot be read")) from error
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, JsonError) else repr(error)
        raise UserError(f"{path} is not a checkpoint record ({reason})") from error
    fault = record_fault(record)
    if fault is not None:
        raise UserError(f"{path} is not a checkpoint record of this program: {fault}")
    return Checkpoint(folder, record)


def tagged_folders(base: Path) -> list[Path]:
    """Folders with names of checkpoints, whole or not, the newest first; none if ``base`` is missing.

    Raises:
        OSError: ``base`` cannot be read.
    """
    try:
        folders = [p for p in base.iterdir() if step_of_tag(p.name) >= 0 and p.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(folders, key=lambda folder: step_of_tag(folder.name), reverse=True)


def whole_checkpoints(base: Path) -> list[Checkpoint]:
    """Checkpoints with a sound record, the newest first; others are not reported."""
    found = []
    for folder in tagged_folders(base):
        try:
            found.append(read_checkpoint_record(folder))
        except UserError:
            continue
    return found


def damaged_file(checkpoint: Checkpoint, part: int = 0, parts: int = 1) -> str | None:
    """The first fault among every ``parts``-th file (missing, short, flipped byte), or None."""
    for number, (name, entry) in enumerate(sorted(checkpoint.record["files"].items())):
        if number % parts != part:
            continue
        path = checkpoint.folder / name
        try:
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{path} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if sha256_of_file(path) != entry["sha256"]:
                return f"{path} has changed since it was written (SHA-256 differs)"
        except OSError as error:
            return Unreadable(storage_line(error, path, "cannot be read"))
    return None
