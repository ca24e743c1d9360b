"""Readers of files that only one process can read: several files at once, for all workers.

Each stream has a reader process that cuts its pages into batches and sends them, pickled, through a
pipe. The pipe blocks a reader that is faster than the workers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, BinaryIO

from megabert.common.errors import UserError
from megabert.data.prepare.batch_files import batch_path, is_whole
from megabert.data.prepare.encode import page_batches
from megabert.data.prepare.worker_pool import begin_child, portable
from megabert.data.text.input.segments import Stream


@dataclass(frozen=True)
class PageBatch:
    """Batch ``part`` of stream ``unit``.

    Attributes:
        pages: a pickled list of pages; None for a batch that an earlier attempt has finished.
        position: bytes of the stream's files read so far.
    """

    unit: int
    part: int
    pages: bytes | None
    position: int


class PageStreams:
    """Batches of all streams, as they arrive; use as a context manager.

    Args:
        streams: pairs (unit, stream).
        work: folder of the finished batches.
        at_once: readers that run at a time.
    """

    def __init__(
        self,
        streams: Sequence[tuple[int, Stream]],
        work: Path,
        *,
        batch_characters: int,
        at_once: int,
        start_method: str = "spawn",
    ) -> None:
        self._waiting = deque(streams)
        self._arguments = (work, batch_characters)
        self._at_once = at_once
        self._context: Any = multiprocessing.get_context(start_method)
        self._readers: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> PageStreams:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._readers.values():
            process.kill()
        for connection in list(self._readers):
            self._ended(connection)

    @property
    def finished(self) -> bool:
        """Whether every batch of every stream has been returned."""
        return not self._waiting and not self._readers

    def poll(self) -> PageBatch | None:
        """A batch that has arrived; None if none has arrived yet.

        Raises what a reader raised, and ``UserError`` for a reader that died.
        """
        while self._waiting and len(self._readers) < self._at_once:
            self._start(*self._waiting.popleft())
        for connection in wait(list(self._readers), 0):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                raise UserError(
                    "a process that reads an input died (killed, or out of memory), and the job "
                    "stopped: run it again"
                ) from None
            if isinstance(message, PageBatch):
                return message
            self._ended(connection)
            if message is not None:
                raise message
        return None

    def _start(self, unit: int, stream: Stream) -> None:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_read, args=(there, unit, stream, *self._arguments), daemon=True
        )
        process.start()
        there.close()
        self._readers[here] = process

    def _ended(self, connection: Connection) -> None:
        self._readers.pop(connection).join()
        connection.close()


class _Position:
    """Bytes of a stream's files that were read."""

    def __init__(self) -> None:
        self._before = 0
        self._file: BinaryIO | None = None
        self._size = 0

    def opened(self, file: BinaryIO) -> None:
        self._before += self._size
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    @property
    def byte(self) -> int:
        if self._file is None or self._file.closed:
            return self._before + self._size
        return self._before + self._file.tell()


def _batches(unit: int, stream: Stream, work: Path, characters: int) -> Iterator[PageBatch]:
    position = _Position()
    for part, pages in enumerate(page_batches(stream.pages(position.opened), characters)):
        finished = is_whole(batch_path(work, unit, part))
        content = None if finished else pickle.dumps(pages, pickle.HIGHEST_PROTOCOL)
        yield PageBatch(unit, part, content, position.byte)


def _read(connection: Connection, unit: int, stream: Stream, work: Path, characters: int) -> None:
    """A reader process: it sends every batch, and at the end None or the error that ended it."""
    begin_child()
    try:
        for batch in _batches(unit, stream, work, characters):
            connection.send(batch)
        connection.send(None)
    except Exception as error:  # raised in the parent
        connection.send(portable(error))
