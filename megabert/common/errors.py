"""Errors that a user reads, each one line with its remedy, and the exit statuses of every command."""

from __future__ import annotations

EXIT_FAULT = 1
"""Exit status of every command for a fault: it cannot continue."""

EXIT_USAGE = 2
"""Exit status of every command for a wrong input."""

EXIT_STOPPED = 3
"""Exit status of a run that stopped because it was asked to, and that can be resumed without loss."""


class UserError(Exception):
    """A wrong input: one line that says what is wrong, where, and what to do about it.

    Commands print that line and exit with status 2; nothing half-written stays behind.
    """


class RankError(UserError):
    """A wrong input that this rank alone may have met: it prints the line itself, whatever its number."""


def printable(text: str) -> str:
    """The text with escapes for bytes of a file's name that are not UTF-8, as standard error shows it."""
    return text.encode("utf-8", "backslashreplace").decode()


def first_fault(error: Exception) -> str:
    """One line for an error; of pydantic's, the first field that is wrong, and why."""
    lines = str(error).splitlines()  # pydantic: a heading, then two lines for each field
    line = " ".join(" ".join(lines[1:3] or lines).split())
    return line.partition(" [type=")[0]


class TrainingStopped(Exception):
    """A run that cannot continue (NaN, lost rank, full disk); the last good checkpoint is kept."""


class AgreedStop(TrainingStopped):
    """A run that cannot continue, for a reason that all ranks know: only rank 0 prints it."""


class StoppedOnRequest(Exception):
    """A run that was asked to stop and has saved everything: one line that says how to resume it."""
