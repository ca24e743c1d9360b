"""Commands in processes of their own, with faults planted around them, and how they ended."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megabert.common.log import run_command
from megabert.common.processes.stopping import REQUESTS
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import import_once

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    errors: str

    @property
    def lines(self) -> list[str]:
        """The lines of errors."""
        return [line for line in self.errors.splitlines() if "error: " in line]

    def one_line(self, status: int) -> str:
        """The one line of an expected error; its status; no traceback."""
        assert "Traceback" not in self.errors, self.errors
        assert len(self.lines) == 1, self.errors
        assert self.status == status, self.errors
        return self.lines[0]


def environment(**more: str) -> dict[str, str]:
    """The variables of a command on one CPU rank."""
    unset = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {
        "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), **more,
    }  # fmt: skip


def start(
    tool: str, *arguments: object, prefix: list[str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """A command (``launch/pretrain.py``) that runs; ``prefix`` is the program that starts it."""
    return subprocess.Popen(
        [*(prefix or []), sys.executable, str(ROOT / tool), *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
           "env": environment(), **options},
    )  # fmt: skip


def command(tool: str, *arguments: object, timeout: float = 120.0, **options: Any) -> Ended:
    """Run a command to its end. ``options`` are those of ``Popen``."""
    process = start(tool, *arguments, **options)
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Ended(process.returncode, out or "", errors or "")


def called(tool: str, *arguments: object) -> Ended:
    """A command's ``main``, called in this process, with the status and the lines of one of its own."""
    main = importlib.import_module(tool.removesuffix(".py").replace("/", ".")).main
    handlers = {number: signal.getsignal(number) for number in REQUESTS}
    out, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            run_command(lambda _: main([str(word) for word in arguments]))
    except SystemExit as ended:
        return Ended(int(ended.code or 0), out.getvalue(), errors.getvalue())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


Call = tuple[str, list[object]]
"""A command and its arguments."""


def _call_all(rank: int, world_size: int, calls: Sequence[Call], powers: bool) -> list[Ended]:
    if not powers:
        _give_up_powers()
    multiprocessing.current_process().daemon = False  # it may have processes of its own
    return [called(tool, *arguments) for tool, arguments in calls]


def called_apart(*calls: Call, powers: bool = True) -> list[Ended]:
    """Commands called one after the other in a forked rank, which spares each of them its start.

    Without ``powers`` files of ``NOBODY`` are another user's to them, as under :func:`powerless`.
    """
    if not powers and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    import_once()
    ended: list[Ended] = run_ranks(_call_all, 1, calls, powers, initialize=False)[0]
    return ended


_HEADER = struct.pack("Ii", 0x20080522, 0)  # of capabilities, version 3; this process
_RIGHTS = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
_DROP_BOUND = 24  # PR_CAPBSET_DROP: programs that it starts do not have them either


def _give_up_powers() -> None:
    """Let permissions bind this process, although root runs it."""
    system = ctypes.CDLL(None, use_errno=True)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert system.capget(_HEADER, sets) == 0
    for right in _RIGHTS:
        assert system.prctl(_DROP_BOUND, right, 0, 0, 0) == 0
        for number in range(3):
            sets[number] &= ~(1 << right)
    assert system.capset(_HEADER, sets) == 0


def powerless() -> list[str]:
    """What to put before a command so that permissions bind it although root runs it: to it, files of
    ``NOBODY`` are another user's. (Python may be where other users cannot reach it.) Skips the test where
    this cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    rights = "-dac_override,-dac_read_search,-fowner"
    prefix = ["setpriv", "--bounding-set", rights]
    with tempfile.NamedTemporaryFile() as file:
        os.chown(file.name, NOBODY, NOBODY)
        try:
            probe = [*prefix, "cat", file.name]
            refused = subprocess.run(probe, capture_output=True, check=False).returncode
        except OSError:
            pytest.skip("setpriv is not installed")
    if refused != 1:
        pytest.skip("setpriv cannot take root's rights away here")
    return prefix


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder by its relative path: the bytes of a file, None for anything else."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def give_away(folder: Path) -> None:
    """Make a folder and everything in it another user's, whom others may read."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter and read; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="megabert-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` (``64k``) mounted on ``folder``; skips the test where not allowed."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """``folder`` as a read-only mount; skips the test where not allowed."""
    for arguments in (["--bind"], ["-o", "remount,bind,ro"]):
        made = subprocess.run(
            ["mount", *arguments, str(folder), str(folder)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("mounting a folder read-only is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Use up all space of a small disk."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
