"""What the kernel knows of processes: identity, state, ancestors; what their threads are doing."""

from __future__ import annotations

import contextlib
import linecache
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType

OWN_THREADS = ("watch", "watch-files")
"""Names of the watch's threads, which are of no interest in a stack."""
_FRAMES_OF_A_COLLECTIVE = 5
STOPPED = "it is stopped by a signal (SIGSTOP)"
_STATES = {
    "T": STOPPED,
    "t": "it is held by a debugger",
    "D": "it waits for a disk or a network file system",
    "Z": "it has ended",
    "R": "it computes, and lets no other thread run",
}


def machine_name() -> str:
    """The same for processes that can see each other: host, kernel's boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
        return f"{socket.gethostname()} {boot} {namespace}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; [] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start_time(pid: int) -> int:
    """When a process started, in the kernel's ticks; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def state_of(pid: int, born: int) -> str:
    """In words, why a process does not answer; "" if its state does not tell."""
    fields = _stat(pid)
    if not fields or start_time(pid) != born:
        return _STATES["Z"]
    return _STATES.get(fields[0], "")


def end_process(pid: int, born: int) -> None:
    """Kill a process of this machine, if it is still the one that started at ``born``."""
    if born and start_time(pid) == born:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def waits_for_others() -> bool:
    """Whether any thread of this process is in a collective of ``torch.distributed``."""
    own = threading.get_ident()
    frames = (frame for thread, frame in sys._current_frames().items() if thread != own)
    return any(_is_collective(frame) for frame in frames)


def _is_collective(frame: FrameType | None) -> bool:
    """Whether a thread's innermost frames are those of a collective, or a wait for one."""
    for _ in range(_FRAMES_OF_A_COLLECTIVE):
        if frame is None:
            return False
        name = frame.f_code.co_filename
        if "/torch/distributed/" in name or "/deepspeed/comm/" in name:
            return True
        if "/deepspeed/" in name and ".wait(" in linecache.getline(name, frame.f_lineno):
            return True
        frame = frame.f_back
    return False


def stacks() -> str:
    """The stacks of all threads but this one, the main one first, each with its last call last."""
    frames, main = sys._current_frames(), threading.main_thread().ident
    known = {thread.ident: thread.name for thread in threading.enumerate()}
    shown = []
    for ident in sorted(frames, key=lambda ident: ident != main):
        if known.get(ident) not in OWN_THREADS:
            lines = "".join(traceback.format_stack(frames[ident]))
            shown.append(f"thread {known.get(ident, ident)}:\n{lines}")
    return "\n".join(shown)
