"""Closed standard streams, few open files, little memory: a command works, or ends in one line."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from megabert.common.storage import memory_line

CODE = (
    "import os, resource; from pathlib import Path; from megabert.common.log import get_logger, run_command\n"
    "from megabert.common.processes.stopping import stop_watch\n"
    "def main(argv):\n"
    "    watch = stop_watch()\n"
    "    held = open({file!r}, 'w'); held.write('kept'); held.flush()\n"
    "    get_logger().info('a line'); print('another'); os.write(1, b'out'); os.write(2, b'err')\n"
    "    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    "    assert not any(os.path.samestat(os.fstat(n), os.fstat(watch._writer.fileno())) or\n"
    "        os.path.samestat(os.fstat(n), os.fstat(watch._reader.fileno())) for n in range(3))\n"
    "run_command(main)"
)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """The file that the command opens does not get what is printed."""
    file = tmp_path / "file"
    done = subprocess.run(
        ["bash", "-c", f'exec {closed}; "$@"', "-", sys.executable, "-c", CODE.format(file=str(file))],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    ("limits", "status", "shown"),
    [
        ((64, 4096), 0, "1024"),
        ((64, 100), 0, "100"),
        ((40, 40), 2, "this process may open 40 files only: raise the limit (ulimit -n 1024)"),
    ],
)
def test_few_open_files(tmp_path: Path, limits: tuple[int, int], status: int, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(file=str(tmp_path / "file"))],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, shown in done.stdout + done.stderr) == (status, True), done.stderr


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_too_little_memory(error: Exception, known: bool) -> None:
    line = memory_line(error)
    assert (line is not None) == known
    if line is not None:
        assert line.startswith("out of memory")
        assert "--micro-batch-size" in line
        assert ("launch/plan.py" in line) == ("CUDA" in str(error))
        assert "\n" not in line
