"""Progress on terminals of several widths, in logs, and when a command fails."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from megabert.common.progress import Progress

SCRIPT = """
import time
from megabert.common.errors import UserError
from megabert.common.log import get_logger, run_command
from megabert.common.progress import Progress

def main(argv):
    Progress("checking", 2).update(1, "a bar that nobody ends")
    progress = Progress("pretrain", 40)
    for step in range(1, 41):
        time.sleep(0.03)
        progress.update(step, "step %d/40  loss 9.1234  lr 6.000e-03  grad norm 1.234  12,345 tokens/s  "
                        "MFU 41.2 %%  data wait 0.1 %%  memory 71.20 GB" % step)
        if step == 20:
            get_logger().info("step 20  saved a checkpoint")
        if FAIL and step == 30:
            raise UserError("shard 3 is damaged: make it again")
    progress.close("40 steps after 1s")

run_command(main)
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen(columns: int, *, fail: bool = False) -> tuple[int, str]:
    """Exit status of the script, and all that it wrote to a terminal of this width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "RANK": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("FAIL", str(fail))],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    output = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        output += part
    os.close(leader)
    return process.wait(), output.decode()


@pytest.mark.parametrize("columns", [80, 150])
def test_a_line_fits_the_terminal(columns: int) -> None:
    status, output = screen(columns)
    assert status == 0
    lines = [CONTROL.sub("", line) for line in re.split(r"[\r\n]+", output)]
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("pretrain") and "loss 9.1234" in line for line in lines) >= 3
    assert any(line.endswith("step 20  saved a checkpoint") for line in lines)
    assert lines[-2] == "pretrain  40 steps after 1s"
    assert output.rindex("checking") < output.index("loss 9.1234")
    assert output.count("\x1b[?25l") <= output.count("\x1b[?25h")  # the cursor is visible again


def test_an_error_ends_the_bar() -> None:
    status, output = screen(80, fail=True)
    assert status == 2
    lines = [CONTROL.sub("", line).strip() for line in re.split(r"[\r\n]+", output)]
    assert [line for line in lines if line][-1] == "error: shard 3 is damaged: make it again"


def test_plain_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("encode", 8, interval=0.0)
    progress.update(2, "1 MB")
    progress.close("done")
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"encode   25\.0 %  ETA \d+s  1 MB", first)
    assert last == "encode  done"


def test_a_log_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("encode", interval=3600.0)
    for done in range(100):
        progress.update(done, "text")
    assert capsys.readouterr().err == "encode  text\n"


def test_the_rest_of_a_resumed_job_is_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress("pretrain", 1000, interval=0)
    progress.restart(900)
    progress.update(900, "nothing yet")
    now += 50
    progress.update(910, "ten more")
    assert capsys.readouterr().err.splitlines() == [
        "pretrain   90.0 %  ETA ?  nothing yet",
        "pretrain   91.0 %  ETA 7m 30s  ten more",
    ]
