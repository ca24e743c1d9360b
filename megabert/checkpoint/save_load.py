"""Checkpoints of a run: written whole or not at all, found again, and checked before they are used.

    RUN/checkpoints/step-0000500/      DeepSpeed's files, and megabert.json: the run's settings, with
                                       the size and SHA-256 of every file and of itself
    RUN/checkpoints/latest             name of the newest whole checkpoint
    RUN/checkpoints/best               name of the best one (:mod:`megabert.checkpoint.retention`)

A checkpoint is written under ``<tag>.partial``. Failures of a rank (a full disk) are collected instead
of raised between DeepSpeed's own barriers. The ranks then exchange them, and only if every file is on
disk does rank 0 write the record, rename the folder and update ``latest``. Files, names and folders
are synced in this order, so that a kill or a power cut at any moment leaves the previous checkpoint
in use.

DeepSpeed's files are pickles; :mod:`megabert.checkpoint.deepspeed_files` reads them without running
code that they may bring.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from megabert.checkpoint.deepspeed_files import read_deepspeed_file
from megabert.checkpoint.layout import Layout, checkpoint_bytes, counters
from megabert.checkpoint.record import (
    PARTIAL,
    Checkpoint,
    Unreadable,
    UnreadableCheckpoint,
    damaged_file,
    plain,
    read_checkpoint_record,
    tagged_folders,
    whole_checkpoints,
    write_checkpoint_record,
)
from megabert.checkpoint.retention import Retention
from megabert.common.errors import UserError
from megabert.common.files import (
    read_limited,
    remove_folder,
    rename,
    sha256_of_file,
    sync,
    write_text,
)
from megabert.common.log import get_logger
from megabert.common.names import (
    BEST,
    CHECKPOINT_RECORD,
    LATEST,
    RESUMED_FROM,
    RUN_CHECKPOINTS,
    checkpoint_tag,
    step_of_tag,
)
from megabert.common.processes.locks import require_lock
from megabert.common.storage import RESUME, StorageFault, named_storage_errors, storage_line
from megabert.config.checkpoint_path import named_checkpoint
from megabert.engine.broadcast import broadcast_object
from megabert.engine.launch import World
from megabert.engine.training_engine import TrainingEngine


class _WatchedFile:
    """A file for torch's writer, which replaces errors of the system by its own: the first is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write, and remember an error."""
        return int(self._watched(lambda: self._file.write(content)))

    def flush(self) -> None:
        """Flush, and remember an error."""
        self._watched(self._file.flush)

    def _watched(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            self.error = self.error or error
            raise


class _RecordingEngine(TorchCheckpointEngine):
    """Writes files durably, and stores failures until all ranks can report them."""

    def __init__(self) -> None:
        self.name = "megabert"
        self.failure: OSError | RuntimeError | None = None
        self.files: dict[str, dict[str, Any]] = {}

    def save(self, state_dict: Any, path: str) -> None:
        if self.failure is not None:
            return
        watched = None
        try:
            with Path(path).open("wb") as file:
                watched = _WatchedFile(file)
                torch.save(state_dict, cast(IO[bytes], watched))
            sync(Path(path))
            require_readable_file(Path(path))
            self.files[Path(path).name] = {
                "bytes": Path(path).stat().st_size,
                "sha256": sha256_of_file(Path(path)),
            }
        except (OSError, RuntimeError) as error:
            self.failure = (watched and watched.error) or error
            if isinstance(self.failure, OSError):
                self.failure.filename = self.failure.filename or path


def require_readable_file(path: Path) -> None:
    """Raise ``RuntimeError`` if a file that was just written cannot be loaded again (:mod:`deepspeed_files`).

    An optimizer of another package may keep anything in its state.
    """
    try:
        read_deepspeed_file(path)
    except UserError as error:
        raise RuntimeError(
            f"{path.name} could not be read again, and an optimizer's state may hold only tensors and plain "
            f"values ({error})"
        ) from error


# ---------------------------------------------------------------- writing


def save_checkpoint(
    engine: TrainingEngine,
    run: Path,
    record: dict[str, Any],
    universal_info: dict[str, Any],
    retention: Retention,
) -> Path:
    """Write a checkpoint of ``engine`` (all ranks call) and return its folder.

    ``record``: plain values, with ``step`` and ``consumed_samples``. The engine's layout and counters
    are added; an ``evaluation`` is only in the record's own file, so that DeepSpeed's files hold the state of
    training and nothing else. Checkpoints of later steps are removed: they exist if the run was resumed from an older
    one, and do not belong to it any longer. Then those that ``retention`` does not keep are removed.

    Raises:
        StorageFault: the disk is full or not writable, or another job has taken over the run folder; the
            partial folder is removed, the previous checkpoint and ``latest`` are unchanged.
    """
    world = engine.world
    base = run / RUN_CHECKPOINTS
    tag = checkpoint_tag(int(record["step"]))
    partial, final = base / (tag + PARTIAL), base / tag
    record = plain({**record, **Layout.of(engine).to_record(), **counters(engine)})

    def make_room() -> None:
        require_lock(run)
        for stale in base.glob("*" + PARTIAL):
            shutil.rmtree(stale, ignore_errors=True)
        check_space(base, checkpoint_bytes(engine), "a checkpoint")

    broadcast_object(world, make_room)
    engine.average_copies()
    state = {key: value for key, value in record.items() if key != "evaluation"}
    written, failures = _write_files(engine, partial, state, universal_info)
    if not failures and world.is_main:
        try:
            _finish(partial, final, {**record, "files": written})
        except OSError as error:
            failures = [_failure(0, error)]
    outcome = [failures]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0]:
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        world.barrier()
        raise StorageFault(
            f"checkpoint {final} could not be written ({_previous(base)}): {outcome[0][0]}"
        )
    if world.is_main:
        retention.apply(base)
    return final


def _write_files(
    engine: TrainingEngine,
    partial: Path,
    record: dict[str, Any],
    universal_info: dict[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Have DeepSpeed write all ranks' files; returns size and SHA-256 of each, and the ranks' failures."""
    writer = _RecordingEngine()
    client_state = {"megabert": record, "universal_checkpoint_info": universal_info}
    try:
        engine.save_files(partial, client_state, writer)
    except OSError as error:
        writer.failure = error
    world = engine.world.topology
    everyone: list[Any] = [None] * world.world_size
    failure = writer.failure and _failure(world.rank, writer.failure)
    torch.distributed.all_gather_object(everyone, (failure, writer.files))
    failures = [failure for failure, _ in everyone if failure]
    return {name: entry for _, files in everyone for name, entry in files.items()}, failures


def _failure(rank: int, error: OSError | RuntimeError) -> str:
    """Which file of a rank could not be written, why, and what to do."""
    if isinstance(error, OSError):
        return f"rank {rank}: {storage_line(error, None, 'cannot be written', RESUME)}"
    return f"rank {rank}: {' '.join(str(error).split())}; {RESUME}"


def _finish(partial: Path, final: Path, record: dict[str, Any]) -> None:
    """Turn a folder into a checkpoint: record, rename, ``latest``, each synced before the next."""
    write_checkpoint_record(partial, record)
    for later in _later_than(final.parent, final.name):
        get_logger().info("removing %s: this run was resumed from an earlier step", later.name)
        remove_folder(later)
    (final.parent / RESUMED_FROM).unlink(missing_ok=True)
    if final.exists():
        remove_folder(final)
    rename(partial, final)
    write_text(final.parent / LATEST, final.name + "\n")


def _later_than(base: Path, tag: str) -> list[Path]:
    """Checkpoints of later steps than that of ``tag``."""
    return [one for one in tagged_folders(base) if step_of_tag(one.name) > step_of_tag(tag)]


def abandon_later(base: Path, tag: str) -> None:
    """Note that the run continues from ``tag``: later checkpoints, which the next save removes, are not its own.

    Until then ``--resume auto`` does not take them either.
    """
    if _later_than(base, tag):
        write_text(base / RESUMED_FROM, tag + "\n")
    else:
        (base / RESUMED_FROM).unlink(missing_ok=True)


def _abandoned(base: Path) -> set[str]:
    """Tags of checkpoints that the run has left behind."""
    file = base / RESUMED_FROM
    try:
        folder = named_checkpoint(file)
    except UserError:  # its checkpoint is gone
        folder = file
    return set() if folder == file else {one.name for one in _later_than(base, folder.name)}


def check_space(folder: Path, wanted: float, what: str) -> None:
    """Warn if the disk of ``folder`` has less than ``wanted`` free bytes."""
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if free < wanted:
        get_logger().warning(
            "%s has %.1f GB free, but %s needs about %.1f GB",
            folder,
            free / 1e9,
            what,
            wanted / 1e9,
        )


def check_room(engine: TrainingEngine, run: Path, retention: Retention, steps: int) -> None:
    """Warn at a run's start if the disk has no space for its checkpoints (those kept and one)."""
    base = run / RUN_CHECKPOINTS
    more = max(1, retention.most(steps) + 1 - len(whole_checkpoints(base)))
    check_space(base, more * checkpoint_bytes(engine), f"this run, with {more} more checkpoints,")


def _previous(base: Path) -> str:
    try:
        whole = whole_checkpoints(base)
    except OSError:
        return "earlier checkpoints cannot be read"
    return f"checkpoint {whole[0].folder.name} is kept" if whole else "no earlier checkpoint exists"


# ---------------------------------------------------------------- finding

_MAY_BE_WHOLE = "--resume auto: {}; this checkpoint may be whole, so no earlier one is used instead"


def shared_fault(checkpoint: Checkpoint, world: World) -> str | None:
    """The first fault among a checkpoint's files, or None; ranks share the reading (all call)."""
    faults: list[Any] = [None] * world.topology.world_size
    mine = damaged_file(checkpoint, world.topology.rank, world.topology.world_size)
    torch.distributed.all_gather_object(faults, mine)
    found = [text for text in faults if text]
    return next((text for text in found if isinstance(text, Unreadable)), next(iter(found), None))


def find_checkpoint(run: Path, wanted: str, world: World) -> Checkpoint | None:
    """The checkpoint to resume from (all ranks call, all get the same one).

    ``wanted``: "auto" takes the newest undamaged one and reports those that it skips (None if the
    run has no checkpoint yet); a tag takes exactly that one, ``best`` the one that is marked so.

    Raises:
        UserError: the checkpoint of that tag is missing or damaged, or all checkpoints are damaged.
    """
    base = run / RUN_CHECKPOINTS
    if wanted == BEST:
        wanted = broadcast_object(world, lambda: _best_tag(base))
    first_fault = None
    for found in broadcast_object(world, lambda: _candidates(base, wanted)):
        fault = shared_fault(found, world) if isinstance(found, Checkpoint) else found
        if isinstance(found, Checkpoint) and fault is None:
            return found
        if wanted != "auto":
            raise UserError(f"--resume {wanted}: {fault}")
        if isinstance(fault, Unreadable):
            raise UserError(_MAY_BE_WHOLE.format(fault))
        first_fault = first_fault or fault
        if world.is_main:
            name = "a checkpoint" if isinstance(found, str) else f"checkpoint {found.folder.name}"
            get_logger().warning("%s is damaged and is skipped: %s", name, fault)
    if first_fault is not None:
        raise UserError(
            f"--resume {wanted}: no checkpoint in {base} is complete ({first_fault}); restore what "
            "is missing, or start again at step 0 in another --output"
        )
    return None


def _candidates(base: Path, wanted: str) -> list[Checkpoint | str]:
    """Checkpoints that ``wanted`` can mean, the newest first, or what is wrong with their records.

    Raises:
        UserError: there is no such checkpoint, or one of them may be whole and cannot be read.
    """
    with named_storage_errors(base, "cannot be read"):
        return _read_candidates(base, wanted)


def _read_candidates(base: Path, wanted: str) -> list[Checkpoint | str]:
    if wanted != "auto":
        if wanted.endswith(PARTIAL) or not (base / wanted).is_dir():
            found_tags = ", ".join(checkpoint.folder.name for checkpoint in whole_checkpoints(base))
            raise UserError(
                f"--resume {wanted}: no such checkpoint in {base} (there: {found_tags or 'none'})"
            )
        return [read_checkpoint_record(base / wanted)]
    for partial in sorted(base.glob("*" + PARTIAL)):
        get_logger().info("ignored: %s was not written completely", partial)
    found: list[Checkpoint | str] = []
    abandoned = _abandoned(base)
    for folder in tagged_folders(base):
        if folder.name in abandoned:
            get_logger().info(
                "ignored: %s, because the run was resumed from an earlier step", folder.name
            )
            continue
        try:
            found.append(read_checkpoint_record(folder))
        except UnreadableCheckpoint as error:
            raise UserError(_MAY_BE_WHOLE.format(error)) from error
        except UserError as error:
            found.append(str(error))
    return found


def _best_tag(base: Path) -> str:
    if not (base / BEST).is_file():
        raise UserError(
            f"--resume {BEST}: {base} has no file {BEST}: the run had no --keep-best, or no evaluation yet"
        )
    return named_checkpoint(base / BEST).name


def newest_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that ``path`` names: a run (its ``latest``), a checkpoint folder, or a run's
    ``checkpoints/best``.

    Where ``latest`` is missing or does not name a complete checkpoint, it is the newest that is complete.

    Raises:
        UserError: there is no whole checkpoint.
    """
    path = named_checkpoint(path)
    if (path / CHECKPOINT_RECORD).is_file():
        return read_checkpoint_record(path)
    base = path / RUN_CHECKPOINTS
    pointer = base / LATEST
    try:
        return read_checkpoint_record(
            base / read_limited(pointer, 1 << 20, "a name").decode().strip()
        )
    except PermissionError as error:
        raise UserError(storage_line(error, pointer, "cannot be read")) from error
    except (OSError, UnicodeDecodeError):
        fault = f"{pointer} cannot be read"
    except UserError as error:
        fault = f"{pointer} does not name a complete checkpoint ({error})"
    whole = whole_checkpoints(base)
    if whole:
        get_logger().info("%s: %s is used", fault, whole[0].folder.name)
        return whole[0]
    if tagged_folders(base):
        raise UserError(f"{path} holds no complete checkpoint: {fault}")
    raise UserError(
        f"{path} holds no checkpoint: expected a run folder with {RUN_CHECKPOINTS}/{LATEST}, "
        f"or a checkpoint folder with {CHECKPOINT_RECORD}"
    )
