"""The lock of a run folder, held by the main rank for all ranks of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.processes.locks import FolderLock, lock_inside
from megabert.common.storage import named_storage_errors
from megabert.engine.broadcast import broadcast_object
from megabert.engine.launch import World


@contextmanager
def run_folder_locked(output: Path, world: World) -> Iterator[None]:
    """Hold a run folder's lock during the block (all ranks call); it makes the folder.

    Raises:
        UserError: on every rank: another job writes into the folder, or it cannot be written.
    """
    lock = FolderLock(lock_inside(output), output)

    def take() -> None:
        with named_storage_errors(output):
            is_file = output.exists() and not output.is_dir()
        if is_file:
            raise UserError(f"--output {output} is a file; name a new folder")
        lock.take()

    broadcast_object(world, take)
    try:
        yield
    finally:
        lock.release()
