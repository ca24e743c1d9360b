"""A file of curves for TensorBoard, written by this thread: an error is raised where it happens.

torch's ``SummaryWriter`` writes in a thread of its own, which prints a traceback when the disk is full
and lets the training continue without curves.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from megabert.common.storage import same_file

_VERSION = "brain.Event:2"


class _NamedFile:
    """A file whose errors name it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("wb")
        self.known = os.fstat(self._file.fileno())

    def write(self, content: bytes) -> None:
        self._do(lambda: self._file.write(content))

    def flush(self) -> None:
        self._do(self._file.flush)

    def close(self) -> None:
        self._do(self._file.close)

    def _do(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise


class EventFile:
    """A new event file in ``folder``.

    Args:
        purge_step: TensorBoard forgets what earlier files have from this step on.

    Raises:
        OSError: here and in every method, with the file's name.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = time.time_ns()  # two files of one second differ
        name = f"events.out.tfevents.{number // 10**9}.{socket.gethostname()}.{os.getpid()}.{number % 10**9:09d}"
        self._file = _NamedFile(folder / name)
        self._records = RecordWriter(self._file)
        self._add(Event(file_version=_VERSION))
        if purge_step is not None:
            self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point to the curve ``tag``."""
        point = Summary.Value(tag=tag, simple_value=float(value))
        self._add(Event(step=step, summary=Summary(value=[point])))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def lost(self) -> Path | None:
        """The file, if another one or none has its name by now."""
        return None if same_file(self._file.known, self._file.path) else self._file.path

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
