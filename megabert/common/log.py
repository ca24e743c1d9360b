"""Output that reads well on a terminal and in a log file."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from megabert.common.errors import EXIT_USAGE, RankError, TrainingStopped, UserError


def process_rank() -> int:
    """Rank of this process as the launcher set it (0 when there is none)."""
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        value = os.environ.get(name)
        if value is not None and value.isdigit():
            return int(value)
    return 0


class _StandardError(logging.Handler):
    """Writes to what standard error is at the time of the message (a test may have replaced it)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def get_logger(name: str = "megabert") -> logging.Logger:
    """The project's logger: plain lines on standard error; ranks above 0 only warn."""
    logger = logging.getLogger("megabert")
    if not logger.handlers:
        handler = _StandardError()
        rank = process_rank()
        prefix = "" if rank == 0 else f"[rank {rank}] "
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
        logger.propagate = False
    return logger if name == "megabert" else logger.getChild(name.removeprefix("megabert."))


_displays: list[Callable[[], None]] = []


def show_alone(stop: Callable[[], None] | None) -> None:
    """End the display on the terminal, if there is one; ``stop`` ends the one that starts now."""
    for end in _displays:
        end()
    _displays[:] = [] if stop is None else [stop]


def run_command(main: Callable[[Sequence[str] | None], int | None]) -> NoReturn:
    """Run a command's ``main`` and exit as every megabert command does.

    Exit status: 0 on success, 2 for a wrong input (one line on standard error), 1 for a run
    that had to stop, 130 for Ctrl-C. Under a launcher every rank meets the same wrong input;
    rank 0 prints it and the others exit a moment later: the launcher ends all ranks as soon as one
    exits, and must not cut the message off.
    """
    try:
        status = main(None) or 0
    except UserError as error:
        status = EXIT_USAGE
        _say_error(str(error), all_ranks=isinstance(error, RankError))
    except TrainingStopped as error:
        status = 1
        _say_error(str(error), all_ranks=True)
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        status = EXIT_USAGE
        place = f" while writing {error.filename}" if error.filename else ""
        _say_error(f"the disk is full{place}: free some space and run the same command again")
    except KeyboardInterrupt:
        status = 130
        _say_error("interrupted")
    show_alone(None)
    sys.stdout.flush()
    sys.stderr.flush()
    if status and int(os.environ.get("WORLD_SIZE", "1") or 1) > 1:
        os._exit(status)  # a collective of another rank may be pending: do not wait for it
    sys.exit(status)


def _say_error(message: str, all_ranks: bool = False) -> None:
    show_alone(None)
    rank = process_rank()
    if rank == 0 or all_ranks:
        prefix = "" if rank == 0 else f"[rank {rank}] "
        line = " ".join(message.split())
        print(f"{prefix}error: {line}", file=sys.stderr, flush=True)
    else:
        time.sleep(2.0)


def human_duration(seconds: float) -> str:
    """``93784`` -> ``1d 2h``; ``125`` -> ``2m 05s``."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    if minutes:
        return f"{minutes}m {secs:02d}s"
    return f"{secs}s"
