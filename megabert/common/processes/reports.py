"""What each process of a run reports about its end: to ``launch/run.py``, and to torchrun.

    $MEGABERT_REPORTS/PID.started     the process has begun to watch for signals
    $MEGABERT_REPORTS/PID.ended       one JSON object: see :class:`Ended`

torchrun shows the line in its table of failures.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megabert.common.files import write_bytes
from megabert.common.json_text import read_json_object

FOLDER_VARIABLE = "MEGABERT_REPORTS"
"""Environment variable with the folder of reports; ``launch/run.py`` sets it."""
_TORCHRUN_FILE = "TORCHELASTIC_ERROR_FILE"


@dataclass(frozen=True)
class Ended:
    """The end of one process: its rank, exit status, last line ("" if it printed none), and when."""

    rank: int
    status: int
    line: str
    time: float


def _folder() -> Path | None:
    name = os.environ.get(FOLDER_VARIABLE)
    return Path(name) if name else None


def report_start() -> None:
    """Say that this process takes signals from now on."""
    folder = _folder()
    if folder is not None:
        _write(folder / f"{os.getpid()}.started", "")


def report_end(rank: int, status: int, line: str) -> None:
    """Say how this process ends."""
    folder = _folder()
    if folder is not None:
        ended = Ended(rank, status, line, time.time())
        _write(folder / f"{os.getpid()}.ended", json.dumps(asdict(ended)))
    name = os.environ.get(_TORCHRUN_FILE)
    if name and status and line:
        extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
        _write(Path(name), json.dumps({"message": {"message": line, "extraInfo": extra}}))


def read_reports(folder: Path) -> tuple[set[int], dict[int, Ended]]:
    """Processes that have started, and the ends of those that have ended."""
    started, ended = set(), {}
    for path in folder.iterdir():
        pid, _, kind = path.name.partition(".")
        if kind == "started":
            started.add(int(pid))
        elif kind == "ended":
            ended[int(pid)] = Ended(**read_json_object(path, of_data=True))
    return started, ended


def _write(path: Path, text: str) -> None:
    """Write at once; what cannot be written must not keep a process from ending."""
    with contextlib.suppress(OSError):
        write_bytes(path, text.encode(), durable=False)
