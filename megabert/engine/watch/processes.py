"""Why a rank's process does not answer, and what its threads are doing."""

from __future__ import annotations

import contextlib
import linecache
import os
import signal
import sys
import threading
import traceback
from types import FrameType

from megabert.common.processes.kernel import process_stat, this_machine

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
    """The same for processes that can see each other; "" where that is not known."""
    names = this_machine()
    return " ".join(names) if all(names) else ""


def state_of(pid: int, born: int) -> str:
    """In words, why a process does not answer; "" if its state does not tell."""
    stat = process_stat(pid)
    if stat is None or stat.started != born:
        return _STATES["Z"]
    return _STATES.get(stat.state, "")


def end_process(pid: int, born: int) -> None:
    """Kill a process of this machine, if it is still the one that started at ``born``."""
    stat = process_stat(pid)
    if born and stat is not None and stat.started == born:
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
