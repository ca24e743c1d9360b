"""The watch around a run: begins before the first collective, ends with the run's last word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from megabert.common.errors import StoppedOnRequest, TrainingStopped, UserError
from megabert.common.storage import memory_line
from megabert.engine.watch.judge import Goodbye
from megabert.engine.watch.watcher import Watcher

_LIBRARIES = (
    "gloo", "nccl", "c10d", "tcpstore", "connection closed by peer", "connection reset by peer",
    "broken pipe", "timed out waiting", "process group",
)  # fmt: skip


def is_collective_failure(error: Exception) -> bool:
    """Whether a collective failed: in nearly all cases because another rank is lost.

    NCCL's errors may also say that this rank's memory is used up.
    """
    if memory_line(error) is not None:
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _LIBRARIES)


@contextlib.contextmanager
def watched_to_the_end(watcher: Watcher | None) -> Iterator[None]:
    """Tell the other ranks how this one leaves; have the watch explain a collective that failed.

    Raises:
        TrainingStopped: instead of a library's error, if the watch has not ended the process.
    """
    how: Goodbye = "reported"
    fault = ""
    try:
        with _explained(watcher):
            yield
        how = "finished"
    except StoppedOnRequest:
        how = "finished"
        raise
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    except UserError as error:
        fault = str(error)
        raise
    except TrainingStopped:
        raise
    except Exception:
        how = "failed"
        raise
    finally:
        if watcher is not None:
            watcher.stop(how, fault)


@contextlib.contextmanager
def _explained(watcher: Watcher | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_collective_failure(error):
            raise
        if watcher is not None:
            watcher.wait_for_verdict(f"{type(error).__name__}: {error}")
        raise TrainingStopped(
            "a collective failed, mostly because another rank has ended; continue from the last "
            "checkpoint with --resume auto"
        ) from error
