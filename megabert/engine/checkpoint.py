"""Checkpoints of a run: written whole or not at all, found again, and checked before they are used.

    RUN/checkpoints/step-0000500/      DeepSpeed's files, and megabert.json: what the run was, with
                                       the size and SHA-256 of every file
    RUN/checkpoints/latest             name of the newest whole checkpoint

A checkpoint is written under ``<tag>.partial``. Each rank's failures (a full disk) are collected
instead of raised inside DeepSpeed's own barriers, all ranks then agree, and only if every file is on
disk does rank 0 write the record, rename the folder and move ``latest``. A run killed at any moment
leaves the checkpoint before it in force.

DeepSpeed's files are pickles: load only checkpoints that you trust.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from megabert.engine.build import TrainingEngine
from megabert.engine.launch import World
from megabert.log import UserError, get_logger
from megabert.naming import CHECKPOINT_RECORD, LATEST, RUN_CHECKPOINTS, checkpoint_tag

PARTIAL = ".partial"
RECORD_VERSION = 1
_CHUNK = 1 << 22


class _RecordingEngine(TorchCheckpointEngine):
    """Writes files durably, and keeps failures until all ranks can speak of them."""

    def __init__(self) -> None:
        self.name = "megabert"
        self.failure: str | None = None
        self.files: dict[str, dict[str, Any]] = {}

    def save(self, state_dict: Any, path: str) -> None:
        if self.failure is not None:
            return
        try:
            with Path(path).open("wb") as file:
                torch.save(state_dict, file)
                file.flush()
                os.fsync(file.fileno())
            self.files[Path(path).name] = {
                "bytes": Path(path).stat().st_size,
                "sha256": _sha256(Path(path)),
            }
        except (OSError, RuntimeError) as error:
            # torch's writer says only that it is not where it should be in the file
            full = "unexpected pos" in str(error) or "file write failed" in str(error)
            reason = os.strerror(errno.ENOSPC) if full else str(error)
            self.failure = f"{Path(path).name}: {reason}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder and record."""

    folder: Path
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.record["step"])

    @property
    def consumed_samples(self) -> int:
        """Position in the data: sequences consumed since the start of the run's schedule."""
        return int(self.record["consumed_samples"])


def save_checkpoint(
    engine: TrainingEngine,
    run: Path,
    record: dict[str, Any],
    universal_info: dict[str, Any],
    keep_last: int,
) -> Path:
    """Write a checkpoint of ``engine`` (all ranks call) and return its folder.

    ``record``: plain values; holds ``step`` and ``consumed_samples``.

    Raises:
        UserError: the disk is full or not writable; the partial folder is removed, the checkpoint
            before this one and ``latest`` are untouched.
    """
    world = engine.world
    base = run / RUN_CHECKPOINTS
    tag = checkpoint_tag(int(record["step"]))
    partial, final = base / (tag + PARTIAL), base / tag
    if world.is_main:
        for stale in base.glob("*" + PARTIAL):
            shutil.rmtree(stale, ignore_errors=True)
        _check_space(base)
    world.barrier()
    writer = _RecordingEngine()
    previous, engine.deepspeed.checkpoint_engine = engine.deepspeed.checkpoint_engine, writer
    try:
        engine.deepspeed.save_checkpoint(
            str(base),
            tag=partial.name,
            client_state={"megabert": record, "universal_checkpoint_info": universal_info},
            save_latest=False,
        )
    except OSError as error:
        writer.failure = str(error)
    finally:
        engine.deepspeed.checkpoint_engine = previous
    everyone: list[Any] = [None] * world.topology.world_size
    torch.distributed.all_gather_object(everyone, (writer.failure, writer.files))
    failures = [f"rank {rank}: {failure}" for rank, (failure, _) in enumerate(everyone) if failure]
    if not failures and world.is_main:
        try:
            files = {name: facts for _, written in everyone for name, facts in written.items()}
            _finish(partial, final, {**record, "files": files})
        except OSError as error:
            failures = [f"rank 0: {error}"]
    outcome = [failures]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        world.barrier()
        raise UserError(
            f"checkpoint {final} could not be written ({outcome[0][0]}); "
            f"{_kept(base)}; free some space and run again with --resume auto"
        )
    if world.is_main:
        _delete_old(base, keep_last)
    return final


def _finish(partial: Path, final: Path, record: dict[str, Any]) -> None:
    write_json(partial / CHECKPOINT_RECORD, {**record, "version": RECORD_VERSION})
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)
    write_text(final.parent / LATEST, final.name + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file durably and at once (temporary file, fsync, rename)."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _check_space(base: Path) -> None:
    """Warn before a checkpoint as large as the last one would fill the disk."""
    whole = whole_checkpoints(base)
    if whole:
        size = sum(facts["bytes"] for facts in whole[0].record["files"].values())
        free = shutil.disk_usage(base).free
        if free < size:
            get_logger().warning(
                "%s has %.1f GB free, the last checkpoint took %.1f GB",
                base,
                free / 1e9,
                size / 1e9,
            )


def _kept(base: Path) -> str:
    whole = whole_checkpoints(base)
    return f"checkpoint {whole[0].folder.name} is kept" if whole else "no earlier checkpoint exists"


def _delete_old(base: Path, keep_last: int) -> None:
    for old in whole_checkpoints(base)[keep_last:]:
        shutil.rmtree(old.folder, ignore_errors=True)


def read_record(folder: Path) -> Checkpoint:
    """The record of a checkpoint folder.

    Raises:
        UserError: the folder is not a whole checkpoint of this program.
    """
    path = folder / CHECKPOINT_RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != RECORD_VERSION:
            raise UserError(f"{path}: version {record['version']} is newer than this program")
        for name in ("step", "consumed_samples", "files", "model"):
            record[name]
    except OSError as error:
        raise UserError(f"{folder} is not a whole checkpoint: no {CHECKPOINT_RECORD}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a checkpoint record ({error!r})") from error
    return Checkpoint(folder, record)


def whole_checkpoints(base: Path) -> list[Checkpoint]:
    """Checkpoints whose record is there, the newest first."""
    found = []
    for folder in base.glob("step-*") if base.is_dir() else ():
        if folder.is_dir() and not folder.name.endswith(PARTIAL):
            try:
                found.append(read_record(folder))
            except UserError as error:
                get_logger().warning("left aside: %s", error)
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def damaged_file(checkpoint: Checkpoint, part: int = 0, parts: int = 1) -> str | None:
    """The first fault among every ``parts``-th file (missing, short, flipped byte), or None."""
    for number, (name, facts) in enumerate(sorted(checkpoint.record["files"].items())):
        if number % parts != part:
            continue
        path = checkpoint.folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{path} has {path.stat().st_size} bytes instead of {facts['bytes']}"
        if _sha256(path) != facts["sha256"]:
            return f"{path} has changed since it was written (SHA-256 differs)"
    return None


def find_checkpoint(run: Path, wanted: str, world: World) -> Checkpoint | None:
    """The checkpoint to go on from (all ranks call, all get the same one).

    ``wanted``: "auto" takes the newest undamaged one and says which it passed over (None if there is
    none); a tag takes exactly that one.

    Raises:
        UserError: a checkpoint asked for by tag is missing or damaged.
    """
    base = run / RUN_CHECKPOINTS
    if wanted == "auto":
        candidates = whole_checkpoints(base)
    else:
        if not (base / wanted).is_dir():
            have = ", ".join(checkpoint.folder.name for checkpoint in whole_checkpoints(base))
            raise UserError(
                f"--resume {wanted}: no such checkpoint in {base} (there: {have or 'none'})"
            )
        candidates = [read_record(base / wanted)]
    for checkpoint in candidates:
        faults: list[Any] = [None] * world.topology.world_size
        mine = damaged_file(checkpoint, world.topology.rank, world.topology.world_size)
        torch.distributed.all_gather_object(faults, mine)
        fault = next((text for text in faults if text), None)
        if fault is None:
            return checkpoint
        if wanted != "auto":
            raise UserError(f"--resume {wanted}: {fault}")
        get_logger().warning("checkpoint %s is damaged: %s", checkpoint.folder.name, fault)
    return None


def load_checkpoint(engine: TrainingEngine, checkpoint: Checkpoint) -> None:
    """Put ``checkpoint`` into ``engine``: weights, moments, schedule and counters, bit for bit.

    Raises:
        UserError: the engine's topology, ZeRO stage or precision differs from the checkpoint's.
    """
    record, topology = checkpoint.record, engine.world.topology
    now = {
        "world_size": topology.world_size,
        "tensor_parallel": topology.tensor_parallel,
        "zero_stage": engine.zero_stage,
        "precision": engine.precision,
    }
    differing = [
        f"{key} {record[key]} -> {value}" for key, value in now.items() if record[key] != value
    ]
    if differing:
        raise UserError(
            f"{checkpoint.folder} was written by another topology ({'; '.join(differing)}); "
            "resume with the same one, or start a new run from it with --init-from"
        )
    path, _ = engine.deepspeed.load_checkpoint(
        str(checkpoint.folder.parent), tag=checkpoint.folder.name
    )
    if path is None:
        raise UserError(f"{checkpoint.folder}: DeepSpeed found nothing to load there")
    engine.steps_done = checkpoint.step


def newest_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that ``path`` names: a run (its ``latest``) or a checkpoint folder.

    Raises:
        UserError: there is none.
    """
    if (path / CHECKPOINT_RECORD).is_file():
        return read_record(path)
    base = path / RUN_CHECKPOINTS
    pointer = base / LATEST
    if not pointer.is_file():
        raise UserError(
            f"{path} holds no checkpoint: expected a run folder with {RUN_CHECKPOINTS}/{LATEST}, "
            f"or a checkpoint folder with {CHECKPOINT_RECORD}"
        )
    return read_record(base / pointer.read_text(encoding="utf-8").strip())
