"""``launch/run.py``: the status and last line of a run, whatever its launcher makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megabert.common.processes.reports import Ended
from megabert.common.processes.supervisor import outcome

# a launcher that exits with its own status while its rank works on; it does not pass signals on
LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
if sys.argv[2] == "wait":
    child.wait()
sys.exit(int(sys.argv[3]))
"""
RANK = """
import sys, time
from megabert.common.errors import StoppedOnRequest, UserError
from megabert.common.log import run_command
from megabert.common.processes.stopping import stop_watch
def main(argv):
    watch = stop_watch()
    watch.look(60, lambda: "")
    print("ready", flush=True)
    {body}
run_command(main)
"""
STOPS = """
    while not watch.asked: time.sleep(0.01)
    raise StoppedOnRequest(f"{watch.reason}: saved")"""


def start(root: Path, body: str, waits: str, status: str) -> subprocess.Popen[str]:
    rank = RANK.format(body=body.strip())
    return subprocess.Popen(
        [sys.executable, "launch/run.py", sys.executable, "-c", LAUNCHER, rank, waits, status],
        cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("waits", ["wait", "leave"])
def test_a_signal_reaches_the_rank_and_its_status_comes_back(root: Path, waits: str) -> None:
    """Also where the launcher has ended, with status 0, before its rank: that is how deepspeed's
    outer process leaves when its inner one is killed."""
    process = start(root, STOPS, waits, "0")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert errors.splitlines()[-1].startswith("stopped: ")
    assert "Traceback" not in output + errors


def test_wrong_input_and_success(root: Path) -> None:
    wrong = start(root, "raise UserError('no such file; name another')", "wait", "1")
    assert wrong.communicate(timeout=20)[1].splitlines()[-1] == "error: no such file; name another"
    assert wrong.returncode == 2
    good = start(root, "return 0", "wait", "0")
    assert good.communicate(timeout=20)[1] == ""
    assert good.returncode == 0


def test_a_launcher_that_does_not_exist(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "launch/run.py", "no-such-launcher", "x.py"],
        cwd=root, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: no-such-launcher: No such file or directory; name a launcher\n"


def test_the_first_failure_decides() -> None:
    def end(rank: int, status: int, moment: float, line: str = "") -> Ended:
        return Ended(rank, status, line, moment)

    assert outcome([], [end(0, 0, 1.0), end(1, 0, 2.0)], 0) == (0, "")
    assert outcome([], [end(0, 3, 2.0, "stopped: a"), end(1, 3, 1.0, "stopped: b")], 1) == (
        3, "stopped: a",
    )  # fmt: skip
    wrong = [end(1, 2, 1.0, "error: shard"), end(0, 1, 2.0, "error: another rank has exited")]
    assert outcome([], wrong, 2) == (2, "error: shard")
    status, line = outcome([12], [end(0, 1, 2.0, "error: another rank has exited")], 247)
    assert status == 1
    assert "process 12 of the run was killed" in line
    assert outcome([], [], 5) == (5, "")
