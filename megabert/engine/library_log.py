"""Sends DeepSpeed's own messages to a file of the run folder, not between a run's lines."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from megabert.common.log import get_logger
from megabert.common.storage import storage_line
from megabert.engine.launch import World

_LIBRARY = "DeepSpeed"


class _LogFile(logging.FileHandler):
    """A log file that is opened by its first message. If it cannot be written, one warning says so, and
    the messages are lost: no run ends because of its log."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.failed:
            return
        try:
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record) + self.terminator)
            self.flush()
        except OSError as error:
            self.failed = True
            line = storage_line(
                error, self.baseFilename, "cannot be written", "start the run again"
            )
            get_logger().warning("DeepSpeed's messages are lost: %s", line)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the same error again, reported above
            super().close()


def log_deepspeed_to(path: Path, world: World) -> None:
    """Send DeepSpeed's messages to ``path`` from now on, in place of the terminal and of an earlier file.

    The main rank writes everything from INFO up to ``path``. Another rank writes warnings, to a file of
    its own (``deepspeed-rank3.log``) that exists only if there is one.
    """
    if not world.is_main:
        path = path.with_name(f"{path.stem}-rank{world.topology.rank}{path.suffix}")
    handler = _LogFile(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(filename)s: %(message)s"))
    logger = logging.getLogger(_LIBRARY)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        if isinstance(old, logging.FileHandler):
            old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if world.is_main else logging.WARNING)


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """What DeepSpeed prints during the block (its bf16 optimizer: memory) goes to its log too.

    It collects garbage before each of these lines. What exists before the block is left out of that: in a
    process with many imports a collection takes half a second.
    """
    printed = io.StringIO()
    frozen = gc.get_freeze_count()  # by the caller, who wants it to stay so
    gc.freeze()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        if not frozen:
            gc.unfreeze()
        for line in printed.getvalue().splitlines():
            logging.getLogger(_LIBRARY).info("%s", line.strip())
