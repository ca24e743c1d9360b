"""Identity and state of processes, as the kernel shows them in ``/proc``; read here alone."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessStat:
    """A process at one moment.

    Attributes:
        state: the kernel's letter for what it does.
        parent: its parent's process number.
        started: its start in clock ticks after the machine's; with its number it names one process only.
    """

    state: str
    parent: int
    started: int

    @property
    def ended(self) -> bool:
        """Whether it has ended, although nobody has waited for it yet (a zombie)."""
        return self.state in "ZX"


def process_stat(pid: int) -> ProcessStat | None:
    """The process of this number; None if there is none, or no ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # its name, before, may hold anything
    return ProcessStat(fields[0], int(fields[1]), int(fields[19]))


def own_start() -> int:
    """``started`` of this process; 0 without ``/proc``."""
    stat = process_stat(os.getpid())
    return 0 if stat is None else stat.started


def this_machine() -> tuple[str, str, str]:
    """Host, boot of the kernel and process namespace: within them a number names one process.

    What cannot be read is "".
    """
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return socket.gethostname(), boot, namespace
