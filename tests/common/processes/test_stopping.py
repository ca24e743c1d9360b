"""Signals of a command: how its main thread learns of them, and with which status it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# what a command does, after it has said "ready"
BUSY = "while True: time.sleep(0.05)"
LOOKS = (
    "watch.look(30, lambda: '; kept'); say('ready')\n    while not watch.asked: time.sleep(0.01)"
)
WAITS = "echo ready; exec >&- 2>&-; while kill -0 $PPID; do sleep 0.1; done"
STUCK = f"signal.pthread_sigmask(0, [15]); ctypes.CDLL(None).system(b'{WAITS}')"
"""The main thread is in C code since before it was ready, and another thread gets the signal."""


def start(root: Path, body: str, *patches: str) -> subprocess.Popen[str]:
    """A command whose ``main`` is ``body``, once it is ready for signals."""
    code = "\n".join([
        "import ctypes, signal, time",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",  # ignored in a script's background
        "from megabert.common.errors import StoppedOnRequest",
        "from megabert.common.log import run_command",
        "from megabert.common.processes import stopping",
        "def say(text): print(text, flush=True)",
        *patches,
        "def main(argv):",
        "    watch = stopping.stop_watch()",
        *(f"    {line}" if not line.startswith(" ") else line for line in body.split("\n")),
        "run_command(main)",
    ])  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, str]:
    """Exit status and last line of standard error."""
    _, errors = process.communicate(timeout=seconds)
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGINT, 130, "error: interrupted"),
        (signal.SIGTERM, 143, "error: SIGTERM"),
        (signal.SIGUSR1, 138, "error: SIGUSR1"),
    ],
)
def test_a_command_is_interrupted(
    root: Path, number: signal.Signals, status: int, line: str
) -> None:
    process = start(
        root, f"try:\n        say('ready')\n        {BUSY}\n    finally: say('cleaned')"
    )
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaned\n"
    assert end(process) == (status, f"{line} before the end; run the same command again")


def test_before_the_first_update_nothing_is_lost(root: Path) -> None:
    process = start(root, f"watch.resumable('before its first update'); say('ready')\n    {BUSY}")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (3, "stopped: SIGTERM before its first update")


def test_a_loop_looks_and_saves(root: Path) -> None:
    body = f"{LOOKS}\n    watch.leave(); raise StoppedOnRequest(f'{{watch.reason}}: saved')"
    process = start(root, body)
    process.send_signal(signal.SIGUSR1)
    assert end(process) == (3, "stopped: SIGUSR1: saved")


def test_echoes_of_a_signal_are_the_same_request(root: Path) -> None:
    """Ctrl-C reaches the rank and its launcher, which sends SIGTERM; then the save takes a while."""
    body = f"{LOOKS}\n    time.sleep(2.1); watch.leave(); say('left'); time.sleep(1); raise StoppedOnRequest('saved')"
    process = start(root, body)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.stdout is not None
    assert process.stdout.readline() == "left\n"
    process.send_signal(
        signal.SIGTERM
    )  # no echo of the first any more, but the run is saved: ignored
    assert end(process) == (3, "stopped: saved")


def test_a_second_signal_stops_at_once(root: Path) -> None:
    process = start(root, f"{LOOKS}\n    time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    time.sleep(2.3)
    process.send_signal(signal.SIGTERM)
    assert end(process, 20.0) == (143, "error: SIGTERM after SIGTERM: stopped at once; kept")


def test_the_main_thread_is_not_needed(root: Path) -> None:
    """It waits in C code, where Python's handlers do not run (a collective without an end)."""
    process = start(root, f"watch.look(1, lambda: '; kept'); {STUCK}")
    process.send_signal(signal.SIGTERM)
    assert end(process, 25.0) == (
        1, "error: SIGTERM, and no checkpoint could be saved within 1 s; kept",
    )  # fmt: skip


def test_before_the_loop_a_stuck_main_thread_is_ended(root: Path) -> None:
    patch = "stopping.MAIN_THREAD_SECONDS = 1.0"
    process = start(root, f"watch.resumable('before its first update'); {STUCK}", patch)
    process.send_signal(signal.SIGTERM)
    assert end(process, 25.0) == (3, "stopped: SIGTERM before its first update")


def test_the_end_of_a_launcher_is_a_request(root: Path) -> None:
    """The direct parent is killed; the command notices, and says so in its last line."""
    code = (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', sys.stdin.read()], stdin=subprocess.DEVNULL).wait()"
    )
    body = (
        "import sys, time\n"
        "from megabert.common.log import run_command\n"
        "def main(argv):\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.05)\n"
        "run_command(main)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stderr is not None
    parent.stdin.write(body)
    parent.stdin.close()
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    said = parent.stderr.read()  # until the command has ended, too
    assert (
        said
        == f"error: the launcher python (process {parent.pid}) is gone before the end; run the same command again\n"
    )


def test_a_request_waits_for_the_end_of_a_block(root: Path) -> None:
    body = (
        "try:\n        with watch.held(), watch.held():\n            say('ready'); time.sleep(1); say('whole')\n"
        f"        {BUSY}\n    finally: say('cleaned')"
    )
    process = start(root, body)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.read() == "whole\ncleaned\n"
    assert end(process)[0] == 143


def test_a_request_before_or_after_main_is_no_traceback(root: Path) -> None:
    """It waits until somebody catches it, or for the end."""
    early = "log.report_start = lambda: (say('ready'), time.sleep(1))"
    late = "log._flush_output = lambda: (say('ready'), time.sleep(1), (0, ''))[2]"
    for patch, found in ((early, 143), (late, 0)):
        process = start(root, "pass", "from megabert.common import log", patch)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
        assert (process.returncode, "Traceback" in errors) == (found, False)


def test_what_a_library_makes_of_an_interruption(root: Path) -> None:
    """Extensions that are being imported raise an ImportError of their own."""
    body = f"try:\n        say('ready')\n        {BUSY}\n    except KeyboardInterrupt: raise ImportError"
    process = start(root, body)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "error: SIGTERM before the end; run the same command again")


def test_an_interruption_that_python_ignores_comes_again(root: Path) -> None:
    """It was raised while an object was freed."""
    body = "class Freed:\n        def __del__(self): say('ready'); time.sleep(1); say('freed')\n    Freed()\n    "
    process = start(root, f"{body}{BUSY}")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    status, line = end(process)
    assert (status, line[:14]) == (143, "error: SIGTERM")
