"""Which ancestors of a rank are launchers, and when one is gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from megabert.common.processes.launchers import Launcher, _choose, _Process, _read

PYTHON = "/venv/bin/python"
INNER = [
    PYTHON,
    "-u",
    "-m",
    "deepspeed.launcher.launch",
    "--world_info=e30=",
    "--enable_each_rank_log=None",
]
RUNNER = [PYTHON, "/venv/bin/deepspeed", "--num_gpus", "2", "launch/pretrain.py"]


def chain(*commands: list[str]) -> list[_Process]:
    """Ancestors with these command lines, the nearest first; the last one is process 1."""
    count = len(commands)
    return [
        _Process(count - place, count - place - 1, 10, tuple(words))
        for place, words in enumerate(commands)
    ]


def names(*commands: list[str], ignored: bool = False, **environment: str) -> list[str]:
    """Names of the launchers found; "" stands before one that is missing already."""
    found = _choose(chain(*commands), environment, ignored)
    return [("" if one.pid else "missing ") + one.name for one in found]


def test_launchers_count_and_shells_do_not() -> None:
    job = ["/bin/bash", "job.sh"]
    init = ["/sbin/init"]
    assert names(INNER, RUNNER, job, init) == ["deepspeed.launcher.launch", "deepspeed"]
    assert names([PYTHON, "/venv/bin/torchrun", "x.py"], job, init) == ["torchrun"]
    assert names([PYTHON, "-m", "torch.distributed.run", "x.py"], init) == ["torch.distributed.run"]
    assert names(["orted", "-mca"], ["mpirun", "-n", "2", "x"], job, init) == ["orted", "mpirun"]
    assert names(["slurmstepd: [12.0]"], init) == ["slurmstepd"]
    assert names(job, ["-bash"], ["sshd: me@pts/0"], init) == []
    assert names(["bash", "-c", "nohup deepspeed x.py &"], init) == []
    assert names([PYTHON, "launch/run.py", "deepspeed"], job, init) == ["launch/run.py"]


def test_the_direct_parent_counts_unless_the_run_shall_outlive_it() -> None:
    own = [PYTHON, "my_launcher.py"]
    assert names(own, ["/bin/bash"], ["/sbin/init"]) == ["my_launcher.py"]
    assert names(own, ["/bin/bash"], ["/sbin/init"], ignored=True) == []  # nohup
    assert names(["/sbin/init"]) == []
    assert names([PYTHON, "main.py"]) == []  # process 1 of a container


def test_a_remote_shell_of_pdsh_counts_with_its_connection() -> None:
    shell = ["bash", "-c", "cd /x; python -u -m deepspeed.launcher.launch --node_rank=1 x.py"]
    remote = [*INNER, "--node_rank=1"]
    sshd = ["sshd: me@notty"]
    assert names(remote, shell, sshd, ["/sbin/init"]) == [
        "deepspeed.launcher.launch", "bash", "sshd",
    ]  # fmt: skip
    assert names(remote, shell, sshd, ["/sbin/init"], ignored=True) == [
        "deepspeed.launcher.launch", "bash",
    ]  # fmt: skip


def test_a_launcher_that_was_gone_before_the_rank_looked() -> None:
    """deepspeed imports for seconds before its ranks start: it may have been killed by then."""
    assert names(INNER, ["/sbin/init"]) == ["deepspeed.launcher.launch", "missing deepspeed"]
    assert names([*INNER, "--node_rank=0"], ["/sbin/init"]) == ["deepspeed.launcher.launch"]
    assert names(["/sbin/init"], TORCHELASTIC_RUN_ID="none") == ["missing torchrun"]
    assert Launcher(0, 0, "deepspeed").gone


def test_a_process_is_known_by_its_start() -> None:
    seen = _read(os.getpid())
    assert seen is not None
    assert seen.is_python
    assert not Launcher(seen.pid, seen.started, "me").gone
    assert Launcher(seen.pid, seen.started + 1, "an earlier process of this number").gone


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = _read(child.pid)
    assert seen is not None
    launcher = Launcher(child.pid, seen.started, "child")
    assert not launcher.gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert launcher.gone
    child.wait()
    assert launcher.gone


@pytest.mark.parametrize("text", ["deepspeed", "launch/pretrain.py"])
def test_only_the_program_counts(text: str) -> None:
    assert names(["/usr/bin/timeout", "9", text], ["/bin/sh"], ["/sbin/init"]) == ["timeout"]
    assert names(["/bin/sh", "-c", text], ["/usr/bin/timeout", "9", text], ["/sbin/init"]) == []
