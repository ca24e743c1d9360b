"""Runs on two hosts: the link is cut, a rank is killed, SIGTERM; then again on two hosts and on one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.distributed import _free_port
from tests.helpers.launched_runs import BIN, MARK, ROOT, _processes
from tests.helpers.training_runs import TINY, last_given, make_shards, metrics
from tests.helpers.two_hosts import TwoHosts, missing

pytestmark = pytest.mark.slow
LIMIT = 10.0
PATIENCE = 120.0
PRETRAIN = str(ROOT / "launch" / "pretrain.py")
LIBRARIES = re.compile(r"gloo|nccl|c10d|pair\.cc|\[W[0-9]|Connection (closed|reset)", re.IGNORECASE)
LAUNCHERS = ("bare", "torchrun", "deepspeed")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards for all runs of this file."""
    return make_shards(tmp_path_factory.mktemp("shards") / "shards")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    """Two hosts; skipped where this machine allows none."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with TwoHosts(tmp_path / "hosts") as both:
        yield both


class Launched:
    """A run on some hosts, one rank on each, started by ``launcher``."""

    def __init__(
        self, hosts: TwoHosts, launcher: str, folder: Path, arguments: list[str], count: int = 2
    ) -> None:
        folder.mkdir()
        self.mark, port = os.urandom(8).hex(), str(_free_port())
        self.logs = [folder / f"host-{number}.txt" for number in range(count)]
        environment = {
            MARK: self.mark, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1", "PATH": hosts.ssh_path,
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # of torchrun itself
        }  # fmt: skip
        commands = {
            "bare": [str(BIN / "python"), PRETRAIN, *arguments],
            "torchrun": [
                str(BIN / "torchrun"), "--nnodes", str(count), "--nproc-per-node", "1",
                "--master-addr", hosts[0].address, "--master-port", port, "--node-rank", "N",
                PRETRAIN, *arguments,
            ],
            "deepspeed": [
                str(BIN / "deepspeed"), "--hostfile", str(hosts.folder / "hostfile"), "--launcher",
                "pdsh", "--force_multi", "--include", "@".join(h.address for h in hosts.first(count)),
                "--master_addr", hosts[0].address, "--master_port", port, PRETRAIN, *arguments,
            ],
        }  # fmt: skip
        self.processes = []
        for number, log in enumerate(self.logs[: 1 if launcher == "deepspeed" else count]):
            place = {
                "RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(count),
                "MASTER_ADDR": hosts[0].address, "MASTER_PORT": port,
            }  # fmt: skip
            command = [str(number) if word == "N" else word for word in commands[launcher]]
            mine = environment | (place if launcher == "bare" else {})
            self.processes.append(hosts[number].start(command, mine, log))

    def rank(self, number: int) -> int:
        """Process number of a rank."""
        for seen in _processes(self.mark):
            environ = Path(f"/proc/{seen.pid}/environ").read_bytes().split(b"\0")
            if PRETRAIN in seen.words[:4] and f"RANK={number}".encode() in environ:
                return seen.pid
        raise AssertionError(f"no rank {number}\n{self.output()}")

    def wait(self) -> list[int]:
        """Exit statuses; afterwards no process of the run is left."""
        deadline = time.monotonic() + PATIENCE
        try:
            statuses = [process.wait(deadline - time.monotonic()) for process in self.processes]
            while list(_processes(self.mark)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not [seen.text for seen in _processes(self.mark)]
        except subprocess.TimeoutExpired as error:
            raise AssertionError(self.output()) from error
        finally:
            for seen in list(_processes(self.mark)):
                os.kill(seen.pid, signal.SIGKILL)
        return statuses

    def output(self) -> str:
        """What both hosts wrote."""
        return "".join(log.read_text(errors="replace") for log in self.logs if log.exists())


def _arguments(shards: Path, run: Path, *more: str) -> list[str]:
    return last_given([
        *TINY, "--data", str(shards), "--output", str(run), "--steps", "5000", "--save-interval",
        "5", "--hang-timeout", str(LIMIT), *more,
    ])  # fmt: skip


def _steps(run: Path) -> int:
    try:
        return max((line["step"] for line in metrics(run) if "loss" in line), default=0)
    except (OSError, ValueError):
        return 0


def _plant(fault: str, hosts: TwoHosts, launched: Launched) -> None:
    if fault == "cut":
        hosts.cut()
    elif fault == "kill":
        os.kill(launched.rank(1), signal.SIGKILL)
    else:
        os.kill(launched.rank(1), signal.SIGTERM)


def _again(hosts: TwoHosts, launcher: str, shards: Path, run: Path, count: int) -> None:
    """The run continues for a few updates, on ``count`` hosts."""
    before = _steps(run)
    more = ["--resume", "auto", "--stop-after", str(before + 10)]
    folder = run.parent / f"again-{count}"
    launched = Launched(hosts, launcher, folder, _arguments(shards, run, *more), count)
    assert set(launched.wait()) == {0}, launched.output()
    assert json.loads((run / "results.json").read_text())["step"] == before + 10
    assert "resumed from step-" in launched.output()


@pytest.mark.parametrize("fault", ["cut", "kill", "stop"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_fault(hosts: TwoHosts, shards: Path, tmp_path: Path, launcher: str, fault: str) -> None:
    if launcher == "deepspeed" and shutil.which("pdsh") is None:
        pytest.skip("deepspeed on two hosts needs the program pdsh")
    run = tmp_path / "run"
    launched = Launched(hosts, launcher, tmp_path / "first", _arguments(shards, run))
    deadline = time.monotonic() + PATIENCE
    while _steps(run) < 12:
        assert time.monotonic() < deadline, launched.output()
        assert all(process.poll() is None for process in launched.processes), launched.output()
        time.sleep(0.1)
    began = time.monotonic()
    _plant(fault, hosts, launched)
    statuses = launched.wait()
    seconds = time.monotonic() - began
    print(f"{launcher} {fault}: statuses {statuses}, {seconds:.1f} s")
    output = launched.output()
    kind = "stopped" if fault == "stop" else "error"
    lines = [line for line in output.splitlines() if re.match(rf"(10\.\S+: )?{kind}: ", line)]
    print("\n".join(lines))
    assert len(lines) == 1, output
    assert "--resume auto" in lines[0]
    if fault != "stop":
        assert re.search(r"rank [01] on node[01]", lines[0])
        assert re.search(r"checkpoint step-\d+ is kept", lines[0])
        assert not LIBRARIES.search(output), output
        assert all(statuses)
        log = next(log for log in launched.logs if log.exists() and lines[0] in log.read_text())
        # pdsh joins the lines of both hosts
        host = lines[0].partition(":")[0] if launcher == "deepspeed" else ""
        assert [line for line in log.read_text().splitlines() if line.startswith(host)][
            -1
        ] == lines[0]
    assert seconds < {"cut": LIMIT + 30.0, "kill": 30.0, "stop": 40.0}[fault], output
    if fault == "cut":
        hosts.mend()
    _again(hosts, launcher, shards, run, 2)
    if fault == "kill":
        _again(hosts, launcher, shards, run, 1)
