"""Output that reads well on a terminal and in a log file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from megabert.common.errors import (
    EXIT_FAULT,
    EXIT_STOPPED,
    EXIT_USAGE,
    AgreedStop,
    RankError,
    StoppedOnRequest,
    TrainingStopped,
    UserError,
)
from megabert.common.processes.reports import report_end, report_start
from megabert.common.processes.standing import allow_files, open_closed_streams
from megabert.common.processes.stopping import StopWatch, command_watch, end_now
from megabert.common.storage import is_storage_error, memory_line, storage_line


def process_rank() -> int:
    """Rank of this process as the launcher set it (0 when there is none)."""
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        value = os.environ.get(name)
        if value is not None and value.isdigit():
            return int(value)
    return 0


def print_error(line: str) -> None:
    """Print a line on standard error, if there still is one."""
    with contextlib.suppress(OSError):
        print(
            line + "\n", end="", file=sys.stderr, flush=True
        )  # at once: no other thread's line between


class _StandardError(logging.Handler):
    """Writes to what standard error is at the time of the message (a test may have replaced it).

    A reader that is gone (a killed launcher) must not end a run that is about to save.
    """

    def emit(self, record: logging.LogRecord) -> None:
        print_error(self.format(record))


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

    Exit status: 0 on success, 1 for a fault, 2 for a wrong input, 3 for a run that was asked to stop and
    can be resumed without loss, 128 + N for a signal N that ended it. All but 0 come with one line on
    standard error. SIGTERM, SIGINT, SIGUSR1 and SIGHUP interrupt ``main`` as Ctrl-C does, unless it looks
    at :func:`megabert.common.processes.stopping.stop_watch` itself.

    Under a launcher every rank meets the same wrong input; rank 0 prints it and the others exit a moment
    later: the launcher ends all ranks as soon as one exits, and must not cut the message off.
    """
    # torch reads it when it is imported: warnings of its sockets say nothing about a run
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(main)
    except Exception:
        if not _of_several_ranks():
            raise
        sys.excepthook(*sys.exc_info())  # now: the interpreter's own end may wait for other ranks
        _flush_streams()
        status = EXIT_FAULT
    if status and _of_several_ranks():
        end_now(status)  # a collective of another rank may be pending: do not wait for it
    sys.exit(status)


def _of_several_ranks() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1") or 1) > 1


def _run(main: Callable[[Sequence[str] | None], int | None]) -> int:
    """Run ``main`` under a watch for signals; the exit status, after its line was printed."""
    with command_watch(get_logger().info, _last_words) as watch:
        report_start()
        status, line = _status_of(main, watch)
        if not status:
            status, line = _flush_output()
        if status != EXIT_FAULT:
            watch.leave()
        report_end(process_rank(), status, line)
        show_alone(None)
        _flush_streams()
        return status


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def _status_of(
    main: Callable[[Sequence[str] | None], int | None], watch: StopWatch
) -> tuple[int, str]:
    """Run ``main``; its exit status and the line that was printed about it."""
    try:
        with watch.raising():
            allow_files()
            return main(None) or 0, ""
    except KeyboardInterrupt:
        return _status_of_interruption(watch)
    except Exception as error:
        if watch.raised:  # what an import or a library makes of an interruption
            return _status_of_interruption(watch)
        return _status_of_error(error, watch)


def _status_of_interruption(watch: StopWatch) -> tuple[int, str]:
    watch.leave()
    return watch.status, _say_error(watch.last_line, kind=_kind_of(watch.status))


def _status_of_error(error: Exception, watch: StopWatch) -> tuple[int, str]:
    """Exit status and line of an error that commands expect; another one is raised again."""
    if isinstance(error, UserError):
        watch.leave()
        return EXIT_USAGE, _say_error(str(error), all_ranks=isinstance(error, RankError))
    if isinstance(error, TrainingStopped):
        return EXIT_FAULT, _say_error(str(error), all_ranks=not isinstance(error, AgreedStop))
    if isinstance(error, StoppedOnRequest):
        watch.leave()
        return EXIT_STOPPED, _say_error(str(error), kind="stopped", wait=0.0)
    if isinstance(error, BrokenPipeError):  # the reader of our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141, ""
    if (line := memory_line(error)) is not None:
        return EXIT_FAULT, _say_error(line, all_ranks=True)
    if not isinstance(error, OSError) or not is_storage_error(error):
        raise error
    # files have names in their errors, standard output has none
    line = storage_line(error, "standard output (or another file)")
    return EXIT_USAGE, _say_error(line, all_ranks=True)


def _flush_output() -> tuple[int, str]:
    """Write what is left of standard output; the exit status, and the line about an error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141, ""
        return EXIT_USAGE, _say_error(storage_line(error, "standard output", "cannot be written"))
    return 0, ""


def _kind_of(status: int) -> str:
    """The word that the last line of a process with this exit status begins with."""
    return "stopped" if status == EXIT_STOPPED else "error"


_LONGEST_LINE = 2000  # characters


def _say_error(
    message: str, *, all_ranks: bool = False, kind: str = "error", wait: float = 2.0
) -> str:
    """Print the line on rank 0 or on ``all_ranks``; another rank waits instead. Returns the line."""
    show_alone(None)
    rank = process_rank()
    words = " ".join(message.split())
    if len(words) > _LONGEST_LINE:  # a name or value from a damaged file
        words = f"{words[: _LONGEST_LINE // 2]} ... {words[-_LONGEST_LINE // 2 :]}"
    line = f"{kind}: {words}"
    if rank == 0 or all_ranks:
        print_error(f"[rank {rank}] {line}" if rank else line)
    else:
        time.sleep(wait)
    return line


def _last_words(status: int, line: str) -> None:
    """Print and report the end of a process whose main thread may be in the midst of printing."""
    rank = process_rank()
    line = f"{_kind_of(status)}: {line}"
    report_end(rank, status, line)
    with contextlib.suppress(OSError):
        os.write(
            2,
            (f"[rank {rank}] {line}\n" if rank else f"{line}\n").encode(errors="backslashreplace"),
        )


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
